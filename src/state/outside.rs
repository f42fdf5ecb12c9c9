//! Owns what is made of a writer that goes through no door: a container, which has the folder itself. What it does can't be
//! refused before it is done, so it is counted while it runs and after, and taken from the outbox at its end.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use super::changeset::OUTBOX;
use super::{StateClass, StateError, StateHandle};

/// What a look at the folder of such a writer found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outside {
    /// What the state holds, in bytes.
    pub bytes: u64,
    /// It is more than its quota.
    pub over: bool,
}

impl StateHandle {
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

    /// Takes all that lies in the outbox when its writer has ended, in the order in which it was last written. Returns how
    /// many. Blocks.
    ///
    /// # Errors
    /// The disk's; what was not taken is where it was.
    pub fn take_outbox_of_ended(&self) -> io::Result<usize> {
        if self.state().class != StateClass::Synced || self.read_only() {
            return Ok(0);
        }
        let mut found = Vec::new();
        let listing = match fs::read_dir(self.data().join(OUTBOX)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        for entry in listing {
            let entry = entry?;
            let look = entry.metadata()?;
            if look.is_file() {
                found.push(((look.mtime(), look.mtime_nsec()), entry.file_name()));
            }
        }
        found.sort();
        for (_, name) in &found {
            self.take_outbox(name)?;
        }
        Ok(found.len())
    }
}
