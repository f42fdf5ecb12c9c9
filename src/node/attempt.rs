//! Owns one attempt at a task: made ready, started, ended, recorded; then another, where the submit asked for it.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt as _;
use prost::Message as _;
use tracing::Instrument as _;
use vyr_proto::v0::{EndReason, Execution, ExecutionPath, StartTier, Task, TaskEnd, TaskStatus, Trap};

use super::Node;
use super::live::Live;
use super::log::Capture;
use super::trace::failed;
use crate::db::{Change, DbError};
use crate::engine::{self, Clock, Deterministic, Input, Limits, NetRule, Outcome, Output};
use crate::error::{Error, ErrorKind};
use crate::ops::container::Options;
use crate::ops::prepare::Runnable;
use crate::ops::run::{Guest, SIGKILL, TRACEPARENT, execute, signalled};
use crate::ops::state::Bindings;
use crate::task::{instant, micros, retry_after, timestamp, to_duration};
use crate::telemetry;

/// How long a write that failed waits before it is tried again.
const WRITE_AGAIN: Duration = Duration::from_millis(500);
/// How long a start that found no memory or slot free waits, unless something ends before.
const BUSY_AGAIN: Duration = Duration::from_millis(100);

pub(super) fn duration(duration: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(duration).unwrap_or_default()
}

/// The most that a task's end says in words, in bytes: they may quote what the artifact's author wrote.
const MOST_WORDS: usize = 16 << 10;

impl Node {
    /// Makes a task that has a place ready, and starts it.
    pub(super) fn begin(&self, live: Arc<Live>) {
        let node = self.clone();
        tokio::spawn(async move {
            let queued = live.due().elapsed();
            live.tell(TaskStatus::Preparing, |_| {});
            // It may have been taken by a node that was started otherwise.
            if let Err(e) = node.permitted(&live.spec) {
                let refused = Error::new(ErrorKind::Refused, e.why()).hint(e.next().unwrap_or_default());
                return node.end_before_start(&live, Some(&refused), true);
            }
            let began = Instant::now();
            let span = live.trace.preparing();
            let preparing = node
                .inner
                .ready
                .prepare(&node.inner.vyr, &live.spec, live.asked_by(), &live.root)
                .instrument(span.clone());
            // Strangers' content is read and compiled there.
            let preparing = AssertUnwindSafe(preparing).catch_unwind();
            let prepared = tokio::select! {
                biased;
                () = live.cancel.cancelled() => return node.end_before_start(&live, None, true),
                prepared = preparing => prepared.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "to make it ready panicked"))),
            };
            let (runnable, tier) = match prepared {
                Ok(ready) => ready,
                Err(e) => {
                    failed(&span, &e);
                    drop(span);
                    return node.end_before_start(&live, Some(&e), true);
                }
            };
            let binding = node.bind_states(&live, &runnable).instrument(span.clone());
            let bound = tokio::select! {
                biased;
                () = live.cancel.cancelled() => return node.end_before_start(&live, None, true),
                bound = binding => bound,
            };
            let bindings = match bound {
                Ok(bindings) => bindings,
                Err(e) => {
                    failed(&span, &e);
                    drop(span);
                    return node.end_before_start(&live, Some(&e), true);
                }
            };
            drop(span);
            let prepare = began.elapsed();
            node.inner.starting.fetch_add(1, Ordering::SeqCst);
            if node.inner.stopped.load(Ordering::SeqCst) {
                // It has not started: the next start of the node takes it up as it is.
                node.inner.starting.fetch_sub(1, Ordering::SeqCst);
                return;
            }
            // From here on the guest may have effects: that has to be on disk first.
            let mut record = Task::clone(&live.told.borrow());
            record.status = TaskStatus::Running.into();
            record.attempt = live.attempt();
            // What a node that dies now leaves to be told.
            record.execution = Some(Execution { tier: tier.into(), ..about(&runnable) });
            node.write(&live, TaskStatus::Running, None, &record, None).await;
            node.start(live, runnable, Some(queued), Some((prepare, tier)), bindings);
            node.inner.starting.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Starts a guest; that it may run is on disk. `prepared` is how long it took and what there was, for one that was not
    /// ready at its submit.
    pub(super) fn start(
        &self,
        live: Arc<Live>,
        runnable: Arc<Runnable>,
        queued: Option<Duration>,
        prepared: Option<(Duration, StartTier)>,
        bindings: Bindings,
    ) {
        let node = self.clone();
        let tag = live.tag;
        live.set_running(&runnable, prepared.map_or(StartTier::S3, |(_, tier)| tier));
        live.tell(TaskStatus::Running, |record| record.started_at = Some(timestamp(micros(SystemTime::now()))));
        let guest = async move {
            let bindings = Arc::new(bindings);
            let sealing = node.seal_while_running(&bindings);
            let (mut execution, ended) = node.attempt(&live, runnable, &bindings).await;
            if let Some((ended, sealing)) = sealing {
                ended.cancel();
                // It ends with what it is at.
                drop(sealing.await);
            }
            // What it wrote is on disk before its end is told.
            node.let_go_of_states(&live, bindings).await;
            let (prepare, tier) = prepared.unwrap_or((Duration::ZERO, StartTier::S3));
            // Unless it fell back when it was to start: then what there was of the container counts.
            if execution.tier() == StartTier::Unspecified {
                execution.tier = tier.into();
            }
            execution.queued = queued.map(duration);
            execution.prepare = Some(duration(prepare));
            let took = execution.submit_to_start.map(to_duration);
            node.inner.metrics.started(execution.tier(), execution.path(), took);
            node.ended(&live, ended, Some(execution), true);
        };
        self.inner.executor.spawn(tag, guest);
    }

