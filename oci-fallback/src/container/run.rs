//! Owns a run's side of the talk with its keeper.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use super::{Execution, Outcome, Request, RunError};
use crate::engine::Choice;
use crate::keeper::outside;
use crate::keeper::wire::{self, Order, Report};
use crate::snapshot::{Method, Rights};

/// How much of an order goes into the socket before there is a keeper to read it: far less than any socket buffer holds.
const FIRST: usize = 4096;

/// How the kernel ends what its keeper leaves behind: SIGKILL.
const KILLED: i32 = 9;

/// The two ways to end a container before its time.
#[derive(Debug, Clone, Copy)]
pub struct Stop<'a> {
    /// Its process gets the stop signal, and after the grace all of it is killed.
    pub cancel: &'a CancellationToken,
    /// All of it is killed at once, also within the grace.
    pub kill: &'a CancellationToken,
}

/// As [`run_until`], with no way to kill at once but to drop the future.
///
/// # Errors
/// [`RunError`]: its process never started.
pub async fn run(engine: &Choice, request: Request<'_>, cancel: &CancellationToken) -> Result<Execution, RunError> {
    run_until(engine, request, Stop { cancel, kill: &CancellationToken::new() }).await
}

/// Runs a container to its end. What `stop` tells ends it, which is [`Outcome::Cancelled`]. Dropping the future kills it at once.
/// Nothing of it is left when this returns: no process, mount, cgroup or folder.
///
/// # Errors
/// [`RunError`]: its process never started.
pub async fn run_until(engine: &Choice, request: Request<'_>, stop: Stop<'_>) -> Result<Execution, RunError> {
    let started_at = SystemTime::now();
    let asked = wire::now();
    if stop.cancel.is_cancelled() || stop.kill.is_cancelled() {
        return Err(RunError::Cancelled);
    }
    check_id(&request.id)?;
    crate::keeper::ready().map_err(|words| RunError::Failed(words.into()))?;
    let Request { id, rootfs, process, hostname, mounts, writable_root, limits, network, stop_grace, stdio } = request;
    let order = Order {
        id,
        engine: engine.clone(),
        layers: rootfs.layers.clone(),
        overlay: rootfs.method == Method::Overlay,
        user: rootfs.rights == Rights::User,
        process,
        hostname,
        mounts,
        writable_root,
        limits,
        network,
        stop_grace,
        deadline: limits.wall.map(|wall| asked.saturating_add(u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX))),
    };
    let mut line = serde_json::to_vec(&order).map_err(|error| RunError::Failed(error.to_string()))?;
    line.push(b'\n');

    let (ours, theirs) = std::os::unix::net::UnixStream::pair().map_err(failed("make a socket"))?;
    let streams = [stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd()];
    let sent = wire::send_order(ours.as_fd(), &line[..line.len().min(FIRST)], streams)
        .map_err(failed("write to the keeper"))?;
    // The keeper has its own now, and a reader of the container's output waits for the last of them to be closed.
    drop(stdio);

    let theirs = OwnedFd::from(theirs);
    let keeper = start(&theirs, order.user).map_err(failed("start a keeper"))?;
    // Its end of the socket is to close when it ends.
    drop(theirs);
    ours.set_nonblocking(true).map_err(failed("set up a socket"))?;
    let mut socket = BufReader::new(UnixStream::from_std(ours).map_err(failed("set up a socket"))?);
    socket.get_mut().write_all(&line[sent..]).await.map_err(failed("write to the keeper"))?;

    let mut started = None;
    let (mut told, mut killed) = (false, false);
    let mut answer = Vec::new();
    let end = loop {
        tokio::select! {
            // Goes on with what it has read of a line, when something else came first.
            read = socket.read_until(b'\n', &mut answer) => {
                match read {
                    Ok(0) | Err(_) => break None,
                    Ok(_) => {}
                }
                match serde_json::from_slice(&answer) {
                    Ok(Report::Started { at }) => started = Some(at),
                    Ok(report) => break Some(report),
                    Err(error) => break Some(Report::Refused(wire::Refusal::Failed(format!("the keeper says {:?}: {error}", String::from_utf8_lossy(&answer))))),
                }
                answer.clear();
            }
            () = stop.cancel.cancelled(), if !told => {
                told = true;
                let _ = socket.get_mut().write_all(wire::STOP).await;
            }
            () = stop.kill.cancelled(), if !killed => {
                killed = true;
                let _ = socket.get_mut().write_all(wire::KILL).await;
            }
        }
    };
    // It has told everything and only has to end; its container is gone already.
    let status = keeper.wait().await.map_err(failed("wait for the keeper"))?;
    match end {
        Some(Report::Ended { at, outcome, cpu, peak_memory_bytes, notes }) => {
            let started = started.unwrap_or(at);
            Ok(Execution {
                outcome,
                started_at,
                create: Duration::from_nanos(started.saturating_sub(asked)),
                run: Duration::from_nanos(at.saturating_sub(started)),
                cpu,
                peak_memory_bytes,
                engine: name(engine).await,
                notes,
            })
        }
        Some(Report::Refused(refusal)) => Err(refusal.into()),
        Some(Report::Started { .. }) | None => {
            // Its processes and mounts ended with it, but a cgroup outlives whoever made it.
            // Who starts keepers for another process sweeps for it as well.
            if outside::elsewhere().is_none() {
                crate::cgroup::sweep(false);
            }
            if let Some(started) = started {
                return Ok(Execution {
                    outcome: Outcome::Signalled(KILLED),
                    started_at,
                    create: Duration::from_nanos(started.saturating_sub(asked)),
                    run: Duration::from_nanos(wire::now().saturating_sub(started)),
                    // The keeper alone knew.
                    cpu: Duration::ZERO,
                    peak_memory_bytes: 0,
                    engine: name(engine).await,
                    notes: vec![format!("the container's keeper was killed ({status}), and all of it ended with it")],
                });
            }
            Err(RunError::Failed(format!("the keeper ended without a word ({status})")))
        }
    }
}

