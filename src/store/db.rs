//! Owns the store's handle and its listing: which manifests there are, under which tags, and what they name.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, Sqlite, Transaction};
use tokio::sync::{Mutex, Semaphore};

use super::batch::Batch;
use super::layout::Layout;
use super::lease::Lease;
use super::rows::{insert_origin, millis, parse_digest, time};
use super::{Result, StoreError, disk};
use crate::error::is_from_later;
use crate::oci::{Descriptor, Digest, MediaType};

pub(super) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/store");

/// The store: the layout and its listing. Cheap to clone; several processes may have one open.
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    pool: SqlitePool,
    database: PathBuf,
    read_only: bool,
    /// Bounds the threads that wait for a collection, so that its own file work always finds one.
    waiting: Semaphore,
    /// One rewrite of index.json at a time in this process; other processes are kept off by a file lock.
    rewriting: Mutex<()>,
    /// The index that is to be written when the time for it comes.
    pub(super) later: super::index::Later,
    /// How often this process recorded a new origin of what was there already.
    origins: AtomicU64,
}

/// How many tasks of this process may wait for the gate at once.
const MAX_WAITING: usize = 64;

impl Inner {
    fn new(layout: Layout, pool: SqlitePool, database: PathBuf, read_only: bool) -> Arc<Self> {
        let (waiting, rewriting) = (Semaphore::new(MAX_WAITING), Mutex::new(()));
        let later = super::index::Later::default();
        let origins = AtomicU64::new(0);
        Arc::new(Self { layout, pool, database, read_only, waiting, rewriting, later, origins })
    }
}

/// One manifest in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// The bytes of it and of all that it reaches, each blob counted once, as the descriptors say. Down to the fourth of indexes
    /// that list one another.
    pub total_size: u64,
    /// Its `artifactType`.
    pub artifact_type: Option<String>,
    /// The media type of its config; an index has none.
    pub config_media_type: Option<String>,
    /// What it's about, when it's a referrer.
    pub subject: Option<Digest>,
    /// Whether an index in the store lists it.
    pub has_parent: bool,
    /// The names it has, sorted.
    pub tags: Vec<String>,
    /// When it came into the store.
    pub created: SystemTime,
    /// When it was last put, tagged or touched.
    pub last_used: SystemTime,
}

/// Where a manifest is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// `host[:port]/repository`.
    pub repository: String,
    /// Whether this machine itself got it from there or sent it there; else whoever brought it said so.
    pub proven: bool,
}

