//! Owns one run of a container: what it is given of what a guest is given, and its end in the words of a guest's.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use vyr_oci_fallback::container::{self, Limits, Mount, Network, Request, RunError, Stdio, Stop};
use vyr_oci_fallback::process::{self, Overrides, Process};

use super::Image;
use crate::engine::{CancellationToken, Clock, DirSpec, Execution, Input, NetRule, Outcome, Output, StateDoor};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::pull::blocking;
use crate::ops::run::Guest;
use crate::state::{SentBefore, StateHandle};
use crate::trust::Verified;

/// How a container is run, beside what holds for every guest. What is left open, the image's config says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// In place of the image's entrypoint.
    pub entrypoint: Vec<String>,
    /// The user, as `name`, `uid`, `name:group` or `uid:gid`.
    pub user: Option<String>,
    /// The folder that it starts in.
    pub working_dir: Option<String>,
    /// It may write to its root.
    pub writable_root: bool,
    /// Processes and threads at most.
    pub pids: u64,
    /// All that it writes to its root, its volumes and its temporary folders, in bytes. It is held in memory, so without a word
    /// it is half of that, and 1 GiB at most: then it is full before the memory is.
    pub disk_bytes: Option<u64>,
    /// How many processors it may keep busy, in thousandths.
    pub cpus_milli: Option<u64>,
    /// How long it has between the stop signal and being killed.
    pub stop_grace: Duration,
}

impl Default for Options {
    /// As the image says; 1024 processes, half of the memory as disk, all processors, 10 s.
    fn default() -> Self {
        let Limits { pids, .. } = Limits::default();
        Self {
            entrypoint: Vec::new(),
            user: None,
            working_dir: None,
            writable_root: false,
            pids,
            disk_bytes: None,
            cpus_milli: None,
            stop_grace: Duration::from_secs(10),
        }
    }
}

/// How often it is looked how much a container has written into its states.
const LOOK: Duration = Duration::from_millis(250);
/// How long what a container wrote may take to be read when it has ended: nobody writes any more.
const DRAIN: Duration = Duration::from_secs(5);
/// A state is opened for whoever the container runs as, below a folder that only this user enters.
const OPEN_TO_ALL: u32 = 0o777;
const OWNER_ALONE: u32 = 0o700;

/// Runs it to its end.
///
/// # Errors
/// It was never started.
pub(in crate::ops) async fn execute(
    image: &Verified<Image>,
    guest: Guest,
    cancel: &CancellationToken,
) -> Result<Execution> {
    let options = guest.container;
    let overrides = Overrides {
        entrypoint: Some(options.entrypoint).filter(|words| !words.is_empty()),
        args: guest.args,
        env: guest.env,
        user: options.user,
        working_dir: options.working_dir,
    };
    let process = process::resolve(&image.config, &overrides, &image.rootfs).map_err(|e| {
        Error::new(ErrorKind::CannotStart, e)
            .hint("see `vyr inspect` for what the image says, and --entrypoint and --user")
    })?;
    let memory = guest.limits.memory_bytes;
    let _reserved = match &guest.budget {
        Some(budget) if memory > budget.limit() => {
            return Err(Error::new(
                ErrorKind::CannotStart,
                format!("the container may hold {memory} bytes of memory, and all of them together {}", budget.limit()),
            )
            .hint("submit it with a lower memory limit"));
        }
        Some(budget) => {
            Some(budget.reserve(memory).ok_or_else(|| {
                Error::new(ErrorKind::Exhausted, "the memory that guests may hold together is in use")
            })?)
        }
        None => None,
    };
    let (stdio, streams) = streams(guest.stdin, guest.stdout, guest.stderr)?;
    let kill = CancellationToken::new();
    let request = Request {
        id: format!("vyr-{}", uuid::Uuid::now_v7()),
        rootfs: &image.rootfs,
        hostname: "vyr".to_owned(),
        mounts: mounts(&guest.dirs, &guest.states, &process)?,
        process,
        writable_root: options.writable_root,
        limits: Limits {
            memory_bytes: Some(memory),
            pids: options.pids,
            cpu: guest.limits.cpu,
            wall: guest.limits.wall,
            cpus_milli: options.cpus_milli,
            disk_bytes: options.disk_bytes.unwrap_or_else(|| Limits::default().disk_bytes.min(memory / 2)),
        },
        network: network(&guest.allow_net)?,
        stop_grace: options.stop_grace,
        stdio,
    };
    let states = guest.states;
    let before = sent_before(&states).await;
    let ended = CancellationToken::new();
    let running = async {
        let done = container::run_until(&image.engine, request, Stop { cancel, kill: &kill }).await;
        ended.cancel();
        done
    };
    let running = async { tokio::join!(running, watch(&states, &kill, &ended)) };
    let pumping = streams.pump();
    tokio::pin!(running, pumping);
    let mut cut = false;
    let (done, exceeded) = tokio::select! {
        both = &mut running => {
            cut = tokio::time::timeout(DRAIN, &mut pumping).await.is_err();
            both
        }
        // It let go of its streams before its end.
        () = &mut pumping => running.await,
    };
    let mut done = done.map_err(failed)?;
    if cut {
        done.notes
            .push(format!("some of its output was not taken within {} s of its end, and is lost", DRAIN.as_secs()));
    }
    // It ran, whatever is found now.
    done.notes.extend(settle(&states, before).await);
    Ok(execution(done, exceeded))
}

