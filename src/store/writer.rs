//! Owns how one blob comes into a layout: hashed as it's written, complete and verified or not there at all.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use super::layout::{Layout, hasher};
use super::lease::Lease;
use super::{Result, StoreError, disk};
use crate::oci::{Digest, DigestAlgorithm, Hasher};

/// Bytes gathered before a write: network chunks are smaller, and calls cost more than the copy.
const BUFFER: usize = 1 << 18;
/// After how many bytes write-back is started, so that the last fsync finds little left to do.
const FLUSH_EVERY: u64 = 8 << 20;

/// Writes one blob. Nothing shows in the layout before [`BlobWriter::commit`]; dropped or failed, the temporary file
/// goes away. Calls block on the disk for moments: `commit` belongs on a thread where that's allowed.
#[derive(Debug)]
pub struct BlobWriter {
    layout: Layout,
    path: PathBuf,
    file: BufWriter<File>,
    hasher: Hasher,
    expected: Option<Digest>,
    limit: Option<u64>,
    exact: Option<u64>,
    position: u64,
    flushed: u64,
    partial: bool,
    failed: bool,
    /// The temporary file is renamed, or left for later.
    settled: bool,
}

/// How far an upload is: what a later writer goes on from without reading again what is there.
#[derive(Debug, Clone)]
pub struct Progress {
    hasher: Hasher,
    position: u64,
}

impl Progress {
    /// Of an upload with nothing in it yet; `None` for an algorithm that isn't accepted.
    #[must_use]
    pub fn start(algorithm: DigestAlgorithm) -> Option<Self> {
        let hasher = match algorithm {
            DigestAlgorithm::Sha256 => Hasher::sha256(),
            DigestAlgorithm::Sha512 => Hasher::sha512(),
            _ => return None,
        };
        Some(Self { hasher, position: 0 })
    }

    /// How many bytes there are.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl BlobWriter {
    pub(super) fn fresh(layout: &Layout, expected: Option<&Digest>, limit: Option<u64>) -> Result<Self> {
        let hasher = expected.map_or_else(|| Ok(Hasher::sha256()), hasher)?;
        let path = layout.ingest().join(disk::unique_name(".tmp"));
        let file = disk::create_locked(&path)?;
        Ok(Self {
            layout: layout.clone(),
            path,
            file: BufWriter::with_capacity(BUFFER, file),
            hasher,
            expected: expected.cloned(),
            limit,
            exact: None,
            position: 0,
            flushed: 0,
            partial: false,
            failed: false,
            settled: false,
        })
    }

    pub(super) fn resumed(layout: &Layout, expected: &Digest, size: u64) -> Result<Self> {
        let mut hasher = hasher(expected)?;
        let path = layout.ingest().join(format!("{}-{}.partial", expected.algorithm(), expected.digest()));
        let Some(file) = open_partial(&path)? else {
            // Another process is at it: whoever commits first wins, and the other finds the blob present.
            return Self::fresh(layout, Some(expected), Some(size)).map(|w| w.exactly(size));
        };
        let mut position = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        if position > size {
            file.set_len(0).map_err(StoreError::io("truncate", &path))?;
            position = 0;
        }
        hash_file(&file, &mut hasher, position).map_err(StoreError::io("read", &path))?;
        Ok(Self {
            layout: layout.clone(),
            path,
            file: BufWriter::with_capacity(BUFFER, file),
            hasher,
            expected: Some(expected.clone()),
            limit: Some(size),
            exact: Some(size),
            position,
            flushed: position,
            partial: true,
            failed: false,
            settled: false,
        })
    }

