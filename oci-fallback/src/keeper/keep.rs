//! Owns a container's life as its keeper sees it: from the order to the report of its end.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};
use rustix::thread::UnshareFlags;

use super::limit::Watch;
use super::root::Place;
use super::wire::{self, Order, Refusal, Report};
use super::{loopback, mounts, namespaces, root};
use crate::cgroup::Group;
use crate::container::{Network, Outcome};
use crate::engine::{self, Engine};

/// What ended the wait for something.
#[derive(Debug)]
enum Ended {
    /// The container's process, by itself or by a signal of its own.
    Process(WaitStatus),
    /// Somebody here ended it.
    Here(Outcome),
    /// It is to be told to stop.
    Asked,
    /// Nobody wants it any more.
    Unwanted,
}

/// The whole life of the inner process. `owner` names the outer one.
pub(super) fn keep(order: &Order, streams: [OwnedFd; 3], caller: BorrowedFd<'_>, owner: &str) -> i32 {
    // It kills everything that it can see: that must be its own namespace's.
    if std::process::id() != 1 || namespaces::end_with_parent().is_err() {
        return 1;
    }
    namespaces::take_signals();
    let mut notes = Vec::new();
    let group = Group::make(&order.id, owner, &order.limits, order.engine.wants_cgroup());
    notes.extend(group.notes.iter().cloned());
    let end = Life { order, caller, group: &group, children: Children::default() }.live(streams, &mut notes);
    group.remove();
    match end {
        Ok(Some(Report::Ended { at, outcome, cpu, peak_memory_bytes, .. })) => {
            wire::report(caller, &Report::Ended { at, outcome, cpu, peak_memory_bytes, notes });
        }
        Ok(Some(report)) => wire::report(caller, &report),
        Ok(None) => {}
        Err(refusal) => wire::report(caller, &Report::Refused(refusal)),
    }
    0
}

struct Life<'a> {
    order: &'a Order,
    caller: BorrowedFd<'a>,
    group: &'a Group,
    children: Children,
}

