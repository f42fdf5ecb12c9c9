//! Owns values as files: each key is a regular file of the state's folder.
//!
//! What guests do in that folder is theirs, so nothing here follows a link, leaves the folder or trusts what it finds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use bytes::Bytes;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, openat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use super::super::Folder;
use super::{MAX_VALUE_BYTES, key};

/// What keys became: a value, or nothing.
pub(super) type Changes = BTreeMap<String, Option<Bytes>>;

/// Where a value is written before it gets its name. Beside the data, so that guests never see it.
const NEW: &str = "new-value";

/// The files of one state.
#[derive(Debug)]
pub(super) struct Files {
    root: OwnedFd,
    data: OwnedFd,
}

/// What stands under a key's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    /// A value of this length.
    Value(u64),
    /// A folder or a link.
    Other,
}

fn folder(at: impl rustix::fd::AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    Ok(openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Files {
    pub(super) fn open(at: &Folder) -> io::Result<Self> {
        let root = folder(rustix::fs::CWD, at.root())?;
        let data = folder(&root, "data")?;
        Ok(Self { root, data })
    }

    /// The folder that has the journals and the data.
    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    pub(super) fn find(&self, key: &str) -> io::Result<Found> {
        match statat(&self.data, &*key::file_name(key)?, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {
                Ok(Found::Value(stat.st_size.unsigned_abs()))
            }
            Ok(_) => Ok(Found::Other),
            Err(Errno::NOENT) => Ok(Found::Nothing),
            Err(e) => Err(e.into()),
        }
    }

    pub(super) fn read(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        // Not blocking: a file is the same either way, and anything else is looked at before it's read.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.data, &*key::file_name(key)?, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let found = file.metadata()?;
        if !found.is_file() {
            return Ok(None);
        }
        let most = MAX_VALUE_BYTES as u64;
        let too_large = || io::Error::new(io::ErrorKind::FileTooLarge, "the file is larger than a value can be");
        if found.len() > most {
            return Err(too_large());
        }
        let mut value = Vec::with_capacity(usize::try_from(found.len()).unwrap_or(0) + 1);
        file.take(most + 1).read_to_end(&mut value)?;
        if value.len() > MAX_VALUE_BYTES { Err(too_large()) } else { Ok(Some(value)) }
    }

    /// Makes the files what `changes` says. Done twice it is as done once. `dropped` hears of the length of each value
    /// that a folder has taken the place of.
    pub(super) fn apply(&self, changes: &Changes, mut dropped: impl FnMut(u64)) -> io::Result<()> {
        for (key, value) in changes {
            let name = key::file_name(key)?;
            match value {
                Some(value) => {
                    if !self.put(&name, value)? {
                        tracing::warn!(key, "a folder took the name of a key after it was set: the folder stays");
                        dropped(value.len() as u64);
                    }
                }
                None => match unlinkat(&self.data, &*name, AtFlags::empty()) {
                    Ok(()) | Err(Errno::NOENT | Errno::ISDIR) => {}
                    Err(e) => return Err(e.into()),
                },
            }
        }
        Ok(())
    }

    /// Removes what a crash left of a value that was being written.
    pub(super) fn clear_new(&self) -> io::Result<()> {
        match unlinkat(&self.root, NEW, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            // A folder of a guest's that was exchanged for a value and not put back in time.
            Err(Errno::ISDIR) => Ok(unlinkat(&self.root, NEW, AtFlags::REMOVEDIR)?),
            Err(e) => Err(e.into()),
        }
    }

    fn create_new(&self) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let created = match openat(&self.root, NEW, flags, mode) {
            // Never written over: after an exchange it is the old value, and a guest may have that by another name.
            Err(Errno::EXIST) => {
                self.clear_new()?;
                openat(&self.root, NEW, flags, mode)
            }
            other => other,
        };
        Ok(File::from(created?))
    }

    /// `false`: there is a folder of that name, and it stays.
    fn put(&self, name: &str, value: &[u8]) -> io::Result<bool> {
        let mut file = self.create_new()?;
        if let Err(e) = file.write_all(value) {
            drop(file);
            // Tried again before the next value.
            let _ = self.clear_new();
            return Err(e);
        }
        drop(file);
        // A plain rename over a file has ext4 write the new one's data out at once, some 150 µs; the journal has it anyway.
        match renameat_with(&self.root, NEW, &self.data, name, RenameFlags::EXCHANGE) {
            Ok(()) => match unlinkat(&self.root, NEW, AtFlags::empty()) {
                Err(Errno::ISDIR) => {
                    renameat_with(&self.root, NEW, &self.data, name, RenameFlags::EXCHANGE)?;
                    self.clear_new().map(|()| false)
                }
                done => Ok(done.map(|()| true)?),
            },
            // There is nothing to exchange it with, or the file system can't.
            Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {
                match renameat_with(&self.root, NEW, &self.data, name, RenameFlags::empty()) {
                    Err(Errno::ISDIR) => self.clear_new().map(|()| false),
                    done => Ok(done.map(|()| true)?),
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    /// The first `most` keys after `after`, in order, of the files as `overlay` changes them. The overlay must have been
    /// taken before: what moves from it into the files meanwhile is then seen in one of them.
    pub(super) fn keys(
        &self,
        after: Option<&str>,
        most: usize,
        overlay: &BTreeMap<String, bool>,
    ) -> io::Result<Vec<String>> {
        let beyond = |key: &str| after.is_none_or(|after| key > after);
        let mut keys: BTreeSet<String> = BTreeSet::new();
        let mut add = |key: &str| {
            if most == 0 || !beyond(key) {
                return;
            }
            if keys.len() == most {
                if keys.last().is_some_and(|last| key >= last.as_str()) {
                    return;
                }
                if keys.insert(key.to_owned()) {
                    keys.pop_last();
                }
                return;
            }
            keys.insert(key.to_owned());
        };
        for (key, is_there) in overlay {
            if *is_there {
                add(key);
            }
        }
        for entry in Dir::read_from(&self.data)? {
            let entry = entry?;
            let Some(key) = entry.file_name().to_str().ok().and_then(key::of_file_name) else { continue };
            if !beyond(&key) || overlay.get(&*key).is_some_and(|is_there| !is_there) {
                continue;
            }
            let is_value = match entry.file_type() {
                FileType::RegularFile => true,
                FileType::Unknown => matches!(self.find(&key)?, Found::Value(_)),
                _ => false,
            };
            if is_value {
                add(&key);
            }
        }
        Ok(keys.into_iter().collect())
    }
}