    /// Runs the guest to its end.
    async fn attempt(
        &self,
        live: &Live,
        mut runnable: Arc<Runnable>,
        bindings: &Bindings,
    ) -> (Execution, (TaskStatus, TaskEnd)) {
        let mut fell_back = StartTier::Unspecified;
        loop {
            let mut execution = Execution { tier: fell_back.into(), ..about(&runnable) };
            let before = live.due().elapsed();
            let run = execute(&runnable, self.guest(live, bindings), &live.cancel);
            let done = AssertUnwindSafe(run).catch_unwind().await;
            let done = done.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the runtime panicked")));
            match done {
                Ok(done) => {
                    execution.submit_to_start = Some(duration(before + done.instantiate));
                    execution.instantiate = Some(duration(done.instantiate));
                    execution.run = Some(duration(done.run));
                    execution.cpu = Some(duration(done.cpu));
                    execution.peak_memory_bytes = done.peak_memory_bytes;
                    execution.engine = done.engine.clone().unwrap_or_default();
                    execution.notes.clone_from(&done.notes);
                    if let Some(fallback) = runnable.fallback() {
                        telemetry::count::fell_back(fallback.reason.as_str());
                    }
                    return (execution, end_of(live, &done));
                }
                // No slot, or no memory in the node's budget: it has to wait for another's end, if there is another.
                Err(e)
                    if e.kind() == ErrorKind::Exhausted && self.sched().load().0 > 1 && !live.cancel.is_cancelled() =>
                {
                    tokio::select! {
                        () = self.inner.freed.notified() => {}
                        () = tokio::time::sleep(BUSY_AGAIN) => {}
                        () = live.cancel.cancelled() => {}
                    }
                }
                // It may be that the container beside it can.
                Err(e) => {
                    let instead = self.inner.ready.instead(&self.inner.vyr, &live.spec, &runnable, e, live.asked_by());
                    let found = tokio::select! {
                        biased;
                        () = live.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, "it was cancelled before it started")),
                        found = instead => found,
                    };
                    match found {
                        Ok((container, tier)) => {
                            (runnable, fell_back) = (container, tier);
                            live.set_running(&runnable, tier);
                        }
                        Err(e) => {
                            execution.path = ExecutionPath::Unspecified.into();
                            let cancelled = e.kind() == ErrorKind::Cancelled;
                            return (execution, could_not_start(live, Some(&e).filter(|_| !cancelled)));
                        }
                    }
                }
            }
        }
    }

    fn guest(&self, live: &Live, bindings: &Bindings) -> Guest {
        let mut env: Vec<_> = live.spec.env.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        if !live.spec.env.contains_key(TRACEPARENT)
            && let Some(context) = live.trace.for_guest(live.attempt())
        {
            env.push((TRACEPARENT.to_owned(), context));
        }
        let limits = live.spec.limits.unwrap_or_default();
        let defaults = Limits::default();
        Guest {
            args: live.spec.args.clone(),
            env,
            dirs: Vec::new(),
            states: bindings.doors(),
            deterministic: live.spec.deterministic.map(made),
            limits: Limits {
                memory_bytes: if limits.memory_bytes == 0 { defaults.memory_bytes } else { limits.memory_bytes },
                wall: limits.timeout.map(to_duration),
                cpu: limits.cpu.map(to_duration),
                ..defaults
            },
            // Checked at the submit.
            allow_net: live.spec.allow_net.iter().filter_map(|rule| rule.parse::<NetRule>().ok()).collect(),
            stdin: if live.spec.stdin.is_empty() { Input::Null } else { Input::bytes(live.spec.stdin.clone()) },
            stdout: Output::Stream(Box::new(Capture::stdout(&live.log))),
            stderr: Output::Stream(Box::new(Capture::stderr(&live.log))),
            budget: Some(Arc::clone(&self.inner.budget)),
            container: container_options(live.spec.container.as_ref()),
        }
    }

    /// A task ends whose guest was not started: by an error, or because it was cancelled.
    pub(super) fn end_before_start(&self, live: &Arc<Live>, error: Option<&Error>, has_place: bool) {
        let ended = could_not_start(live, error);
        self.ended(live, ended, None, has_place);
    }

    /// An attempt has ended. Its place is given on at once; the end is told when it is on disk.
    pub(super) fn ended(
        &self,
        live: &Arc<Live>,
        (status, mut end): (TaskStatus, TaskEnd),
        execution: Option<Execution>,
        has_place: bool,
    ) {
        for words in [&mut end.message, &mut end.next] {
            words.truncate(words.floor_char_boundary(MOST_WORDS));
        }
        if has_place {
            self.sched().release();
            self.inner.freed.notify_waiters();
            self.run_next();
        }
        let attempt = live.attempt();
        let again = match live.cancelled.get() {
            Some(_) => None,
            None => {
                retry_after(live.spec.retry.as_ref(), attempt.saturating_sub(live.told.borrow().interruptions), &end)
            }
        };
        let before = Arc::clone(&live.told.borrow());
        let mut record = Task {
            started_at: before.started_at,
            attempt,
            interruptions: before.interruptions,
            end: Some(end),
            execution: execution.or_else(|| before.execution.clone()),
            ..Task::default()
        };
        let (node, in_file) = (self.clone(), live.log.is_in_file());
        match again {
            Some(wait) => {
                let next = live.next_attempt();
                record.status = TaskStatus::Queued.into();
                record.attempt = next;
                record.end = None;
                live.log.spill();
                let live = Arc::clone(live);
                tokio::spawn(async move {
                    node.write(&live, TaskStatus::Queued, None, &record, None).await;
                    live.told.send_replace(Arc::new(record));
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = live.cancel.cancelled() => return node.end_before_start(&live, None, false),
                    }
                    live.set_due();
                    node.sched().queue_again(Arc::clone(&live));
                    // A cancel that came in between did not find it in the queue.
                    if live.cancel.is_cancelled()
                        && let Some(live) = { node.sched().remove(&live.share, live.id) }
                    {
                        return node.end_before_start(&live, None, false);
                    }
                    node.run_next();
                });
            }
            None => {
                let ended_us = micros(SystemTime::now());
                record.status = status.into();
                record.ended_at = Some(timestamp(ended_us));
                let live = Arc::clone(live);
                let finish = move || {
                    let log = live.log.seal();
                    record.logs = Some(live.log.summary());
                    let receipt = node.receipt_of(&live, &record);
                    node.record_end(live, record, ended_us, log, receipt);
                };
                if in_file {
                    // It is synced, which takes its time.
                    drop(tokio::task::spawn_blocking(finish));
                } else {
                    finish();
                }
            }
        }
    }

    /// Writes a task's end and tells of it; keeps trying for as long as it can't be written.
    fn record_end(
        &self,
        live: Arc<Live>,
        record: Task,
        ended_us: i64,
        log: Option<bytes::Bytes>,
        receipt: Option<bytes::Bytes>,
    ) {
        let change = change(&live, record.status(), Some(ended_us), &record, log.clone());
        let change = Change { receipt: receipt.clone(), ..change };
        let node = self.clone();
        self.inner.db.change(change, move |done| match done {
            Ok(()) => {
                node.inner.metrics.ended(record.status());
                node.send_trace(&live, &record);
                live.told.send_replace(Arc::new(record));
                live.clear_running();
                live.log.close();
                node.live().remove(&live.id);
                node.end_own_states(&live);
                node.inner.freed.notify_waiters();
            }
            Err(DbError::Closed) => {}
            Err(e) => {
                tracing::error!(task = %live.id, error = %e, "a task's end could not be written; it is tried again");
                tokio::spawn(async move {
                    tokio::time::sleep(WRITE_AGAIN).await;
                    node.record_end(live, record, ended_us, log, receipt);
                });
            }
        });
    }

    /// Writes what is new about a task that goes on; keeps trying for as long as it can't be written.
    pub(super) async fn write(
        &self,
        live: &Live,
        status: TaskStatus,
        ended_us: Option<i64>,
        record: &Task,
        log: Option<bytes::Bytes>,
    ) {
        loop {
            let change = change(live, status, ended_us, record, log.clone());
            match self.inner.db.changed(change).await {
                Ok(()) => return,
                Err(DbError::Closed) => return std::future::pending().await,
                Err(e) => {
                    tracing::error!(task = %live.id, error = %e, "a task could not be written; it is tried again");
                    tokio::time::sleep(WRITE_AGAIN).await;
                }
            }
        }
    }
}

