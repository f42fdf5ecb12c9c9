//! Owns what a run is asked to be: arguments, environment, folders, streams, limits, network.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use wasmtime_wasi::cli::{AsyncStdinStream, AsyncStdoutStream, StdinStream, StdoutStream};
use wasmtime_wasi::p2::pipe::{MemoryInputPipe, MemoryOutputPipe};

use super::deterministic::Deterministic;
use super::limiter::Budget;
use super::net::NetRule;
use crate::state::StateHandle;

/// One run of a guest.
#[derive(Debug, Default)]
pub struct RunSpec {
    /// The guest's `argv[0]`.
    pub argv0: String,
    /// The arguments after it.
    pub args: Vec<String>,
    /// The whole environment of the guest; nothing is inherited.
    pub env: Vec<(String, String)>,
    /// The folders it sees; none by default.
    pub dirs: Vec<DirSpec>,
    /// The states that are bound to it.
    pub states: Vec<StateDoor>,
    /// Where it reads its standard input.
    pub stdin: Input,
    /// Where its standard output goes.
    pub stdout: Output,
    /// Where its standard error goes.
    pub stderr: Output,
    /// What it may use.
    pub limits: Limits,
    /// Whom it may reach over the network; nobody by default.
    pub allow_net: Vec<NetRule>,
    /// Time and chance are made from this; `None`: they are the machine's.
    pub deterministic: Option<Deterministic>,
    /// What it shares with other guests; none for a guest that is alone.
    pub budget: Option<Arc<Budget>>,
}

/// A folder of this machine that the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirSpec {
    /// The folder here.
    pub host: PathBuf,
    /// Its name in the guest.
    pub guest: String,
    /// Whether the guest may only read it.
    pub read_only: bool,
}

/// A state that is bound to the guest, which sees it as the folder `/state/<alias>`.
#[derive(Debug, Clone)]
pub struct StateDoor {
    /// The guest's name for it.
    pub alias: String,
    /// The state.
    pub handle: Arc<StateHandle>,
}

impl StateDoor {
    /// The folder as the guest sees it.
    #[must_use]
    pub fn guest_path(&self) -> String {
        format!("/state/{}", self.alias)
    }
}

/// What one guest may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// All its linear memories together, in bytes. Growth beyond fails in the guest (`memory.grow` gives -1);
    /// a guest that needs more at its start isn't started.
    pub memory_bytes: u64,
    /// All its tables together, in elements.
    pub table_elements: u64,
    /// Core instances and component instances, each.
    pub instances: usize,
    /// From the start of instantiation to the end, on the wall clock.
    pub wall: Option<Duration>,
    /// CPU time of the thread that runs the guest, measured every 10 ms; what the host does for it on other
    /// threads (file access) isn't counted.
    pub cpu: Option<Duration>,
}

impl Default for Limits {
    /// 1 GiB of memory, a million table elements, 1000 instances, no time limit.
    fn default() -> Self {
        Self { memory_bytes: 1 << 30, table_elements: 1_000_000, instances: 1000, wall: None, cpu: None }
    }
}

/// A standard input.
#[derive(Default)]
pub enum Input {
    /// Empty.
    #[default]
    Null,
    /// This process's. It's read by one thread of its own that is never joined, and only when a guest asks:
    /// neither a runtime's shutdown nor the process's end waits for it. A read that a guest began and didn't
    /// live to see stays begun, and the next guest of this process that inherits the input gets those bytes.
    Inherit,
    /// Something else.
    Stream(Box<dyn StdinStream + Sync>),
}

/// A standard output or error.
#[derive(Default)]
pub enum Output {
    /// Swallowed.
    #[default]
    Null,
    /// This process's, written without a buffer in between; flush the process's own `std::io::stdout` first.
    /// A full pipe or terminal suspends the guest, not the thread.
    Inherit,
    /// Something else.
    Stream(Box<dyn StdoutStream + Sync>),
}

impl Input {
    /// Reads from `reader`.
    pub fn reader(reader: impl AsyncRead + Send + Sync + 'static) -> Self {
        Self::Stream(Box::new(AsyncStdinStream::new(reader)))
    }

    /// Reads `bytes`.
    pub fn bytes(bytes: impl Into<bytes::Bytes>) -> Self {
        Self::Stream(Box::new(MemoryInputPipe::new(bytes)))
    }
}

impl Output {
    /// Writes to `writer`, with at most 64 KiB on the way.
    pub fn writer(writer: impl AsyncWrite + Send + Sync + 'static) -> Self {
        Self::Stream(Box::new(AsyncStdoutStream::new(64 << 10, writer)))
    }

    /// Keeps up to `capacity` bytes, to be taken by [`Captured::contents`]; a guest that writes more traps.
    #[must_use]
    pub fn capture(capacity: usize) -> (Self, Captured) {
        let pipe = MemoryOutputPipe::new(capacity);
        (Self::Stream(Box::new(pipe.clone())), Captured(pipe))
    }
}

/// What a guest wrote to an [`Output::capture`].
#[derive(Clone)]
pub struct Captured(MemoryOutputPipe);

impl Captured {
    /// What was written up to now.
    #[must_use]
    pub fn contents(&self) -> bytes::Bytes {
        self.0.contents()
    }
}

impl fmt::Debug for Captured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Captured").field(&self.0.contents().len()).finish()
    }
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Inherit => "Inherit",
            Self::Stream(_) => "Stream",
        })
    }
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Null => "Null",
            Self::Inherit => "Inherit",
            Self::Stream(_) => "Stream",
        })
    }
}
