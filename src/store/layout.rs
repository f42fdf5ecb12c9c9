//! Owns the layout's files: where a blob is, reading one back verified, and pinning one in use. No database.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::lease::Lease;
use super::writer::BlobWriter;
use super::{Result, StoreError, disk};
use crate::oci::{Digest, Hasher};

/// The file that makes a folder an OCI image layout (image spec 1.1, image-layout.md, "oci-layout file").
pub(super) const MARKER: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;

/// The store's files under one home folder. Cheap to make and to clone; nothing is opened.
#[derive(Debug, Clone)]
pub struct Layout {
    home: PathBuf,
    root: PathBuf,
    ingest: PathBuf,
}

impl Layout {
    /// The layout under `home`, without looking whether it's there.
    #[must_use]
    pub fn at(home: &Path) -> Self {
        Self { home: home.to_owned(), root: home.join("store"), ingest: home.join("ingest") }
    }

    /// Creates the layout's folders and files under `home` where they're missing.
    ///
    /// # Errors
    /// The folder can't be written, or holds a layout of another version.
    pub fn create(home: &Path) -> Result<Self> {
        let layout = Self::at(home);
        for folder in [layout.root.join("blobs/sha256"), layout.ingest.clone(), home.join("leases"), home.join("db")] {
            disk::make_folder(&folder)?;
        }
        layout.initialise()?;
        Ok(layout)
    }

    /// A bare layout folder at `root`, as another tool would keep it; temporary files go to a folder inside.
    pub(super) fn bare(root: &Path) -> Result<Self> {
        let layout = Self { home: root.to_owned(), root: root.to_owned(), ingest: root.join(".ingest") };
        for folder in [root.join("blobs/sha256"), layout.ingest.clone()] {
            disk::make_folder(&folder)?;
        }
        layout.initialise()?;
        Ok(layout)
    }

    fn initialise(&self) -> Result<()> {
        let marker = self.root.join("oci-layout");
        match std::fs::read(&marker) {
            Ok(bytes) => check_marker(&self.root, &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => disk::replace_file(&self.ingest, &marker, MARKER)?,
            Err(e) => return Err(StoreError::io("read", &marker)(e)),
        }
        Ok(())
    }

    /// The home folder.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The folder that is the OCI image layout.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn ingest(&self) -> &Path {
        &self.ingest
    }

    pub(super) fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    pub(super) fn leases(&self) -> PathBuf {
        self.home.join("leases")
    }

    /// Where the blob of `digest` is or would be.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        // A parsed digest holds no separator and no dot-dot, so it stays inside.
        let mut path = PathBuf::with_capacity(self.root.as_os_str().len() + 8 + digest.as_ref().len());
        path.push(&self.root);
        path.push("blobs");
        path.push(digest.algorithm().as_ref());
        path.push(digest.digest());
        path
    }

    /// Opens the blob of `digest` for reading, unverified.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it isn't there.
    pub fn open_blob(&self, digest: &Digest) -> Result<File> {
        let path = self.blob_path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => StoreError::NoBlob(digest.clone()),
            _ => StoreError::io("open", &path)(e),
        })
    }

    /// The size in bytes of the blob of `digest`, or `None` when it isn't there.
    ///
    /// # Errors
    /// The file system's own.
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        let path = self.blob_path(digest);
        match std::fs::metadata(&path) {
            Ok(m) => Ok(Some(m.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("look at", &path)(e)),
        }
    }

    /// Reads the blob of `digest`, at most `max_bytes` of it, and hashes it: what is returned has that digest.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`], [`StoreError::TooLarge`], [`StoreError::Mismatch`] or the file system's own.
    pub fn read_verified(&self, digest: &Digest, max_bytes: u64) -> Result<Vec<u8>> {
        let file = self.open_blob(digest)?;
        read_checked(file, digest, max_bytes, || self.blob_path(digest))
    }

    /// Hashes the blob of `digest` where it lies, in bounded memory; returns its size in bytes.
    ///
    /// # Errors
    /// As [`Layout::read_verified`].
    #[tracing::instrument(skip_all, fields(digest = %digest))]
    pub fn verify_blob(&self, digest: &Digest) -> Result<u64> {
        let mut file = self.open_blob(digest)?;
        let path = self.blob_path(digest);
        copy_hashed(&mut file, digest, &path.display().to_string(), |_| Ok(()))
            .map_err(|e| StoreError::from_write(e, &path))
    }

    /// A writer for one blob. `expected` is the digest that it must have (else sha256 is computed), `size_limit` the
    /// most bytes that it may have.
    ///
    /// # Errors
    /// The temporary file can't be made, or the digest's algorithm isn't accepted.
    pub fn writer(&self, expected: Option<&Digest>, size_limit: Option<u64>) -> Result<BlobWriter> {
        BlobWriter::fresh(self, expected, size_limit)
    }

    /// A writer that goes on where an earlier one was left by [`BlobWriter::keep_partial`] or by a crash: see
    /// [`BlobWriter::position`] for how far that is. What was there is hashed again. `size` is exact, in bytes.
    ///
    /// # Errors
    /// As [`Layout::writer`].
    pub fn resume_writer(&self, expected: &Digest, size: u64) -> Result<BlobWriter> {
        BlobWriter::resumed(self, expected, size)
    }

    /// A lease under which to write: see [`Lease`].
    ///
    /// # Errors
    /// The home folder can't be written.
    pub fn lease(&self) -> Result<Lease> {
        Lease::create(self)
    }

    /// Holds the manifest of `digest`, and so all that it reaches, against collection for as long as the pin lives.
    ///
    /// # Errors
    /// [`StoreError::NoBlob`] when it isn't there (or no longer).
    pub fn pin(&self, digest: &Digest) -> Result<Pin> {
        let file = self.open_blob(digest)?;
        let path = self.blob_path(digest);
        disk::lock_shared(&file, &path)?;
        // The collection may have had the lock until now, and removed the file under it.
        if disk::links(&file, &path)? == 0 {
            return Err(StoreError::NoBlob(digest.clone()));
        }
        Ok(Pin { file, digest: digest.clone() })
    }

    /// Nothing is collected for as long as what this returns lives. Blocks while a collection is under way.
    ///
    /// # Errors
    /// The home folder can't be written.
    pub fn hold_collection(&self) -> Result<File> {
        self.gate_shared()
    }

    /// The gate between writers and a collection, held shared. Hold it for moments only.
    pub(super) fn gate_shared(&self) -> Result<File> {
        let path = self.home.join("store.lock");
        let file = disk::lock_file(&path)?;
        disk::lock_shared(&file, &path)?;
        Ok(file)
    }

    /// The gate, held alone.
    pub(super) fn gate_exclusive(&self) -> Result<File> {
        let path = self.home.join("store.lock");
        let file = disk::lock_file(&path)?;
        disk::lock(&file, &path)?;
        Ok(file)
    }
}

