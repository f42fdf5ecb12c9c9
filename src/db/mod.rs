//! Owns the node's tasks on disk: rows and their types, one writer that commits in groups, readers beside it.
//!
//! There is one writer, since SQLite has room for one. What arrives while a commit waits for the disk goes into the next
//! one together: an acknowledged write is on disk (`synchronous=FULL`), and a hundred of them cost one `fdatasync`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::{mpsc, oneshot};
use vyr_proto::v0::TaskStatus;

use crate::error::{Error, ErrorKind, LATER_VERSION_HINT, is_from_later};
use crate::sqlite;
use crate::task::TaskId;

mod read;
mod write;

#[cfg(test)]
mod tests;

pub use read::{Filter, Row};

pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/tasks");

/// How many pages of 4 KiB the write-ahead log grows to before they are moved into the database.
const LOG_PAGES: u64 = 2000;
/// How long a lock that another process holds is waited for.
const BUSY: Duration = Duration::from_secs(5);

/// Writes the database at `from` to a new file `to`, as it is at one moment, while others go on writing it; `None` when there is
/// none. Returns its size in bytes. It is readable by this user only.
///
/// # Errors
/// It can't be read, is damaged, or `to` can't be written.
pub async fn snapshot(from: &Path, to: &Path) -> Result<Option<u64>, DbError> {
    if !from.exists() {
        return Ok(None);
    }
    let failed = |source| match classify(to, source) {
        DbError::Failed { source, .. } => DbError::NotCopied { path: from.to_owned(), source },
        other => other,
    };
    let io = |e: std::io::Error| failed(sqlx::Error::Io(e));
    let name = to.to_str().ok_or_else(|| io(std::io::Error::other("its path is not UTF-8")))?;
    // SQLite writes to an empty file that is there: with the mode that it has.
    create_private(to).map_err(io)?;
    let options = SqliteConnectOptions::new().filename(from).create_if_missing(false).busy_timeout(BUSY);
    let mut connection = options.connect().await.map_err(failed)?;
    sqlx::query("VACUUM INTO ?1").bind(name).execute(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    Ok(Some(std::fs::metadata(to).map_err(io)?.len()))
}

/// A failure of the tasks' database.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DbError {
    /// No room on the disk.
    #[error("the disk that holds {} is full", path.display())]
    Full {
        /// The database file.
        path: PathBuf,
    },
    /// Another process holds it.
    #[error("the tasks' database {} is locked by another process", path.display())]
    Locked {
        /// The database file.
        path: PathBuf,
    },
    /// A later version has changed it.
    #[error("the tasks' database {} is of a later version of vyr", path.display())]
    Later {
        /// The database file.
        path: PathBuf,
    },
    /// Anything else that the database says.
    #[error("the tasks' database {} failed: {source}", path.display())]
    Failed {
        /// The database file.
        path: PathBuf,
        /// What it said.
        source: Arc<sqlx::Error>,
    },
    /// A copy of a database could not be made.
    #[error("the database {} can't be copied: {source}", path.display())]
    NotCopied {
        /// The database file.
        path: PathBuf,
        /// What it said.
        source: Arc<sqlx::Error>,
    },
    /// The writer is gone: the node is stopping.
    #[error("the tasks' database is closed")]
    Closed,
}

impl From<DbError> for Error {
    fn from(error: DbError) -> Self {
        let why = error.to_string();
        match error {
            DbError::Full { .. } => Self::new(ErrorKind::Exhausted, why).hint("free some space; nothing was lost"),
            DbError::Locked { .. } => Self::new(ErrorKind::Unavailable, why)
                .hint("end the program that has it open (`fuser` names it), then try again"),
            DbError::Later { .. } => Self::new(ErrorKind::Storage, why).hint(LATER_VERSION_HINT),
            DbError::Failed { source, .. } | DbError::NotCopied { source, .. } if sqlite::is_damaged(&source) => {
                Self::new(ErrorKind::Storage, why).hint(sqlite::DAMAGED_HINT)
            }
            DbError::Failed { .. } | DbError::NotCopied { .. } => Self::new(ErrorKind::Storage, why),
            DbError::Closed => Self::new(ErrorKind::Unavailable, why).hint("try again when the node is back"),
        }
    }
}

/// A task that comes in.
#[derive(Debug)]
pub struct NewTask {
    /// Its id.
    pub id: TaskId,
    /// Where it begins.
    pub status: TaskStatus,
    /// When it was submitted, in microseconds since the Unix epoch.
    pub submitted_us: i64,
    /// Who submitted it.
    pub submitter: String,
    /// Its idempotency key, and the SHA-256 of what was submitted under it.
    pub key: Option<(String, [u8; 32])>,
    /// The encoded spec.
    pub spec: Bytes,
}

