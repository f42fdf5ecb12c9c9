//! Owns which states there are and which artifacts get which: rows and their types.

use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqliteRow, SqliteSynchronous};
use sqlx::{Row as _, SqliteConnection};

use super::folder::Flusher;
use super::lock::{self, Queues};
use super::{Folder, State, StateClass, StateError, StateId, StateKind, StateName, Usage};

pub(crate) static MIGRATIONS: Migrator = sqlx::migrate!("./migrations/states");

/// The file that says that something was bound to an artifact.
const BOUND: &str = "bound";
const COLUMNS: &str = "id, name, class, kind, quota, created_us, expires_us, target, used";

/// The states of one data folder. Cheap to clone; several processes may have them open.
#[derive(Debug, Clone)]
pub struct States(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: SqlitePool,
    root: PathBuf,
    queues: Queues,
    flusher: Flusher,
    /// Something was sealed by this process.
    sealed: tokio::sync::Notify,
    /// What this process writes to.
    written: Mutex<HashMap<StateId, Weak<Usage>>>,
}

/// A state to be created.
#[derive(Debug, Clone)]
pub struct NewState {
    /// Its name.
    pub name: StateName,
    /// What it promises.
    pub class: StateClass,
    /// What it holds.
    pub kind: StateKind,
    /// The most that it may hold, in bytes.
    pub quota_bytes: u64,
    /// How long it lives.
    pub time_to_live: Option<Duration>,
    /// For `synced`: `host[:port]/repository`.
    pub target: Option<String>,
}

/// A binding that every task of an artifact gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    /// `host[:port]/repository[:tag][@digest]`.
    pub artifact: String,
    /// The name of the folder under `/state`.
    pub alias: String,
    /// The guest may only read it.
    pub read_only: bool,
}

