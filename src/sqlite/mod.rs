//! Owns what holds for every database of the data folder: which connections may be used again, whether one is sound, and a
//! damaged one's way into a new file.
//!
//! ```text
//! HOME/db/NAME.sqlite.old, .old-wal   the damaged one, copied to be read from
//! HOME/db/NAME.sqlite.new             what could be read, as it is put together
//! HOME/db/NAME.sqlite.repaired        the same, whole: from its name on the repair counts, and every opening ends it
//! HOME/aside/TIME/                    what was damaged, as it was
//! ```
//!
//! Whenever the process is killed, there is the damaged database with its write-ahead log, or the repaired one, and whoever
//! opens it next has one of them.

mod carry;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqliteConnection};

pub use carry::Carried;

use crate::error::{Error, ErrorKind, LATER_VERSION_HINT};

/// How many complaints about one database are listed.
const COMPLAINTS: u32 = 5;

/// A failure to look at a database, or to repair it.
#[derive(Debug, thiserror::Error)]
pub enum SqliteError {
    /// The file system said no.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was done, as a verb.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// SQLite said no.
    #[error("the database {} failed: {source}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What it said.
        source: sqlx::Error,
    },
    /// Another process has it open.
    #[error("another process has the database {} open", path.display())]
    Open {
        /// The database file.
        path: PathBuf,
    },
    /// A later version has changed it.
    #[error("the database {} is of a later version of vyr", path.display())]
    Later {
        /// The database file.
        path: PathBuf,
    },
}

impl From<SqliteError> for Error {
    fn from(error: SqliteError) -> Self {
        let why = error.to_string();
        match error {
            SqliteError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::new(ErrorKind::Exhausted, why).hint("make room on the disk, then try again; nothing was changed")
            }
            SqliteError::Database { source, .. } if code(&source) == Some(13) => {
                Self::new(ErrorKind::Exhausted, why).hint("make room on the disk, then try again; nothing was changed")
            }
            SqliteError::Io { .. } | SqliteError::Database { .. } => Self::new(ErrorKind::Storage, why),
            SqliteError::Open { .. } => Self::new(ErrorKind::Conflict, why)
                .hint("end the program that has it open (`fuser` names it), then try again"),
            SqliteError::Later { .. } => Self::new(ErrorKind::Storage, why).hint(LATER_VERSION_HINT),
        }
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SqliteError {
    let path = path.to_owned();
    move |source| SqliteError::Io { action, path, source }
}

fn database_error(path: &Path) -> impl Fn(sqlx::Error) -> SqliteError {
    let path = path.to_owned();
    move |source| SqliteError::Database { path: path.clone(), source }
}

/// Connections that are written to in transactions, where each begins with none.
///
/// SQLite ends a transaction by itself where the disk is full or fails (sqlite.org/lang_transaction.html, section 3). The rollback
/// that sqlx sends then is refused, since there is nothing to roll back, and sqlx goes on to count one: such a connection takes no
/// `BEGIN` any more.
pub(crate) fn pool() -> SqlitePoolOptions {
    SqlitePoolOptions::new().after_release(|connection, _| {
        Box::pin(async move {
            if connection.is_in_transaction() {
                // The rollback may be on its way.
                connection.ping().await?;
            }
            Ok(!connection.is_in_transaction())
        })
    })
}

/// What to do about a database that [`is_damaged`].
pub(crate) const DAMAGED_HINT: &str = "`vyr doctor` says what is damaged, `vyr doctor --repair` repairs what can be";

/// Whether SQLite says that the file isn't a sound database.
pub(crate) fn is_damaged(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(11 | 26))
}

/// SQLite's primary result code (sqlite.org/rescode.html), also of a migration that failed.
fn code(error: &sqlx::Error) -> Option<u32> {
    use sqlx::migrate::MigrateError;
    if let sqlx::Error::Migrate(error) = error {
        return match &**error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => code(error),
            _ => None,
        };
    }
    Some(error.as_database_error()?.code()?.parse::<u32>().ok()? & 0xff)
}

/// Whether the error is of what stands in the file: CORRUPT, NOTADB; ERROR where its schema can't be read; CONSTRAINT and
/// MISMATCH where a value isn't what its column holds.
fn is_damage(error: &sqlx::Error) -> bool {
    matches!(code(error), Some(1 | 11 | 19 | 20 | 26))
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(end);
    name.into()
}

