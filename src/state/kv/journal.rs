//! Owns the journal as it is written: made, appended to, exchanged for a new one.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, openat, renameat_with, unlinkat};
use rustix::io::{Errno, pwritev};

use super::super::folder::boot_id;
use super::record::{Encoded, HEADER_LEN, Header};

/// What was set since the last checkpoint.
pub(super) const CURRENT: &str = "journal";
/// What was set before, while a checkpoint forces it to disk as files.
pub(super) const OLD: &str = "journal.old";
const NEW: &str = "journal.new";

/// A journal of this process's own.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) file: Arc<File>,
    pub(super) generation: u64,
    /// Where the next record goes.
    pub(super) end: u64,
    /// How far it is on disk.
    pub(super) synced: u64,
    /// How far its changes are in the files and it says so.
    pub(super) marked: u64,
    /// Where the last change ends.
    changed: u64,
}

impl Journal {
    fn create(root: &OwnedFd) -> io::Result<Self> {
        // Not a count: after a clean end there is nothing to count on from.
        let generation = uuid::Uuid::now_v7().as_u64_pair().1;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = File::from(openat(root, NEW, flags, Mode::from_raw_mode(0o600))?);
        let header = Header { generation, boot: boot_id() }.to_bytes();
        std::os::unix::fs::FileExt::write_all_at(&file, &header, 0)?;
        let end = HEADER_LEN as u64;
        Ok(Self { file: Arc::new(file), generation, end, synced: 0, marked: end, changed: end })
    }

    /// The first journal of a state that has none.
    pub(super) fn first(root: &OwnedFd) -> io::Result<Self> {
        let made = Self::create(root)?;
        renameat_with(root, NEW, root, CURRENT, RenameFlags::NOREPLACE)?;
        Ok(made)
    }

    /// Makes a new one the current one, and the current one the old one.
    pub(super) fn next(root: &OwnedFd) -> io::Result<Self> {
        let made = Self::create(root)?;
        renameat_with(root, CURRENT, root, OLD, RenameFlags::NOREPLACE)?;
        if let Err(e) = renameat_with(root, NEW, root, CURRENT, RenameFlags::NOREPLACE) {
            renameat_with(root, OLD, root, CURRENT, RenameFlags::NOREPLACE)?;
            return Err(e.into());
        }
        Ok(made)
    }

    /// Appends a record with one call. After an error nothing was.
    ///
    /// # Errors
    /// The file system's; with `true` where half a record stands there now and could not be taken back.
    pub(super) fn append(&mut self, record: &Encoded<'_>) -> Result<(), (io::Error, bool)> {
        let failed = match pwritev(&*self.file, &record.parts(), self.end) {
            Ok(written) if written == record.len() => {
                self.end += written as u64;
                return Ok(());
            }
            Ok(_) => io::Error::new(io::ErrorKind::StorageFull, "the disk took only a part of it"),
            Err(e) => e.into(),
        };
        // Half a record of a guest's bytes in front of the next one could read as anything.
        let stands = self.file.set_len(self.end).is_err();
        Err((failed, stands))
    }

    /// As [`Journal::append`], for a change.
    pub(super) fn append_change(&mut self, key: &str, value: Option<&[u8]>) -> Result<(), (io::Error, bool)> {
        let too_long = || (io::Error::new(io::ErrorKind::InvalidInput, "the value is too long"), false);
        let record = Encoded::change(self.generation, key, value).ok_or_else(too_long)?;
        self.append(&record)?;
        self.changed = self.end;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn is_synced(&self) -> bool {
        self.synced >= self.changed
    }

    /// Says that all changes before `offset` are in the files.
    pub(super) fn mark(&mut self, offset: u64) -> Result<(), (io::Error, bool)> {
        if self.marked >= offset.min(self.changed) {
            return Ok(());
        }
        let bytes = offset.to_le_bytes();
        if let Some(record) = Encoded::applied(self.generation, &bytes) {
            self.append(&record)?;
        }
        self.marked = offset;
        Ok(())
    }
}

/// Removes a journal, if it's there.
pub(super) fn remove(root: &OwnedFd, name: &str) -> io::Result<()> {
    match unlinkat(root, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Removes all there are, the older one first: what the newer one says goes before it.
pub(super) fn remove_all(root: &OwnedFd) -> io::Result<()> {
    [NEW, OLD, CURRENT].into_iter().try_for_each(|name| remove(root, name))
}
