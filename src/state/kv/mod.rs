//! Owns keys and values: the data of states of kind `kv`.
//!
//! At rest a key is a file of the state's folder, so modules, exports and readers without this code see the same data.
//! A set is a record in a journal beside it, written by one call; files follow. What is promised:
//!
//! - A set that returned is there after a kill of the process, and seen by each get that begins afterwards, in this
//!   process and in others.
//! - It is there after a loss of power 10 ms later: the journal is forced to disk every 5 ms while there is something to
//!   force, for all states of the process together, and a disk that needs less than 5 ms keeps to it. Of what was set
//!   later, some sets may be there and some not, each whole.
//! - What a task wrote is on disk before its end is told, as [`StateHandle::release`](super::StateHandle::release) has it.
//! - A set that failed (the quota, the disk) changed nothing.
//! - Who sets waits for files to be written when 4096 keys or 8 MiB are ahead of them, and for the disk only when 128 MiB
//!   of journals are ahead of it.

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Flusher, Folder, Usage};
use files::{Files, Found};
use replay::Replay;
use writer::Writer;

mod files;
mod group;
mod journal;
mod key;
mod record;
mod replay;
mod writer;

#[cfg(test)]
mod tests;

/// The longest value, in bytes.
pub const MAX_VALUE_BYTES: usize = 16 << 20;

/// The keys and values of one state that is bound.
#[derive(Debug)]
pub struct KvStore(Side);

#[derive(Debug)]
enum Side {
    Writer(Arc<Writer>),
    Reader(Box<Reader>),
}

#[derive(Debug)]
struct Reader {
    files: Files,
    replay: Mutex<Replay>,
}

impl Reader {
    /// With what was written up to now.
    fn refreshed(&self) -> io::Result<MutexGuard<'_, Replay>> {
        let mut replay = self.replay.lock().unwrap_or_else(PoisonError::into_inner);
        replay.refresh(self.files.root())?;
        Ok(replay)
    }
}

/// What a key was when somebody looked, for [`KvStore::swap`].
#[derive(Debug)]
pub struct Seen {
    key: String,
    print: Option<[u8; 32]>,
    /// Counts the sets of this key, in this process.
    watch: Arc<AtomicU64>,
    version: u64,
}

impl Seen {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

fn fingerprint(value: Option<&[u8]>) -> Option<[u8; 32]> {
    let digest = |value| aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, value);
    value.and_then(|value| digest(value).as_ref().try_into().ok())
}

