//! Owns reading a layout in that the database doesn't know: after the database was lost, or another tool wrote it.

use std::collections::HashSet;
use std::time::SystemTime;

use sqlx::SqliteConnection;

use super::db::Store;
use super::index::REF_NAME;
use super::layout::Layout;
use super::manifest::{self, Parsed};
use super::rows::{NewManifest, insert_tag, millis};
use super::source::read_index_file;
use super::{Result, StoreError, disk};
use crate::oci::{Digest, MAX_MANIFEST_BYTES, OWN_HOST};

// What a tagged manifest of the node's own registry reaches, and what is about any of it.
const SHOW_MANIFESTS: &str = "
WITH RECURSIVE reach(d) AS (
    SELECT ?2
    UNION SELECT e.child FROM reach r JOIN edges e ON e.parent = r.d WHERE e.kind = 'manifest'
    UNION SELECT m.digest FROM reach r JOIN manifests m ON m.subject = r.d)
INSERT INTO repository_manifests (repository, digest)
SELECT ?1, m.digest FROM reach r JOIN manifests m ON m.digest = r.d WHERE ?3 IS NOT NULL ON CONFLICT DO NOTHING";

const SHOW_BLOBS: &str = "
INSERT INTO repository_blobs (repository, digest, added_at)
SELECT DISTINCT ?1, e.child, ?3 FROM repository_manifests r JOIN edges e ON e.parent = r.digest
WHERE r.repository = ?1 AND ?2 IS NOT NULL AND e.kind <> 'manifest' ON CONFLICT DO NOTHING";

/// The repository in the name of a tag of the node's own registry.
fn own_repository(name: &str) -> Option<&str> {
    let (repository, _) = name.strip_prefix(OWN_HOST)?.strip_prefix('/')?.rsplit_once(':')?;
    Some(repository)
}

/// What a layout holds.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) manifests: Vec<NewManifest>,
    pub(super) tags: Vec<(String, Digest)>,
}

impl Store {
    /// Reads the layout into the empty database, and marks that done in the same commit. `look` is whether this is
    /// the database on disk.
    #[tracing::instrument(skip_all)]
    pub(super) async fn rebuild(&self, on_disk: bool) -> Result<()> {
        let layout = self.layout().clone();
        let found = disk::blocking(move || read_layout(&layout)).await?;
        let now = SystemTime::now();
        let mut tx = self.begin().await?;
        let put = async {
            for new in &found.manifests {
                new.insert(&mut tx).await?;
            }
            for (name, digest) in &found.tags {
                insert_tag(&mut tx, name, digest, now).await?;
            }
            show_own(&mut tx).await?;
            sqlx::query("UPDATE meta SET value = 1 WHERE key = 'imported'").execute(&mut *tx).await?;
            Ok(())
        };
        put.await.map_err(|e| self.failed(e))?;
        self.commit(tx).await?;
        if on_disk && !found.manifests.is_empty() {
            tracing::info!(
                manifests = found.manifests.len(),
                tags = found.tags.len(),
                "the listing was made from the layout"
            );
        }
        Ok(())
    }
}

/// Shows in each repository of the node's own registry what its tags reach.
pub(super) async fn show_own(to: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let tags: Vec<(String, String)> =
        sqlx::query_as("SELECT name, digest FROM tags ORDER BY name").fetch_all(&mut *to).await?;
    let now = millis(SystemTime::now());
    for (repository, digest) in tags.iter().filter_map(|(name, digest)| Some((own_repository(name)?, digest))) {
        for query in [SHOW_MANIFESTS, SHOW_BLOBS] {
            sqlx::query(query).bind(repository).bind(digest).bind(now).execute(&mut *to).await?;
        }
    }
    Ok(())
}