fn failed(error: RunError) -> Error {
    match &error {
        RunError::NoEngine(_) => {
            Error::new(ErrorKind::CannotStart, error).hint("`vyr doctor` says what works on this machine")
        }
        RunError::Program(_) => {
            Error::new(ErrorKind::CannotStart, error).hint("name a program that the image has, with its path")
        }
        RunError::Cancelled => Error::new(ErrorKind::Cancelled, error),
        _ => Error::new(ErrorKind::CannotStart, format!("the container could not be started: {error}"))
            .hint("`vyr doctor` says what works on this machine"),
    }
}

fn execution(done: container::Execution, exceeded: Option<String>) -> Execution {
    let outcome = match (exceeded, done.outcome) {
        (Some(state), _) => Outcome::OverQuota(state),
        (None, container::Outcome::Exited(code)) => Outcome::Exited(code),
        (None, container::Outcome::Signalled(signal)) => Outcome::Signalled(signal),
        (None, container::Outcome::WallClock) => Outcome::TimedOut(Clock::Wall),
        (None, container::Outcome::Cpu) => Outcome::TimedOut(Clock::Cpu),
        (None, container::Outcome::OutOfMemory) => Outcome::OutOfMemory,
        (None, _) => Outcome::Cancelled,
    };
    Execution {
        outcome,
        started_at: done.started_at,
        instantiate: done.create,
        run: done.run,
        cpu: done.cpu,
        peak_memory_bytes: done.peak_memory_bytes,
        engine: Some(done.engine),
        notes: done.notes,
    }
}

fn network(rules: &[NetRule]) -> Result<Network> {
    match rules {
        [] => Ok(Network::None),
        rules if rules.iter().any(NetRule::is_any) => Ok(Network::Host),
        [first, ..] => Err(Error::new(
            ErrorKind::CannotStart,
            format!(
                "a container can't be held to the network rule `{first}`: it has all of this machine's network, or none"
            ),
        )
        .hint("allow it `*:*`, or do without")),
    }
}

fn mounts(dirs: &[DirSpec], states: &[StateDoor], process: &Process) -> Result<Vec<Mount>> {
    let mut mounts: Vec<Mount> = dirs
        .iter()
        .map(|dir| Mount { source: dir.host.clone(), destination: dir.guest.clone(), read_only: dir.read_only })
        .collect();
    for state in states {
        let data = state.handle.data();
        if process.uid != 0 && !state.handle.read_only() {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
            let opened = mode(state.handle.folder().root(), OWNER_ALONE).and_then(|()| mode(data, OPEN_TO_ALL));
            opened.map_err(|e| {
                Error::new(
                    ErrorKind::Storage,
                    format!("the state `{}` can't be opened to the container: {e}", state.alias),
                )
            })?;
        }
        mounts.push(Mount {
            source: data.to_owned(),
            destination: state.guest_path(),
            read_only: state.handle.read_only(),
        });
    }
    Ok(mounts)
}

