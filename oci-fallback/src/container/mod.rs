//! Owns one run of one container as its caller sees it: what it is given, and how it ended.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

mod run;

pub(crate) use run::check_id;
pub use run::{Stop, run, run_until};

use crate::process::Process;
use crate::snapshot::Rootfs;

/// One run.
#[derive(Debug)]
pub struct Request<'a> {
    /// Names it for people, in cgroups and folders: `[a-z0-9-]`, at most 64.
    pub id: String,
    /// What it runs on. Held by the caller until the run has ended.
    pub rootfs: &'a Rootfs,
    /// Its first process.
    pub process: Process,
    /// The host name inside.
    pub hostname: String,
    /// What else it sees of this machine.
    pub mounts: Vec<Mount>,
    /// Whether it may write to its root; what it writes is gone afterwards.
    pub writable_root: bool,
    /// What it may use.
    pub limits: Limits,
    /// Whom it may reach.
    pub network: Network,
    /// How long it has between the stop signal and its end.
    pub stop_grace: Duration,
    /// Its standard streams.
    pub stdio: Stdio,
}

/// A folder or file of this machine that the container sees.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// Here.
    pub source: PathBuf,
    /// There; an absolute path.
    pub destination: String,
    /// It may only be read.
    pub read_only: bool,
}

/// What a container may use.
#[derive(Debug, Clone, Copy, serde::Serialize, serde::Deserialize)]
pub struct Limits {
    /// Memory with page cache and temporary file systems, in bytes; `None`: no limit.
    pub memory_bytes: Option<u64>,
    /// Processes and threads.
    pub pids: u64,
    /// CPU time of all its processes.
    pub cpu: Option<Duration>,
    /// From the request to the end.
    pub wall: Option<Duration>,
    /// How many processors it may keep busy, in thousandths; `None`: all.
    pub cpus_milli: Option<u64>,
    /// All that it writes to its root, its volumes and its temporary folders, in bytes.
    pub disk_bytes: u64,
}

impl Default for Limits {
    /// No memory limit, 1024 processes, 1 GiB of disk, no time limit.
    fn default() -> Self {
        Self { memory_bytes: None, pids: 1024, cpu: None, wall: None, cpus_milli: None, disk_bytes: 1 << 30 }
    }
}

/// A container's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Network {
    /// A namespace with a loopback device alone.
    None,
    /// This machine's own.
    Host,
}

/// The three streams, given to the process as they are.
#[derive(Debug)]
pub struct Stdio {
    /// Standard input.
    pub stdin: OwnedFd,
    /// Standard output.
    pub stdout: OwnedFd,
    /// Standard error.
    pub stderr: OwnedFd,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[non_exhaustive]
pub enum Outcome {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal that nobody here sent.
    Signalled(i32),
    /// The wall clock limit ended it.
    WallClock,
    /// The CPU limit ended it.
    Cpu,
    /// The memory limit ended it.
    OutOfMemory,
    /// The caller's wish ended it.
    Cancelled,
}

/// What happened in a run.
#[derive(Debug, Clone)]
pub struct Execution {
    /// How it ended.
    pub outcome: Outcome,
    /// When the run was asked for.
    pub started_at: SystemTime,
    /// From there to the process's own first instruction.
    pub create: Duration,
    /// From there to its end.
    pub run: Duration,
    /// CPU time of all its processes.
    pub cpu: Duration,
    /// The most memory that they held, in bytes; 0 where nothing can tell.
    pub peak_memory_bytes: u64,
    /// What ran it: `libcontainer 0.7`, `crun 1.8.1`.
    pub engine: String,
    /// What could not be done as asked on this machine, in words (`memory is watched, not limited: …`).
    pub notes: Vec<String>,
}

/// Why a container was not started. Nothing of it ran.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// No engine works here.
    #[error("no container engine works here: {0}")]
    NoEngine(String),
    /// The program isn't in the image, or can't be executed.
    #[error("{0}")]
    Program(String),
    /// Cancelled before its process started.
    #[error("cancelled before it started")]
    Cancelled,
    /// The engine's or the keeper's own words.
    #[error("{0}")]
    Failed(String),
}
