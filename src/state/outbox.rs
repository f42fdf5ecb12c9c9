//! Owns how what a writer made becomes an item that waits to be sealed: a file under `sealing/`, whose name begins with its
//! place in the chain. Places are given by the one that may write, so no two have the same.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, FileType, renameat, statat, unlinkat};

use super::changeset::{OUTBOX, new_file};
use super::index::{Index, now};
use super::inside::{Inside, kind};
use super::segment::SegmentKind;
use super::{Folder, StateClass, StateError, StateHandle};

/// Digits of a place in a name, so that names sort by it.
const DIGITS: usize = 12;
/// What a name of a record may have at most: its place goes before it.
const MAX_NAME: usize = 255 - DIGITS - 2;
/// The end of the name of what holds changes. A record's has a `-` after its place.
const CHANGES: &str = ".changes";

/// The next place in the chain; `None` before anybody asked.
#[derive(Debug, Default)]
pub(super) struct Places(Mutex<Option<u64>>);

/// Something that waits to be sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) seq: u64,
    pub(super) kind: SegmentKind,
    /// Of a record.
    pub(super) name: OsString,
}

impl Item {
    pub(super) fn parse(file_name: &OsStr) -> Option<Self> {
        let bytes = file_name.as_bytes();
        let digits = bytes.iter().take_while(|b| b.is_ascii_digit()).count();
        let seq = std::str::from_utf8(bytes.get(..digits)?).ok()?.parse().ok().filter(|n| *n > 0)?;
        match (digits >= DIGITS, bytes.get(digits..)?) {
            (true, rest) if rest == CHANGES.as_bytes() => {
                Some(Self { seq, kind: SegmentKind::Changes, name: OsString::new() })
            }
            (true, [b'-', name @ ..]) if !name.is_empty() => {
                Some(Self { seq, kind: SegmentKind::Outbox, name: OsString::from_vec(name.to_vec()) })
            }
            _ => None,
        }
    }

    pub(super) fn file_name(&self) -> OsString {
        match self.kind {
            SegmentKind::Changes => OsString::from(format!("{:012}{CHANGES}", self.seq)),
            SegmentKind::Outbox => {
                let mut name = OsString::from(format!("{:012}-", self.seq));
                name.push(&self.name);
                name
            }
        }
    }
}

/// What a folder of items has, in the order of places. While somebody adds to it, one may be missed and a later one not.
pub(super) fn items(folder: &Path) -> io::Result<Vec<Item>> {
    let listing = match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let mut items = Vec::new();
    for entry in listing {
        items.extend(Item::parse(&entry?.file_name()));
    }
    items.sort_unstable_by_key(|item| item.seq);
    Ok(items)
}

/// As [`items`], of a folder that somebody may be adding to: no place before the last that is listed is missed.
///
/// A directory that is read while it changes may give a file that came later and not one that came before (`readdir`,
/// POSIX.1-2024). Places are given in order, so what a first look found the last of, a second one finds whole.
pub(super) fn items_without_a_gap(folder: &Path) -> io::Result<Vec<Item>> {
    let Some(last) = items(folder)?.last().map(|item| item.seq) else { return Ok(Vec::new()) };
    let mut found = items(folder)?;
    found.retain(|item| item.seq <= last);
    Ok(found)
}

#[expect(clippy::disallowed_methods, reason = "a move within one state; who calls forces it to disk")]
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)
}

/// What `seal_changes` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangesSealed {
    /// Everything is as it was sealed before.
    Nothing,
    /// They wait to be pushed, under this number of bytes.
    Sealed(u64),
    /// Less changed than was asked for.
    TooLittle,
    /// The quota has no room for them while earlier ones wait. Nothing is lost: they are in the files, and sealed later.
    NoRoom,
}