/// What is wrong with the database at `path`; nothing where it is sound, or isn't there. `used` is whether it must have
/// something in it. All of it is read, the indexes too where `thorough`.
///
/// # Errors
/// It can't be looked at.
pub async fn complaints(path: &Path, used: bool, thorough: bool) -> Result<Vec<String>, SqliteError> {
    if !path.exists() {
        return Ok(if used { vec!["it is gone".into()] } else { Vec::new() });
    }
    let look = async {
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(Duration::from_secs(10));
        let mut connection = match options.clone().connect().await {
            Ok(connection) => connection,
            // A folder that can't be written: nobody writes the database then.
            Err(e) if code(&e) == Some(14) => options.immutable(true).connect().await?,
            Err(e) => return Err(e),
        };
        let all = if thorough { "integrity_check" } else { "quick_check" };
        let pragma = format!("PRAGMA {all}({COMPLAINTS})");
        let mut found: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(pragma)).fetch_all(&mut connection).await?;
        found.retain(|line| line != "ok");
        let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM sqlite_schema").fetch_one(&mut connection).await?;
        if used && tables == 0 {
            found.push("there is nothing in it".into());
        }
        connection.close().await?;
        Ok(found)
    };
    match look.await {
        Ok(found) => Ok(found.iter().flat_map(|lines| lines.lines()).map(str::to_owned).collect()),
        Err(e) if is_damaged(&e) => {
            Ok(vec![e.as_database_error().map_or_else(|| e.to_string(), |e| e.message().to_owned())])
        }
        Err(e) => Err(database_error(path)(e)),
    }
}

/// A database that is being put together anew from what can be read of a damaged one.
#[derive(Debug)]
#[must_use = "nothing is repaired before it is put in place"]
pub struct Repair {
    path: PathBuf,
    connection: SqliteConnection,
    /// What was carried over, table by table.
    pub carried: Vec<Carried>,
    _held: Option<File>,
    /// Nobody opens a database of this folder meanwhile.
    _alone: File,
}

impl Repair {
    /// Reads what can be read of the database at `path` into a new one of the tables that `migrations` make. `tables` are the
    /// ones carried over.
    ///
    /// # Errors
    /// Another process has it open; it is of a later version; the disk's own.
    pub async fn begin(path: &Path, migrations: &Migrator, tables: &[&str]) -> Result<Self, SqliteError> {
        let own = path.to_owned();
        let begin = tokio::task::spawn_blocking(move || {
            let alone = repair_lock(&own)?;
            alone.lock().map_err(io_error("lock the databases for the repair of", &own))?;
            settle_alone(&own)?;
            Ok((hold_alone(&own)?, alone))
        });
        let (held, alone) = begin.await.map_err(|e| io_error("repair", path)(e.into()))??;
        let begun = Self::read(path, migrations, tables, held, alone).await;
        if begun.is_err() {
            // The room may be what was lacking.
            let _ = forget(&beside(path, ".old")).and(forget(&beside(path, ".new")));
        }
        begun
    }

