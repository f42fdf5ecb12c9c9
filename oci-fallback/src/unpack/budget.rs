//! Owns how much of its limits an image has used, and whether anybody still wants it.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Limits;
use super::fault::Fault;

/// Which limit an image went over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// [`Limits::bytes`].
    Bytes(u64),
    /// [`Limits::entries`].
    Entries(u64),
    /// [`Limits::held`].
    Held(u64),
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Entries(entries) => write!(f, "{entries} entries"),
            Self::Held(bytes) => write!(f, "{bytes} bytes of paths and attributes to be kept until a layer's end"),
        }
    }
}

/// What has been counted of all layers so far. The archive counts and so does the tree, each with a reference to it.
#[derive(Debug)]
pub(crate) struct Budget<'a> {
    limits: Limits,
    /// Set once nobody wants the image any more.
    pub(crate) stop: &'a AtomicBool,
    bytes: Cell<u64>,
    entries: Cell<u64>,
}

impl<'a> Budget<'a> {
    pub(crate) fn new(limits: Limits, stop: &'a AtomicBool) -> Self {
        Self { limits, stop, bytes: Cell::new(0), entries: Cell::new(0) }
    }

    /// Fails once nobody wants the image any more.
    pub(super) fn wanted(&self) -> Result<(), Fault> {
        if self.stop.load(Ordering::Relaxed) { Err(Fault::Stopped) } else { Ok(()) }
    }

    /// Bytes and entries so far.
    pub(crate) fn used(&self) -> (u64, u64) {
        (self.bytes.get(), self.entries.get())
    }

    /// One more entry, or one more folder that an entry only implies.
    pub(super) fn entry(&self) -> Result<(), Fault> {
        self.add(0, 1).map_err(Fault::Limit)
    }

    /// More bytes: of a file, or of what the archive has besides files, so that no stream is endless.
    pub(super) fn bytes(&self, bytes: u64) -> Result<(), Fault> {
        self.add(bytes, 0).map_err(Fault::Limit)
    }

    /// Whether as much may be held for the end of a layer.
    pub(super) fn holds(&self, bytes: u64) -> Result<(), Fault> {
        if bytes > self.limits.held { Err(Fault::Limit(Limit::Held(self.limits.held))) } else { Ok(()) }
    }

    /// Counts a layer that is there already.
    pub(crate) fn add(&self, bytes: u64, entries: u64) -> Result<(), Limit> {
        self.bytes.set(self.bytes.get().saturating_add(bytes));
        self.entries.set(self.entries.get().saturating_add(entries));
        if self.bytes.get() > self.limits.bytes {
            return Err(Limit::Bytes(self.limits.bytes));
        }
        if self.entries.get() > self.limits.entries {
            return Err(Limit::Entries(self.limits.entries));
        }
        Ok(())
    }
}