/// What became of a task that came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inserted {
    /// It is new and on disk.
    New {
        /// Its place in the order of submits.
        seq: i64,
    },
    /// The key was used before, for the same.
    Existing(TaskId),
    /// The key was used before, for something else.
    Conflict(TaskId),
}

/// What is new about a task.
#[derive(Debug, Clone)]
pub struct Change {
    /// Its place.
    pub seq: i64,
    /// Where it is now.
    pub status: TaskStatus,
    /// When it ended, in microseconds since the Unix epoch.
    pub ended_us: Option<i64>,
    /// The encoded record.
    pub record: Bytes,
    /// Its output, if it is kept here.
    pub log: Option<Bytes>,
    /// Its receipt, if it has one.
    pub receipt: Option<Bytes>,
}

/// A client's wish that a task end.
#[derive(Debug, Clone, Copy)]
struct Cancel {
    /// The task's place.
    seq: i64,
    /// When it was said, in microseconds since the Unix epoch.
    asked_us: i64,
}

/// A task that was forgotten.
#[derive(Debug, Clone, Copy)]
pub struct Forgotten {
    /// Its id.
    pub id: TaskId,
    /// Its output may be in a file.
    pub log_elsewhere: bool,
}

/// Called by the writer when the write is on disk, or isn't. It must not block.
type Reply<T> = Box<dyn FnOnce(Result<T, DbError>) + Send>;

enum Write {
    Insert(NewTask, Reply<Inserted>),
    Change(Change, Reply<()>),
    Cancel(Cancel, Reply<()>),
    #[cfg(test)]
    LimitPages(u32, oneshot::Sender<()>),
    Forget {
        ended_before_us: i64,
        seq_below: i64,
        most: u32,
        reply: Reply<Vec<Forgotten>>,
    },
}

/// The tasks on disk. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Db {
    path: PathBuf,
    readers: SqlitePool,
    writes: mpsc::UnboundedSender<Write>,
    written: Arc<AtomicU64>,
}

