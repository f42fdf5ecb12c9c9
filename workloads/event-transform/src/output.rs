//! Writes files in large blocks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

const BLOCK: usize = 256 * 1024;
const NEXT: &str = "see that the folder exists, may be written and has room; what was written so far is not complete";

/// A file that is written from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
}

/// Makes the folder that outputs go to, unless it is there.
pub(crate) fn folder(path: &Path) -> Result<(), Failure> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path).map_err(|error| Failure::at("make the folder", path, &error, NEXT))
}

impl Output {
    pub(crate) fn create(folder: &Path, name: &str) -> Result<Self, Failure> {
        let path = folder.join(name);
        let file = File::create(&path).map_err(|error| Failure::at("create", &path, &error, NEXT))?;
        Ok(Self { path, file, buffer: Vec::with_capacity(BLOCK + BLOCK / 4) })
    }

    /// Where to append; what is appended is written at the next call, or at the end.
    #[inline(always)]
    pub(crate) fn buffer(&mut self) -> Result<&mut Vec<u8>, Failure> {
        if self.buffer.len() >= BLOCK {
            self.flush()?;
        }
        Ok(&mut self.buffer)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let written = std::io::Write::write_all(&mut self.file, &self.buffer);
        self.buffer.clear();
        written.map_err(|error| Failure::at("write", &self.path, &error, NEXT))
    }

    /// Writes what is left.
    pub(crate) fn close(mut self) -> Result<(), Failure> {
        self.flush()
    }
}
