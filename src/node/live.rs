//! Owns a task that has not ended, in memory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use prost::Message as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use vyr_proto::v0::{EndReason, Execution, ExecutionPath, StartTier, Task, TaskSpec, TaskStatus};

use super::attempt::{about, container_options};
use super::executor::Tag;
use super::log::TaskLog;
use super::trace::TaskTrace;
use crate::oci::Digest;
use crate::ops::audit::AskedBy;
use crate::ops::prepare::Runnable;
use crate::receipt::StateFacts;
use crate::state::StateId;
use crate::task::{StatusExt as _, TaskId, timestamp};

/// A task that has not ended.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: TaskId,
    /// Its place in the order of submits, known once it is on disk.
    pub(super) seq: OnceLock<i64>,
    pub(super) tag: Tag,
    pub(super) spec: TaskSpec,
    pub(super) submitter: Arc<str>,
    /// Whose turn it is when it waits: the submitter, or the connection of one that nobody knows.
    pub(super) share: Arc<str>,
    pub(super) key: String,
    pub(super) submitted_us: i64,
    /// When the attempt became due.
    due: Mutex<Instant>,
    /// The record as it is on disk, which is what may be told: everything but what was submitted.
    pub(super) told: watch::Sender<Arc<Task>>,
    pub(super) log: Arc<TaskLog>,
    pub(super) trace: TaskTrace,
    pub(super) cancel: CancellationToken,
    /// Why it was cancelled, and when that was asked for. The first request counts.
    pub(super) cancelled: OnceLock<(EndReason, Instant)>,
    /// The states that end with it.
    pub(super) own_states: OnceLock<Vec<StateId>>,
    /// What its receipt says of its states.
    states: Mutex<Vec<StateFacts>>,
    attempt: AtomicU32,
    /// The digest that its reference was found to name, also where it came to nothing then. The first one counts.
    pub(super) root: OnceLock<Digest>,
    /// What runs, while it does: so that it can be told before its end, at no cost to its start.
    running: Mutex<Option<(Arc<Runnable>, StartTier)>>,
}

impl Live {
    /// On whose behalf it runs, for the record of what goes round the policy.
    pub(super) fn asked_by(&self) -> AskedBy {
        AskedBy { submitter: Arc::clone(&self.submitter), task: self.id.to_string() }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields, once")]
    pub(super) fn new(
        id: TaskId,
        tag: Tag,
        spec: TaskSpec,
        submitter: Arc<str>,
        share: Arc<str>,
        key: String,
        submitted_us: i64,
        record: Task,
        log: TaskLog,
    ) -> Self {
        Self {
            trace: TaskTrace::of(id, &spec.traceparent),
            id,
            seq: OnceLock::new(),
            tag,
            spec,
            submitter,
            share,
            key,
            submitted_us,
            due: Mutex::new(Instant::now()),
            attempt: AtomicU32::new(record.attempt.max(1)),
            told: watch::Sender::new(Arc::new(record)),
            log: Arc::new(log),
            cancel: CancellationToken::new(),
            cancelled: OnceLock::new(),
            own_states: OnceLock::new(),
            states: Mutex::default(),
            root: OnceLock::new(),
            running: Mutex::default(),
        }
    }

    /// What it was submitted with, in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.spec.encoded_len() as u64
    }

    pub(super) fn seq(&self) -> i64 {
        self.seq.get().copied().unwrap_or_default()
    }

    pub(super) fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed)
    }

    /// Counts up for one more attempt, which is due from now.
    pub(super) fn next_attempt(&self) -> u32 {
        let attempt = self.attempt.fetch_add(1, Ordering::Relaxed) + 1;
        self.log.attempt(attempt);
        // It may be long until then: what ran is not held for it.
        self.clear_running();
        attempt
    }

    pub(super) fn due(&self) -> Instant {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_due(&self) {
        *self.due.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(super) fn set_running(&self, runnable: &Arc<Runnable>, tier: StartTier) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = Some((Arc::clone(runnable), tier));
    }

    /// What its receipt says of its states.
    pub(super) fn state_facts(&self) -> Vec<StateFacts> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_state_facts(&self, facts: Vec<StateFacts>) {
        *self.states.lock().unwrap_or_else(PoisonError::into_inner) = facts;
    }

    /// What runs, or ran last.
    pub(super) fn runnable(&self) -> Option<Arc<Runnable>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_ref().map(|(runnable, _)| Arc::clone(runnable))
    }

    /// How long it may take to end once it is told to: a container has time to finish.
    pub(super) fn stop_grace(&self) -> Duration {
        let is_container = self.runnable().is_some_and(|runnable| about(&runnable).path() == ExecutionPath::Container);
        if is_container { container_options(self.spec.container.as_ref()).stop_grace } else { Duration::ZERO }
    }

    /// Lets go of what ran: who reads on would hold it against collection.
    pub(super) fn clear_running(&self) {
        *self.running.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn status(&self) -> TaskStatus {
        self.told.borrow().status()
    }

    /// Tells of a status that needs no write of its own.
    pub(super) fn tell(&self, status: TaskStatus, change: impl FnOnce(&mut Task)) {
        self.told.send_modify(|record| {
            debug_assert!(
                record.status() == status || record.status().may_become(status),
                "{:?} → {status:?}",
                record.status()
            );
            let record = Arc::make_mut(record);
            record.status = status.into();
            change(record);
        });
    }

    /// The spec as it may be told.
    pub(super) fn shown(&self) -> TaskSpec {
        shown(&self.spec)
    }

    /// The task as it is told to clients.
    pub(super) fn task(&self) -> Task {
        let mut record = Task::clone(&self.told.borrow());
        record.logs = Some(self.log.summary());
        if record.status() == TaskStatus::Running
            && let Some((runnable, tier)) = &*self.running.lock().unwrap_or_else(PoisonError::into_inner)
        {
            record.execution = Some(Execution { tier: (*tier).into(), ..about(runnable) });
        }
        whole(record, self.id, self.submitted_us, &self.submitter, &self.key, self.shown())
    }
}

/// The spec as it may be told: the values of variables and the standard input may be secrets.
pub(super) fn shown(spec: &TaskSpec) -> TaskSpec {
    TaskSpec {
        reference: spec.reference.clone(),
        args: spec.args.clone(),
        env: spec.env.keys().map(|k| (k.clone(), String::new())).collect(),
        stdin: bytes::Bytes::new(),
        limits: spec.limits,
        on_interrupt: spec.on_interrupt,
        retry: spec.retry.clone(),
        pull: spec.pull,
        allow_unsigned: spec.allow_unsigned,
        allow_net: spec.allow_net.clone(),
        states: spec.states.clone(),
        labels: spec.labels.clone(),
        traceparent: spec.traceparent.clone(),
        receipt_values: spec.receipt_values,
        deterministic: spec.deterministic,
        path: spec.path,
        container: spec.container.clone(),
    }
}

/// A record with what was submitted.
pub(super) fn whole(record: Task, id: TaskId, submitted_us: i64, submitter: &str, key: &str, spec: TaskSpec) -> Task {
    Task {
        id: id.to_string(),
        trace_id: TaskTrace::of(id, &spec.traceparent).trace_id(),
        spec: Some(spec),
        submitted_at: Some(timestamp(submitted_us)),
        submitter: submitter.to_owned(),
        idempotency_key: key.to_owned(),
        ..record
    }
}
