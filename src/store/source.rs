//! Owns reading an OCI layout that isn't the store: a folder or a tar that someone made. Nothing of it is trusted.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;

use super::index::REF_NAME;
use super::layout::{PositionedRead, check_marker, copy_hashed, read_checked};
use super::manifest::{Parsed, RawDescriptor, signed_digest};
use super::{Result, StoreError};
use crate::oci::{Descriptor, Digest, LayoutName, MAX_MANIFEST_BYTES, MediaType};

/// The largest index.json that is read, in bytes: some 500,000 entries.
const MAX_INDEX_BYTES: u64 = 256 << 20;
/// The most entries that a tar may have.
const MAX_TAR_ENTRIES: usize = 2_000_000;

/// An OCI image layout to read from: a folder, or a tar of one. It's opened once; cloning is cheap.
#[derive(Debug, Clone)]
pub struct LayoutSource {
    path: PathBuf,
    form: Form,
    entries: Arc<Vec<RawDescriptor>>,
}

#[derive(Debug, Clone)]
enum Form {
    Folder,
    Tar(Arc<Scanned>),
}

/// A tar, and where in it each file's content is: offset and size in bytes.
#[derive(Debug)]
struct Scanned {
    file: File,
    places: HashMap<String, (u64, u64)>,
}

#[derive(Deserialize)]
struct RawIndex {
    manifests: Option<Vec<RawDescriptor>>,
}

/// One blob of a layout, to be read from its start. The bytes are unverified.
#[derive(Debug)]
pub struct SourceBlob(BlobForm);

#[derive(Debug)]
enum BlobForm {
    File { file: File, size: u64 },
    Range { tar: Arc<Scanned>, at: u64, end: u64, start: u64 },
}

impl SourceBlob {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match &self.0 {
            BlobForm::File { size, .. } => *size,
            BlobForm::Range { start, end, .. } => end - start,
        }
    }
}

impl Read for SourceBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            BlobForm::File { file, .. } => file.read(buffer),
            BlobForm::Range { tar, at, end, .. } => {
                let n = PositionedRead { file: &tar.file, at: *at }.take(*end - *at).read(buffer)?;
                *at += n as u64;
                Ok(n)
            }
        }
    }
}

impl LayoutSource {
    /// Opens the layout folder or tar at `path`. A tar is scanned once; it may have its entries in any order.
    ///
    /// # Errors
    /// [`StoreError::Layout`] when it isn't a layout; [`StoreError::Archive`] for a tar with links, devices, absolute
    /// paths or `..` in it; the file system's own.
    #[tracing::instrument(skip_all, fields(path = %path.display()))]
    pub fn open(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(StoreError::io("open", path))?;
        let form = if metadata.is_dir() { Form::Folder } else { Form::Tar(Arc::new(scan_tar(path)?)) };
        let mut source = Self { path: path.to_owned(), form, entries: Arc::default() };
        let bad = |why: String| StoreError::Layout { path: path.to_owned(), why };
        let marker = source.find("oci-layout")?.ok_or_else(|| bad("it has no oci-layout file".into()))?;
        check_marker(path, &read_limited(marker, 4096, path)?)?;
        let index = source.find("index.json")?.ok_or_else(|| bad("it has no index.json".into()))?;
        let bytes = read_limited(index, MAX_INDEX_BYTES, path)?;
        source.entries = Arc::new(parse_index(&bytes).map_err(|e| bad(format!("its index.json: {e}")))?);
        Ok(source)
    }