impl Life<'_> {
    /// `None`: there is nobody to tell.
    fn live(mut self, streams: [OwnedFd; 3], notes: &mut Vec<String>) -> Result<Option<Report>, Refusal> {
        mounts::keep_private().map_err(|error| Refusal::Failed(format!("can't set up mounts: {error}")))?;
        mounts::proc().map_err(|error| {
            Refusal::Failed(format!(
                "can't mount /proc ({error}): in a container this needs an unmasked /proc, with Docker \
                 `--security-opt systempaths=unconfined`"
            ))
        })?;
        let place = root::prepare(self.order, self.group, notes).map_err(Refusal::Failed)?;
        crate::spec::write(self.order, &place, self.group, notes)
            .map_err(|error| Refusal::Failed(format!("can't write the bundle: {error}")))?;
        let engine = engine::engine(&self.order.engine);
        let mut watch = Watch::new(self.order, self.group);
        let end = self.run(engine.as_ref(), &place, streams, &mut watch);
        // Whatever happened, nothing of it lives on.
        self.children.end_all();
        let (started, ended) = end?;
        let at = wire::now();
        let (cpu, peak_memory_bytes) = watch.total();
        let outcome = match ended {
            Ended::Unwanted => return Ok(None),
            Ended::Asked | Ended::Here(Outcome::Cancelled) if !started => return Err(Refusal::Cancelled),
            Ended::Asked => Outcome::Cancelled,
            Ended::Here(outcome) => outcome,
            Ended::Process(status) => {
                if started && let Some(refusal) = engine.never_ran(&place, status) {
                    return Err(refusal);
                }
                // When the kernel kills a child for want of memory, its parent often ends with a code of its own.
                match outcome(status) {
                    Outcome::Exited(0) => Outcome::Exited(0),
                    _ if self.group.oom_kills() > 0 => Outcome::OutOfMemory,
                    other => other,
                }
            }
        };
        Ok(Some(Report::Ended { at, outcome, cpu, peak_memory_bytes, notes: Vec::new() }))
    }

    /// Whether it was started, and how it ended.
    fn run(
        &mut self,
        engine: &dyn Engine,
        place: &Place,
        streams: [OwnedFd; 3],
        watch: &mut Watch<'_>,
    ) -> Result<(bool, Ended), Refusal> {
        let failed = |error: &dyn std::fmt::Display| Refusal::Failed(format!("can't make the container: {error}"));
        let (words, told) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| failed(&error))?;
        let maker = namespaces::fork(|| self.make(engine, place, &streams, &told)).map_err(|error| failed(&error))?;
        drop(told);
        // Readers of the container's output wait until the last copy is closed.
        drop(streams);

        let said = match self.wait_for_words(words, watch)? {
            Ok(said) => said,
            Err(ended) => return Ok((false, ended)),
        };
        let status = match self.wait_for(maker, watch)? {
            Ended::Process(status) => status,
            ended => return Ok((false, ended)),
        };
        self.group.made(&self.order.limits);
        let process = engine.made(place, status, &said)?;
        wire::report(self.caller, &Report::Started { at: wire::now() });
        Ok((true, self.wait_for_end(process, watch)?))
    }

    /// In the maker. What it returns is its end.
    fn make(&self, engine: &dyn Engine, place: &Place, streams: &[OwnedFd; 3], told: &OwnedFd) -> i32 {
        let attempt = || -> io::Result<()> {
            self.group.join()?;
            if self.order.network == Network::None {
                namespaces::unshare(UnshareFlags::NEWNET)?;
                loopback::raise()?;
            }
            rustix::stdio::dup2_stdin(&streams[0])?;
            rustix::stdio::dup2_stdout(&streams[1])?;
            rustix::stdio::dup2_stderr(&streams[2])?;
            namespaces::close_but(told)
        };
        match attempt() {
            Ok(()) => engine.make(place, self.order, told),
            Err(error) => {
                engine::tell(told, &engine::Word::Failed(format!("can't set the container up: {error}")));
                1
            }
        }
    }

    /// All that is written into the pipe until its last writer is gone.
    fn wait_for_words(&mut self, words: OwnedFd, watch: &mut Watch<'_>) -> Result<Result<Vec<u8>, Ended>, Refusal> {
        let mut words = File::from(words);
        let mut said = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            if let Some(ended) = self.wait(words.as_fd(), watch, None)? {
                return Ok(Err(ended));
            }
            match words.read(&mut buffer) {
                Ok(0) => return Ok(Ok(said)),
                Ok(count) => said.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Refusal::Failed(format!("can't hear the maker: {error}"))),
            }
        }
    }

    /// The end of a process that makes the container.
    fn wait_for(&mut self, process: Pid, watch: &mut Watch<'_>) -> Result<Ended, Refusal> {
        let Some(handle) = self.children.open(process)? else {
            return Ok(Ended::Process(self.children.status(process)?));
        };
        match self.wait(handle.as_fd(), watch, None)? {
            Some(ended) => Ok(ended),
            None => Ok(Ended::Process(self.children.status(process)?)),
        }
    }

    /// The end of the container's first process, which is asked and then made to when it is told to stop.
    fn wait_for_end(&mut self, process: Pid, watch: &mut Watch<'_>) -> Result<Ended, Refusal> {
        let Some(handle) = self.children.open(process)? else {
            return Ok(Ended::Process(self.children.status(process)?));
        };
        match self.wait(handle.as_fd(), watch, None)? {
            None => return Ok(Ended::Process(self.children.status(process)?)),
            Some(Ended::Asked) => {}
            Some(ended) => return Ok(ended),
        }
        send(process, self.order.process.stop_signal);
        let until = Instant::now() + self.order.stop_grace;
        Ok(match self.wait(handle.as_fd(), watch, Some(until))? {
            Some(Ended::Unwanted) => Ended::Unwanted,
            _ => Ended::Here(Outcome::Cancelled),
        })
    }

    /// Until `event` can be read, which is `None`; or somebody or a limit ends it all. With `until`, the stop has been told
    /// already, and that is the time left.
    fn wait(
        &mut self,
        event: BorrowedFd<'_>,
        watch: &mut Watch<'_>,
        until: Option<Instant>,
    ) -> Result<Option<Ended>, Refusal> {
        loop {
            let mut left = match watch.look() {
                Ok(left) => left,
                Err(outcome) => return Ok(Some(Ended::Here(outcome))),
            };
            if let Some(until) = until {
                let grace = until.saturating_duration_since(Instant::now());
                if grace.is_zero() {
                    return Ok(Some(Ended::Here(Outcome::Cancelled)));
                }
                left = Some(left.map_or(grace, |left| left.min(grace)));
            }
            let mut sources =
                [PollFd::from_borrowed_fd(event, PollFlags::IN), PollFd::new(&self.caller, PollFlags::IN)];
            match rustix::event::poll(&mut sources, timespec(left).as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Refusal::Failed(format!("can't wait: {error}"))),
            }
            if !sources[0].revents().is_empty() {
                return Ok(None);
            }
            if !sources[1].revents().is_empty() {
                let mut buffer = [0; 64];
                match rustix::io::read(self.caller, &mut buffer) {
                    Ok(0) => return Ok(Some(Ended::Unwanted)),
                    // Both wishes may come at once.
                    Ok(read) if buffer[..read].windows(wire::KILL.len()).any(|word| word == wire::KILL) => {
                        return Ok(Some(Ended::Here(Outcome::Cancelled)));
                    }
                    Ok(_) if until.is_none() => return Ok(Some(Ended::Asked)),
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(_) => return Ok(Some(Ended::Unwanted)),
                }
            }
        }
    }
}

