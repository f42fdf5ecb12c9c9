//! Owns looking through a whole layout before any of it is used: everything that its index reaches is there, is what its
//! digest says, and is as large as was said. What is taken into the store afterwards comes in one commit, or not at all.

use std::collections::{HashMap, HashSet};

use super::db::Store;
use super::import::{copy_tree, is_tag};
use super::index::REPOSITORY;
use super::manifest::{Parsed, signed_digest};
use super::source::{LayoutSource, name_of};
use super::{Result, StoreError, disk};
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES};

/// An entry of the layout's index.
#[derive(Debug, Clone)]
pub struct Listed {
    /// The manifest's digest.
    pub digest: Digest,
    /// The name that the index gives it.
    pub name: Option<String>,
    /// The repository that the index says it came from; a claim, as the name is.
    pub repository: Option<String>,
    /// Its artifactType.
    pub artifact_type: Option<String>,
    /// What it is about, by its own word or by its name (`sha256-<hex>.sig`).
    pub subject: Option<Digest>,
}

/// What is to be taken into the store.
#[derive(Debug, Clone)]
pub struct Taken {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its name; one that can't be a tag of the store gives none.
    pub name: Option<String>,
    /// The repository that it counts as coming from.
    pub repository: Option<String>,
}

/// A layout of which every byte has been hashed.
#[derive(Debug, Clone)]
pub struct Survey {
    source: LayoutSource,
    listed: Vec<Listed>,
    manifests: HashMap<Digest, Parsed>,
    absent: Vec<Digest>,
}

impl Survey {
    /// Looks through `source`. Blocks for as long as reading it takes.
    ///
    /// # Errors
    /// [`StoreError::NotInLayout`] and [`StoreError::MissingBlob`] for what isn't there, [`StoreError::Mismatch`] and
    /// [`StoreError::WrongSize`] for what isn't as it should be, [`StoreError::Manifest`], or the file system's own.
    #[tracing::instrument(skip_all)]
    pub fn of(source: LayoutSource) -> Result<Self> {
        let (mut manifests, mut absent, mut hashed) = (HashMap::new(), Vec::new(), HashSet::new());
        let mut queue: Vec<(Digest, u64)> = source.entries().iter().map(|e| (e.digest.clone(), e.size)).collect();
        while let Some((digest, said)) = queue.pop() {
            if !manifests.contains_key(&digest) {
                let parsed = source.read_parsed(&digest)?;
                for child in parsed.children() {
                    // Other platforms may have been left out; whose absence matters, the reader of this says.
                    match source.blob(&child.digest)? {
                        Some(_) => queue.push((child.digest.clone(), child.size)),
                        None => absent.push(child.digest.clone()),
                    }
                }
                for edge in parsed.blobs() {
                    match source.blob(&edge.digest)? {
                        None if edge.may_be_absent() => {}
                        None => {
                            return Err(StoreError::MissingBlob { manifest: digest, blob: edge.digest.clone() });
                        }
                        // Before it is read: a claim of gigabytes costs nothing.
                        Some(blob) if blob.size() != edge.size => {
                            return Err(wrong_size(&edge.digest, edge.size, blob.size()));
                        }
                        Some(_) if hashed.insert(edge.digest.clone()) => {
                            source.copy_blob(&edge.digest, &mut std::io::sink())?;
                        }
                        Some(_) => {}
                    }
                }
                manifests.insert(digest.clone(), parsed);
            }
            if let Some(parsed) = manifests.get(&digest).filter(|parsed| parsed.size != said) {
                return Err(wrong_size(&digest, said, parsed.size));
            }
        }
        let listed = source.entries().iter().map(|entry| {
            let parsed = manifests.get(&entry.digest);
            let name = name_of(entry).cloned();
            Listed {
                digest: entry.digest.clone(),
                subject: name.as_deref().and_then(signed_digest).or_else(|| parsed?.subject.clone()),
                repository: entry.annotations.as_ref().and_then(|a| a.get(REPOSITORY)).cloned(),
                artifact_type: parsed.and_then(|p| p.artifact_type.clone()),
                name,
            }
        });
        Ok(Self { listed: listed.collect(), source, manifests, absent })
    }

    /// What its index lists.
    #[must_use]
    pub fn listed(&self) -> &[Listed] {
        &self.listed
    }

    /// Manifests that its indexes name and that aren't there.
    #[must_use]
    pub fn absent(&self) -> &[Digest] {
        &self.absent
    }

    /// Whether it has this manifest.
    #[must_use]
    pub fn has(&self, digest: &Digest) -> bool {
        self.manifests.contains_key(digest)
    }

    /// The manifests in it that an index lists, and theirs.
    #[must_use]
    pub fn below(&self, digest: &Digest) -> Vec<Digest> {
        let (mut found, mut queue) = (Vec::new(), vec![digest]);
        while let Some(parsed) = queue.pop().and_then(|digest| self.manifests.get(digest)) {
            if !found.contains(&parsed.digest) {
                found.push(parsed.digest.clone());
                queue.extend(parsed.children().map(|child| &child.digest));
            }
        }
        found
    }

    /// Reads a manifest, hashed again.
    ///
    /// # Errors
    /// As [`LayoutSource::read_manifest`].
    pub fn manifest(&self, digest: &Digest) -> Result<Vec<u8>> {
        self.source.read_manifest(digest)
    }

    /// Reads a small blob, hashed again.
    ///
    /// # Errors
    /// As [`LayoutSource::copy_blob`]; [`StoreError::TooLarge`].
    pub fn small(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let size = self.source.open_blob(descriptor.digest())?.size();
        if size > MAX_MANIFEST_BYTES {
            return Err(StoreError::TooLarge { what: descriptor.digest().to_string(), limit: MAX_MANIFEST_BYTES });
        }
        let mut bytes = Vec::new();
        self.source.copy_blob(descriptor.digest(), &mut bytes)?;
        Ok(bytes)
    }
}

fn wrong_size(digest: &Digest, wanted: u64, found: u64) -> StoreError {
    StoreError::WrongSize { what: digest.to_string(), wanted, found }
}

impl Store {
    /// Takes artifacts of a layout that was looked through, with the names and origins given: all of them in one commit.
    /// Every byte is hashed again on its way, since the file may have changed meanwhile.
    ///
    /// # Errors
    /// As [`Store::import`]. Nothing is listed then, and what was copied goes with the next collection.
    #[tracing::instrument(skip_all, fields(artifacts = taken.len()))]
    pub async fn take(&self, survey: &Survey, taken: &[Taken]) -> Result<()> {
        let lease = self.lease()?;
        let mut batch = self.batch()?;
        let (layout, held, source) = (self.layout().clone(), lease.clone(), survey.source.clone());
        let digests: Vec<Digest> = taken.iter().map(|t| t.digest.clone()).collect();
        let parsed = disk::blocking(move || {
            let (mut seen, mut parsed) = (HashSet::new(), Vec::new());
            for digest in &digests {
                copy_tree(&source, &layout, &held, digest, &mut seen, &mut parsed)?;
            }
            Ok(parsed)
        })
        .await?;
        parsed.into_iter().for_each(|p| batch.add(p));
        for one in taken {
            if let Some(repository) = &one.repository {
                batch.claim(&one.digest, repository);
            }
            if let Some(name) = one.name.as_deref().filter(|n| is_tag(n)) {
                batch.tag(name, &one.digest)?;
            }
        }
        batch.commit().await
    }
}
