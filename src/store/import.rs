//! Owns bringing the artifacts of another layout into the store.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::batch::put;
use super::db::Store;
use super::layout::Layout;
use super::lease::Lease;
use super::manifest::{Parsed, check_name, signed_digest};
use super::source::{LayoutSource, name_of};
use super::{Result, StoreError, disk};
use crate::oci::{Digest, LayoutName};

/// How many artifacts are copied between two database commits.
const CHUNK: usize = 512;

impl Store {
    /// Copies artifacts from the OCI layout folder or tar at `from`: all that its index lists, or the one that `select`
    /// names with its signatures and referrers. Everything is verified before it's listed. Names of the form
    /// `host[:port]/repository:tag` become tags, and so do signature tags; others are returned for the caller to judge.
    /// Returns each artifact copied, with the name it had.
    ///
    /// # Errors
    /// What [`LayoutSource::open`], [`LayoutSource::resolve`] and [`Store::put_manifest`] fail with.
    #[tracing::instrument(skip_all, fields(from = %from.display()))]
    pub async fn import(&self, from: &Path, select: Option<&LayoutName>) -> Result<Vec<(Digest, Option<String>)>> {
        let lease = self.lease()?;
        let (path, select) = (from.to_owned(), select.cloned());
        let (source, roots) = disk::blocking(move || {
            let source = LayoutSource::open(&path)?;
            let roots = roots(&source, select.as_ref())?;
            Ok((source, roots))
        })
        .await?;
        let mut batch = self.batch()?;
        let mut generation = None;
        let mut seen = HashSet::new();
        for chunk in roots.chunks(CHUNK) {
            let (layout, lease, source) = (self.layout().clone(), lease.clone(), source.clone());
            let digests: Vec<Digest> = chunk.iter().map(|(d, _)| d.clone()).collect();
            let mut before = std::mem::take(&mut seen);
            let (after, parsed) = disk::blocking(move || {
                let mut parsed = Vec::new();
                for digest in &digests {
                    copy_tree(&source, &layout, &lease, digest, &mut before, &mut parsed)?;
                }
                Ok((before, parsed))
            })
            .await?;
            seen = after;
            parsed.into_iter().for_each(|p| batch.add(p));
            for (digest, name) in chunk {
                if let Some(name) = name.as_deref().filter(|n| is_tag(n)) {
                    batch.tag(name, digest)?;
                }
            }
            generation = batch.flush().await?.or(generation);
        }
        if let Some(generation) = generation {
            self.write_index(generation).await?;
        }
        Ok(roots)
    }
}

/// Whether a name found in a layout says enough to be a tag of the store.
pub(super) fn is_tag(name: &str) -> bool {
    let full = name.split_once('/').is_some_and(|(_, rest)| rest.contains(':'));
    check_name(name).is_ok() && (full || signed_digest(name).is_some())
}

/// What to copy, artifacts before what is about them.
fn roots(source: &LayoutSource, select: Option<&LayoutName>) -> Result<Vec<(Digest, Option<String>)>> {
    let all = source.entries().iter().map(|e| (e.digest.clone(), name_of(e).cloned()));
    let Some(select) = select else {
        let mut all: Vec<_> = all.collect();
        // An entry without a name says nothing when the same one is there with a name.
        let named: HashSet<Digest> = all.iter().filter(|(_, n)| n.is_some()).map(|(d, _)| d.clone()).collect();
        all.retain(|(d, n)| n.is_some() || !named.contains(d));
        return Ok(all);
    };
    let wanted = source.resolve(Some(select))?;
    let mut out: Vec<(Digest, Option<String>)> =
        all.filter(|(d, n)| d == wanted.digest() && n.as_ref().is_none_or(|n| names(n, select))).collect();
    if out.is_empty() {
        out.push((wanted.digest().clone(), None));
    }
    // The closure downwards, then what is about any of it, for as long as more is found.
    let mut inside = HashSet::new();
    let mut queue = vec![wanted.digest().clone()];
    let mut about: HashMap<Digest, Vec<(Digest, Option<String>)>> = HashMap::new();
    for entry in source.entries() {
        let name = name_of(entry).cloned();
        let subject = match name.as_deref().and_then(signed_digest) {
            Some(subject) => Some(subject),
            None => source.read_parsed(&entry.digest)?.subject,
        };
        if let Some(subject) = subject {
            about.entry(subject).or_default().push((entry.digest.clone(), name));
        }
    }
    while let Some(digest) = queue.pop() {
        if !inside.insert(digest.clone()) || source.blob(&digest)?.is_none() {
            continue;
        }
        queue.extend(source.read_parsed(&digest)?.children().map(|c| c.digest.clone()));
        for (referrer, name) in about.remove(&digest).unwrap_or_default() {
            queue.push(referrer.clone());
            out.push((referrer, name));
        }
    }
    Ok(out)
}

fn names(name: &str, select: &LayoutName) -> bool {
    match select {
        LayoutName::Tag(tag) => name == tag || name.ends_with(&format!(":{tag}")),
        LayoutName::Digest(_) => true,
    }
}

/// Copies a manifest after all that it lists, children of an index first.
pub(super) fn copy_tree(
    source: &LayoutSource,
    layout: &Layout,
    lease: &Lease,
    root: &Digest,
    seen: &mut HashSet<Digest>,
    out: &mut Vec<Parsed>,
) -> Result<()> {
    let mut stack = vec![(root.clone(), false)];
    while let Some((digest, children_done)) = stack.pop() {
        if seen.contains(&digest) {
            continue;
        }
        let bytes = source.read_manifest(&digest)?;
        let parsed = Parsed::read(&digest, &bytes, None)?;
        if !children_done && parsed.children().next().is_some() {
            stack.push((digest, true));
            for child in parsed.children() {
                if source.blob(&child.digest)?.is_some() {
                    stack.push((child.digest.clone(), false));
                }
            }
            continue;
        }
        for edge in parsed.blobs() {
            if lease.hold(&edge.digest)? == Some(edge.size) {
                continue;
            }
            match source.blob(&edge.digest)? {
                Some(mut blob) => {
                    let mut writer = layout.writer(Some(&edge.digest), None)?.exactly(edge.size);
                    // The writer's own error says more than that a copy failed.
                    std::io::copy(&mut blob, &mut writer)
                        .map_err(|e| StoreError::from_write(e, &layout.blob_path(&edge.digest)))?;
                    writer.commit(lease)?;
                }
                None if edge.may_be_absent() => {}
                None => return Err(StoreError::MissingBlob { manifest: digest, blob: edge.digest.clone() }),
            }
        }
        out.push(put(layout, lease, Some(&digest), &bytes, None)?);
        seen.insert(digest);
    }
    Ok(())
}