/// Looks at how much the container has written into its states, and kills it when one holds more than it may; returns
/// which.
async fn watch(states: &[StateDoor], kill: &CancellationToken, ended: &CancellationToken) -> Option<String> {
    let written: Vec<Arc<StateHandle>> =
        states.iter().filter(|s| !s.handle.read_only()).map(|s| Arc::clone(&s.handle)).collect();
    if written.is_empty() {
        return None;
    }
    loop {
        tokio::select! {
            () = ended.cancelled() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        for handle in &written {
            let counting = Arc::clone(handle);
            let found = blocking(move || Ok(counting.recount()?)).await;
            // What can't be counted is not known to be within its bounds.
            if found.is_ok_and(|found| !found.over) {
                continue;
            }
            kill.cancel();
            return Some(handle.state().name.clone());
        }
        if ended.is_cancelled() {
            return None;
        }
    }
}

/// What lies in the outbox of each state before a container has it, and is no record of its own; `None` where that can't be
/// looked at, since an earlier one put something else there.
async fn sent_before(states: &[StateDoor]) -> Vec<Option<SentBefore>> {
    let mut before = Vec::with_capacity(states.len());
    for state in states {
        let handle = Arc::clone(&state.handle);
        before.push(blocking(move || Ok(handle.sent_before().ok())).await.ok().flatten());
    }
    before
}

/// What the container left in its states is counted, and what lies in an outbox is taken. Says what could not be.
async fn settle(states: &[StateDoor], before: Vec<Option<SentBefore>>) -> Vec<String> {
    let mut notes = Vec::new();
    for (state, before) in states.iter().zip(before).filter(|(state, _)| !state.handle.read_only()) {
        let handle = Arc::clone(&state.handle);
        let settled = blocking(move || {
            let left = match before {
                Some(before) => handle
                    .take_outbox_of_ended(&before)
                    .map_err(|e| Error::new(ErrorKind::Storage, format!("its outbox can't be taken: {e}")))?,
                None => {
                    vec!["its outbox could not be looked at before the start: what is in it stays there".to_owned()]
                }
            };
            handle.recount()?;
            Ok(left)
        });
        match settled.await {
            Ok(left) => notes.extend(left.into_iter().map(|what| format!("the state `{}`: {what}", state.alias))),
            Err(e) => notes.push(format!("the state `{}`: {}", state.alias, e.why())),
        }
    }
    notes
}

/// What stands between a container's streams and what its caller gave for them.
struct Streams {
    stdin: Option<(Box<dyn crate::engine::StdinStream + Sync>, pipe::Sender)>,
    outputs: Vec<(pipe::Receiver, Box<dyn crate::engine::StdoutStream + Sync>)>,
}

fn streams(stdin: Input, stdout: Output, stderr: Output) -> Result<(Stdio, Streams)> {
    let failed = |e: io::Error| Error::new(ErrorKind::Exhausted, format!("no streams for the container: {e}"));
    let mut outputs = Vec::new();
    let mut output = |wanted: Output, own: fn() -> io::Result<OwnedFd>| -> io::Result<OwnedFd> {
        match wanted {
            Output::Null => null(),
            Output::Inherit => own(),
            Output::Stream(stream) => {
                let (theirs, ours) = pair()?;
                outputs.push((pipe::Receiver::from_owned_fd(ours)?, stream));
                Ok(theirs)
            }
        }
    };
    use std::os::fd::AsFd as _;
    let stdout = output(stdout, || io::stdout().as_fd().try_clone_to_owned()).map_err(failed)?;
    let stderr = output(stderr, || io::stderr().as_fd().try_clone_to_owned()).map_err(failed)?;
    let mut input = None;
    let stdin = match stdin {
        Input::Null => null().map_err(failed)?,
        Input::Inherit => io::stdin().as_fd().try_clone_to_owned().map_err(failed)?,
        Input::Stream(stream) => {
            let (ours, theirs) = pair().map_err(failed)?;
            input = Some((stream, pipe::Sender::from_owned_fd(ours).map_err(failed)?));
            theirs
        }
    };
    Ok((Stdio { stdin, stdout, stderr }, Streams { stdin: input, outputs }))
}

/// A pipe: the end to write to, the end to read from. Ours is set not to block by who takes it.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((write, read))
}

fn null() -> io::Result<OwnedFd> {
    Ok(std::fs::File::options().read(true).write(true).open("/dev/null")?.into())
}

impl Streams {
    /// Passes on until the container's side is closed.
    async fn pump(self) {
        let outputs = self.outputs.into_iter().map(|(mut from, to)| async move {
            let mut to = Pin::from(to.async_stream());
            if tokio::io::copy(&mut from, &mut to).await.is_ok() {
                drop(to.flush().await);
            } else {
                // Nobody takes it any more; the container is not to hang on that.
                drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await);
            }
        });
        let input = async {
            if let Some((from, mut to)) = self.stdin {
                let mut from = Pin::from(from.async_stream());
                drop(tokio::io::copy(&mut from, &mut to).await);
            }
        };
        // Where nothing is written, the input goes on until the container has ended and this is dropped.
        tokio::join!(futures_util::future::join_all(outputs), input);
    }
}