    /// The names that its index gives, sorted; signatures' included.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let names: BTreeSet<&String> = self.entries.iter().filter_map(name_of).collect();
        names.into_iter().cloned().collect()
    }

    pub(super) fn entries(&self) -> &[RawDescriptor] {
        &self.entries
    }

    /// The manifest that `name` stands for: a name in the index (whole, or the tag at its end), or a digest of any
    /// manifest in the layout. Without a name, the only artifact there is; signatures and referrers don't count.
    ///
    /// # Errors
    /// [`StoreError::NotInLayout`], [`StoreError::Ambiguous`], or what reading a manifest can fail with.
    pub fn resolve(&self, name: Option<&LayoutName>) -> Result<Descriptor> {
        let missing = |wanted: String| StoreError::NotInLayout {
            path: self.path.clone(),
            wanted,
            names: self.names().into_iter().take(20).collect(),
        };
        match name {
            Some(LayoutName::Digest(digest)) => {
                if let Some(entry) = self.entries.iter().find(|e| e.digest == *digest) {
                    return Ok(descriptor(entry));
                }
                if self.blob(digest)?.is_none() {
                    return Err(missing(digest.to_string()));
                }
                let bytes = self.read_manifest(digest)?;
                Ok(Parsed::read(digest, &bytes, None)?.descriptor())
            }
            Some(LayoutName::Tag(tag)) => {
                if let Some(entry) = self.entries.iter().find(|e| name_of(e) == Some(tag)) {
                    return Ok(descriptor(entry));
                }
                let end = format!(":{tag}");
                self.only(self.entries.iter().filter(|e| name_of(e).is_some_and(|n| n.ends_with(&end))))?
                    .ok_or_else(|| missing(format!("artifact named {tag}")))
            }
            None => {
                let plain = self.entries.iter().filter(|e| name_of(e).is_none_or(|n| signed_digest(n).is_none()));
                let mut candidates: Vec<&RawDescriptor> = plain.collect();
                if candidates.len() > 1 {
                    // Few layouts have so many; only then is it worth opening them to see which are referrers.
                    candidates.retain(|e| self.read_parsed(&e.digest).map_or(true, |p| p.subject.is_none()));
                }
                self.only(candidates.into_iter())?.ok_or_else(|| missing("artifact".into()))
            }
        }
    }

    /// The one manifest that all of `entries` stand for, if there are any.
    fn only<'a>(&self, entries: impl Iterator<Item = &'a RawDescriptor>) -> Result<Option<Descriptor>> {
        let entries: Vec<_> = entries.collect();
        let Some(first) = entries.first() else { return Ok(None) };
        if entries.iter().any(|e| e.digest != first.digest) {
            let names = entries.iter().take(20).map(|e| name_of(e).map_or_else(|| e.digest.to_string(), Clone::clone));
            return Err(StoreError::Ambiguous { path: self.path.clone(), names: names.collect() });
        }
        Ok(Some(descriptor(first)))
    }

    /// Reads a manifest, verified.
    ///
    /// # Errors
    /// [`StoreError::NotInLayout`], [`StoreError::TooLarge`], [`StoreError::Mismatch`], the file system's own.
    pub fn read_manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        let blob = self.open_blob(digest)?;
        read_checked(blob, digest, MAX_MANIFEST_BYTES, || self.path.join(blob_name(digest)))
    }

    pub(super) fn read_parsed(&self, digest: &Digest) -> Result<Parsed> {
        Parsed::read(digest, &self.read_manifest(digest)?, None)
    }

    /// Opens a blob, unverified; `None` when it isn't there.
    ///
    /// # Errors
    /// The file system's own.
    pub fn blob(&self, digest: &Digest) -> Result<Option<SourceBlob>> {
        self.find(&blob_name(digest))
    }

    /// Opens a blob, unverified.
    ///
    /// # Errors
    /// [`StoreError::NotInLayout`], or the file system's own.
    pub fn open_blob(&self, digest: &Digest) -> Result<SourceBlob> {
        self.blob(digest)?.ok_or_else(|| StoreError::NotInLayout {
            path: self.path.clone(),
            wanted: format!("blob {digest}"),
            names: Vec::new(),
        })
    }

    /// Copies a blob to `sink` and checks its digest at the end, in bounded memory: until it has returned, what
    /// `sink` received isn't to be used. Returns the size in bytes.
    ///
    /// # Errors
    /// [`StoreError::NotInLayout`], [`StoreError::Mismatch`], or the file system's own.
    pub fn copy_blob(&self, digest: &Digest, sink: &mut impl Write) -> Result<u64> {
        let mut blob = self.open_blob(digest)?;
        copy_hashed(&mut blob, digest, &format!("{}/{}", self.path.display(), blob_name(digest)), |b| sink.write_all(b))
            .map_err(|e| StoreError::from_write(e, &self.path))
    }

    fn find(&self, name: &str) -> Result<Option<SourceBlob>> {
        match &self.form {
            Form::Folder => {
                let path = self.path.join(name);
                let file = match std::fs::metadata(&path) {
                    // A pipe or a device would hang or never end.
                    Ok(m) if !m.is_file() => {
                        let why = format!("{name} is not a plain file");
                        return Err(StoreError::Layout { path: self.path.clone(), why });
                    }
                    Ok(_) => File::open(&path),
                    Err(e) => Err(e),
                };
                let read = file.and_then(|file| Ok((file.metadata()?.len(), file)));
                match read {
                    Ok((size, file)) => Ok(Some(SourceBlob(BlobForm::File { file, size }))),
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                    Err(e) => Err(StoreError::io("open", &path)(e)),
                }
            }
            Form::Tar(tar) => Ok(tar.places.get(name).map(|&(start, size)| {
                SourceBlob(BlobForm::Range { tar: Arc::clone(tar), at: start, start, end: start.saturating_add(size) })
            })),
        }
    }
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.digest())
}