impl StateHandle {
    fn places(&self) -> io::Result<std::sync::MutexGuard<'_, Option<u64>>> {
        if self.state().class != StateClass::Synced {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "only a synced state has an outbox"));
        }
        if self.read_only() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let mut next = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if next.is_none() {
            let folder = self.folder();
            fs::create_dir_all(folder.sealing())?;
            let last = items(&folder.sealing())?.last().map_or(0, |item| item.seq);
            *next = Some(last.max(self.last_seq) + 1);
        }
        Ok(next)
    }

    /// Takes a file that a guest closed in its outbox, `data/outbox/NAME`: when this returns, it is on disk and will be
    /// sealed, in the order of the calls. Many calls at once share one force to disk. Blocks.
    ///
    /// # Errors
    /// There is no such file; its name has more than 241 bytes; the disk's. Then the file is where it was, or, where it
    /// could not be forced to disk, may be sealed all the same.
    pub fn take_outbox(&self, name: &OsStr) -> io::Result<()> {
        self.take_outbox_unforced(name)?;
        self.flusher().flush()
    }

    pub(super) fn take_outbox_unforced(&self, name: &OsStr) -> io::Result<()> {
        let mut parts = Path::new(name).components();
        let plain =
            matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(part)), None) if part == name);
        if !plain || name.len() > MAX_NAME {
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, "no record can have this name"));
        }
        // By its descriptor: a guest may have laid a link there, and no file of another folder is its record.
        let inside = Inside::open(self.data())?;
        let outbox = inside.folder(Path::new(OUTBOX))?;
        let found = statat(&outbox, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if kind(&found) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a record is a file"));
        }
        {
            let mut next = self.places()?;
            let seq = next.unwrap_or(1);
            let item = Item { seq, kind: SegmentKind::Outbox, name: name.to_owned() };
            if found.st_nlink > 1 {
                // By another of its names it could still be changed.
                let mut copy = new_file(&self.folder().scratch())?;
                io::copy(&mut inside.file(&Path::new(OUTBOX).join(name))?, &mut copy)?;
                rename(&self.folder().scratch(), &self.folder().sealing().join(item.file_name()))?;
                // Whatever follows, this place is taken.
                *next = Some(seq + 1);
                unlinkat(&outbox, name, AtFlags::empty())?;
            } else {
                renameat(&outbox, name, CWD, self.folder().sealing().join(item.file_name()))?;
            }
            *next = Some(seq + 1);
        }
        self.usage().to_pending(found.st_size.unsigned_abs());
        Ok(())
    }

    /// Seals what changed in the files outside the outbox, if that is `at_least` so many bytes. Blocks.
    ///
    /// # Errors
    /// The disk's; then nothing is sealed, and the next call finds the same.
    pub fn seal_changes(&self, at_least: u64) -> Result<ChangesSealed, StateError> {
        let folder = self.folder();
        let failed = |e| StateError::io("seal the changes of", folder.root())(e);
        drop(self.places().map_err(failed)?);
        // One seal at a time; records are taken meanwhile.
        let _turn = super::lock::turn(&folder.seal_lock())?;
        let index = kept_index(folder).map_err(failed)?;
        let now = now(&folder.scratch()).map_err(failed)?;
        let diff = index.compare(self.data(), now).map_err(failed)?;
        if diff.is_empty() {
            return Ok(ChangesSealed::Nothing);
        }
        if diff.bytes < at_least {
            return Ok(ChangesSealed::TooLittle);
        }
        let scratch = folder.scratch();
        let (mut index, _, size) = diff.write(self.data(), &scratch, now).map_err(failed)?;
        let others = items(&folder.sealing()).map_err(failed)?.iter().any(|i| i.kind == SegmentKind::Changes);
        // One copy may go beyond the quota: else a state that is half full could never be sealed. Then guests wait for it.
        if !self.usage().add_pending(size, !others) {
            drop(fs::remove_file(&scratch));
            return Ok(ChangesSealed::NoRoom);
        }
        let mut next = self.places().map_err(failed)?;
        let seq = next.unwrap_or(1);
        index.seq = seq;
        let item = Item { seq, kind: SegmentKind::Changes, name: OsString::new() };
        let placed =
            index.save(&folder.new_index()).and_then(|()| rename(&scratch, &folder.sealing().join(item.file_name())));
        if let Err(e) = placed {
            self.usage().pushed(size);
            return Err(failed(e));
        }
        *next = Some(seq + 1);
        drop(next);
        self.flusher().flush().map_err(failed)?;
        rename(&folder.new_index(), &folder.index()).map_err(failed)?;
        Ok(ChangesSealed::Sealed(size))
    }
}

/// The index of what is sealed. One that a crash left beside it counts if what it goes with was sealed.
fn kept_index(folder: &Folder) -> io::Result<Index> {
    let newer = folder.new_index();
    if newer.exists() {
        let index = Index::load(&newer);
        let item = Item { seq: index.seq, kind: SegmentKind::Changes, name: OsString::new() };
        let is_there = |place: PathBuf| -> io::Result<bool> {
            let path = place.join(item.file_name());
            if index.seq == 0 || !path.exists() {
                return Ok(false);
            }
            let bytes = fs::read(path)?;
            Ok(index.layer.as_deref() == Some(crate::oci::sha256(&bytes).to_string().as_str()))
        };
        if is_there(folder.sealing())? || is_there(folder.pushed())? {
            rename(&newer, &folder.index())?;
        } else {
            fs::remove_file(&newer)?;
        }
    }
    Ok(Index::load(&folder.index()))
}

/// Writes down that the files are as they were sealed.
pub(super) fn note_sealed(folder: &Folder) -> io::Result<()> {
    let now = now(&folder.scratch())?;
    Index::default().compare(&folder.data(), now)?.note(&folder.data(), now)?.save(&folder.index())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_place_and_kind() {
        for name in ["000000000001-a", "000000000012-x-y", "1000000000000-z", "000000000003.changes"] {
            let item = Item::parse(OsStr::new(name)).unwrap();
            assert_eq!(item.file_name(), name);
        }
        for other in ["", "a", "1-a", "000000000000-a", "000000000001", "000000000001-", "000000000001.other", ".tmp"] {
            assert_eq!(Item::parse(OsStr::new(other)), None, "{other}");
        }
    }
}