/// What a guest's time and chance are made from.
pub(super) fn made(made: vyr_proto::v0::Deterministic) -> Deterministic {
    let default = Deterministic::default();
    Deterministic { seed: made.seed, start: made.start.map_or(default.start, instant) }
}

/// How a submit wants its container.
pub(super) fn container_options(asked: Option<&vyr_proto::v0::Container>) -> Options {
    let defaults = Options::default();
    let Some(asked) = asked else { return defaults };
    Options {
        entrypoint: asked.entrypoint.clone(),
        user: Some(asked.user.clone()).filter(|user| !user.is_empty()),
        working_dir: Some(asked.working_dir.clone()).filter(|dir| !dir.is_empty()),
        writable_root: asked.writable_root,
        pids: if asked.pids == 0 { defaults.pids } else { asked.pids.into() },
        disk_bytes: Some(asked.disk_bytes).filter(|bytes| *bytes > 0),
        cpus_milli: Some(u64::from(asked.cpus_milli)).filter(|cpus| *cpus > 0),
        stop_grace: asked.stop_grace.map_or(defaults.stop_grace, to_duration),
    }
}

/// What is known of an execution when it begins.
pub(super) fn about(runnable: &Runnable) -> Execution {
    let fallback = runnable.fallback();
    Execution {
        path: if fallback.is_some() { ExecutionPath::Container } else { ExecutionPath::Wasm }.into(),
        fallback_reason: fallback.map(|fallback| fallback.reason.as_str().to_owned()).unwrap_or_default(),
        fallback_message: fallback.map(|fallback| fallback.message.clone()).unwrap_or_default(),
        digest: runnable.root.to_string(),
        manifest: runnable.selected.to_string(),
        code: runnable.code.to_string(),
        form: runnable.form.as_str().to_owned(),
        kind: runnable.kind.to_owned(),
        acceptance: runnable.acceptance().to_string(),
        signed_digest: runnable.signed().to_string(),
        ..Execution::default()
    }
}

