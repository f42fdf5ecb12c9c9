//! Owns how much of its limits an image has used.

use super::Limits;
use super::fault::Fault;

/// Which limit an image went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::bytes`].
    Bytes(u64),
    /// [`Limits::entries`].
    Entries(u64),
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Entries(entries) => write!(f, "{entries} entries"),
        }
    }
}

/// What has been counted of all layers so far.
#[derive(Debug)]
pub(crate) struct Budget {
    limits: Limits,
    pub(crate) bytes: u64,
    pub(crate) entries: u64,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, bytes: 0, entries: 0 }
    }

    /// One more entry.
    pub(super) fn entry(&mut self) -> Result<(), Fault> {
        self.add(0, 1).map_err(Fault::Limit)
    }

    /// More bytes: of a file, or of what the archive has besides files, so that no stream is endless.
    pub(super) fn bytes(&mut self, bytes: u64) -> Result<(), Fault> {
        self.add(bytes, 0).map_err(Fault::Limit)
    }

    /// Counts a layer that is there already.
    pub(crate) fn add(&mut self, bytes: u64, entries: u64) -> Result<(), Limit> {
        self.bytes = self.bytes.saturating_add(bytes);
        self.entries = self.entries.saturating_add(entries);
        if self.bytes > self.limits.bytes {
            return Err(Limit::Bytes(self.limits.bytes));
        }
        if self.entries > self.limits.entries {
            return Err(Limit::Entries(self.limits.entries));
        }
        Ok(())
    }
}
