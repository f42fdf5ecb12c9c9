//! Owns the making of mount points inside a container's root: no link in an image leads out of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How often a path is followed that others' mounts come between.
const TRIES: u32 = 1000;

/// The deepest mount point.
const DEEPEST: usize = 128;

/// Opens what is at `path` in `root`, links resolved inside of it.
///
/// # Errors
/// `NotFound`, and the kernel's own.
pub(super) fn open(root: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = path.trim_matches('/');
    let path = if path.is_empty() { "." } else { path };
    let mut left = TRIES;
    loop {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        match rustix::fs::openat2(root.as_fd(), path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            // Something was mounted or renamed anywhere on this machine while a `..` was followed: openat2(2).
            Err(Errno::AGAIN) if left > 0 => left -= 1,
            other => return other,
        }
    }
}

/// The folder at `path`, made with its parents where it is missing.
///
/// # Errors
/// Something else is there, or it can't be made.
pub(super) fn folder(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    make(root.as_fd(), path, true, 0)
}

/// The file at `path`, made with its parents where it is missing.
///
/// # Errors
/// Something else is there, or it can't be made.
pub(super) fn file(root: impl AsFd, path: &str) -> io::Result<OwnedFd> {
    make(root.as_fd(), path, false, 0)
}

fn make(root: std::os::fd::BorrowedFd<'_>, path: &str, folder: bool, depth: usize) -> io::Result<OwnedFd> {
    match open(root, path) {
        Err(Errno::NOENT) => {}
        other => return Ok(other?),
    }
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    if depth >= DEEPEST || name.is_empty() || name == "." || name == ".." {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{path} is no place for a mount")));
    }
    let folder_of_it = make(root, parent, true, depth + 1)?;
    let made = if folder {
        rustix::fs::mkdirat(&folder_of_it, name, Mode::from_raw_mode(0o755))
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        rustix::fs::openat(&folder_of_it, name, flags, Mode::from_raw_mode(0o644)).map(|_| ())
    };
    match made {
        Ok(()) => Ok(open(root, path)?),
        // A link to what isn't there, such as `/etc/resolv.conf` has in some images: that is what is made.
        Err(Errno::EXIST) => {
            let target = rustix::fs::readlinkat(&folder_of_it, name, Vec::new())?;
            let target = target.to_str().map_err(|_| io::Error::other(format!("the link {path} is no UTF-8")))?;
            let target = if target.starts_with('/') { target.to_owned() } else { format!("{parent}/{target}") };
            make(root, &target, folder, depth + 1)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        let root = outside.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        symlink("/../../../../out", root.join("etc/away")).unwrap();
        symlink("../run/deep/file", root.join("etc/dangling")).unwrap();
        symlink("loop", root.join("etc/loop")).unwrap();
        let handle = rustix::fs::open(&root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();

        folder(&handle, "/etc/away/folder").unwrap();
        file(&handle, "/etc/dangling").unwrap();
        file(&handle, "/a/b/c").unwrap();
        assert!(folder(&handle, "/etc/loop").is_err());
        assert!(folder(&handle, "/new/../..").is_err() || outside.path().read_dir().unwrap().count() == 1);
        assert!(root.join("out/folder").is_dir());
        assert!(root.join("run/deep/file").is_file());
        assert!(root.join("a/b/c").is_file());
        let names: Vec<_> = outside.path().read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["root"]);
    }
}