    async fn read(
        path: &Path,
        migrations: &Migrator,
        tables: &[&str],
        held: Option<File>,
        alone: File,
    ) -> Result<Self, SqliteError> {
        let (old, new) = (beside(path, ".old"), beside(path, ".new"));
        forget(&old)?;
        forget(&new)?;
        for end in ["", "-wal"] {
            let (from, to) = (beside(path, end), beside(&old, end));
            let mut from: Box<dyn io::Read + '_> = match (&held, end) {
                // Through the file that is locked: to close another one would let go of the lock.
                (Some(held), "") => Box::new(held),
                (Some(_), _) if from.exists() => Box::new(File::open(&from).map_err(io_error("read", &from))?),
                _ => continue,
            };
            let copied = private(&to)?;
            io::copy(&mut from, &mut &copied).map_err(io_error("copy the damaged database to", &to))?;
        }
        drop(private(&new)?);
        let failed = database_error(path);
        let mut connection = SqliteConnectOptions::new()
            .filename(&new)
            .journal_mode(SqliteJournalMode::Memory)
            .synchronous(SqliteSynchronous::Off)
            .foreign_keys(false)
            .connect()
            .await
            .map_err(&failed)?;
        let mut carried = Vec::new();
        let attached = attach(&mut connection, &old).await.map_err(&failed)?;
        let version = if attached { carry::version(&mut connection).await } else { None };
        let latest = migrations.iter().map(|m| m.version).max().unwrap_or(0);
        if version > Some(latest) {
            return Err(SqliteError::Later { path: path.to_owned() });
        }
        // In the tables that it had, which the migrations then change as they would have.
        migrations.run_to(version.unwrap_or(latest), &mut connection).await.map_err(|e| failed(e.into()))?;
        if attached {
            let mut highest = 0;
            for table in tables {
                carried.extend(carry::table(&mut connection, table, &mut highest).await.map_err(&failed)?);
            }
            sqlx::query("DETACH old").execute(&mut connection).await.map_err(&failed)?;
            sqlx::query("PRAGMA writable_schema = OFF").execute(&mut connection).await.map_err(&failed)?;
        }
        migrations.run(&mut connection).await.map_err(|e| failed(e.into()))?;
        forget(&old)?;
        Ok(Self { path: path.to_owned(), connection, carried, _held: held, _alone: alone })
    }

    /// The new database, for what else belongs into it.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }

    /// Puts it in the damaged one's place, which is put aside. Returns the folder that it is in then.
    ///
    /// # Errors
    /// The disk's own: the damaged one is where it was.
    pub async fn finish(mut self) -> Result<PathBuf, SqliteError> {
        let failed = database_error(&self.path);
        let found: Vec<String> =
            sqlx::query_scalar("PRAGMA integrity_check").fetch_all(&mut self.connection).await.map_err(&failed)?;
        if let Some(wrong) = found.iter().find(|line| *line != "ok") {
            return Err(failed(sqlx::Error::Protocol(format!("what was carried over isn't sound: {wrong}"))));
        }
        self.connection.close().await.map_err(&failed)?;
        let (new, repaired) = (beside(&self.path, ".new"), beside(&self.path, ".repaired"));
        File::open(&new).and_then(|file| file.sync_all()).map_err(io_error("force to the disk", &new))?;
        rename(&new, &repaired)?;
        let aside = aside_of(&self.path, &repaired)?;
        settle_alone(&self.path)?;
        Ok(aside)
    }
}

/// While one lives, no database of the folder is repaired: who opens one has it until the connection is there, which holds
/// the file itself.
#[derive(Debug)]
#[must_use = "a repair is kept from beginning only while it lives"]
pub struct Opening {
    _lock: Option<File>,
}

