//! Owns what is said between a run and its keeper, over one socket: a line of JSON each. The first line is the order, and
//! brings the container's three streams with it; a later one from the same side is the wish that it ends. The end of the socket
//! is a word too: whoever wanted the container is gone.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};

use crate::container::{Limits, Mount, Network, Outcome, RunError};
use crate::engine::Choice;
use crate::process::Process;

/// The longest order: arguments and environment are bounded by the kernel at 2 MiB, and JSON may write a byte as six.
const LONGEST: usize = 16 << 20;

/// The wish that the container's process is told to stop.
pub(crate) const STOP: &[u8] = b"stop\n";

/// The wish that all of it is killed.
pub(crate) const KILL: &[u8] = b"kill\n";

/// What a keeper is to keep.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// Names the container.
    pub(crate) id: String,
    /// What makes it.
    pub(crate) engine: Choice,
    /// The folders of its root, the lowest first.
    pub(crate) layers: Vec<PathBuf>,
    /// They are to be mounted over each other; otherwise there is one, and it is all.
    pub(crate) overlay: bool,
    /// An ordinary user made them, with `user.overlay.*` marks.
    pub(crate) user: bool,
    pub(crate) process: Process,
    pub(crate) hostname: String,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) writable_root: bool,
    pub(crate) limits: Limits,
    pub(crate) network: Network,
    pub(crate) stop_grace: Duration,
    /// When the wall clock limit is reached, in nanoseconds of the monotonic clock.
    pub(crate) deadline: Option<u64>,
}

/// What a keeper says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The process runs its own program since this moment of the monotonic clock, in nanoseconds.
    Started { at: u64 },
    /// It has ended, and everything of it is gone.
    Ended { at: u64, outcome: Outcome, cpu: Duration, peak_memory_bytes: u64, notes: Vec<String> },
    /// It never started.
    Refused(Refusal),
}

/// [`RunError`], as it is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Refusal {
    NoEngine(String),
    Program(String),
    Cancelled,
    Failed(String),
}

impl From<Refusal> for RunError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoEngine(words) => Self::NoEngine(words),
            Refusal::Program(words) => Self::Program(words),
            Refusal::Cancelled => Self::Cancelled,
            Refusal::Failed(words) => Self::Failed(words),
        }
    }
}

/// Now, in nanoseconds of the monotonic clock, which all processes of a machine share.
pub(crate) fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// Sends the three streams with the first bytes of `order`; returns how many bytes of it went.
///
/// # Errors
/// The socket's own.
pub(crate) fn send_order(socket: BorrowedFd<'_>, order: &[u8], streams: [BorrowedFd<'_>; 3]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&streams)) {
        return Err(io::Error::other("no room for three descriptors"));
    }
    Ok(rustix::net::sendmsg(socket, &[IoSlice::new(order)], &mut control, SendFlags::NOSIGNAL)?)
}

/// Waits for the order.
///
/// # Errors
/// The other side is gone, or says something else.
pub(crate) fn receive_order(socket: BorrowedFd<'_>) -> io::Result<(Order, [OwnedFd; 3])> {
    let mut line = Vec::new();
    let mut streams = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    while !line.ends_with(b"\n") {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got =
            rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                streams.extend(descriptors);
            }
        }
        if got.bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the caller is gone"));
        }
        line.extend_from_slice(&buffer[..got.bytes]);
        if line.len() > LONGEST {
            return Err(io::Error::other("the order is too long"));
        }
    }
    let order = serde_json::from_slice(&line)?;
    let streams = streams.try_into().map_err(|_| io::Error::other("the order came without three streams"))?;
    Ok((order, streams))
}

/// Tells the caller. That it isn't there any more is found out elsewhere.
pub(crate) fn report(socket: impl AsFd, report: &Report) {
    let Ok(mut line) = serde_json::to_vec(report) else { return };
    line.push(b'\n');
    let mut rest = &line[..];
    while !rest.is_empty() {
        match rustix::net::send(&socket, rest, SendFlags::NOSIGNAL) {
            Ok(sent) => rest = &rest[sent..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
