//! Owns copying artifacts out of the store, into an OCI layout folder or a tar of one.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use super::db::Store;
use super::disk::{self, Replacement};
use super::index::{IndexEntry, IndexWriter, REF_NAME, REPOSITORY};
use super::layout::{Layout, MARKER, copy_hashed};
use super::lease::Lease;
use super::manifest::{Parsed, check_name};
use super::source::{name_of, read_index_file};
use super::{Result, StoreError};
use crate::oci::{Digest, MAX_MANIFEST_BYTES, sha256};

/// An artifact to copy, and what is known of it that isn't in its bytes.
#[derive(Debug, Clone)]
pub struct Exported {
    /// Its digest.
    pub digest: Digest,
    /// The name that the index gives it.
    pub name: Option<String>,
    /// The repository (`host[:port]/repository`) that it came from.
    pub repository: Option<String>,
}

/// An artifact that isn't in the store: its manifest, and the blobs that it names.
#[derive(Debug, Clone)]
pub struct Loose {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Its blobs, each under its sha256.
    pub blobs: Vec<Vec<u8>>,
}

/// What an export holds.
#[derive(Debug, Default)]
struct Content {
    /// The index's entries: what was asked for, and what is about it. Sorted, so that the same export is the same bytes.
    entries: BTreeSet<(Option<String>, String)>,
    manifests: BTreeMap<String, Parsed>,
    blobs: BTreeMap<String, Digest>,
    repositories: BTreeMap<String, String>,
    /// Blobs in memory, by digest.
    loose: BTreeMap<String, Vec<u8>>,
}

impl Store {
    /// Copies artifacts, each with a name or without, to `to`: a tar when that ends in `.tar`, else an OCI layout
    /// folder, new or existing. With them go their children, blobs, referrers and signatures, as far as the store has
    /// them. Every byte is verified on its way.
    ///
    /// # Errors
    /// [`StoreError::NoArtifact`], [`StoreError::BadName`], [`StoreError::NoBlob`], [`StoreError::Mismatch`], or the
    /// disk's own. A tar is there whole or not at all.
    #[tracing::instrument(skip_all, fields(to = %to.display()))]
    pub async fn export(&self, what: &[(Digest, Option<String>)], to: &Path) -> Result<()> {
        let what: Vec<Exported> = what
            .iter()
            .map(|(digest, name)| Exported { digest: digest.clone(), name: name.clone(), repository: None })
            .collect();
        let (content, lease) = self.gather(&what, None).await?;
        let (layout, to) = (self.layout().clone(), std::path::absolute(to).map_err(StoreError::io("find", to))?);
        disk::blocking(move || {
            if let Some(lease) = &lease {
                lease.note(content.blobs.values())?;
            }
            if to.extension().is_some_and(|e| e.eq_ignore_ascii_case("tar")) && !to.is_dir() {
                write_tar(&layout, &content, &to)
            } else {
                write_folder(&layout, &content, &to)
            }
        })
        .await
    }

    /// Copies artifacts to a tar as [`Store::export`] does, and `loose` with them; referrers of the type `without` stay
    /// here, with all that is about them.
    ///
    /// # Errors
    /// As [`Store::export`].
    #[tracing::instrument(skip_all, fields(to = %to.display()))]
    pub async fn bundle(&self, what: &[Exported], without: Option<&str>, loose: Vec<Loose>, to: &Path) -> Result<()> {
        let (mut content, lease) = self.gather(what, without).await?;
        for one in loose {
            let digest = sha256(&one.manifest);
            content.manifests.insert(digest.to_string(), Parsed::read(&digest, &one.manifest, None)?);
            content.entries.insert((None, digest.to_string()));
            for blob in one.blobs {
                let digest = sha256(&blob);
                content.blobs.insert(digest.to_string(), digest.clone());
                content.loose.insert(digest.to_string(), blob);
            }
            content.loose.insert(digest.to_string(), one.manifest);
        }
        let (layout, to) = (self.layout().clone(), std::path::absolute(to).map_err(StoreError::io("find", to))?);
        disk::blocking(move || {
            if let Some(lease) = &lease {
                lease.note(content.blobs.values())?;
            }
            write_tar(&layout, &content, &to)
        })
        .await
    }

