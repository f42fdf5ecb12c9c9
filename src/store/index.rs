//! Owns index.json: what other tools see of the listing, rewritten whole and atomically from the database.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use serde::Serialize;
use tracing::Instrument as _;

use super::db::Store;
use super::disk::Replacement;
use super::{Result, StoreError, disk};

/// The annotation that names an entry of index.json (image spec 1.1, annotations.md).
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The annotation of an entry that says which repository its artifact came from, where the name doesn't.
pub(super) const REPOSITORY: &str = "vnd.vyr.repository";

/// One descriptor in index.json.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IndexEntry<'a> {
    pub(super) media_type: &'a str,
    pub(super) digest: &'a str,
    pub(super) size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<&'a str, &'a str>,
}

/// Writes an image index entry by entry, so that none has to be in memory.
#[derive(Debug)]
pub(super) struct IndexWriter<W> {
    out: W,
    first: bool,
}

impl<W: Write> IndexWriter<W> {
    pub(super) fn new(mut out: W) -> std::io::Result<Self> {
        out.write_all(br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":["#)?;
        Ok(Self { out, first: true })
    }

    pub(super) fn entry(&mut self, entry: &impl Serialize) -> std::io::Result<()> {
        self.out.write_all(if self.first { b"\n" } else { b",\n" })?;
        self.first = false;
        serde_json::to_writer(&mut self.out, entry)?;
        Ok(())
    }

    pub(super) fn end(mut self) -> std::io::Result<()> {
        self.out.write_all(b"]}")
    }
}

/// How long a rewrite may take for each change to wait for its own.
const SHORT: Duration = Duration::from_millis(5);
/// The share of the time that rewrites may take is one in so many, where they take longer.
const SHARE: u32 = 10;

/// Rewrites that several changes share.
#[derive(Debug, Default)]
pub(super) struct Later {
    state: Mutex<Pending>,
}

#[derive(Debug, Default)]
struct Pending {
    wanted: i64,
    running: bool,
    /// How long the last one took.
    took: Duration,
}

impl Later {
    fn lock(&self) -> std::sync::MutexGuard<'_, Pending> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// Brings index.json up to `generation`: at once while that is quick, else soon, together with the changes after it.
    /// The database alone says what is listed; a process that ends before finds index.json behind at its next start, and
    /// makes it again.
    pub(super) async fn write_index_soon(&self, generation: i64) -> Result<()> {
        if self.later().lock().took <= SHORT {
            let began = Instant::now();
            self.write_index(generation).await?;
            self.later().lock().took = began.elapsed();
            return Ok(());
        }
        {
            let mut pending = self.later().lock();
            pending.wanted = pending.wanted.max(generation);
            if std::mem::replace(&mut pending.running, true) {
                return Ok(());
            }
        }
        let store = self.clone();
        tokio::spawn(async move {
            loop {
                let (wanted, took) = {
                    let pending = store.later().lock();
                    (pending.wanted, pending.took)
                };
                tokio::time::sleep(took * SHARE).await;
                let began = Instant::now();
                if let Err(e) = store.write_index(wanted).await {
                    tracing::warn!(error = %e, "index.json is behind; the next change writes it");
                }
                let mut pending = store.later().lock();
                pending.took = began.elapsed();
                if pending.wanted <= wanted {
                    pending.running = false;
                    return;
                }
            }
        });
        Ok(())
    }

    /// Brings index.json up to `generation` at least, unless another process or task has done so by now. Goes on where its caller
    /// doesn't: the lock must not be let go of while a file is on its way to its place, which a newer one may have by then.
    pub(super) async fn write_index(&self, generation: i64) -> Result<()> {
        let store = self.clone();
        tokio::spawn(async move { store.write_index_alone(generation).await }.in_current_span()).await?
    }

    async fn write_index_alone(&self, generation: i64) -> Result<()> {
        let _turn = self.rewriting().await;
        let path = self.layout().home().join("db/index.lock");
        let _lock = disk::blocking(move || {
            let file = disk::lock_file(&path)?;
            disk::lock(&file, &path)?;
            Ok(file)
        })
        .await?;
        self.write_index_locked(generation).await
    }

    /// As [`Store::write_index`], for a caller that holds index.lock.
    #[tracing::instrument(name = "index", skip_all)]
    pub(super) async fn write_index_locked(&self, generation: i64) -> Result<()> {
        let place = self.layout().index_path();
        if self.meta("written").await? >= generation && place.exists() {
            return Ok(());
        }
        let mut tx = self.pool().begin().await.map_err(|e| self.failed(e))?;
        // The first read fixes what the transaction sees, so the number goes with the rows.
        let seen: i64 = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'generation'")
            .fetch_one(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?;
        let mut file = Replacement::create(self.layout().ingest())?;
        let failed = |e: std::io::Error| StoreError::io("write", &place)(e);
        let mut index = IndexWriter::new(file.writer()).map_err(failed)?;
        type Line = (String, String, i64, Option<String>, Option<String>);
        let mut rows = sqlx::query_as::<_, Line>(
            "SELECT m.digest, m.media_type, m.size, m.artifact_type, t.name
             FROM manifests m LEFT JOIN tags t ON t.digest = m.digest
             WHERE t.name IS NOT NULL OR NOT EXISTS (SELECT 1 FROM edges e WHERE e.child = m.digest AND e.kind = 'manifest')
             ORDER BY m.digest, t.name",
        )
        .fetch(&mut *tx);
        while let Some((digest, media_type, size, artifact_type, name)) =
            rows.try_next().await.map_err(|e| self.failed(e))?
        {
            let entry = IndexEntry {
                media_type: &media_type,
                digest: &digest,
                size: u64::try_from(size).unwrap_or(0),
                artifact_type: artifact_type.as_deref(),
                annotations: name.iter().map(|n| (REF_NAME, n.as_str())).collect(),
            };
            index.entry(&entry).map_err(failed)?;
        }
        drop(rows);
        index.end().map_err(failed)?;
        tx.rollback().await.map_err(|e| self.failed(e))?;
        disk::blocking(move || file.commit(&place)).await?;
        sqlx::query("UPDATE meta SET value = ?1 WHERE key = 'written' AND value < ?1")
            .bind(seen)
            .execute(self.pool())
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }
}
