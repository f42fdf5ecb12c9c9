//! Owns what is made of a writer that goes through no door: a container, which has the folder itself. What it does can't be
//! refused before it is done, so it is counted while it runs and after, and taken from the outbox at its end.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};

use super::changeset::OUTBOX;
use super::inside::{Inside, kind};
use super::outbox::Item;
use super::{StateClass, StateError, StateHandle};

/// What a look at the folder of such a writer found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside {
    /// What the state holds, in bytes.
    pub bytes: u64,
    /// It is more than its quota.
    pub over: bool,
}

/// The records that lay in an outbox before such a writer began: what a pull wrote there was sent long ago.
#[derive(Debug, Default)]
pub struct SentBefore(HashSet<(OsString, u64, i64, i64, u64)>);

/// What a file of an outbox is known by: another one, or one that was written to, is not the same.
fn known_by(name: OsString, look: &Stat) -> (OsString, u64, i64, i64, u64) {
    (name, look.st_ino, look.st_size, look.st_mtime, look.st_mtime_nsec)
}

impl StateHandle {
    /// The files of its outbox, each with what the system says of it; none where there is no outbox for this one.
    fn in_outbox(&self) -> io::Result<Vec<(OsString, Stat)>> {
        if self.state().class != StateClass::Synced || self.read_only() {
            return Ok(Vec::new());
        }
        let outbox = match Inside::open(self.data())?.folder(Path::new(OUTBOX)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in Dir::read_from(&outbox)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            let look = statat(&outbox, &name, AtFlags::SYMLINK_NOFOLLOW)?;
            if kind(&look) == FileType::RegularFile {
                found.push((name, look));
            }
        }
        Ok(found)
    }

    /// The records in its outbox that a pull wrote there, as `<place>-<name>`. Blocks.
    ///
    /// # Errors
    /// The outbox can't be looked at.
    pub fn sent_before(&self) -> io::Result<SentBefore> {
        // A record of its own may look like one: its place would be beyond what was sealed.
        let is_sealed = |name: &OsString| Item::parse(name).is_some_and(|item| item.seq <= self.last_seq);
        let found = self.in_outbox()?.into_iter().filter(|(name, _)| is_sealed(name));
        Ok(SentBefore(found.map(|(name, look)| known_by(name, &look)).collect()))
    }

    /// Counts what is in the folder, which somebody else writes to. Blocks for as long as it takes to list it.
    ///
    /// # Errors
    /// The file system's.
    pub fn recount(&self) -> Result<Outside, StateError> {
        if self.read_only() {
            return Ok(Outside { bytes: 0, over: false });
        }
        let (bytes, entries) = self.folder().measure()?;
        let held = self.usage().set_held(bytes, entries);
        Ok(Outside { bytes: held, over: self.usage().is_over() })
    }

    /// Takes all that lies in the outbox when its writer has ended, in the order in which it was last written, but for what
    /// lay there `before` it and for names that begin with a dot. Returns what was left where it is, and why, in words.
    /// Blocks.
    ///
    /// # Errors
    /// The outbox can't be looked at.
    pub fn take_outbox_of_ended(&self, before: &SentBefore) -> io::Result<Vec<String>> {
        let mut found: Vec<_> = self
            .in_outbox()?
            .into_iter()
            .filter(|(name, _)| !name.as_bytes().starts_with(b"."))
            .filter(|(name, look)| !before.0.contains(&known_by(name.clone(), look)))
            .map(|(name, look)| ((look.st_mtime, look.st_mtime_nsec), name))
            .collect();
        found.sort();
        let mut left = Vec::new();
        for (_, name) in &found {
            if let Err(e) = self.take_outbox(name) {
                left.push(format!("{} stays in the outbox: {e}", name.to_string_lossy()));
            }
        }
        Ok(left)
    }
}