/// What to remove.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// An artifact with all its names.
    Digest(&'a Digest),
    /// A name, and the artifact too when it was the last one.
    Tag(&'a str),
}

// Totals of all manifests in one pass, each blob counted once a root. Nothing that runs lists further down than twice; without a
// bound a chain of indexes, which costs its pusher little, would take the square of its length.
const TOTALS: &str = "
WITH RECURSIVE reach(root, d, depth) AS (
    SELECT digest, digest, 0 FROM manifests
    UNION SELECT r.root, e.child, r.depth + 1 FROM reach r JOIN edges e ON e.parent = r.d
        WHERE e.kind = 'manifest' AND r.depth < 4)
SELECT m.digest, m.media_type, m.artifact_type, m.config_media_type, m.subject, m.created_at, m.last_used,
    m.size + coalesce(t.total, 0) AS total,
    EXISTS (SELECT 1 FROM edges p WHERE p.child = m.digest AND p.kind = 'manifest') AS has_parent
FROM manifests m LEFT JOIN (
    SELECT root, sum(size) AS total FROM (
        SELECT DISTINCT r.root, e.child, e.size FROM reach r JOIN edges e ON e.parent = r.d)
    GROUP BY root) t ON t.root = m.digest
ORDER BY m.created_at, m.digest";

const TOTAL_OF_ONE: &str = "
WITH RECURSIVE reach(d, depth) AS (
    SELECT ?1, 0 UNION SELECT e.child, r.depth + 1 FROM reach r JOIN edges e ON e.parent = r.d
        WHERE e.kind = 'manifest' AND r.depth < 4)
SELECT m.digest, m.media_type, m.artifact_type, m.config_media_type, m.subject, m.created_at, m.last_used,
    m.size + (SELECT coalesce(sum(size), 0) FROM (
        SELECT DISTINCT e.child, e.size FROM reach r JOIN edges e ON e.parent = r.d)) AS total,
    EXISTS (SELECT 1 FROM edges p WHERE p.child = m.digest AND p.kind = 'manifest') AS has_parent
FROM manifests m WHERE m.digest = ?1";

impl Store {
    /// Opens the store under `home`, creating it when it isn't there. What an existing layout holds and the database
    /// doesn't know yet is read in; an index.json that is behind is made again. Where nothing can be written, the
    /// store opens for reading.
    ///
    /// # Errors
    /// The folder can't be read, or isn't an OCI layout; the database is damaged.
    #[tracing::instrument(skip_all, fields(home = %home.display()))]
    pub async fn open(home: &Path) -> Result<Self> {
        let owned = home.to_owned();
        let opened = disk::blocking(move || {
            let layout = Layout::create(&owned)?;
            let path = owned.join("db/index.lock");
            let lock = disk::lock_file(&path)?;
            disk::lock(&lock, &path)?;
            Ok((layout, lock))
        })
        .await;
        match opened {
            Ok((layout, lock)) => Self::open_writable(layout, lock).await,
            Err(e) if e.refuses_writes() && Layout::at(home).root().join("oci-layout").exists() => {
                tracing::info!(error = %e, "the store opens for reading only");
                Self::open_read_only(home).await
            }
            Err(e) => Err(e),
        }
    }

    async fn open_writable(layout: Layout, lock: File) -> Result<Self> {
        let database = layout.home().join("db/vyr.sqlite");
        let settling = database.clone();
        // Until the database is open; the lock that is held keeps the store's own repairs out as well.
        let _opening = disk::blocking(move || {
            crate::sqlite::settle(&settling)
                .map_err(|e| StoreError::io("end the repair of", &settling)(std::io::Error::other(e)))
        })
        .await?;
        let options = SqliteConnectOptions::new()
            .filename(&database)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(30))
            // A confined node has no folder for temporary files but its own.
            .pragma("temp_store", "memory")
            .foreign_keys(true);
        let pool = crate::sqlite::pool()
            .max_connections(4)
            .test_before_acquire(false)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Database { path: database.clone(), source })?;
        let store = Self(Inner::new(layout, pool, database, false));
        // The lock is held until here so that two processes don't migrate or read in the same layout.
        store.migrate().await?;
        if store.meta("imported").await? == 0 {
            store.rebuild(true).await?;
        }
        let generation = store.meta("generation").await?;
        store.write_index_locked(generation).await?;
        drop(lock);
        Ok(store)
    }

    /// Opens the store under `home` for reading; writes fail with [`StoreError::ReadOnly`].
    ///
    /// # Errors
    /// There is no store, or its database is damaged.
    pub async fn open_read_only(home: &Path) -> Result<Self> {
        let layout = Layout::at(home);
        let marker = layout.root().join("oci-layout");
        let bytes = std::fs::read(&marker).map_err(StoreError::io("read", &marker))?;
        super::layout::check_marker(layout.root(), &bytes)?;
        let database = home.join("db/vyr.sqlite");
        if database.exists() {
            // With the write-ahead log where it can be shared; else (a read-only medium) nobody writes, and it needn't.
            let plain =
                SqliteConnectOptions::new().filename(&database).read_only(true).busy_timeout(Duration::from_secs(30));
            for options in [plain.clone(), plain.immutable(true)] {
                let pool = SqlitePoolOptions::new().max_connections(4).connect_with(options).await;
                let Ok(pool) = pool else { continue };
                let store = Self(Inner::new(layout.clone(), pool, database.clone(), true));
                match store.meta("imported").await {
                    Ok(1) => return Ok(store),
                    Ok(_) => break,
                    Err(e) => tracing::debug!(error = %e, "the database can't be read this way"),
                }
            }
        }
        // No database: the layout alone says what there is.
        let options = SqliteConnectOptions::new().in_memory(true).foreign_keys(true);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|source| StoreError::Database { path: database.clone(), source })?;
        let store = Self(Inner::new(layout, pool, database, true));
        store.migrate().await?;
        store.rebuild(false).await?;
        Ok(store)
    }

    async fn migrate(&self) -> Result<()> {
        MIGRATIONS.run(&self.0.pool).await.map_err(|e| self.failed(sqlx::Error::from(e)))
    }

    /// The files, for what needs no database.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// Whether writes fail.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.0.read_only
    }

    pub(super) fn writable(&self) -> Result<()> {
        if self.0.read_only { Err(StoreError::ReadOnly { home: self.0.layout.home().to_owned() }) } else { Ok(()) }
    }

    pub(super) fn failed(&self, source: sqlx::Error) -> StoreError {
        let path = self.0.database.clone();
        if is_from_later(&source) { StoreError::Later { path } } else { StoreError::Database { path, source } }
    }

    pub(super) fn pool(&self) -> &SqlitePool {
        &self.0.pool
    }

    pub(super) async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        // A deferred transaction that turns into a writing one fails when another wrote in between.
        self.0.pool.begin_with("BEGIN IMMEDIATE").await.map_err(|e| self.failed(e))
    }

    pub(super) async fn meta(&self, key: &str) -> Result<i64> {
        sqlx::query_scalar("SELECT value FROM meta WHERE key = ?1")
            .bind(key)
            .fetch_one(&self.0.pool)
            .await
            .map_err(|e| self.failed(e))
    }

    /// A lease under which to put blobs and manifests.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn lease(&self) -> Result<Lease> {
        self.writable()?;
        self.0.layout.lease()
    }

    /// A batch of changes: one commit, one rewrite of index.json.
    ///
    /// # Errors
    /// The store can't be written.
    pub fn batch(&self) -> Result<Batch> {
        self.writable()?;
        Ok(Batch::new(self.clone()))
    }

    /// Puts one manifest, whose blobs are in the store already (children of an index and a subject may be absent).
    /// The bytes are kept as they are. `origin` is the `host[:port]/repository` it came from.
    ///
    /// # Errors
    /// [`StoreError::Mismatch`], [`StoreError::TooLarge`], [`StoreError::Manifest`], [`StoreError::MissingBlob`], or
    /// the disk's own.
    pub async fn put_manifest(
        &self,
        lease: &Lease,
        expected: Option<&Digest>,
        bytes: &[u8],
        media_type: Option<&str>,
        origin: Option<&str>,
    ) -> Result<Descriptor> {
        let mut batch = self.batch()?;
        let put = batch.put_manifest(lease, expected, bytes, media_type, origin).await?;
        batch.commit().await?;
        Ok(put)
    }

    /// Names a manifest, as `host[:port]/repository:tag`; the name moves when it had another.
    ///
    /// # Errors
    /// [`StoreError::BadName`], [`StoreError::NoArtifact`], or the disk's own.
    pub async fn tag(&self, name: &str, digest: &Digest) -> Result<()> {
        let mut batch = self.batch()?;
        batch.tag(name, digest)?;
        batch.commit().await
    }

    /// Takes a name away; the manifest stays. Says whether there was such a name.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn untag(&self, name: &str) -> Result<bool> {
        let _gate = self.gate().await?;
        let mut tx = self.begin().await?;
        let gone = sqlx::query("DELETE FROM tags WHERE name = ?1")
            .bind(name)
            .execute(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?
            .rows_affected();
        self.finish(tx).await?;
        Ok(gone > 0)
    }

    /// Takes an artifact out of the listing, with its names, its signatures and referrers, and the children that no
    /// other artifact lists. The blobs go at the next [`Store::gc`], unless a run still uses them. Returns what went.
    ///
    /// # Errors
    /// [`StoreError::NoArtifact`], or the disk's own.
    #[tracing::instrument(skip_all)]
    pub async fn remove(&self, target: Target<'_>) -> Result<Vec<Digest>> {
        let _gate = self.gate().await?;
        let mut tx = self.begin().await?;
        let digest = match target {
            Target::Digest(digest) => digest.to_string(),
            Target::Tag(name) => {
                let digest: Option<String> = sqlx::query_scalar("DELETE FROM tags WHERE name = ?1 RETURNING digest")
                    .bind(name)
                    .fetch_optional(&mut *tx)
                    .await
                    .map_err(|e| self.failed(e))?;
                let digest = digest.ok_or_else(|| StoreError::NoArtifact(name.to_owned()))?;
                let others: i64 = sqlx::query_scalar("SELECT count(*) FROM tags WHERE digest = ?1")
                    .bind(&digest)
                    .fetch_one(&mut *tx)
                    .await
                    .map_err(|e| self.failed(e))?;
                if others > 0 {
                    self.finish(tx).await?;
                    return Ok(Vec::new());
                }
                digest
            }
        };
        let mut removed = Vec::new();
        let mut queue = vec![digest.clone()];
        while let Some(next) = queue.pop() {
            // What hangs on it alone: referrers, signatures by tag, and children without another parent or a name.
            let dependents: Vec<String> = sqlx::query_scalar(
                "SELECT digest FROM manifests WHERE subject = ?1
                 UNION SELECT digest FROM tags WHERE signs = ?1
                 UNION SELECT c.child FROM edges c WHERE c.parent = ?1 AND c.kind = 'manifest'
                    AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.digest = c.child)
                    AND NOT EXISTS (SELECT 1 FROM edges o WHERE o.child = c.child AND o.kind = 'manifest' AND o.parent <> ?1)",
            )
            .bind(&next)
            .fetch_all(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?;
            let gone = sqlx::query("DELETE FROM manifests WHERE digest = ?1")
                .bind(&next)
                .execute(&mut *tx)
                .await
                .map_err(|e| self.failed(e))?;
            if gone.rows_affected() > 0 {
                removed.push(parse_digest(&next)?);
                queue.extend(dependents);
            }
        }
        if removed.is_empty() {
            return Err(StoreError::NoArtifact(digest));
        }
        self.finish(tx).await?;
        Ok(removed)
    }

    /// Records that a manifest was used now.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn touch(&self, digest: &Digest) -> Result<()> {
        self.writable()?;
        sqlx::query("UPDATE manifests SET last_used = ?2 WHERE digest = ?1")
            .bind(digest.as_ref())
            .bind(millis(SystemTime::now()))
            .execute(&self.0.pool)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(())
    }

    /// The gate, shared, for a change that needs no lease.
    pub(super) async fn gate(&self) -> Result<File> {
        self.writable()?;
        let layout = self.0.layout.clone();
        self.waiting(move || layout.gate_shared()).await
    }

    /// Runs file work that may wait for a collection.
    pub(super) async fn waiting<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        // The semaphore is never closed; if it were, there'd be no bound and nothing else wrong.
        let _permit = self.0.waiting.acquire().await.ok();
        disk::blocking(work).await
    }

    pub(super) fn later(&self) -> &super::index::Later {
        &self.0.later
    }

    pub(super) async fn rewriting(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.0.rewriting.lock().await
    }

    /// Counts the change, commits it, and brings index.json up to it.
    pub(super) async fn finish(&self, tx: Transaction<'static, Sqlite>) -> Result<()> {
        let generation = self.commit(tx).await?;
        self.write_index(generation).await
    }

    /// Counts the change and commits it; index.json is behind then.
    pub(super) async fn commit(&self, mut tx: Transaction<'static, Sqlite>) -> Result<i64> {
        let generation =
            sqlx::query_scalar("UPDATE meta SET value = value + 1 WHERE key = 'generation' RETURNING value")
                .fetch_one(&mut *tx)
                .await
                .map_err(|e| self.failed(e))?;
        tx.commit().await.map_err(|e| self.failed(e))?;
        Ok(generation)
    }

    /// The manifest that a name stands for.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn resolve(&self, name: &str) -> Result<Option<Digest>> {
        let found: Option<String> = sqlx::query_scalar("SELECT digest FROM tags WHERE name = ?1")
            .bind(name)
            .fetch_optional(&self.0.pool)
            .await
            .map_err(|e| self.failed(e))?;
        found.as_deref().map(parse_digest).transpose()
    }

    /// All manifests, oldest first: artifacts, children of indexes, and referrers alike.
    ///
    /// # Errors
    /// The disk's own.
    #[tracing::instrument(skip_all)]
    pub async fn list(&self) -> Result<Vec<Entry>> {
        let mut tx = self.0.pool.begin().await.map_err(|e| self.failed(e))?;
        let rows = sqlx::query(TOTALS).fetch_all(&mut *tx).await.map_err(|e| self.failed(e))?;
        let mut entries = rows.iter().map(|r| self.entry(r)).collect::<Result<Vec<_>>>()?;
        drop(rows);
        let tags: Vec<(String, String)> = sqlx::query_as("SELECT digest, name FROM tags ORDER BY name")
            .fetch_all(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?;
        let mut of: HashMap<String, Vec<String>> = HashMap::new();
        for (digest, name) in tags {
            of.entry(digest).or_default().push(name);
        }
        for entry in &mut entries {
            entry.tags = of.remove(entry.digest.as_ref()).unwrap_or_default();
        }
        Ok(entries)
    }

    /// One manifest.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn get(&self, digest: &Digest) -> Result<Option<Entry>> {
        let mut tx = self.0.pool.begin().await.map_err(|e| self.failed(e))?;
        let row = sqlx::query(TOTAL_OF_ONE)
            .bind(digest.as_ref())
            .fetch_optional(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?;
        let Some(mut entry) = row.map(|r| self.entry(&r)).transpose()? else { return Ok(None) };
        entry.tags = sqlx::query_scalar("SELECT name FROM tags WHERE digest = ?1 ORDER BY name")
            .bind(digest.as_ref())
            .fetch_all(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?;
        Ok(Some(entry))
    }

    fn entry(&self, row: &SqliteRow) -> Result<Entry> {
        let read = || -> Result<_, sqlx::Error> {
            let subject: Option<String> = row.try_get("subject")?;
            let total: i64 = row.try_get("total")?;
            Ok((
                row.try_get::<String, _>("digest")?,
                subject,
                Entry {
                    digest: crate::oci::sha256(b""),
                    media_type: row.try_get("media_type")?,
                    total_size: u64::try_from(total).unwrap_or(0),
                    artifact_type: row.try_get("artifact_type")?,
                    config_media_type: row.try_get("config_media_type")?,
                    subject: None,
                    has_parent: row.try_get("has_parent")?,
                    tags: Vec::new(),
                    created: time(row.try_get("created_at")?),
                    last_used: time(row.try_get("last_used")?),
                },
            ))
        };
        let (digest, subject, mut entry) = read().map_err(|e| self.failed(e))?;
        entry.digest = parse_digest(&digest)?;
        entry.subject = subject.as_deref().map(parse_digest).transpose()?;
        Ok(entry)
    }

    /// The manifests whose subject is `subject`, as the referrers API lists them (distribution spec 1.1, "Listing
    /// Referrers"): `artifactType` is the manifest's own or its config's media type; annotations are the manifest's.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn referrers(&self, subject: &Digest, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        type Line = (String, String, i64, Option<String>, Option<String>);
        let rows: Vec<Line> = sqlx::query_as(
            "SELECT digest, media_type, size, coalesce(artifact_type, config_media_type), annotations
             FROM manifests WHERE subject = ?1 AND (?2 IS NULL OR coalesce(artifact_type, config_media_type) = ?2)
             ORDER BY created_at, digest",
        )
        .bind(subject.as_ref())
        .bind(artifact_type)
        .fetch_all(&self.0.pool)
        .await
        .map_err(|e| self.failed(e))?;
        rows.into_iter()
            .map(|(digest, media_type, size, kind, annotations)| {
                let size = u64::try_from(size).unwrap_or(0);
                let mut out = Descriptor::new(MediaType::from(media_type.as_str()), size, parse_digest(&digest)?);
                out.set_artifact_type(kind.as_deref().map(MediaType::from));
                let annotations: Option<HashMap<_, _>> = annotations.and_then(|a| serde_json::from_str(&a).ok());
                out.set_annotations(annotations.filter(|a| !a.is_empty()));
                Ok(out)
            })
            .collect()
    }

    /// The tagged manifests about `subject` in cosign's tag form (`sha256-<hex>.sig`, `.att`, `.sbom`), by name.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn signature_tags(&self, subject: &Digest) -> Result<Vec<(String, Digest)>> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("SELECT name, digest FROM tags WHERE signs = ?1 ORDER BY name")
                .bind(subject.as_ref())
                .fetch_all(&self.0.pool)
                .await
                .map_err(|e| self.failed(e))?;
        rows.into_iter().map(|(name, digest)| Ok((name, parse_digest(&digest)?))).collect()
    }

    /// The repositories (`host[:port]/repository`) that a manifest came from or went to, and those that it is said to be
    /// from.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn origins(&self, digest: &Digest) -> Result<Vec<Origin>> {
        let ask = |query| sqlx::query_as(query).bind(digest.as_ref()).fetch_all(&self.0.pool);
        let rows = ask("SELECT repository, proven FROM origins WHERE digest = ?1 ORDER BY repository").await;
        let rows: Vec<(String, bool)> = match rows {
            // A folder that can't be written has the tables that were there, which may know of no proof.
            Err(_) if self.0.read_only => {
                ask("SELECT repository, 0 FROM origins WHERE digest = ?1 ORDER BY repository").await
            }
            rows => rows,
        }
        .map_err(|e| self.failed(e))?;
        Ok(rows.into_iter().map(|(repository, proven)| Origin { repository, proven }).collect())
    }

    /// Records that a manifest of the store is in `repository`, where this machine has just seen it.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn seen_in(&self, digest: &Digest, repository: &str) -> Result<()> {
        // A folder that can't be written runs what it holds, and forgets this.
        if self.0.read_only {
            return Ok(());
        }
        if insert_origin(&self.0.pool, digest, repository).await.map_err(|e| self.failed(e))? {
            self.origins_changed();
        }
        Ok(())
    }

    /// Whether a tag of `repository` (`host[:port]/repository`) names a manifest.
    ///
    /// # Errors
    /// The disk's own.
    pub async fn is_named_in(&self, digest: &Digest, repository: &str) -> Result<bool> {
        // `;` follows `:`.
        sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM tags WHERE digest = ?1 AND name > ?2 || ':' AND name < ?2 || ';')",
        )
        .bind(digest.as_ref())
        .bind(repository)
        .fetch_one(&self.0.pool)
        .await
        .map_err(|e| self.failed(e))
    }

    /// A number that is another one once this process has recorded a new origin of what was there already: what was made
    /// of the old ones may no longer hold.
    #[must_use]
    pub fn origins_version(&self) -> u64 {
        self.0.origins.load(Ordering::Acquire)
    }

    pub(super) fn origins_changed(&self) {
        self.0.origins.fetch_add(1, Ordering::AcqRel);
    }

    /// The manifests whose digest begins with `prefix`: hexadecimal digits, of sha256, or with the algorithm before
    /// them. At most 20.
    ///
    /// # Errors
    /// [`StoreError::BadPrefix`], or the disk's own.
    pub async fn find_by_prefix(&self, prefix: &str) -> Result<Vec<Digest>> {
        let (algorithm, hex) = prefix.split_once(':').unwrap_or(("sha256", prefix));
        if !matches!(algorithm, "sha256" | "sha512") || hex.is_empty() || !hex.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(StoreError::BadPrefix(prefix.chars().take(140).collect()));
        }
        let from = format!("{algorithm}:{}", hex.to_ascii_lowercase());
        // 'g' follows the last hexadecimal digit, so this is a range of the primary key.
        let found: Vec<String> = sqlx::query_scalar(
            "SELECT digest FROM manifests WHERE digest >= ?1 AND digest < ?1 || 'g' ORDER BY digest LIMIT 20",
        )
        .bind(from)
        .fetch_all(&self.0.pool)
        .await
        .map_err(|e| self.failed(e))?;
        found.iter().map(|d| parse_digest(d)).collect()
    }
}