    /// Goes on with the upload in the file at `path`; `None` when it isn't there. Where `progress` doesn't say what the
    /// file holds, it's hashed again.
    pub(super) fn uploading(layout: &Layout, path: PathBuf, progress: Option<Progress>) -> Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).append(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::io("open", &path)(e)),
        };
        disk::lock(&file, &path)?;
        if disk::links(&file, &path)? == 0 {
            return Ok(None);
        }
        let position = file.metadata().map_err(StoreError::io("look at", &path))?.len();
        let known = progress.filter(|p| p.position == position).map(|p| p.hasher);
        let hasher = match known {
            Some(hasher) => hasher,
            None => {
                let mut hasher = Hasher::sha256();
                hash_file(&file, &mut hasher, position).map_err(StoreError::io("read", &path))?;
                hasher
            }
        };
        Ok(Some(Self {
            layout: layout.clone(),
            path,
            file: BufWriter::with_capacity(BUFFER, file),
            hasher,
            expected: None,
            limit: None,
            exact: None,
            position,
            flushed: position,
            partial: true,
            failed: false,
            settled: false,
        }))
    }

    /// Demands `digest`; what is written is hashed again if that is by another algorithm than was thought so far.
    ///
    /// # Errors
    /// [`StoreError::Algorithm`], or the file system's own.
    pub fn expecting(mut self, digest: &Digest) -> Result<Self> {
        let mut wanted = hasher(digest)?;
        if std::mem::discriminant(&wanted) != std::mem::discriminant(&self.hasher) {
            self.file.flush().map_err(StoreError::io("write", &self.path))?;
            hash_file(self.file.get_ref(), &mut wanted, self.position).map_err(StoreError::io("read", &self.path))?;
            self.hasher = wanted;
        }
        self.expected = Some(digest.clone());
        Ok(self)
    }

    /// Leaves an upload for later, and says how far it is.
    ///
    /// # Errors
    /// The file system's own; the upload is gone then.
    pub fn pause(mut self) -> Result<Progress> {
        self.file.flush().map_err(StoreError::io("write", &self.path))?;
        if self.failed {
            return Err(StoreError::io("go on after a failed write to", &self.path)(io::ErrorKind::Other.into()));
        }
        self.settled = true;
        Ok(Progress { hasher: self.hasher.clone(), position: self.position })
    }

    /// As [`BlobWriter::pause`], but takes back what was written since it had `position`
    /// bytes and was as `to` says.
    ///
    /// # Errors
    /// As [`BlobWriter::pause`].
    pub fn rewind(mut self, to: Option<Progress>, position: u64) -> Result<Option<Progress>> {
        self.file.flush().map_err(StoreError::io("write", &self.path))?;
        self.file.get_ref().set_len(position).map_err(StoreError::io("truncate", &self.path))?;
        self.settled = true;
        Ok(to)
    }

    /// Demands exactly `size` bytes.
    #[must_use]
    pub fn exactly(mut self, size: u64) -> Self {
        self.exact = Some(size);
        self.limit = Some(self.limit.map_or(size, |l| l.min(size)));
        self
    }

    /// How many bytes are written, those of an earlier attempt included.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Adds bytes.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] past the size allowed; the file system's own, with its path. The writer is of no
    /// further use then.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let wrote = self.try_add(bytes);
        self.failed |= wrote.is_err();
        wrote
    }

    fn try_add(&mut self, bytes: &[u8]) -> Result<()> {
        let end = self.position.saturating_add(bytes.len() as u64);
        if let Some(limit) = self.limit.filter(|l| end > *l) {
            return Err(StoreError::TooLarge { what: self.name(), limit });
        }
        self.file.write_all(bytes).map_err(StoreError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.position = end;
        if self.position - self.flushed >= FLUSH_EVERY {
            // On Linux DONTNEED starts write-back of dirty pages and drops clean ones (mm/fadvise.c): these are all
            // dirty. It's advice: a failure costs time only.
            let length = std::num::NonZeroU64::new(self.position - self.flushed);
            let _ = rustix::fs::fadvise(self.file.get_ref(), self.flushed, length, rustix::fs::Advice::DontNeed);
            self.flushed = self.position;
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.expected.as_ref().map_or_else(|| "the blob".into(), |d| format!("blob {d}"))
    }

    /// Checks size and digest, and puts the blob in its place, durably. A blob that is there already isn't rewritten.
    /// Returns the digest and the size in bytes.
    ///
    /// # Errors
    /// [`StoreError::WrongSize`], [`StoreError::Mismatch`], or the file system's own; nothing is left then.
    #[tracing::instrument(skip_all, fields(size = self.position))]
    pub fn commit(self, lease: &Lease) -> Result<(Digest, u64)> {
        self.commit_with(Some(lease), false)
    }

    pub(super) fn commit_with(mut self, lease: Option<&Lease>, anew: bool) -> Result<(Digest, u64)> {
        if let Some(wanted) = self.exact.filter(|n| *n != self.position || self.failed) {
            return Err(StoreError::WrongSize { what: self.name(), wanted, found: self.position });
        }
        if self.failed {
            return Err(StoreError::io("commit after a failed write to", &self.path)(io::ErrorKind::Other.into()));
        }
        self.file.flush().map_err(StoreError::io("write", &self.path))?;
        let found = std::mem::replace(&mut self.hasher, Hasher::sha256()).finish();
        if let Some(wanted) = self.expected.as_ref().filter(|d| **d != found) {
            return Err(StoreError::Mismatch { what: "what was received".into(), wanted: wanted.clone(), found });
        }
        // Noted before the look and before the rename: a collection that starts later keeps it.
        let present = match lease {
            Some(lease) => lease.hold(&found)?,
            None => self.layout.blob_size(&found)?,
        };
        let place = self.layout.blob_path(&found);
        let folder = place.parent().unwrap_or(&place).to_owned();
        if present == Some(self.position) && !anew {
            match self.layout.verify_blob(&found) {
                Ok(_) => {
                    // Whoever put it there may not have come so far.
                    disk::fsync_folder(&folder)?;
                    return Ok((found, self.position));
                }
                // What was received is what the disk has spoilt.
                Err(StoreError::Mismatch { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        self.file.get_ref().sync_data().map_err(StoreError::io("sync", &self.path))?;
        disk::make_folder(&folder)?;
        disk::rename(&self.path, &place)?;
        self.settled = true;
        disk::fsync_folder(&folder)?;
        Ok((found, self.position))
    }

    /// Leaves what is written for [`Layout::resume_writer`] to go on from. Only a writer that came from there can.
    pub fn keep_partial(mut self) {
        self.settled = self.partial && !self.failed && self.file.flush().is_ok();
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.add(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.settled {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Opens and locks the partial file at `path`, or says `None` when another process has it.
fn open_partial(path: &std::path::Path) -> Result<Option<File>> {
    loop {
        let file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(StoreError::io("open", path))?;
        if !disk::try_lock(&file, path)? {
            return Ok(None);
        }
        // Who had the lock may have renamed the file to its place, and then this one is a finished blob.
        let mine = file.metadata().map_err(StoreError::io("look at", path))?;
        match std::fs::metadata(path) {
            Ok(there) if there.ino() == mine.ino() && there.dev() == mine.dev() => return Ok(Some(file)),
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(StoreError::io("look at", path)(e)),
        }
    }
}

fn hash_file(file: &File, hasher: &mut Hasher, length: u64) -> io::Result<()> {
    let mut reader = io::Read::take(super::layout::PositionedRead { file, at: 0 }, length);
    let mut buffer = vec![0; BUFFER];
    loop {
        match io::Read::read(&mut reader, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => hasher.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