pub(super) fn read_layout(layout: &Layout) -> Result<Found> {
    let mut found = Found::default();
    let mut seen = HashSet::new();
    match read_index_file(&layout.index_path()) {
        Ok(Some(entries)) => {
            for entry in entries {
                let complete = add(layout, &entry.digest, Some(entry.media_type.as_str()), &mut seen, &mut found)?;
                let name = entry.annotations.as_ref().and_then(|a| a.get(REF_NAME));
                if let Some(name) = name.filter(|n| complete && manifest::check_name(n).is_ok()) {
                    found.tags.push((name.clone(), entry.digest));
                }
            }
        }
        Ok(None) => scan(layout, &mut seen, &mut found)?,
        Err(e) => {
            tracing::warn!(error = %e, "index.json can't be read: every manifest among the blobs is listed");
            scan(layout, &mut seen, &mut found)?;
        }
    }
    Ok(found)
}

/// Adds a manifest and its children; says whether it's listed. What is damaged or incomplete is left out: everything
/// listed must be usable.
fn add(
    layout: &Layout,
    digest: &Digest,
    media_type: Option<&str>,
    seen: &mut HashSet<Digest>,
    found: &mut Found,
) -> Result<bool> {
    let mut queue = vec![(digest.clone(), media_type.filter(|t| !t.is_empty()).map(str::to_owned))];
    let mut first = None;
    while let Some((digest, media_type)) = queue.pop() {
        if seen.contains(&digest) {
            first.get_or_insert(true);
            continue;
        }
        let parsed = layout
            .read_verified(&digest, MAX_MANIFEST_BYTES)
            .and_then(|bytes| Parsed::read(&digest, &bytes, media_type.as_deref()));
        let parsed = match parsed {
            Ok(parsed) => parsed,
            Err(e @ StoreError::Io { .. }) => return Err(e),
            Err(e) => {
                tracing::warn!(%digest, error = %e, "left out of the listing");
                first.get_or_insert(false);
                continue;
            }
        };
        let lacks = parsed
            .blobs()
            .find(|b| !b.may_be_absent() && !matches!(layout.blob_size(&b.digest), Ok(Some(n)) if n == b.size));
        if let Some(lacks) = lacks {
            tracing::warn!(%digest, blob = %lacks.digest, "left out of the listing: a blob is missing");
            first.get_or_insert(false);
            continue;
        }
        first.get_or_insert(true);
        for child in parsed.children().filter(|c| matches!(layout.blob_size(&c.digest), Ok(Some(_)))) {
            queue.push((child.digest.clone(), Some(child.media_type.clone()).filter(|t| !t.is_empty())));
        }
        let at = std::fs::metadata(layout.blob_path(&digest)).and_then(|m| m.modified());
        seen.insert(digest);
        found.manifests.push(NewManifest { parsed, origin: None, at: at.unwrap_or_else(|_| SystemTime::now()) });
    }
    Ok(first.unwrap_or(false))
}

/// Looks for manifests among the blobs, when no index says which they are.
fn scan(layout: &Layout, seen: &mut HashSet<Digest>, found: &mut Found) -> Result<()> {
    for (digest, size) in blobs(layout)? {
        if size > MAX_MANIFEST_BYTES {
            continue;
        }
        let Ok(bytes) = layout.read_verified(&digest, MAX_MANIFEST_BYTES) else { continue };
        if Parsed::read(&digest, &bytes, None).is_ok() {
            add(layout, &digest, None, seen, found)?;
        }
    }
    Ok(())
}

/// The blobs there are, with their sizes in bytes. Files whose names aren't digests are passed over.
pub(super) fn blobs(layout: &Layout) -> Result<Vec<(Digest, u64)>> {
    let folder = layout.root().join("blobs");
    let mut out = Vec::new();
    for algorithm in ["sha256", "sha512"] {
        let folder = folder.join(algorithm);
        let items = match std::fs::read_dir(&folder) {
            Ok(items) => items,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(StoreError::io("list", &folder)(e)),
        };
        for item in items {
            let item = item.map_err(StoreError::io("list", &folder))?;
            let name = item.file_name();
            let Some(digest) = name.to_str().and_then(|n| format!("{algorithm}:{n}").parse::<Digest>().ok()) else {
                continue;
            };
            match item.metadata() {
                Ok(m) if m.is_file() => out.push((digest, m.len())),
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(StoreError::io("look at", &item.path())(e)),
            }
        }
    }
    Ok(out)
}
