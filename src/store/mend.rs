//! Owns what a repair needs of the store: what has to be there, where it may be had from, and its way back into its place.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sqlx::SqliteConnection;

use super::db::{MIGRATIONS, Origin, Store};
use super::layout::Layout;
use super::lease::Lease;
use super::manifest::{Parsed, signed_digest};
use super::rebuild::{self, read_layout};
use super::rows::{insert_edges, insert_tag, parse_digest};
use super::writer::BlobWriter;
use super::{Result, StoreError, disk};
use crate::oci::{Digest, MAX_MANIFEST_BYTES};
use crate::sqlite::{Carried, Repair, SqliteError};

/// Something that the listing says is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Its media type, where it is a manifest.
    pub manifest: Option<String>,
}

/// Who refers to something, and where it may be had from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Referred {
    /// The names of what it belongs to.
    pub names: Vec<String>,
    /// The manifests that lead to it and that no other one lists, itself included.
    pub roots: Vec<Digest>,
    /// The repositories that one of those is from: the proven ones first.
    pub origins: Vec<Origin>,
}

const EXPECTED: &str = "
SELECT digest, size, media_type FROM manifests
UNION ALL
SELECT DISTINCT e.child, e.size, NULL FROM edges e
WHERE e.kind <> 'manifest'
    AND NOT (e.kind = 'layer' AND (e.media_type LIKE 'application/vnd.oci.image.layer.nondistributable.v1.tar%'
        OR e.media_type LIKE 'application/vnd.docker.image.rootfs.foreign.diff.tar%'))
    AND NOT EXISTS (SELECT 1 FROM manifests m WHERE m.digest = e.child)";

macro_rules! above {
    ($rest:literal) => {
        concat!(
            "WITH RECURSIVE above(d) AS (SELECT ?1 UNION SELECT e.parent FROM above a JOIN edges e ON e.child = a.d) ",
            $rest
        )
    };
}

impl Store {
    /// All that has to be in the store. What may be absent, as a manifest that an index lists for another platform, isn't told.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn expected(&self) -> Result<Vec<Expected>> {
        let rows: Vec<(String, i64, Option<String>)> =
            sqlx::query_as(EXPECTED).fetch_all(self.pool()).await.map_err(|e| self.failed(e))?;
        rows.into_iter()
            .map(|(digest, size, manifest)| {
                Ok(Expected { digest: parse_digest(&digest)?, size: size.unsigned_abs(), manifest })
            })
            .collect()
    }

    /// Who refers to `digest`.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn referred(&self, digest: &Digest) -> Result<Referred> {
        let failed = |e| self.failed(e);
        let names = above!("SELECT DISTINCT name FROM tags JOIN above ON digest = d ORDER BY name");
        let roots = above!(
            "SELECT d FROM above JOIN manifests ON digest = d
             WHERE NOT EXISTS (SELECT 1 FROM edges e WHERE e.child = d) ORDER BY d"
        );
        let origins = above!(
            "SELECT repository, max(proven) FROM origins JOIN above ON digest = d GROUP BY repository ORDER BY 2 DESC, 1"
        );
        let names = sqlx::query_scalar(names).bind(digest.as_ref()).fetch_all(self.pool()).await.map_err(failed)?;
        let roots: Vec<String> =
            sqlx::query_scalar(roots).bind(digest.as_ref()).fetch_all(self.pool()).await.map_err(failed)?;
        let origins: Vec<(String, bool)> =
            sqlx::query_as(origins).bind(digest.as_ref()).fetch_all(self.pool()).await.map_err(failed)?;
        Ok(Referred {
            names,
            roots: roots.iter().map(|d| parse_digest(d)).collect::<Result<_>>()?,
            origins: origins.into_iter().map(|(repository, proven)| Origin { repository, proven }).collect(),
        })
    }

    /// Writes down again what a manifest, which is in its place and listed, names.
    ///
    /// # Errors
    /// It can't be read; the disk's own.
    pub async fn relist(&self, digest: &Digest) -> Result<()> {
        let (layout, wanted) = (self.layout().clone(), digest.clone());
        let parsed = disk::blocking(move || read(&layout, &wanted)).await?;
        let mut tx = self.begin().await?;
        write_edges(&mut tx, &parsed).await.map_err(|e| self.failed(e))?;
        self.finish(tx).await
    }
}

impl Layout {
    /// The blobs there are, with their sizes in bytes.
    ///
    /// # Errors
    /// The file system's own.
    pub fn blobs(&self) -> Result<Vec<(Digest, u64)>> {
        rebuild::blobs(self)
    }

    /// Takes a blob out of its place into `folder`, which is on the same device; `None` when it isn't there.
    ///
    /// # Errors
    /// The file system's own.
    pub fn put_aside(&self, digest: &Digest, folder: &Path) -> Result<Option<PathBuf>> {
        let place = self.blob_path(digest);
        let to = folder.join(format!("{}-{}", digest.algorithm(), digest.digest()));
        if !place.exists() {
            return Ok(None);
        }
        disk::rename(&place, &to)?;
        disk::fsync_folder(folder)?;
        place.parent().map_or(Ok(()), disk::fsync_folder)?;
        Ok(Some(to))
    }
}

