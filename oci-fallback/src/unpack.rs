//! Owns the way from a layer's bytes to files: what an archive may hold, and that none of it lands outside of its folder.

use std::io;

/// What unpacking one image may come to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// All files of all layers together, in bytes as they are read back: holes count.
    pub bytes: u64,
    /// All entries of all layers together.
    pub entries: u64,
}

impl Default for Limits {
    /// 64 GiB and two million entries.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 2_000_000 }
    }
}

/// Why an image could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The disk's own.
    #[error("{0}")]
    Io(#[from] io::Error),
}