pub(super) fn name_of(entry: &RawDescriptor) -> Option<&String> {
    entry.annotations.as_ref()?.get(REF_NAME)
}

fn descriptor(entry: &RawDescriptor) -> Descriptor {
    let mut out = Descriptor::new(MediaType::from(entry.media_type.as_str()), entry.size, entry.digest.clone());
    out.set_artifact_type(entry.artifact_type.as_deref().map(MediaType::from));
    out.set_annotations(entry.annotations.clone().map(|a| a.into_iter().collect()));
    out
}

fn parse_index(bytes: &[u8]) -> Result<Vec<RawDescriptor>, serde_json::Error> {
    Ok(serde_json::from_slice::<RawIndex>(bytes)?.manifests.unwrap_or_default())
}

/// The entries of an index.json file; `None` when there's no such file.
pub(super) fn read_index_file(path: &Path) -> Result<Option<Vec<RawDescriptor>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("open", path)(e)),
    };
    let bytes = read_limited(file, MAX_INDEX_BYTES, path)?;
    let bad = |e: serde_json::Error| StoreError::Layout { path: path.to_owned(), why: e.to_string() };
    parse_index(&bytes).map(Some).map_err(bad)
}

fn read_limited(from: impl Read, limit: u64, path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(limit + 1).read_to_end(&mut bytes).map_err(StoreError::io("read", path))?;
    if bytes.len() as u64 > limit {
        return Err(StoreError::TooLarge { what: path.display().to_string(), limit });
    }
    Ok(bytes)
}

/// Where each file of a tar is. Every entry is judged before anything is used.
fn scan_tar(path: &Path) -> Result<Scanned> {
    let file = File::open(path).map_err(StoreError::io("open", path))?;
    let length = file.metadata().map_err(StoreError::io("look at", path))?.len();
    let bad = |why: &str| StoreError::Layout { path: path.to_owned(), why: why.to_owned() };
    let mut magic = [0; 4];
    let got = PositionedRead { file: &file, at: 0 }.read(&mut magic).map_err(StoreError::io("read", path))?;
    if got >= 2 && (magic.starts_with(&[0x1f, 0x8b]) || magic == [0x28, 0xb5, 0x2f, 0xfd]) {
        return Err(bad("the tar is compressed; unpack it with gunzip or unzstd first"));
    }
    let mut places = HashMap::new();
    let mut archive = tar::Archive::new(&file);
    let unreadable = |e: io::Error| bad(&format!("it can't be read as a tar: {e}"));
    for entry in archive.entries_with_seek().map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let raw = entry.path_bytes().into_owned();
        let refuse = |why| StoreError::Archive {
            path: path.to_owned(),
            entry: String::from_utf8_lossy(&raw).escape_debug().take(200).collect(),
            why,
        };
        let kind = entry.header().entry_type();
        if kind.is_pax_global_extensions() {
            continue;
        }
        if !kind.is_file() && !kind.is_dir() {
            return Err(refuse(if kind.is_symlink() || kind.is_hard_link() { "a link" } else { "no plain file" }));
        }
        let text = std::str::from_utf8(&raw).map_err(|_| refuse("not named in UTF-8"))?;
        let mut clean = Vec::new();
        for part in Path::new(text).components() {
            match part {
                Component::Normal(part) => clean.push(part.to_string_lossy()),
                Component::CurDir => {}
                Component::ParentDir => return Err(refuse("outside the archive")),
                Component::RootDir | Component::Prefix(_) => return Err(refuse("at an absolute path")),
            }
        }
        if kind.is_dir() {
            continue;
        }
        let (start, size) = (entry.raw_file_position(), entry.size());
        if start.checked_add(size).is_none_or(|end| end > length) {
            return Err(bad("the tar ends in the middle of an entry"));
        }
        if places.insert(clean.join("/"), (start, size)).is_some() {
            return Err(refuse("there twice"));
        }
        if places.len() > MAX_TAR_ENTRIES {
            return Err(bad("it has too many entries"));
        }
    }
    Ok(Scanned { file, places })
}
