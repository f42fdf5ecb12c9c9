//! Owns the making of mount points inside a container's root: no link in an image leads out of it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The deepest mount point.
const DEEPEST: usize = 128;

/// Opens what is at `path` in `root`, links resolved inside of it.
///
/// # Errors
/// `NotFound`, and the kernel's own.
pub(super) fn open(root: impl AsFd, path: &str) -> Result<OwnedFd, Errno> {
    let path = path.trim_matches('/');
    let path = if path.is_empty() { "." } else { path };
    rustix::fs::openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
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
    let parent = make(root, parent, true, depth + 1)?;
    if folder {
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))?;
    }
    Ok(open(root, path)?)
}
