//! Owns the tasks of one node: their queue, their execution, their record, and what is told of them. It knows no
//! transport; `server` translates remote calls into what is here.
//!
//! ```text
//! submit → on disk → a free place → prepare → on disk as running → guest → on disk as ended → told
//! ```
//!
//! What is told is on disk: an end that a watcher saw is never taken back by a crash, and before a guest's first
//! instruction it is on disk that it may have run. Where everything is ready and a place is free, the first write says so
//! at once, and a start costs one commit.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use vyr_proto::v0;

use crate::db::Db;
use crate::engine::{Budget, Engine, EngineOptions, NetRule};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::{Compiling, Vyr};
use crate::state::States;
use crate::store::Lease;
use crate::task::{TaskId, micros, timestamp};
use crate::trust::SigningKey;

mod arrival;
mod attempt;
mod executor;
mod history;
mod live;
mod lock;
mod log;
mod metrics;
mod query;
mod ready;
mod receipt;
mod recover;
mod sched;
mod state;
mod stop;
mod submit;
mod sync;
mod trace;

pub use lock::Lock;
pub use log::{Piece, TaskLog};
pub use metrics::Metrics;
pub use query::{Logs, Page, Watch};
pub use submit::{Submit, Submitted, check};

use arrival::Arrivals;
use executor::Executor;
use live::Live;
use ready::ReadyGuests;
use sched::Sched;

/// How a node is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// How many tasks are prepared or run at once.
    pub max_running: u32,
    /// How many wait at most.
    pub max_queued: usize,
    /// What those were submitted with takes at most, in bytes.
    pub max_queued_bytes: u64,
    /// The linear memory that guests hold together at most, in bytes.
    pub memory_budget: u64,
    /// The compiled code that is kept mapped, in bytes.
    pub code_bytes: u64,
    /// How many ended tasks are kept.
    pub keep_tasks: u64,
    /// How long ended tasks are kept.
    pub keep_for: Duration,
    /// How long running tasks may go on when the node is told to stop.
    pub drain: Duration,
    /// Whether a submit may overrule the trust policy.
    pub allow_unsigned: bool,
    /// The most of the network that a submit may ask for; `None` for whatever it asks for.
    pub allow_net_at_most: Option<Vec<NetRule>>,
    /// The threads that guests run on.
    pub threads: usize,
    /// Whether what arrives is compiled before anybody runs it.
    pub compile_on_arrival: bool,
    /// How many of those are compiled at once, on as many threads of the lowest priority.
    pub compile_at_once: usize,
    /// The largest Wasm that is compiled on arrival, in bytes.
    pub compile_largest: u64,
    /// The memory that compiling may take together, in bytes.
    pub compile_memory: u64,
    /// Compile nothing at all: run only what is compiled already, or comes so from a signer with the right to that.
    pub compiled_only: bool,
    /// Whether each task gets a signed receipt.
    pub receipts: bool,
    /// What this process has confined itself by, to be told.
    pub confined_by: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        let at_once = std::thread::available_parallelism().map_or(1, |cpus| cpus.get().div_ceil(2));
        Self {
            max_running: 2048,
            max_queued: 100_000,
            max_queued_bytes: machine_memory() / 8,
            memory_budget: machine_memory().max(1 << 30) / 4 * 3,
            code_bytes: 1 << 30,
            keep_tasks: 2_000_000,
            keep_for: Duration::from_secs(30 * 24 * 3600),
            drain: Duration::from_secs(30),
            allow_unsigned: false,
            allow_net_at_most: None,
            receipts: true,
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            compile_on_arrival: true,
            compile_at_once: at_once,
            compile_largest: (machine_memory() / MEMORY_PER_WASM / at_once as u64).min(64 << 20),
            compile_memory: machine_memory().max(1 << 30) / 4 * 3,
            compiled_only: false,
            confined_by: Vec::new(),
        }
    }
}

/// To compile takes some twenty times the Wasm's size; what nobody waits for gets a third of the machine's memory.
const MEMORY_PER_WASM: u64 = 64;

/// This machine's memory, in bytes.
fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit))
}

/// The tasks of one data folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    vyr: Vyr,
    options: Options,
    db: Db,
    states: States,
    /// What receipts are signed with; `None` where there are none.
    receipt_key: Option<SigningKey>,
    executor: Executor,
    sched: Mutex<Sched>,
    live: Mutex<HashMap<TaskId, Arc<Live>>>,
    ready: ReadyGuests,
    budget: Arc<Budget>,
    waiting: Arc<sync::Waiting>,
    metrics: Metrics,
    tags: AtomicU64,
    stopping: AtomicBool,
    /// No guest is started any more.
    stopped: AtomicBool,
    /// Tasks between being ready and having started.
    starting: AtomicUsize,
    /// A place or memory became free, or a task ended.
    freed: Notify,
    /// What arrived and may be worth compiling.
    arrivals: Option<Arrivals>,
    started_at: SystemTime,
    _lock: Lock,
}