pub(super) fn micros(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

pub(super) fn time(micros: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn state(row: &SqliteRow) -> Result<State, StateError> {
    let name: String = row.try_get("name")?;
    let damaged = |why: &str| StateError::Damaged { name: name.clone(), why: why.to_owned() };
    let id: Vec<u8> = row.try_get("id")?;
    Ok(State {
        id: StateId::from_bytes(&id).ok_or_else(|| damaged("its id isn't one"))?,
        class: StateClass::from_number(row.try_get("class")?).ok_or_else(|| damaged("its class isn't known"))?,
        kind: StateKind::from_number(row.try_get("kind")?).ok_or_else(|| damaged("its kind isn't known"))?,
        quota_bytes: row.try_get::<i64, _>("quota")?.unsigned_abs(),
        created: time(row.try_get("created_us")?),
        expires: row.try_get::<Option<i64>, _>("expires_us")?.map(time),
        target: row.try_get("target")?,
        used_bytes: row.try_get::<i64, _>("used")?.unsigned_abs(),
        name,
    })
}

fn bound(row: &SqliteRow) -> Result<Bound, StateError> {
    Ok(Bound { artifact: row.try_get("artifact")?, alias: row.try_get("alias")?, read_only: row.try_get("read_only")? })
}

/// The row of a new state.
pub(super) async fn insert(connection: &mut SqliteConnection, state: &State) -> Result<(), StateError> {
    let inserted = sqlx::query(
        "INSERT INTO state (id, name, class, kind, quota, created_us, expires_us, target, used) \
         VALUES (?,?,?,?,?,?,?,?,?)",
    )
    .bind(state.id.as_bytes().to_vec())
    .bind(state.name.clone())
    .bind(state.class.number())
    .bind(state.kind.number())
    .bind(number(state.quota_bytes))
    .bind(micros(state.created))
    .bind(state.expires.map(micros))
    .bind(state.target.clone())
    .bind(number(state.used_bytes))
    .execute(connection)
    .await;
    match inserted {
        Ok(_) => Ok(()),
        Err(sqlx::Error::Database(found)) if found.is_unique_violation() => {
            Err(StateError::Exists { name: state.name.clone() })
        }
        Err(e) => Err(e.into()),
    }
}

impl State {
    /// The state that `new` asks for, with an identity of its own.
    pub(super) fn new(new: NewState) -> Self {
        let created = time(micros(SystemTime::now()));
        Self {
            id: StateId::new(),
            name: new.name.as_str().to_owned(),
            class: new.class,
            kind: new.kind,
            quota_bytes: new.quota_bytes,
            created,
            expires: new.time_to_live.and_then(|ttl| created.checked_add(ttl)),
            target: new.target,
            used_bytes: 0,
        }
    }
}

impl States {
    /// Opens the states under `home`, the data folder; makes the database if it isn't there.
    ///
    /// # Errors
    /// It can't be opened, or is from a later version.
    pub async fn open(home: &Path) -> Result<Self, StateError> {
        let database = home.join("db/state.sqlite");
        let root = home.join("state");
        for folder in [home.join("db"), root.clone()] {
            if folder.is_dir() {
                continue;
            }
            // Nobody else's: what guests make in a state may be anybody's to write.
            let mut builder = std::fs::DirBuilder::new();
            builder.recursive(true).mode(0o700);
            builder.create(&folder).map_err(StateError::io("create the folder", &folder))?;
            super::folder::sync_name(&folder)?;
        }
        let _opening =
            crate::sqlite::settled(&database).await.map_err(|e| sqlx::Error::Io(std::io::Error::other(e)))?;
        let options = SqliteConnectOptions::new()
            .filename(&database)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // A confined node has no folder for temporary files but its own.
            .pragma("temp_store", "memory")
            .busy_timeout(Duration::from_secs(10));
        let pool = crate::sqlite::pool()
            .max_connections(4)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_with(options)
            .await?;
        MIGRATIONS.run(&pool).await.map_err(sqlx::Error::from)?;
        let flusher = Flusher::new(&root);
        Ok(Self(Arc::new(Inner {
            pool,
            root,
            queues: Queues::default(),
            flusher,
            sealed: tokio::sync::Notify::new(),
            written: Mutex::default(),
        })))
    }

    /// The database, for the other rows that go with a state.
    pub(super) fn pool(&self) -> &SqlitePool {
        &self.0.pool
    }

    pub(super) fn queues(&self) -> &Queues {
        &self.0.queues
    }

    /// Forces what was written to states to disk.
    #[must_use]
    pub fn flusher(&self) -> &Flusher {
        &self.0.flusher
    }

    /// Resolves when this process has sealed something since the last call.
    pub async fn sealed(&self) {
        self.0.sealed.notified().await;
    }

    pub(super) fn tell_sealed(&self) {
        self.0.sealed.notify_one();
    }

    /// Where a state's parts lie.
    #[must_use]
    pub fn folder(&self, id: StateId) -> Folder {
        Folder::at(self.0.root.join(id.to_string()))
    }

    pub(super) fn now_written(&self, id: StateId, usage: &Arc<Usage>) {
        let mut written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.retain(|_, usage| usage.strong_count() > 0);
        written.insert(id, Arc::downgrade(usage));
    }

    /// What this process's writer counts in, if there is one.
    pub(super) fn usage_of(&self, id: StateId) -> Option<Arc<Usage>> {
        let written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.get(&id).and_then(Weak::upgrade)
    }

    /// All states of one class, those whose time is over included as long as they are there.
    pub(super) async fn of_class(&self, class: StateClass) -> Result<Vec<State>, StateError> {
        let sql = format!("SELECT {COLUMNS} FROM state WHERE class = ?");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(class.number()).fetch_all(&self.0.pool).await?;
        rows.iter().map(state).collect()
    }

    /// What a state holds: as this process's writer has it, else as the last writer left it.
    fn with_usage(&self, mut state: State) -> State {
        let written = self.0.written.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(usage) = written.get(&state.id).and_then(Weak::upgrade) {
            state.used_bytes = usage.bytes();
        }
        state
    }

    /// Creates a state.
    ///
    /// # Errors
    /// [`StateError::Exists`] for a name that is taken.
    pub async fn create(&self, new: NewState) -> Result<State, StateError> {
        let state = State::new(new);
        let folder = self.folder(state.id);
        let making = folder.clone();
        super::blocking(move || {
            making.make()?;
            // Before the row says that it is there.
            super::folder::sync_name(&making.data())?;
            super::folder::sync_name(making.root())
        })
        .await?;
        let inserted = async {
            let mut connection = self.0.pool.acquire().await?;
            insert(&mut connection, &state).await
        };
        if let Err(e) = inserted.await {
            drop(folder.remove());
            return Err(e);
        }
        Ok(state)
    }

    /// One state by its name or id. One whose time is over is not there.
    ///
    /// # Errors
    /// [`StateError::NotFound`].
    pub async fn get(&self, name: &str) -> Result<State, StateError> {
        let found = self.find(name).await?;
        if found.is_expired(SystemTime::now()) {
            return Err(StateError::NotFound { name: name.to_owned() });
        }
        Ok(found)
    }

    /// As [`States::get`], for who looks at it, pushes or removes it: a synced state whose time is over is there until its
    /// records are in its repository.
    ///
    /// # Errors
    /// [`StateError::NotFound`].
    pub async fn find(&self, name: &str) -> Result<State, StateError> {
        let missing = || StateError::NotFound { name: name.to_owned() };
        let row = match StateId::parse(name) {
            Some(id) => {
                sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM state WHERE id = ?")))
                    .bind(id.as_bytes().to_vec())
                    .fetch_optional(&self.0.pool)
                    .await?
            }
            None => {
                sqlx::query(sqlx::AssertSqlSafe(format!("SELECT {COLUMNS} FROM state WHERE name = ?")))
                    .bind(name.to_owned())
                    .fetch_optional(&self.0.pool)
                    .await?
            }
        };
        let state = state(&row.ok_or_else(missing)?)?;
        if state.class != StateClass::Synced && state.is_expired(SystemTime::now()) {
            return Err(missing());
        }
        Ok(self.with_usage(state))
    }

    /// States in the order of their names, after `after`, at most `most`; as [`States::find`] has them.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self, after: &str, most: u32) -> Result<Vec<State>, StateError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM state WHERE name > ? AND (expires_us IS NULL OR expires_us > ? OR class = ?) ORDER BY name LIMIT ?"
        );
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(after.to_owned())
            .bind(micros(SystemTime::now()))
            .bind(StateClass::Synced.number())
            .bind(i64::from(most))
            .fetch_all(&self.0.pool)
            .await?;
        rows.iter().map(|row| state(row).map(|state| self.with_usage(state))).collect()
    }

    /// States whose time is over and that are still there.
    ///
    /// # Errors
    /// The database's.
    pub async fn expired(&self) -> Result<Vec<State>, StateError> {
        let sql = format!("SELECT {COLUMNS} FROM state WHERE expires_us <= ?");
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(sql)).bind(micros(SystemTime::now())).fetch_all(&self.0.pool).await?;
        rows.iter().map(state).collect()
    }

    /// Removes a state with its data.
    ///
    /// # Errors
    /// [`StateError::InUse`] while something has it bound.
    pub async fn remove(&self, state: &State) -> Result<(), StateError> {
        self.remove_if(state, async || Ok(true)).await.map(drop)
    }

    /// Removes a state with its data, unless it owes records to its repository. Whether it is gone.
    ///
    /// # Errors
    /// [`StateError::InUse`] while something has it bound.
    pub async fn remove_settled(&self, state: &State) -> Result<bool, StateError> {
        self.remove_if(state, async || Ok(!self.owes_records(state).await?)).await
    }

    /// `may` is asked when nobody can have it bound any more.
    async fn remove_if(
        &self,
        state: &State,
        may: impl AsyncFnOnce() -> Result<bool, StateError>,
    ) -> Result<bool, StateError> {
        let folder = self.folder(state.id);
        let (locking, name) = (folder.clone(), state.name.clone());
        let alone = super::blocking(move || {
            if !locking.root().exists() {
                return Ok(None);
            }
            lock::alone(&locking.users_lock())?.map(Some).ok_or(StateError::InUse { name })
        })
        .await?;
        if !may().await? {
            return Ok(false);
        }
        // In this order: data that no row names would be there for good.
        super::blocking(move || folder.remove()).await?;
        sqlx::query("DELETE FROM state WHERE id = ?").bind(&state.id.as_bytes()[..]).execute(&self.0.pool).await?;
        drop(alone);
        Ok(true)
    }

    /// Writes down what a state holds, for listings.
    ///
    /// # Errors
    /// The database's.
    pub async fn set_used(&self, id: StateId, bytes: u64) -> Result<(), StateError> {
        sqlx::query("UPDATE state SET used = ? WHERE id = ?")
            .bind(number(bytes))
            .bind(&id.as_bytes()[..])
            .execute(&self.0.pool)
            .await?;
        Ok(())
    }

    /// Whether anything was ever bound to an artifact here: a look at a file, so that who starts many tasks needn't ask the
    /// database for each.
    #[must_use]
    pub fn may_bind(&self) -> bool {
        self.0.root.join(BOUND).exists()
    }

    /// The same for the data folder `home`, with nothing opened.
    #[must_use]
    pub fn may_bind_in(home: &Path) -> bool {
        home.join("state").join(BOUND).exists()
    }

    /// Binds a state to an artifact. Another state that was bound there under that alias isn't any more.
    ///
    /// # Errors
    /// The database's.
    pub async fn bind(&self, id: StateId, bound: &Bound) -> Result<(), StateError> {
        sqlx::query(
            "INSERT INTO binding (artifact, alias, state, read_only) VALUES (?,?,?,?) \
             ON CONFLICT (artifact, alias) DO UPDATE SET state = excluded.state, read_only = excluded.read_only",
        )
        .bind(&bound.artifact)
        .bind(&bound.alias)
        .bind(&id.as_bytes()[..])
        .bind(bound.read_only)
        .execute(&self.0.pool)
        .await?;
        let mark = self.0.root.join(BOUND);
        std::fs::write(&mark, b"").map_err(StateError::io("write", &mark))
    }

    /// What a state is bound to.
    ///
    /// # Errors
    /// The database's.
    pub async fn bindings(&self, id: StateId) -> Result<Vec<Bound>, StateError> {
        let rows =
            sqlx::query("SELECT artifact, alias, read_only FROM binding WHERE state = ? ORDER BY artifact, alias")
                .bind(&id.as_bytes()[..])
                .fetch_all(&self.0.pool)
                .await?;
        rows.iter().map(bound).collect()
    }

    /// What the states with names from `first` to `last` are bound to.
    ///
    /// # Errors
    /// The database's.
    pub async fn bindings_between(&self, first: &str, last: &str) -> Result<Vec<(StateId, Bound)>, StateError> {
        let sql = "SELECT b.state, b.artifact, b.alias, b.read_only FROM binding b JOIN state s ON s.id = b.state \
                   WHERE s.name BETWEEN ? AND ? ORDER BY b.artifact, b.alias";
        let rows = sqlx::query(sql).bind(first.to_owned()).bind(last.to_owned()).fetch_all(&self.0.pool).await?;
        rows.iter()
            .filter_map(|row| {
                let id: Vec<u8> = row.try_get("state").ok()?;
                let id = StateId::from_bytes(&id)?;
                Some(bound(row).map(|bound| (id, bound)))
            })
            .collect()
    }

    /// What is bound to any of these names of one artifact, the later ones going before the earlier under the same alias. A
    /// state whose time is over is not there.
    ///
    /// # Errors
    /// The database's.
    pub async fn bound_to(&self, artifacts: &[String]) -> Result<Vec<(State, Bound)>, StateError> {
        let mut found: Vec<(State, Bound)> = Vec::new();
        for artifact in artifacts {
            let sql = "SELECT s.id, s.name, s.class, s.kind, s.quota, s.created_us, s.expires_us, s.target, s.used, \
                       b.alias, b.read_only FROM binding b JOIN state s ON s.id = b.state \
                       WHERE b.artifact = ? AND (s.expires_us IS NULL OR s.expires_us > ?)";
            let now = micros(SystemTime::now());
            for row in sqlx::query(sql).bind(artifact).bind(now).fetch_all(&self.0.pool).await? {
                let bound = Bound {
                    artifact: artifact.clone(),
                    alias: row.try_get("alias")?,
                    read_only: row.try_get("read_only")?,
                };
                found.retain(|(_, known)| known.alias != bound.alias);
                found.push((state(&row)?, bound));
            }
        }
        Ok(found)
    }
}
