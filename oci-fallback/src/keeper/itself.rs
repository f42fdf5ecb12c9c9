//! Owns the form of this program that keepers run from. A container's first process is this program until it becomes the
//! image's, and an image may ask for `/proc/self/exe` as that, with a loader of its own: then root in it has a link to this
//! program's file, outside of its root, on a mount that may be written (CVE-2019-5736). So no keeper runs from the file where
//! it lies, but from a mount of it that is nowhere and may only be read; where none can be made, from a copy in memory.

use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{CWD, MemfdFlags, SealFlags, StatVfsMountFlags};

use super::{NAME, mounts};

/// Where the kernel shows the file that a process runs from.
pub(crate) const SELF: &str = "/proc/self/exe";

/// The word after a keeper's rights that says that it runs from a form of this program that is out of a container's reach.
pub(crate) const APART: &str = "apart";

/// And the one that it doesn't.
pub(crate) const PLAIN: &str = "plain";

/// The word of a gate that has entered its namespaces.
pub(super) const INSIDE: &str = "inside";

/// For a caller: this program on a mount of its own, made once. `None`: only within a keeper's namespaces is that allowed,
/// as to an ordinary user.
pub(crate) fn apart() -> Option<BorrowedFd<'static>> {
    static MOUNT: OnceLock<Option<OwnedFd>> = OnceLock::new();
    MOUNT.get_or_init(|| mounts::read_only_file(CWD, SELF).ok()).as_ref().map(AsFd::as_fd)
}

/// How a process that has a program open executes it.
pub(crate) fn path(program: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", program.as_raw_fd())
}

/// In a gate that has entered its namespaces: becomes this program again, out of reach. Returns only if that fails.
pub(super) fn again(bounds: Option<&OsStr>) -> String {
    let become_it = |made: io::Result<OwnedFd>| match made {
        Ok(program) => Command::new(path(program.as_fd())).arg0(NAME).arg(INSIDE).args(bounds).env_clear().exec(),
        Err(error) => error,
    };
    let first = become_it(read_only());
    // Its file has been replaced meanwhile, or can't be seen by its path.
    let second = become_it(copy());
    format!("can't keep this program out of a container's reach: {first}; {second}")
}

/// By its path: the mount that this process was started from belongs to a namespace that it has left.
fn read_only() -> io::Result<OwnedFd> {
    let own = fs::metadata(SELF)?;
    let mount = mounts::read_only_file(CWD, fs::read_link(SELF)?)?;
    let found = rustix::fs::fstat(&mount)?;
    if (found.st_dev, found.st_ino) != (own.dev(), own.ino()) {
        return Err(io::Error::other("its file is another one now"));
    }
    Ok(mount)
}

/// A copy that nobody can write any more. Its mode and owner can be changed, which are nobody else's.
fn copy() -> io::Result<OwnedFd> {
    let name = CString::new(NAME)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Where files in memory aren't executable unless that is asked for, it can be; kernels before that don't know the flag.
    let file = rustix::fs::memfd_create(&name, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(&name, flags))?;
    let mut file = File::from(file);
    io::copy(&mut File::open(SELF)?, &mut file)?;
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    // A file that is open for writing can't be executed.
    let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Ok(readable.into())
}

/// Whether this process runs from such a form.
pub(super) fn is_apart() -> bool {
    rustix::fs::statvfs(SELF).is_ok_and(|there| there.f_flag.contains(StatVfsMountFlags::RDONLY))
        || File::open(SELF)
            .and_then(|file| Ok(rustix::fs::fcntl_get_seals(file)?))
            .is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_copy_is_this_program_and_nobody_can_write_it() {
        let copy = copy().unwrap();
        assert_eq!(fs::read(path(copy.as_fd())).unwrap(), fs::read(SELF).unwrap());
        assert!(
            fs::OpenOptions::new().write(true).open(path(copy.as_fd())).and_then(|mut file| file.write(b"x")).is_err()
        );
        let status = Command::new(path(copy.as_fd())).arg("--list").output().unwrap().status;
        assert!(status.success(), "it can be executed");
        assert!(!is_apart(), "the tests run from their file");
    }
}