impl BlobWriter {
    /// As [`BlobWriter::commit`], in place of what is there, which is another blob than its name says.
    ///
    /// # Errors
    /// As [`BlobWriter::commit`]; what was there is there then.
    pub fn commit_anew(self, lease: &Lease) -> Result<(Digest, u64)> {
        self.commit_with(Some(lease), true)
    }
}

fn read(layout: &Layout, digest: &Digest) -> Result<Parsed> {
    let bytes = layout.read_verified(digest, MAX_MANIFEST_BYTES)?;
    Parsed::read(digest, &bytes, None)
}

async fn write_edges(connection: &mut SqliteConnection, parsed: &Parsed) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM edges WHERE parent = ?1").bind(parsed.digest.as_ref()).execute(&mut *connection).await?;
    insert_edges(connection, parsed).await
}

/// Whether a name is an artifact's own, and not that of its signature.
#[must_use]
pub fn is_no_signature(name: &str) -> bool {
    signed_digest(name).is_none()
}

/// The tables that the layout can't give again, or not wholly.
const CARRIED: &[&str] = &["manifests", "tags", "edges", "origins", "repository_manifests", "repository_blobs"];

/// Makes the store's damaged database again: of what can be read of it, and of the layout.
///
/// # Errors
/// Another process has it open; the disk's own.
pub async fn mend_database(layout: &Layout) -> Result<(Vec<Carried>, PathBuf), SqliteError> {
    let path = layout.home().join("db/vyr.sqlite");
    // Who opens the store waits for this.
    let lock_path = layout.home().join("db/index.lock");
    let of_store = |e: StoreError| SqliteError::Io {
        action: "read the layout for",
        path: path.clone(),
        source: std::io::Error::other(e),
    };
    let _opening = disk::blocking(move || {
        let lock = disk::lock_file(&lock_path)?;
        disk::lock(&lock, &lock_path)?;
        Ok(lock)
    })
    .await
    .map_err(of_store)?;
    let mut repair = Repair::begin(&path, &MIGRATIONS, CARRIED).await?;
    let is_whole = |name: &str| repair.carried.iter().any(|c| c.table == name && c.whole);
    let (manifests, tags) = (is_whole("manifests"), is_whole("tags"));
    let shown = is_whole("repository_manifests") && is_whole("repository_blobs");
    let found = {
        let layout = layout.clone();
        disk::blocking(move || if manifests && tags { Ok(rebuild::Found::default()) } else { read_layout(&layout) })
            .await
            .map_err(of_store)?
    };
    let failed = |source| SqliteError::Database { path: path.clone(), source };
    let listed: Vec<String> =
        sqlx::query_scalar("SELECT digest FROM manifests").fetch_all(repair.connection()).await.map_err(failed)?;
    let mut seen: HashSet<Digest> = HashSet::new();
    for digest in listed.iter().filter_map(|d| d.parse::<Digest>().ok()) {
        let (layout, wanted) = (layout.clone(), digest.clone());
        // One that is damaged itself keeps what could be read of what it names, until it is there again.
        if let Ok(parsed) = disk::blocking(move || read(&layout, &wanted)).await {
            write_edges(repair.connection(), &parsed).await.map_err(failed)?;
        }
        seen.insert(digest);
    }
    for new in found.manifests.iter().filter(|new| !seen.contains(&new.parsed.digest)) {
        let parent = new.parsed.digest.as_ref();
        sqlx::query("DELETE FROM edges WHERE parent = ?1")
            .bind(parent)
            .execute(repair.connection())
            .await
            .map_err(failed)?;
        new.insert(repair.connection()).await.map_err(failed)?;
    }
    if !tags {
        for (name, digest) in &found.tags {
            let is_free: bool = sqlx::query_scalar("SELECT NOT EXISTS (SELECT 1 FROM tags WHERE name = ?1)")
                .bind(name)
                .fetch_one(repair.connection())
                .await
                .map_err(failed)?;
            if is_free {
                insert_tag(repair.connection(), name, digest, SystemTime::now()).await.map_err(failed)?;
            }
        }
    }
    for orphans in [
        "DELETE FROM edges WHERE parent NOT IN (SELECT digest FROM manifests)",
        "DELETE FROM tags WHERE digest NOT IN (SELECT digest FROM manifests)",
        "DELETE FROM origins WHERE digest NOT IN (SELECT digest FROM manifests)",
        "DELETE FROM repository_manifests WHERE digest NOT IN (SELECT digest FROM manifests)",
        // So that the index is made again, at the next opening.
        "INSERT INTO meta (key, value) VALUES ('generation', 1), ('written', 0), ('imported', 1)
         ON CONFLICT (key) DO UPDATE SET value = CASE key WHEN 'generation' THEN value + 1 ELSE excluded.value END",
    ] {
        sqlx::query(orphans).execute(repair.connection()).await.map_err(failed)?;
    }
    if !shown {
        rebuild::show_own(repair.connection()).await.map_err(failed)?;
    }
    let carried = repair.carried.clone();
    Ok((carried, repair.finish().await?))
}
