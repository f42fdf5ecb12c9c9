//! Writes files in large blocks.

use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::io::{Errno, pwrite};

use crate::failure::Failure;

const BLOCK: usize = 1024 * 1024;
const NEXT: &str = "see that the folder exists, may be written and has room; what was written so far is not complete";

/// A file that is written from its beginning to its end.
#[derive(Debug)]
pub(crate) struct Output {
    path: PathBuf,
    file: File,
    /// What is written already.
    written: u64,
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
        Ok(Self { path, file, written: 0, buffer: Vec::new() })
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
        let mut rest = self.buffer.as_slice();
        while !rest.is_empty() {
            // At a place, and not where the file is at: as Wasm that is one call of the host for all of it, the other is one for
            // each 64 KiB.
            match pwrite(&self.file, rest, self.written) {
                Ok(length) if length > 0 => {
                    self.written += length as u64;
                    rest = rest.get(length..).unwrap_or_default();
                }
                Err(Errno::INTR) => {}
                other => {
                    let error = other.map_or_else(Error::from, |_| ErrorKind::WriteZero.into());
                    return Err(Failure::at("write", &self.path, &error, NEXT));
                }
            }
        }
        self.buffer.clear();
        Ok(())
    }

    /// Writes what is left.
    pub(crate) fn close(mut self) -> Result<(), Failure> {
        self.flush()
    }
}