fn timespec(left: Option<Duration>) -> Option<Timespec> {
    // Rounded up, so as not to wake just before the time.
    left.map(|left| left + Duration::from_millis(1)).and_then(|left| left.try_into().ok())
}

fn outcome(status: WaitStatus) -> Outcome {
    match (status.exit_status(), status.terminating_signal()) {
        (_, Some(signal)) => Outcome::Signalled(signal),
        (code, None) => Outcome::Exited(code.unwrap_or(1)),
    }
}

/// The keeper's children. As the first process of its pid namespace it gets all that lose their parent.
#[derive(Debug, Default)]
struct Children {
    /// Those that ended while somebody else was waited for.
    ended: Vec<(Pid, WaitStatus)>,
}

impl Children {
    /// Something to wait for a child's end by; `None`: it has ended and been taken.
    fn open(&mut self, child: Pid) -> Result<Option<OwnedFd>, Refusal> {
        if self.ended.iter().any(|(pid, _)| *pid == child) {
            return Ok(None);
        }
        match rustix::process::pidfd_open(child, PidfdFlags::empty()) {
            Ok(handle) => Ok(Some(handle)),
            Err(Errno::SRCH) => Ok(None),
            Err(error) => Err(Refusal::Failed(format!("can't wait for a process: {error}"))),
        }
    }

    /// The status of a process that has ended. It may still be a child of an engine's process that is about to end too,
    /// and falls to the keeper then.
    fn status(&mut self, process: Pid) -> Result<WaitStatus, Refusal> {
        loop {
            if let Some(at) = self.ended.iter().position(|(pid, _)| *pid == process) {
                return Ok(self.ended.swap_remove(at).1);
            }
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some(ended)) => self.ended.push(ended),
                Ok(None) | Err(Errno::INTR) => {}
                Err(error) => return Err(Refusal::Failed(format!("can't wait for process {process}: {error}"))),
            }
        }
    }

    /// Kills all that live in this pid namespace, and waits until they are gone.
    fn end_all(&mut self) {
        loop {
            // To the first process of a pid namespace, `-1` is all others in it.
            let _ = rustix::process::kill_process_group(Pid::INIT, Signal::KILL);
            match rustix::process::wait(WaitOptions::empty()) {
                Ok(Some(ended)) => self.ended.push(ended),
                Ok(None) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

/// A signal by number, real-time ones too.
fn send(process: Pid, signal: i32) {
    #[expect(unsafe_code, reason = "rustix has no real-time signals that the C library doesn't keep for itself")]
    // SAFETY: kill(2) touches no memory, and refuses a number that is no signal.
    unsafe {
        libc::kill(process.as_raw_nonzero().get(), signal);
    }
}