    /// Everything that goes with `what`, held against a collection by the lease.
    async fn gather(&self, what: &[Exported], without: Option<&str>) -> Result<(Content, Option<Lease>)> {
        // A collection in between must not take what is about to be copied.
        let lease = if self.is_read_only() { None } else { Some(self.lease()?) };
        let mut content = Content::default();
        for Exported { digest, name, repository } in what {
            if let Some(name) = name {
                check_name(name)?;
            }
            content.entries.insert((name.clone(), digest.to_string()));
            if let Some(repository) = repository {
                content.repositories.insert(digest.to_string(), repository.clone());
            }
            let mut queue = vec![(digest.clone(), true)];
            while let Some((digest, needed)) = queue.pop() {
                if content.manifests.contains_key(digest.as_ref()) {
                    continue;
                }
                let (layout, lease, next) = (self.layout().clone(), lease.clone(), digest.clone());
                let parsed = disk::blocking(move || {
                    if let Some(lease) = lease {
                        lease.note([&next])?;
                    }
                    match layout.read_verified(&next, MAX_MANIFEST_BYTES) {
                        Ok(bytes) => Parsed::read(&next, &bytes, None).map(Some),
                        Err(StoreError::NoBlob(_)) if !needed => Ok(None),
                        Err(StoreError::NoBlob(digest)) => Err(StoreError::NoArtifact(digest.to_string())),
                        Err(e) => Err(e),
                    }
                })
                .await?;
                let Some(parsed) = parsed else { continue };
                queue.extend(parsed.children().map(|c| (c.digest.clone(), false)));
                for edge in parsed.blobs() {
                    if !edge.may_be_absent() || self.layout().blob_size(&edge.digest)?.is_some() {
                        content.blobs.insert(edge.digest.to_string(), edge.digest.clone());
                    }
                }
                content.manifests.insert(digest.to_string(), parsed);
                for referrer in self.referrers(&digest, None).await? {
                    let kind = referrer.artifact_type().as_ref().map(ToString::to_string);
                    if without.is_some() && kind.as_deref() == without {
                        continue;
                    }
                    content.entries.insert((None, referrer.digest().to_string()));
                    queue.push((referrer.digest().clone(), false));
                }
                for (name, signature) in self.signature_tags(&digest).await? {
                    content.entries.insert((Some(name), signature.to_string()));
                    queue.push((signature, false));
                }
            }
        }
        content.entries.retain(|(_, digest)| content.manifests.contains_key(digest));
        Ok((content, lease))
    }
}

impl Content {
    fn all_blobs(&self) -> BTreeMap<&str, &Digest> {
        let manifests = self.manifests.iter().map(|(text, p)| (text.as_str(), &p.digest));
        self.blobs.iter().map(|(text, d)| (text.as_str(), d)).chain(manifests).collect()
    }

    fn index_entries(&self) -> impl Iterator<Item = IndexEntry<'_>> {
        self.entries.iter().filter_map(|(name, digest)| {
            let parsed = self.manifests.get(digest)?;
            Some(IndexEntry {
                media_type: &parsed.media_type,
                digest,
                size: parsed.size,
                artifact_type: parsed.artifact_type.as_deref(),
                annotations: name
                    .iter()
                    .map(|n| (REF_NAME, n.as_str()))
                    .chain(self.repositories.get(digest).map(|r| (REPOSITORY, r.as_str())))
                    .collect(),
            })
        })
    }
}

fn write_folder(layout: &Layout, content: &Content, to: &Path) -> Result<()> {
    let out = Layout::bare(to)?;
    let copied = copy_to(layout, content, &out);
    // The temporary folder is no part of a layout.
    let _ = std::fs::remove_dir(out.ingest());
    copied
}

