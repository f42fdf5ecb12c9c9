//! Owns copying a whole tree into another folder, sharing the files' blocks where the file system can.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Rights;
use crate::unpack::{FOLDER, attributes_of, kind, names};

/// The most bytes copied by one call.
const PIECE: usize = 64 << 20;
/// The same where the bytes come by here.
const BY_HAND: usize = 1 << 20;

/// Copies what is in `from` into `to`, which is empty, and gives `to` what `from` has.
///
/// # Errors
/// The disk's own; `to` is then half-made. `EACCES` where the modes don't let this user read, `ECANCELED` once `stop` is set.
pub(super) fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>, rights: Rights, stop: &AtomicBool) -> Result<(), Errno> {
    Copy { rights, seen: HashMap::new(), root: to, clone: true, stop }.folder(from, to, &[])
}

/// Copies one file, link or device, `name` in `from`, to `new` in `to`, where nothing is.
///
/// # Errors
/// As for [`tree`].
pub(crate) fn file(
    (from, name): (BorrowedFd<'_>, &[u8]),
    (to, new): (BorrowedFd<'_>, &[u8]),
    rights: Rights,
    stop: &AtomicBool,
) -> Result<(), Errno> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Copy { rights, seen: HashMap::new(), root: to, clone: true, stop }.other((from, name), (to, new), &stat)
}

struct Copy<'a> {
    rights: Rights,
    /// Where the first name of a file with several lies.
    seen: HashMap<(u64, u64), Vec<u8>>,
    root: BorrowedFd<'a>,
    clone: bool,
    stop: &'a AtomicBool,
}

impl Copy<'_> {
    fn wanted(&self) -> Result<(), Errno> {
        if self.stop.load(Ordering::Relaxed) { Err(Errno::CANCELED) } else { Ok(()) }
    }

    fn folder(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &[u8]) -> Result<(), Errno> {
        for name in names(from)? {
            self.wanted()?;
            let stat = rustix::fs::statat(from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            let mut inside = path.to_vec();
            inside.extend_from_slice(&name);
            if kind(&stat) == FileType::Directory {
                let source = rustix::fs::openat(from, &name, FOLDER, Mode::empty())?;
                rustix::fs::mkdirat(to, &name, Mode::RWXU)?;
                let target = rustix::fs::openat(to, &name, FOLDER, Mode::empty())?;
                inside.push(b'/');
                self.folder(source.as_fd(), target.as_fd(), &inside)?;
                continue;
            }
            if stat.st_nlink > 1 {
                if let Some(first) = self.seen.get(&(stat.st_dev, stat.st_ino)) {
                    rustix::fs::linkat(self.root, first, to, &name, AtFlags::empty())?;
                    continue;
                }
                self.seen.insert((stat.st_dev, stat.st_ino), inside);
            }
            self.other((from, &name), (to, &name), &stat)?;
        }
        self.settle(from, to, &rustix::fs::fstat(from)?)
    }

    fn other(
        &mut self,
        (from, name): (BorrowedFd<'_>, &[u8]),
        (to, new): (BorrowedFd<'_>, &[u8]),
        stat: &Stat,
    ) -> Result<(), Errno> {
        match kind(stat) {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let target = rustix::fs::openat(to, new, flags, Mode::RUSR | Mode::WUSR)?;
                self.content(&source, &target)?;
                return self.settle(source.as_fd(), target.as_fd(), stat);
            }
            FileType::Symlink => {
                rustix::fs::symlinkat(rustix::fs::readlinkat(from, name, Vec::new())?, to, new)?;
            }
            kind => {
                let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
                rustix::fs::mknodat(to, new, kind, mode, stat.st_rdev)?;
            }
        }
        if self.rights == Rights::Root {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(to, new, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if kind(stat) != FileType::Symlink {
            rustix::fs::chmodat(to, new, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
        }
        rustix::fs::utimensat(to, new, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn content(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
        if self.clone {
            match rustix::fs::ioctl_ficlone(to, from) {
                Ok(()) => return Ok(()),
                // Not on this file system, and so not for the next file.
                Err(_) => self.clone = false,
            }
        }
        let size = u64::try_from(rustix::fs::fstat(from)?.st_size).unwrap_or(0);
        let mut at = 0;
        while at < size {
            // Holes are kept: what isn't data isn't written.
            let start = match rustix::fs::seek(from, rustix::fs::SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(Errno::NXIO) => break,
                Err(e) => return Err(e),
            };
            let end = rustix::fs::seek(from, rustix::fs::SeekFrom::Hole(start))?;
            let (mut read, mut written) = (start, start);
            while read < end {
                self.wanted()?;
                let piece = usize::try_from(end - read).unwrap_or(PIECE).min(PIECE);
                let done = match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut written), piece) {
                    // Between file systems, or on one that can't.
                    Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                        let done = by_hand(from, to, read, piece)?;
                        (read, written) = (read + done as u64, written + done as u64);
                        done
                    }
                    done => done?,
                };
                if done == 0 {
                    return Err(Errno::IO);
                }
            }
            at = end;
        }
        rustix::fs::ftruncate(to, size)
    }

    fn settle(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
        if self.rights == Rights::Root {
            rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        }
        for (name, value) in attributes_of(from)? {
            match rustix::fs::fsetxattr(to, &name, &value, XattrFlags::empty()) {
                // Made by a system with more rights than this one has.
                Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
                Err(e) => return Err(e),
            }
        }
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        rustix::fs::futimens(to, &times(stat))
    }
}

/// Copies a part of what is at this place. Gives how much that was.
fn by_hand(from: &OwnedFd, to: &OwnedFd, at: u64, most: usize) -> Result<usize, Errno> {
    let mut buffer = vec![0; most.min(BY_HAND)];
    let some = rustix::io::retry_on_intr(|| rustix::io::pread(from, &mut buffer, at))?;
    rustix::io::retry_on_intr(|| rustix::io::pwrite(to, &buffer[..some], at))
}

fn times(stat: &Stat) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec.cast_signed() },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() },
    }
}
