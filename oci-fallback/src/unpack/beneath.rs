//! Owns the file system calls that must not leave a folder: each takes the descriptor of a folder and either one name in it
//! or a path that is followed through no link.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use super::attributes;
use crate::snapshot::Rights;

/// How folders are opened: to list them too, so that their attributes can be read and written.
pub(crate) const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Set once openat2 was found missing: Linux before 5.6, or a filter that doesn't know it.
static WALK: AtomicBool = AtomicBool::new(false);

/// Opens the folder at a path below `root`, which has neither links nor `..` in it. An empty path is `root`.
pub(crate) fn open_folder(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    if path.is_empty() {
        return rustix::fs::openat(root, c".", FOLDER, Mode::empty());
    }
    if !WALK.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, path, FOLDER, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => WALK.store(true, Ordering::Relaxed),
            done => return done,
        }
    }
    walk(root, path)
}

/// The same, a part at a time.
fn walk(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut at: Option<OwnedFd> = None;
    for part in path.split(|b| *b == b'/') {
        if matches!(part, b"" | b"." | b"..") {
            return Err(Errno::INVAL);
        }
        let from = at.as_ref().map_or(root, |fd| fd.as_fd());
        at = Some(rustix::fs::openat(from, part, FOLDER, Mode::empty())?);
    }
    at.ok_or(Errno::INVAL)
}

/// What a name is, not following it; `None` where there is nothing.
pub(crate) fn look(folder: impl AsFd, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The type in a stat.
pub(crate) fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Overlayfs's whiteout: a character device 0:0.
///
/// <https://docs.kernel.org/filesystems/overlayfs.html#whiteouts-and-opaque-directories>
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    kind(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes all whiteouts below a folder. Overlayfs filters them out of a list only where a folder has others below it; in one
/// that hides them, or lies in such a one, they would be listed and not be there. A folder that is marked opaque has none any
/// more, so that none is listed twice however often an archive says so.
pub(super) fn remove_whiteouts(folder: BorrowedFd<'_>, rights: Rights) -> Result<(), Errno> {
    for name in names(folder)? {
        match look(folder, &name)? {
            Some(stat) if is_whiteout(&stat) => rustix::fs::unlinkat(folder, &name, AtFlags::empty())?,
            Some(stat) if kind(&stat) == FileType::Directory => {
                let inside = rustix::fs::openat(folder, &name, FOLDER, Mode::empty())?;
                if !attributes::is_opaque(&inside, rights) {
                    remove_whiteouts(inside.as_fd(), rights)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
thread_local! {
    /// How many folders this thread has listed.
    pub(super) static LISTED: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The names in a folder.
pub(crate) fn names(folder: impl AsFd) -> Result<Vec<Vec<u8>>, Errno> {
    #[cfg(test)]
    LISTED.set(LISTED.get() + 1);
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name.to_bytes().to_vec());
        }
    }
    Ok(names)
}

/// Removes a name and all below it, whatever the modes of its folders are. Nothing there is fine.
pub(crate) fn remove(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e),
    }
    // Two tries: one that fails for a mode, and one after it was changed.
    match remove_folder(folder, name) {
        Err(Errno::ACCESS) => {
            // Only a folder, since nothing that isn't one fails so; one that became a link since is not followed by openat.
            rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            remove_folder(folder, name)
        }
        done => done,
    }
}

fn remove_folder(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let inside = match rustix::fs::openat(folder, name, FOLDER, Mode::empty()) {
        Ok(inside) => inside,
        Err(Errno::NOENT) => return Ok(()),
        Err(e) => return Err(e),
    };
    for child in names(&inside)? {
        remove(inside.as_fd(), &child)?;
    }
    drop(inside);
    match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e),
    }
}

/// The target of a symlink.
pub(crate) fn link_target(folder: impl AsFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(rustix::fs::readlinkat(folder, name, Vec::new())?.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_walk_does_what_openat2_does() {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(dir.path().join("a/b")).expect("made");
        std::fs::write(dir.path().join("a/f"), "").expect("made");
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).expect("made");
        std::os::unix::fs::symlink("a", dir.path().join("in")).expect("made");
        let root = rustix::fs::open(dir.path(), FOLDER, Mode::empty()).expect("open");
        assert!(open_folder(root.as_fd(), b"a/b").is_ok() && walk(root.as_fd(), b"a/b").is_ok());
        for path in [&b"out"[..], b"out/ssl", b"in", b"in/b", b"a/f", b"a/../../x", b"..", b"/etc", b"none"] {
            assert!(open_folder(root.as_fd(), path).is_err(), "{path:?}");
            assert!(walk(root.as_fd(), path).is_err(), "{path:?}");
        }
    }
}