fn check(key: &str, value: &[u8]) -> io::Result<()> {
    key::file_name(key)?;
    if value.len() > MAX_VALUE_BYTES {
        let why = format!("a value can have {MAX_VALUE_BYTES} bytes, this one has {}", value.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(())
}

/// Brings the files of a state up to date with what a crash left in its journals, and removes those. The caller holds the
/// right to write.
pub(super) fn recover(folder: &Folder, flusher: &Flusher) -> io::Result<()> {
    let files = Files::open(folder)?;
    files.clear_new()?;
    let mut replay = Replay::new();
    replay.refresh(files.root())?;
    if !replay.is_there() {
        return Ok(());
    }
    // What was set a moment before the crash is in the journal, but may not be on disk there.
    replay.sync()?;
    let changes = replay.changes();
    tracing::debug!(keys = changes.len(), folder = %folder.root().display(), "keys recovered");
    files.apply(&changes, drop)?;
    flusher.flush()?;
    journal::remove_all(files.root())
}

impl KvStore {
    /// To be written. The caller holds the right to, and has called [`recover`].
    pub(super) fn write(folder: &Folder, usage: Arc<Usage>, flusher: Flusher) -> io::Result<Self> {
        Ok(Self(Side::Writer(Writer::open(folder, usage, flusher)?)))
    }

    /// To be read, beside a writer or without one.
    pub(super) fn read(folder: &Folder) -> io::Result<Self> {
        let (files, replay) = (Files::open(folder)?, Mutex::new(Replay::new()));
        Ok(Self(Side::Reader(Box::new(Reader { files, replay }))))
    }

    /// Whether it may only be read.
    #[must_use]
    pub fn read_only(&self) -> bool {
        matches!(self.0, Side::Reader(_))
    }

    fn writer(&self) -> io::Result<&Arc<Writer>> {
        match &self.0 {
            Side::Writer(writer) => Ok(writer),
            Side::Reader(_) => Err(io::Error::new(io::ErrorKind::PermissionDenied, "the state may only be read")),
        }
    }

    /// The value of a key: as it was when the call began, or as it was set meanwhile.
    ///
    /// # Errors
    /// `InvalidInput` for what can't be a key, `FileTooLarge` for a file that a module made larger than a value can be; the
    /// file system's.
    pub fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        match &self.0 {
            Side::Writer(writer) => writer.get(key),
            Side::Reader(reader) => {
                let replay = reader.refreshed()?;
                if let Some(value) = replay.find(key) {
                    return Ok(value.as_ref().map(|value| value.to_vec()));
                }
                drop(replay);
                reader.files.read(key)
            }
        }
    }

    /// Whether a key has a value.
    ///
    /// # Errors
    /// As [`KvStore::get`].
    pub fn exists(&self, key: &str) -> io::Result<bool> {
        match &self.0 {
            Side::Writer(writer) => writer.exists(key),
            Side::Reader(reader) => {
                let replay = reader.refreshed()?;
                if let Some(value) = replay.find(key) {
                    return Ok(value.is_some());
                }
                drop(replay);
                Ok(matches!(reader.files.find(key)?, Found::Value(_)))
            }
        }
    }

    /// The first `most` keys after `after`, in the order of their bytes.
    ///
    /// # Errors
    /// The file system's.
    pub fn keys(&self, after: Option<&str>, most: usize) -> io::Result<Vec<String>> {
        match &self.0 {
            Side::Writer(writer) => writer.keys(after, most),
            Side::Reader(reader) => {
                let replay = reader.refreshed()?;
                let overlay = replay.changes().into_iter().map(|(key, value)| (key, value.is_some())).collect();
                drop(replay);
                reader.files.keys(after, most, &overlay)
            }
        }
    }

    /// Gives a key a value.
    ///
    /// # Errors
    /// `QuotaExceeded`, `PermissionDenied` for who may only read, `InvalidInput` for what can't be a key or a value,
    /// `AlreadyExists` where a folder or a link has its name; the file system's. Then nothing changed.
    pub fn set(&self, key: &str, value: impl Into<Bytes>) -> io::Result<()> {
        let value = value.into();
        check(key, &value)?;
        self.writer()?.set(key, Some(value))
    }

    /// Takes a key's value away; nothing happens where there is none.
    ///
    /// # Errors
    /// As [`KvStore::set`].
    pub fn delete(&self, key: &str) -> io::Result<()> {
        check(key, b"")?;
        self.writer()?.set(key, None)
    }

    /// Adds to a number, kept as decimal digits; a key without a value counts as 0. Returns the sum.
    ///
    /// # Errors
    /// `InvalidData` for a value that isn't a number, or a sum that doesn't fit; as [`KvStore::set`].
    pub fn increment(&self, key: &str, delta: i64) -> io::Result<i64> {
        check(key, b"")?;
        self.writer()?.update(key, |value| {
            let not = || io::Error::new(io::ErrorKind::InvalidData, "the key's value isn't a number");
            let number = match value {
                Some(digits) => std::str::from_utf8(digits).ok().and_then(|d| d.parse::<i64>().ok()).ok_or_else(not)?,
                None => 0,
            };
            let over = || io::Error::new(io::ErrorKind::InvalidData, "the sum is too large for 64 bits");
            let sum = number.checked_add(delta).ok_or_else(over)?;
            Ok((Bytes::from(sum.to_string()), sum))
        })
    }

    /// Notes what a key is now, for a [`KvStore::swap`].
    ///
    /// # Errors
    /// As [`KvStore::get`].
    pub fn look(&self, key: &str) -> io::Result<Seen> {
        match &self.0 {
            Side::Writer(writer) => writer.look(key),
            Side::Reader(_) => {
                let print = fingerprint(self.get(key)?.as_deref());
                Ok(Seen { key: key.to_owned(), print, watch: Arc::default(), version: 0 })
            }
        }
    }

    /// Gives a key a value if nobody has set it since `seen`; `false`, and nothing changed, if somebody has.
    ///
    /// # Errors
    /// As [`KvStore::set`].
    pub fn swap(&self, seen: &Seen, value: impl Into<Bytes>) -> io::Result<bool> {
        let value = value.into();
        check(&seen.key, &value)?;
        self.writer()?.swap(seen, value)
    }

    /// Makes the files what was set. May wait for the journal's last milliseconds to be on disk, since files never go
    /// before it.
    ///
    /// # Errors
    /// The file system's; nothing that was set is lost.
    pub fn settle(&self) -> io::Result<()> {
        match &self.0 {
            Side::Writer(writer) => writer.apply(),
            Side::Reader(_) => Ok(()),
        }
    }

    /// Ends the writing. With `lasting`, all is on disk as files when this returns.
    ///
    /// # Errors
    /// They could not be written, or not be forced to disk: the journal keeps what they lack.
    pub(super) fn close(&self, lasting: bool) -> io::Result<()> {
        match &self.0 {
            Side::Writer(writer) => writer.close(lasting),
            Side::Reader(_) => Ok(()),
        }
    }

    /// Ends it as a crash would.
    pub(super) fn abandon(&self) {
        if let Side::Writer(writer) = &self.0 {
            writer.abandon();
        }
    }
}