impl Db {
    /// Opens the database at `path`, creating or migrating it, and starts its writer on the current Tokio runtime.
    ///
    /// # Errors
    /// It can't be opened, is damaged, or is from a later version.
    pub async fn open(path: &Path) -> Result<Self, DbError> {
        let _opening = sqlite::settled(path).await.map_err(|e| {
            let source = Arc::new(sqlx::Error::Io(std::io::Error::other(e)));
            DbError::Failed { path: path.to_owned(), source }
        })?;
        create_private(path)
            .map_err(|e| DbError::Failed { path: path.to_owned(), source: Arc::new(sqlx::Error::Io(e)) })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            .pragma("wal_autocheckpoint", LOG_PAGES.to_string())
            // After a checkpoint the log is written again from its beginning, and stays as long as it is.
            // A confined node has no folder for temporary files but its own.
            .pragma("temp_store", "memory")
            .pragma("journal_size_limit", "67108864");
        let failed = |source| classify(path, source);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options.clone().statement_cache_capacity(256))
            .await
            .map_err(failed)?;
        MIGRATIONS.run(&writer).await.map_err(|e| failed(e.into()))?;
        let connection = writer.acquire().await.map_err(failed)?.detach();
        let readers = SqlitePoolOptions::new()
            .max_connections(2)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options.pragma("query_only", "on"))
            .await
            .map_err(failed)?;
        extend_log(path).map_err(|e| failed(sqlx::Error::Io(e)))?;
        let next_seq: i64 = sqlx::query_scalar("SELECT coalesce(max(seq), 0) + 1 FROM task")
            .fetch_one(&readers)
            .await
            .map_err(failed)?;
        let (writes, waiting) = mpsc::unbounded_channel();
        let written = Arc::new(AtomicU64::new(0));
        let writer = write::Writer::new(path.to_owned(), connection, next_seq, Arc::clone(&written));
        tokio::spawn(writer.run(waiting));
        Ok(Self { path: path.to_owned(), readers, writes, written })
    }

    /// A number that has grown when anything was written: who shows tasks need not read them to learn that none changed.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Adds a task; `done` is called when it is on disk, by the writer itself, so that what follows happens even if the
    /// caller has gone. It must not block.
    pub fn insert(&self, task: NewTask, done: impl FnOnce(Result<Inserted, DbError>) + Send + 'static) {
        self.send(Write::Insert(task, Box::new(done)));
    }

    /// Writes what is new about a task; `done` is called as for [`Db::insert`].
    pub fn change(&self, change: Change, done: impl FnOnce(Result<(), DbError>) + Send + 'static) {
        self.send(Write::Change(change, Box::new(done)));
    }

    /// As [`Db::change`], to be waited for.
    ///
    /// # Errors
    /// It isn't on disk.
    pub async fn changed(&self, change: Change) -> Result<(), DbError> {
        let (reply, answer) = oneshot::channel();
        self.change(change, |done| drop(reply.send(done)));
        answer.await.map_err(|_| DbError::Closed)?
    }

    /// Keeps that a client has cancelled the task at a place, at a time in microseconds since the Unix epoch; the first such
    /// time stays. `done` is called as for [`Db::insert`].
    fn cancel(&self, seq: i64, asked_us: i64, done: impl FnOnce(Result<(), DbError>) + Send + 'static) {
        self.send(Write::Cancel(Cancel { seq, asked_us }, Box::new(done)));
    }

    /// As [`Db::cancel`], to be waited for.
    ///
    /// # Errors
    /// It isn't on disk.
    pub async fn cancelled(&self, seq: i64, asked_us: i64) -> Result<(), DbError> {
        let (reply, answer) = oneshot::channel();
        self.cancel(seq, asked_us, |done| drop(reply.send(done)));
        answer.await.map_err(|_| DbError::Closed)?
    }

    /// Forgets up to `most` ended tasks, the oldest first, that ended before a time or stand below a place.
    ///
    /// # Errors
    /// Nothing was forgotten.
    pub async fn forget(&self, ended_before_us: i64, seq_below: i64, most: u32) -> Result<Vec<Forgotten>, DbError> {
        let (reply, answer) = oneshot::channel();
        let reply: Reply<_> = Box::new(|done| drop(reply.send(done)));
        self.send(Write::Forget { ended_before_us, seq_below, most, reply });
        answer.await.map_err(|_| DbError::Closed)?
    }

    #[cfg(test)]
    async fn limit_pages(&self, pages: u32) {
        let (reply, answer) = oneshot::channel();
        self.send(Write::LimitPages(pages, reply));
        answer.await.expect("the writer is there");
    }

    fn send(&self, write: Write) {
        // The writer goes only when every `Db` has gone, or with the runtime; then nobody is left to hear.
        if let Err(mpsc::error::SendError(write)) = self.writes.send(write) {
            match write {
                Write::Insert(_, done) => done(Err(DbError::Closed)),
                Write::Change(_, done) | Write::Cancel(_, done) => done(Err(DbError::Closed)),
                Write::Forget { reply, .. } => reply(Err(DbError::Closed)),
                #[cfg(test)]
                Write::LimitPages(..) => {}
            }
        }
    }

    fn failed(&self, source: sqlx::Error) -> DbError {
        classify(&self.path, source)
    }
}

/// Makes the file, which holds values of variables and standard inputs, for this user alone. SQLite gives the files
/// beside it the same mode.
fn create_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
        std::fs::create_dir_all(folder)?;
        // SQLite forces its files' names to disk, and not its folder's.
        let above = folder.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::File::open(above)?.sync_all()?;
    }
    let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))
}

/// Makes the write-ahead log as long as it will become. A commit then overwrites, and the system has to write the data
/// alone and not the file's new length with it, which takes half the time. SQLite reads a log up to the first frame whose
/// checksum is wrong (sqlite.org/fileformat2.html, section 4.3), so what follows may be zeros.
fn extend_log(path: &Path) -> std::io::Result<()> {
    use std::io::{Seek as _, SeekFrom, Write as _};
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    // A frame has a header of 24 bytes, the log one of 32.
    let wanted = (LOG_PAGES + 100) * (4096 + 24) + 32;
    let mut file = std::fs::OpenOptions::new().write(true).open(PathBuf::from(name))?;
    let zeros = vec![0; 1 << 20];
    let mut length = file.seek(SeekFrom::End(0))?;
    while length < wanted {
        let more = usize::try_from(wanted - length).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all(zeros.get(..more).unwrap_or_default())?;
        length += more as u64;
    }
    file.sync_all()
}

/// By SQLite's primary result codes (sqlite.org/rescode.html): 13 is FULL; 5 and 6 are BUSY and LOCKED.
fn classify(path: &Path, source: sqlx::Error) -> DbError {
    let path = path.to_owned();
    let code = match &source {
        sqlx::Error::Database(e) => e.code().and_then(|c| c.parse::<u32>().ok()),
        _ => None,
    };
    match code.map(|c| c & 0xff) {
        Some(13) => DbError::Full { path },
        Some(5 | 6) => DbError::Locked { path },
        _ if is_from_later(&source) => DbError::Later { path },
        _ => DbError::Failed { path, source: Arc::new(source) },
    }
}