fn change(live: &Live, status: TaskStatus, ended_us: Option<i64>, record: &Task, log: Option<bytes::Bytes>) -> Change {
    Change { seq: live.seq(), status, ended_us, record: record.encode_to_vec().into(), log, receipt: None }
}

/// How a guest that was started has ended.
fn end_of(live: &Live, execution: &engine::Execution) -> (TaskStatus, TaskEnd) {
    let message = format!("the guest {}", execution.outcome);
    let next = match execution.outcome.helps() {
        Some(next) => next.to_owned(),
        // Of a container these are the machine's shortcomings.
        None if execution.engine.is_none() => execution.notes.join("; "),
        None => String::new(),
    };
    let end = |reason: EndReason| TaskEnd {
        reason: reason.into(),
        message: message.clone(),
        next: next.clone(),
        ..TaskEnd::default()
    };
    match &execution.outcome {
        Outcome::Exited(code) => {
            let status = if *code == 0 { TaskStatus::Succeeded } else { TaskStatus::Failed };
            (status, TaskEnd { exit_code: Some(*code), ..end(EndReason::Exited) })
        }
        Outcome::Trapped(trapped) => {
            let trap = Trap { kind: trapped.kind.to_owned(), backtrace: trapped.backtrace.clone().unwrap_or_default() };
            (TaskStatus::Failed, TaskEnd { trap: Some(trap), ..end(EndReason::Trapped) })
        }
        Outcome::TimedOut(Clock::Wall) => (TaskStatus::TimedOut, end(EndReason::WallClockLimit)),
        Outcome::TimedOut(Clock::Cpu) => (TaskStatus::TimedOut, end(EndReason::CpuLimit)),
        Outcome::Cancelled => cancelled(live),
        Outcome::Signalled(signal) => {
            (TaskStatus::Failed, TaskEnd { exit_code: Some(signalled(*signal)), ..end(EndReason::Signalled) })
        }
        Outcome::OutOfMemory => {
            (TaskStatus::Failed, TaskEnd { exit_code: Some(signalled(SIGKILL)), ..end(EndReason::MemoryLimit) })
        }
        Outcome::OverQuota(_) => {
            (TaskStatus::Failed, TaskEnd { exit_code: Some(signalled(SIGKILL)), ..end(EndReason::Signalled) })
        }
    }
}

fn cancelled(live: &Live) -> (TaskStatus, TaskEnd) {
    let (reason, asked) = live.cancelled.get().copied().unwrap_or((EndReason::CancelledByClient, Instant::now()));
    let message = match reason {
        EndReason::NodeStopped => "the node was stopped",
        _ => "it was cancelled",
    };
    let end = TaskEnd {
        reason: reason.into(),
        message: message.into(),
        cancel_latency: Some(duration(asked.elapsed())),
        ..TaskEnd::default()
    };
    (TaskStatus::Cancelled, end)
}

fn could_not_start(live: &Live, error: Option<&Error>) -> (TaskStatus, TaskEnd) {
    let Some(error) = error else { return cancelled(live) };
    let (status, reason) = match error.kind() {
        ErrorKind::Refused => (TaskStatus::Refused, EndReason::Refused),
        _ => (TaskStatus::Failed, EndReason::CouldNotStart),
    };
    let end = TaskEnd {
        reason: reason.into(),
        message: error.why().to_owned(),
        error_kind: error.kind().as_str().to_owned(),
        next: error.next().unwrap_or_default().to_owned(),
        ..TaskEnd::default()
    };
    (status, end)
}