/// Asks an installed engine the first time, which is why it is done when the run is over.
async fn name(engine: &Choice) -> String {
    match engine {
        Choice::Libcontainer => engine.name(),
        Choice::Installed(path) => {
            let engine = engine.clone();
            let asked = tokio::task::spawn_blocking(move || engine.name()).await;
            asked.unwrap_or_else(|_| path.display().to_string())
        }
    }
}

/// What became of a keeper: by whom it was started.
enum Keeper {
    Here(tokio::process::Child),
    /// By another process, which says how it ended.
    Elsewhere(tokio::net::unix::pipe::Receiver),
}

impl Keeper {
    /// Its end, in words.
    async fn wait(self) -> io::Result<String> {
        match self {
            Self::Here(mut child) => Ok(child.wait().await?.to_string()),
            Self::Elsewhere(mut told) => {
                let mut words = String::new();
                told.read_to_string(&mut words).await?;
                Ok(if words.is_empty() { "whoever started it is gone".to_owned() } else { words })
            }
        }
    }
}

/// A keeper with nothing of this process but the socket: started by this one where it may, else by whoever does that for it.
fn start(socket: &OwnedFd, user: bool) -> io::Result<Keeper> {
    match outside::elsewhere() {
        Some(elsewhere) => {
            let told = elsewhere.start(socket.as_fd(), user)?;
            Ok(Keeper::Elsewhere(tokio::net::unix::pipe::Receiver::from_owned_fd(told)?))
        }
        None => outside::spawn(|command| tokio::process::Command::from(command).spawn(), socket.as_fd(), user, None)
            .map(Keeper::Here),
    }
}

pub(crate) fn check_id(id: &str) -> Result<(), RunError> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if id.is_empty() || id.len() > 64 || !id.bytes().all(good) {
        return Err(RunError::Failed(format!("a container's id is 1 to 64 of a-z, 0-9 and `-`, not {id:?}")));
    }
    Ok(())
}

fn failed(attempted: &'static str) -> impl Fn(io::Error) -> RunError {
    move |error| RunError::Failed(format!("can't {attempted}: {error}"))
}