/// The lock that a repair has alone, and those who open a database together.
fn repair_lock(path: &Path) -> Result<File, SqliteError> {
    let lock_path = path.with_file_name("repair.lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
    lock.map_err(io_error("open", &lock_path))
}

/// Ends a repair of the database at `path` that was whole already: what is damaged goes aside, and the repaired one takes its
/// place. To be called before each opening, on a thread that may block: it waits for a repair under way.
///
/// # Errors
/// The disk's own.
pub fn settle(path: &Path) -> Result<Opening, SqliteError> {
    let repaired = beside(path, ".repaired");
    loop {
        if repaired.exists() {
            let alone = repair_lock(path)?;
            alone.lock().map_err(io_error("lock the databases for the repair of", path))?;
            settle_alone(path)?;
        }
        let opening = match repair_lock(path) {
            Ok(lock) => {
                lock.lock_shared().map_err(io_error("lock for its opening", path))?;
                Opening { _lock: Some(lock) }
            }
            // Where nothing can be written, nobody repairs.
            Err(_) => Opening { _lock: None },
        };
        if !repaired.exists() {
            return Ok(opening);
        }
    }
}

/// As [`settle`], from an async task.
///
/// # Errors
/// As there.
pub async fn settled(path: &Path) -> Result<Opening, SqliteError> {
    let own = path.to_owned();
    let settling = tokio::task::spawn_blocking(move || settle(&own));
    settling.await.map_err(|e| io_error("open", path)(e.into()))?
}

/// As [`settle`], for who has the lock alone.
fn settle_alone(path: &Path) -> Result<(), SqliteError> {
    let repaired = beside(path, ".repaired");
    if !repaired.exists() {
        return Ok(());
    }
    let folder = path.parent().unwrap_or(path);
    let aside = aside_of(path, &repaired)?;
    make_private(&aside)?;
    for end in ["", "-wal"] {
        let from = beside(path, end);
        let to = aside.join(from.file_name().unwrap_or_default());
        if from.exists() && !to.exists() && fs::hard_link(&from, &to).is_err() {
            // On another device than the data folder.
            fs::copy(&from, &to)
                .and_then(|_| File::open(&to)?.sync_all())
                .map_err(io_error("put the damaged database aside to", &to))?;
        }
    }
    for folder in aside.ancestors().take(3) {
        sync_folder(folder)?;
    }
    for end in ["-wal", "-shm"] {
        remove(&beside(path, end))?;
    }
    // SQLite would apply the damaged one's log to the new one: it is gone for good first.
    sync_folder(folder)?;
    rename(&repaired, path)
}

/// Where what `path` was goes, once `repaired` takes its place.
fn aside_of(path: &Path, repaired: &Path) -> Result<PathBuf, SqliteError> {
    let made = fs::metadata(repaired).and_then(|m| m.modified()).map_err(io_error("look at", repaired))?;
    let home = path.parent().and_then(Path::parent).unwrap_or(path);
    Ok(aside(home, made))
}

/// The folder of what was damaged at `when`.
#[must_use]
pub fn aside(home: &Path, when: SystemTime) -> PathBuf {
    // To the nanosecond, so that two repairs never meet.
    let time = humantime::format_rfc3339_nanos(when).to_string();
    home.join("aside").join(time.replace(':', ""))
}

/// Makes a folder, and those above it, for this user alone.
///
/// # Errors
/// The file system's own.
pub fn make_private(folder: &Path) -> Result<(), SqliteError> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io_error("make the folder", folder))
}

/// Connections of SQLite hold a lock on the file for as long as they are open: who gets the whole of it is alone.
fn hold_alone(path: &Path) -> Result<Option<File>, SqliteError> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(io_error("open", path)(e)),
    };
    match rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Err(SqliteError::Open { path: path.to_owned() }),
        Err(e) => Err(io_error("lock", path)(e.into())),
    }
}

/// Opens the damaged one beside the new one; `false` when it is no database any more.
async fn attach(connection: &mut SqliteConnection, old: &Path) -> Result<bool, sqlx::Error> {
    if !old.exists() {
        return Ok(false);
    }
    // A file that is shorter than it says is read as far as it goes (sqlite.org/pragma.html, writable_schema).
    sqlx::query("PRAGMA writable_schema = ON").execute(&mut *connection).await?;
    let name = old.to_str().ok_or_else(|| sqlx::Error::Protocol("its path is not UTF-8".into()))?;
    let attached = async {
        sqlx::query("ATTACH ?1 AS old").bind(name).execute(&mut *connection).await?;
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM old.sqlite_schema").fetch_one(&mut *connection).await
    };
    let attached = attached.await;
    match attached {
        Ok(_) => Ok(true),
        Err(e) if is_damage(&e) => {
            // What is attached and can't be read would fail every statement that follows.
            if let Err(e) = sqlx::query("DETACH old").execute(&mut *connection).await
                && !is_damage(&e)
            {
                return Err(e);
            }
            Ok(false)
        }
        Err(e) => Err(e),
    }
}

/// An empty file for this user alone.
fn private(path: &Path) -> Result<File, SqliteError> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(io_error("create", path))
}

/// Removes a database and what SQLite puts beside it.
fn forget(path: &Path) -> Result<(), SqliteError> {
    ["", "-wal", "-shm", "-journal"].iter().try_for_each(|end| remove(&beside(path, end)))
}

fn remove(path: &Path) -> Result<(), SqliteError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(e)),
        _ => Ok(()),
    }
}

#[expect(clippy::disallowed_methods, reason = "what is renamed was forced to disk, and the folder is afterwards")]
fn rename(from: &Path, to: &Path) -> Result<(), SqliteError> {
    fs::rename(from, to).map_err(io_error("rename a file to", to))?;
    to.parent().map_or(Ok(()), sync_folder)
}

fn sync_folder(folder: &Path) -> Result<(), SqliteError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io_error("sync the folder", folder))
}
