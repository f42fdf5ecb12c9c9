//! Owns the way into a state's folder for whoever isn't its guest: by descriptors, no link followed, nothing waited for. What
//! lies there is a guest's, and a container may change it while it is looked at: a folder becomes a link, a file a pipe.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, chmod, fstat, openat, openat2, readlinkat, statat,
};
use rustix::io::Errno;

/// How deep folders may lie in each other: each takes a descriptor while it is walked.
const DEPTH: usize = 256;

const LOOK: OFlags = OFlags::CLOEXEC.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK);

/// A folder that is never left.
#[derive(Debug)]
pub struct Inside(OwnedFd);

/// What something is, as it was found.
pub fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}

/// Something that is gone or has become something else since it was found.
fn has_changed(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV)
}

fn folder_at(at: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    openat(at, name, LOOK | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// Opens a folder to its owner that a guest has closed to everybody.
fn open_up(at: BorrowedFd<'_>, name: &Path) -> Result<OwnedFd, Errno> {
    let shut = openat(at, name, LOOK | OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
    // By the descriptor, since a path could have become a link.
    chmod(format!("/proc/self/fd/{}", shut.as_raw_fd()), Mode::RWXU)?;
    folder_at(at, name)
}

/// Opens all folders below `path` to their owner.
///
/// # Errors
/// The file system's.
pub(super) fn open_all(path: &Path) -> io::Result<()> {
    fn below(folder: &OwnedFd, depth: usize) -> io::Result<()> {
        if depth > DEPTH {
            return Ok(());
        }
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = Path::new(std::ffi::OsStr::from_bytes(entry.file_name().to_bytes()));
            if name == Path::new(".") || name == Path::new("..") {
                continue;
            }
            match open_up(folder.as_fd(), name) {
                Ok(inner) => below(&inner, depth + 1)?,
                // No folder, or a link.
                Err(Errno::NOTDIR | Errno::LOOP | Errno::NOENT) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
    below(&folder_at(CWD, path)?, 0)
}

impl Inside {
    /// The folder at `path`, which is no link itself.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(folder_at(CWD, path)?))
    }

    fn at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.0, path, LOOK | flags, Mode::empty(), how) {
            // Older kernels, and some that filter system calls.
            Err(Errno::NOSYS | Errno::PERM) => self.step_by_step(path, flags),
            other => other,
        }
    }

    fn step_by_step(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let mut at: Option<OwnedFd> = None;
        let mut parts = path.components().peekable();
        while let Some(part) = parts.next() {
            let name = match part {
                Component::Normal(name) => Path::new(name),
                Component::CurDir => Path::new("."),
                _ => return Err(Errno::XDEV),
            };
            let above = at.as_ref().map_or(self.0.as_fd(), |at| at.as_fd());
            let last = parts.peek().is_none();
            at = Some(if last { openat(above, name, LOOK | flags, Mode::empty())? } else { folder_at(above, name)? });
        }
        at.ok_or(Errno::NOENT)
    }

    /// A folder in it.
    ///
    /// # Errors
    /// It isn't one, or a part of its way is a link; the file system's.
    pub fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }

    /// A regular file in it, for reading. Never waits, whatever stands there.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] for what isn't one, too; the file system's.
    pub fn file(&self, path: &Path) -> io::Result<File> {
        let file = self.at(path, OFlags::RDONLY).map_err(|e| if has_changed(e) { Errno::NOENT } else { e })?;
        if kind(&fstat(&file)?) != FileType::RegularFile {
            return Err(Errno::NOENT.into());
        }
        Ok(file.into())
    }

    /// Where a link in it leads.
    ///
    /// # Errors
    /// It isn't one; the file system's.
    pub fn link(&self, path: &Path) -> io::Result<PathBuf> {
        let above = self.folder(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().ok_or(Errno::NOENT)?;
        let target = readlinkat(&above, name, Vec::new())?;
        Ok(PathBuf::from(std::ffi::OsStr::from_bytes(target.as_bytes())))
    }

    /// Shows `each` all that is in it, folders before what is in them, with its way from here. What is gone meanwhile is left
    /// out; a folder for which `each` says no isn't entered.
    ///
    /// # Errors
    /// Folders lie deeper than 256 in each other; what `each` fails with; the file system's.
    pub fn walk(&self, each: &mut dyn FnMut(&Path, &Stat) -> io::Result<bool>) -> io::Result<()> {
        let folder = openat(&self.0, ".", LOOK | OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        walk(&folder, Path::new(""), 0, each)
    }
}

fn walk(
    folder: &OwnedFd,
    below: &Path,
    depth: usize,
    each: &mut dyn FnMut(&Path, &Stat) -> io::Result<bool>,
) -> io::Result<()> {
    if depth > DEPTH {
        return Err(io::Error::new(
            io::ErrorKind::InvalidFilename,
            format!("folders lie deeper than {DEPTH} in each other"),
        ));
    }
    for item in Dir::read_from(folder)? {
        let item = item?;
        let name = Path::new(std::ffi::OsStr::from_bytes(item.file_name().to_bytes()));
        if name == Path::new(".") || name == Path::new("..") {
            continue;
        }
        let found = match statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(e) if has_changed(e) => continue,
            Err(e) => return Err(e.into()),
        };
        let path = below.join(name);
        if !each(&path, &found)? || kind(&found) != FileType::Directory {
            continue;
        }
        let inner = match folder_at(folder.as_fd(), name) {
            Err(Errno::ACCESS) => open_up(folder.as_fd(), name),
            other => other,
        };
        match inner {
            Ok(inner) => walk(&inner, &path, depth + 1, each)?,
            Err(e) if has_changed(e) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn fixture() -> (tempfile::TempDir, Inside) {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        std::fs::create_dir_all(data.join("a/b")).unwrap();
        std::fs::create_dir(folder.path().join("outside")).unwrap();
        std::fs::write(folder.path().join("outside/secret"), "secret").unwrap();
        std::fs::write(data.join("a/b/own"), "own").unwrap();
        symlink("../../outside", data.join("a/out")).unwrap();
        symlink(folder.path().join("outside/secret"), data.join("direct")).unwrap();
        let inside = Inside::open(&data).unwrap();
        (folder, inside)
    }

    fn refused(result: io::Result<impl Sized>) -> bool {
        result.is_err()
    }

    #[test]
    fn no_link_is_followed_and_nothing_left() {
        let (folder, inside) = fixture();
        for by_steps in [false, true] {
            let open = |path: &str| {
                let path = Path::new(path);
                if by_steps { inside.step_by_step(path, OFlags::RDONLY) } else { inside.at(path, OFlags::RDONLY) }
            };
            assert!(open("a/b/own").is_ok());
            for path in ["a/out/secret", "direct", "../outside/secret", "a/../../outside/secret", "/etc/passwd"] {
                assert!(open(path).is_err(), "{path}");
            }
        }
        assert!(refused(inside.folder(Path::new("a/out"))));
        assert_eq!(inside.link(Path::new("a/out")).unwrap(), Path::new("../../outside"));
        assert!(refused(inside.link(Path::new("a/out/secret"))));
        let data = folder.path().join("data");
        symlink("data", folder.path().join("link")).unwrap();
        assert!(Inside::open(&data).is_ok() && refused(Inside::open(&folder.path().join("link"))));
    }

    #[test]
    fn a_pipe_is_no_file_and_is_not_waited_for() {
        let (folder, inside) = fixture();
        let pipe = folder.path().join("data/pipe");
        rustix::fs::mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        assert_eq!(inside.file(Path::new("pipe")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn all_of_it_is_shown_and_what_is_too_deep_is_an_error() {
        let (folder, inside) = fixture();
        let seen = |inside: &Inside| {
            let mut seen = Vec::new();
            let walked = inside.walk(&mut |path, _| {
                seen.push(path.to_string_lossy().into_owned());
                Ok(true)
            });
            seen.sort();
            walked.map(|()| seen)
        };
        assert_eq!(seen(&inside).unwrap(), ["a", "a/b", "a/b/own", "a/out", "direct"]);
        let mut at = folder_at(CWD, &folder.path().join("data")).unwrap();
        for _ in 0..DEPTH + 2 {
            rustix::fs::mkdirat(&at, "d".repeat(200), Mode::RWXU).unwrap();
            at = folder_at(at.as_fd(), Path::new(&"d".repeat(200))).unwrap();
        }
        assert!(refused(seen(&inside)));
    }

    #[test]
    fn folders_that_a_guest_has_closed_can_be_opened_all_to_be_removed() {
        use std::os::unix::fs::PermissionsExt as _;
        let (folder, _) = fixture();
        let data = folder.path().join("data");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let before = mode(&folder.path().join("outside"));
        for (path, shut) in [("a/b", 0o000), ("a", 0o555)] {
            std::fs::set_permissions(data.join(path), std::fs::Permissions::from_mode(shut)).unwrap();
        }
        open_all(&data).unwrap();
        assert_eq!((mode(&data.join("a")), mode(&data.join("a/b"))), (0o700, 0o700));
        assert_eq!(mode(&folder.path().join("outside")), before, "no link was followed");
        std::fs::remove_dir_all(&data).unwrap();
    }
}