/// Gives `vyr` an engine with a pool for so many guests, or for as many as this machine's addresses do for: some devices give
/// a process no more than 39 bits of them, and each slot takes several times 4 GiB.
fn with_pool(vyr: Vyr, max_running: u32) -> Result<(Vyr, u32)> {
    // Some more than can run leave room for what is just ending. Slots are address space, not memory.
    let pool = |slots: u32| EngineOptions { pooling: true, max_instances: slots, ..EngineOptions::default() };
    let vyr = vyr.with_engine_options(pool(max_running.saturating_add(64)));
    let Err(error) = vyr.engine() else { return Ok((vyr, max_running)) };
    // Room for what is just ending, and for the second pool that deterministic guests will want.
    let slots = |running: u32| running.saturating_add((running / 8).clamp(1, 64));
    let fits = |running: &u32| Engine::new(&pool(slots(*running).saturating_mul(2))).is_ok();
    // In steps of an eighth: by halves, a node that was asked for a little too much would get far too little.
    let fewer = std::iter::successors(Some(max_running), |more| Some(more - more.div_ceil(8)));
    let Some(running) = fewer.skip(1).take_while(|n| *n > 0).find(fits) else { return Err(error) };
    tracing::warn!(%error, max_running, running, "this machine has too few addresses for so many guests at once");
    let vyr = vyr.with_engine_options(pool(slots(running)));
    vyr.engine()?;
    Ok((vyr, running))
}

impl Node {
    /// Opens the node of `vyr`'s data folder and takes up the tasks that have not ended. The current Tokio runtime
    /// serves it from here on.
    ///
    /// # Errors
    /// Whatever keeps the database, the store or the engine from opening.
    pub async fn open(vyr: Vyr, options: Options, lock: Lock) -> Result<Self> {
        let home = vyr.config().home.clone();
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let vyr = vyr.with_compiling(Compiling::new(options.compile_memory, cpus));
        Compiling::give_way_in_parallel();
        let (vyr, max_running) = with_pool(vyr, options.max_running)?;
        let options = Options { max_running, ..options };
        let engine = vyr.engine()?.clone();
        vyr.store().await?;
        let states = vyr.states().await?.clone();
        let receipt_key = options.receipts.then(|| crate::ops::sign::machine_key(&home)).transpose()?;
        let db = Db::open(&home.tasks_database()).await?;
        let (arrivals, arriving) = arrival::queue(&options)?;
        let executor = Executor::start(options.threads.max(1), engine)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("no threads for guests: {e}")))?;
        let node = Self {
            inner: Arc::new(Inner {
                ready: ReadyGuests::new(options.code_bytes, options.compiled_only),
                budget: Arc::new(Budget::new(options.memory_budget)),
                sched: Mutex::new(Sched::new(
                    options.max_running as usize,
                    options.max_queued,
                    options.max_queued_bytes,
                )),
                waiting: Arc::default(),
                metrics: Metrics::new(),
                live: Mutex::default(),
                tags: AtomicU64::new(1),
                stopping: AtomicBool::new(false),
                stopped: AtomicBool::new(false),
                starting: AtomicUsize::new(0),
                freed: Notify::new(),
                arrivals,
                started_at: SystemTime::now(),
                vyr,
                options,
                db,
                states,
                receipt_key,
                executor,
                _lock: lock,
            }),
        };
        Lease::use_again();
        metrics::observe(&node);
        node.recover().await?;
        if let Err(e) = node.sweep_states().await {
            tracing::warn!(error = %e, "what tasks have left of their states could not be removed");
        }
        node.keep_house();
        node.keep_synced();
        let containers = node.clone();
        tokio::task::spawn_blocking(move || containers.inner.vyr.prepare_containers());
        if let Some(arriving) = arriving {
            node.take_arrivals(arriving);
        }
        Ok(node)
    }

    /// What the node works with.
    #[must_use]
    pub fn vyr(&self) -> &Vyr {
        &self.inner.vyr
    }

    /// Its counters.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// How many guests run at once, at most: as many as were asked for, or as this machine's addresses do for.
    #[must_use]
    pub fn max_running(&self) -> u32 {
        self.inner.options.max_running
    }

    /// What it is and how busy.
    #[must_use]
    pub fn describe(&self) -> v0::Node {
        let (running, queued) = self.sched().load();
        v0::Node {
            version: env!("CARGO_PKG_VERSION").into(),
            wasmtime_version: crate::engine::WASMTIME.into(),
            os: std::env::consts::OS.into(),
            architecture: std::env::consts::ARCH.into(),
            started_at: Some(timestamp(micros(self.inner.started_at))),
            queued: queued as u64,
            running: running as u64,
            max_queued: self.inner.options.max_queued as u64,
            max_running: self.inner.options.max_running.into(),
            memory_bytes: self.inner.budget.used(),
            memory_budget_bytes: self.inner.budget.limit(),
            stopping: self.is_stopping(),
            capabilities: self.capabilities(),
            allows_unsigned: self.inner.options.allow_unsigned,
            confined_by: self.inner.options.confined_by.clone(),
        }
    }

    fn capabilities(&self) -> Vec<String> {
        let mut all: Vec<String> = ["wasi-preview1", "wasi-0.2", "state"].map(str::to_owned).into();
        if self.inner.vyr.machine_if_known().is_some_and(|machine| !machine.engines.is_empty()) {
            all.push("container".to_owned());
        }
        all
    }

    fn is_stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::SeqCst)
    }

    fn sched(&self) -> MutexGuard<'_, Sched> {
        self.inner.sched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<TaskId, Arc<Live>>> {
        self.inner.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_path(&self, id: TaskId) -> PathBuf {
        self.inner.vyr.config().home.task_log(&id.to_string())
    }
}