/// Checks the content of an `oci-layout` file.
pub(super) fn check_marker(path: &Path, bytes: &[u8]) -> Result<()> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Marker {
        image_layout_version: String,
    }
    let bad = |why: String| StoreError::Layout { path: path.to_owned(), why };
    let marker: Marker = serde_json::from_slice(bytes).map_err(|e| bad(format!("its oci-layout file: {e}")))?;
    match marker.image_layout_version.as_str() {
        "1.0.0" => Ok(()),
        other => Err(bad(format!("its version is {other:?}, and 1.0.0 is understood"))),
    }
}

/// Reads all of `file`, at most `max_bytes`, and checks the digest.
pub(super) fn read_checked(
    file: impl Read,
    digest: &Digest,
    max_bytes: u64,
    path: impl Fn() -> PathBuf,
) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| StoreError::io("read", &path())(e))?;
    if bytes.len() as u64 > max_bytes {
        return Err(StoreError::TooLarge { what: path().display().to_string(), limit: max_bytes });
    }
    let mut hasher = hasher(digest)?;
    hasher.update(&bytes);
    let found = hasher.finish();
    if found == *digest {
        Ok(bytes)
    } else {
        Err(StoreError::Mismatch { what: path().display().to_string(), wanted: digest.clone(), found })
    }
}

/// Streams `from` through `sink`, and checks the digest at its end. The bytes reach `sink` before that.
pub(super) fn copy_hashed(
    from: &mut impl Read,
    digest: &Digest,
    what: &str,
    mut sink: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<u64> {
    let mut hasher = hasher(digest).map_err(io::Error::other)?;
    let mut buffer = vec![0; 1 << 18];
    let mut size = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let chunk = buffer.get(..n).unwrap_or_default();
        hasher.update(chunk);
        sink(chunk)?;
        size += n as u64;
    }
    let found = hasher.finish();
    if found == *digest {
        Ok(size)
    } else {
        Err(io::Error::other(StoreError::Mismatch { what: what.to_owned(), wanted: digest.clone(), found }))
    }
}

pub(super) fn hasher(digest: &Digest) -> Result<Hasher> {
    Hasher::for_digest(digest).map_err(|_| StoreError::Algorithm(digest.clone()))
}

/// A manifest in use: while it lives, a collection in any process keeps the manifest and all that it reaches.
///
/// It's a shared `flock` on the open blob, so it ends with the process whatever happens.
#[derive(Debug)]
#[must_use = "what is pinned is held only while the pin lives"]
pub struct Pin {
    file: File,
    digest: Digest,
}

impl Pin {
    /// What is pinned.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Reads the pinned manifest through the open file, and hashes it.
    ///
    /// # Errors
    /// As [`Layout::read_verified`].
    pub fn read_verified(&self, max_bytes: u64) -> Result<Vec<u8>> {
        // Positioned reads leave the shared offset alone, so a second call sees it all again.
        read_checked(PositionedRead { file: &self.file, at: 0 }, &self.digest, max_bytes, || {
            self.digest.as_ref().into()
        })
    }
}

/// Reads a file from a position without moving its offset.
#[derive(Debug)]
pub(super) struct PositionedRead<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
}

impl Read for PositionedRead<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = std::os::unix::fs::FileExt::read_at(self.file, buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