fn copy_to(layout: &Layout, content: &Content, out: &Layout) -> Result<()> {
    for digest in content.all_blobs().values() {
        let mut from = layout.open_blob(digest)?;
        let size = from.metadata().map_err(StoreError::io("look at", &layout.blob_path(digest)))?.len();
        if out.blob_size(digest)? == Some(size) {
            continue;
        }
        let mut writer = out.writer(Some(digest), None)?;
        std::io::copy(&mut from, &mut writer).map_err(|e| StoreError::from_write(e, &out.blob_path(digest)))?;
        writer.commit_with(None, false)?;
    }
    // What the folder had before stays, except names that now stand for something else.
    let place = out.index_path();
    let failed = |e: std::io::Error| StoreError::io("write", &place)(e);
    let before = read_index_raw(&place)?;
    let names: BTreeSet<&String> = content.entries.iter().filter_map(|(n, _)| n.as_ref()).collect();
    let mut file = Replacement::create(out.ingest())?;
    let mut index = IndexWriter::new(file.writer()).map_err(failed)?;
    for (name, digest, raw) in &before {
        let same_name = name.as_ref().is_some_and(|n| names.contains(n));
        let known = name.is_none() && content.manifests.contains_key(digest);
        if !same_name && !known {
            index.entry(raw).map_err(failed)?;
        }
    }
    for entry in content.index_entries() {
        index.entry(&entry).map_err(failed)?;
    }
    index.end().map_err(failed)?;
    file.commit(&place)
}

type RawEntry = (Option<String>, String, serde_json::Value);

/// The entries of an existing index.json as they are, so that fields unknown here survive.
fn read_index_raw(path: &Path) -> Result<Vec<RawEntry>> {
    let Some(entries) = read_index_file(path)? else { return Ok(Vec::new()) };
    let bytes = std::fs::read(path).map_err(StoreError::io("read", path))?;
    let raw: serde_json::Value =
        serde_json::from_slice(&bytes).map_err(|e| StoreError::Layout { path: path.to_owned(), why: e.to_string() })?;
    let raw = raw.get("manifests").and_then(|m| m.as_array()).cloned().unwrap_or_default();
    Ok(entries.iter().zip(raw).map(|(e, raw)| (name_of(e).cloned(), e.digest.to_string(), raw)).collect())
}

fn write_tar(layout: &Layout, content: &Content, to: &Path) -> Result<()> {
    let folder = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = Replacement::create(folder)?;
    let failed = |e: std::io::Error| StoreError::from_write(e, to);
    let mut tar = tar::Builder::new(file.writer());
    add(&mut tar, "oci-layout", MARKER).map_err(failed)?;
    let mut index = Vec::new();
    let mut writer = IndexWriter::new(&mut index).map_err(failed)?;
    for entry in content.index_entries() {
        writer.entry(&entry).map_err(failed)?;
    }
    writer.end().map_err(failed)?;
    add(&mut tar, "index.json", &index).map_err(failed)?;
    for (text, digest) in content.all_blobs() {
        let place = format!("blobs/{}/{}", digest.algorithm(), digest.digest());
        if let Some(bytes) = content.loose.get(text) {
            add(&mut tar, &place, bytes).map_err(failed)?;
            continue;
        }
        let mut from = layout.open_blob(digest)?;
        let path = layout.blob_path(digest);
        let size = from.metadata().map_err(StoreError::io("look at", &path))?.len();
        let mut header = header(size);
        let mut entry = tar.append_writer(&mut header, place).map_err(failed)?;
        copy_hashed(&mut from, digest, &path.display().to_string(), |bytes| entry.write_all(bytes)).map_err(failed)?;
        entry.finish().map_err(failed)?;
    }
    tar.finish().map_err(failed)?;
    drop(tar);
    file.commit(to)
}

/// A header that is the same whoever writes it and when.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn add(tar: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    tar.append_data(&mut header(bytes.len() as u64), name, bytes)
}
