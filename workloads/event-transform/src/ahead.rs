//! Files as components read them: the next part is asked for before the last one is used, so that the host reads while the guest
//! computes. WASI's own way of a read is to wait for each, which on most hosts is a change of threads for each 64 KiB.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use wasip2::filesystem::preopens::get_directories;
use wasip2::filesystem::types::{Descriptor, DescriptorFlags, OpenFlags, PathFlags};
use wasip2::io::streams::{InputStream, StreamError};

/// What a host gives at once at most.
const PART: u64 = 64 * 1024;

/// A file that is read from its beginning.
pub(crate) enum File {
    Ahead(Ahead),
    /// One that no folder given to the guest leads to by its name alone; or none, and then the error says so.
    Plain(fs::File),
}

pub(crate) struct Ahead {
    stream: InputStream,
    /// What the stream is of: it goes last.
    _file: Descriptor,
    /// What came although nothing but its beginning was asked for.
    early: Vec<u8>,
}

impl File {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match Ahead::open(path) {
            Some(ahead) => Ok(Self::Ahead(ahead)),
            None => fs::File::open(path).map(Self::Plain),
        }
    }
}

impl Ahead {
    fn open(path: &Path) -> Option<Self> {
        let folders = get_directories();
        let below = folders.iter().filter_map(|(folder, at)| Some((folder, path.strip_prefix(at).ok()?.to_str()?)));
        let (folder, name) = below.min_by_key(|(_, name)| name.len())?;
        let file = folder.open_at(PathFlags::SYMLINK_FOLLOW, name, OpenFlags::empty(), DescriptorFlags::READ).ok()?;
        let stream = file.read_via_stream(0).ok()?;
        Some(Self { stream, _file: file, early: Vec::new() })
    }
}

fn failed(error: StreamError) -> io::Result<Vec<u8>> {
    match error {
        StreamError::Closed => Ok(Vec::new()),
        StreamError::LastOperationFailed(error) => Err(io::Error::other(error.to_debug_string())),
    }
}

impl Read for Ahead {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.early.is_empty() {
            self.early = self.stream.blocking_read(PART.min(to.len() as u64)).or_else(failed)?;
        }
        let length = self.early.len().min(to.len());
        let (now, later) = self.early.split_at(length);
        if let Some(to) = to.get_mut(..length) {
            to.copy_from_slice(now);
        }
        self.early = later.to_vec();
        if length > 0 && self.early.is_empty() {
            // Mostly nothing comes of this yet: it is what begins the next read. An error comes again.
            self.early = self.stream.read(PART).unwrap_or_default();
        }
        Ok(length)
    }
}

impl Read for File {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Ahead(file) => file.read(to),
            Self::Plain(file) => file.read(to),
        }
    }
}
