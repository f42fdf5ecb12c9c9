//! Owns the way of a task into the node: checked, given a place, on disk, acknowledged. And out of it: cancellation.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use prost::Message as _;
use tokio::sync::oneshot;
use vyr_proto::v0::{EndReason, Task, TaskSpec, TaskStatus};

use super::Node;
use super::live::Live;
use super::log::TaskLog;
use super::sched::Place;
use super::state::wishes;
use crate::db::{DbError, Inserted, NewTask};
use crate::engine::NetRule;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, sha256_bytes};
use crate::ops::prepare::Runnable;
use crate::ops::state::{Bindings, check_wishes};
use crate::task::{DEFAULT_LOG_BYTES, StatusExt as _, TaskId, micros};

/// One submit. Its spec must have passed [`check`].
#[derive(Debug)]
pub struct Submit {
    /// What.
    pub spec: TaskSpec,
    /// Makes repeated submits one task; empty: none.
    pub key: String,
    /// Who.
    pub submitter: Arc<str>,
    /// Whose turn it is when it waits: the submitter, or the connection of one that nobody knows.
    pub share: Arc<str>,
    /// Hold the answer until the task has ended, or for this long.
    pub wait: Option<Duration>,
}

/// The answer.
#[derive(Debug)]
pub struct Submitted {
    /// The task as it stands.
    pub task: Task,
    /// It was there before.
    pub existing: bool,
}

pub(super) fn log_limit(spec: &TaskSpec) -> u64 {
    match spec.limits.map_or(0, |limits| limits.log_bytes) {
        0 => DEFAULT_LOG_BYTES,
        bytes => bytes,
    }
}

/// What an idempotency key stands for: all but whose trace a submit is in, which is another at each try.
fn hash_of(spec: &TaskSpec) -> [u8; 32] {
    if spec.traceparent.is_empty() {
        return sha256_bytes(&spec.encode_to_vec());
    }
    sha256_bytes(&TaskSpec { traceparent: String::new(), ..spec.clone() }.encode_to_vec())
}

/// Everything that is wrong with a submit, each as the field's path and what is wrong with it.
#[must_use]
pub fn check(spec: &TaskSpec, key: &str) -> Vec<(String, String)> {
    let mut wrong = crate::task::check(spec, key);
    for rule in &spec.allow_net {
        if let Err(e) = rule.parse::<NetRule>() {
            wrong.push(("spec.allow_net".to_owned(), e.to_string()));
        }
    }
    if let Err(e) = check_wishes(&wishes(spec)) {
        wrong.push(("spec.states".to_owned(), e.why().to_owned()));
    }
    wrong
}

/// How often a task that a cancel is for is looked for in memory, a millisecond apart.
const LOOKS: u32 = 200;

impl Node {
    /// Takes a task. When this returns it is on disk, and goes on whatever becomes of the caller.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`]: the queue or the disk is full. [`ErrorKind::Conflict`]: the key was used for something
    /// else. [`ErrorKind::NotFound`]: a bare digest that the store lacks. [`ErrorKind::Forbidden`]: the trust policy may
    /// not be overruled here, or the network not be reached so far. [`ErrorKind::Unavailable`]: the node is stopping, or its database is locked.
    pub async fn submit(&self, submit: Submit) -> Result<Submitted> {
        let wait = submit.wait;
        let known = (!submit.key.is_empty())
            .then(|| (Arc::clone(&submit.submitter), submit.key.clone(), hash_of(&submit.spec)));
        let accepted = match (self.accept(submit).await, known) {
            // What keeps a new task out keeps nobody from a task that is there.
            (Err(e), Some((submitter, key, hash))) if e.kind() != ErrorKind::Conflict => {
                match self.inner.db.by_key(&submitter, &key).await? {
                    Some((id, same)) if same == hash => Ok((None, id)),
                    _ => Err(e),
                }
            }
            (accepted, _) => accepted,
        };
        let (live, known) = accepted?;
        match (live, known) {
            (Some(live), _) => {
                if let Some(wait) = wait {
                    self.wait_for(&live, wait).await;
                }
                Ok(Submitted { task: live.task(), existing: false })
            }
            (None, id) => Ok(Submitted { task: self.get(id, wait).await?, existing: true }),
        }
    }

    async fn accept(&self, submit: Submit) -> Result<(Option<Arc<Live>>, TaskId)> {
        let Submit { spec, key, submitter, share, .. } = submit;
        self.permitted(&spec)?;
        if let Ok(ArtifactRef::Stored(digest)) = spec.reference.parse()
            && self.inner.vyr.layout().blob_size(&digest)?.is_none()
        {
            return Err(Error::new(ErrorKind::NotFound, format!("{digest} is not in the store"))
                .hint("name it with its registry, as in host/repository@sha256:…, or put it first"));
        }
        let encoded = spec.encode_to_vec();
        let key_hash = (!key.is_empty()).then(|| (key.clone(), hash_of(&spec)));
        // States have to be bound before a guest can start.
        let stateless = spec.states.is_empty() && !self.inner.states.may_bind();
        let hot = if stateless { self.inner.ready.hot(&self.inner.vyr, &spec) } else { None };
        let place = {
            if self.is_stopping() {
                return Err(stopping());
            }
            self.sched().promise(encoded.len() as u64).map_err(|(tasks, bytes)| {
                let what = match tasks >= self.inner.options.max_queued {
                    true => String::new(),
                    false => format!(", submitted with {bytes} bytes"),
                };
                Error::new(ErrorKind::Exhausted, format!("the queue is full: {tasks} tasks wait already{what}"))
                    .hint("try again when some have ended")
            })?
        };
        let status = match (place, &hot) {
            (Place::Wait, _) => TaskStatus::Queued,
            (Place::Run, None) => TaskStatus::Preparing,
            // Nothing stands between this write and the guest: it says already that the guest may have run.
            (Place::Run, Some(_)) => TaskStatus::Running,
        };
        let id = TaskId::new();
        let submitted_us = micros(SystemTime::now());
        let task =
            NewTask { id, status, submitted_us, submitter: submitter.to_string(), key: key_hash, spec: encoded.into() };
        let log = TaskLog::new(self.log_path(id), log_limit(&spec));
        if self.inner.receipt_key.is_some() {
            log.sum_up();
        }
        let record = Task { status: status.into(), attempt: 1, ..Task::default() };
        let tag = self.inner.tags.fetch_add(1, Ordering::Relaxed);
        let live = Arc::new(Live::new(id, tag, spec, submitter, share, key, submitted_us, record, log));
        let (reply, answer) = oneshot::channel();
        let (node, accepted) = (self.clone(), Arc::clone(&live));
        // Called by the database's writer: the task goes on even if the caller is gone by then.
        self.inner.db.insert(task, move |done| {
            let inserted = node.on_disk(&accepted, place, hot, done);
            drop(reply.send(inserted));
        });
        match answer.await.map_err(|_| DbError::Closed)?? {
            Inserted::New { .. } => Ok((Some(live), id)),
            Inserted::Existing(known) => Ok((None, known)),
            Inserted::Conflict(known) => Err(Error::new(
                ErrorKind::Conflict,
                format!(
                    "the idempotency key `{}` belongs to task {known}, which was submitted with another spec",
                    live.key
                ),
            )
            .hint("use another key for another task")),
        }
    }

    /// Whether this node lets a submit have what it asks for.
    ///
    /// # Errors
    /// [`ErrorKind::Forbidden`].
    pub(super) fn permitted(&self, spec: &TaskSpec) -> Result<()> {
        let options = &self.inner.options;
        if spec.allow_unsigned && !options.allow_unsigned {
            return Err(Error::new(ErrorKind::Forbidden, "this node lets no submit overrule its trust policy")
                .hint("sign the artifact, or start the node with --allow-unsigned"));
        }
        let Some(most) = &options.allow_net_at_most else { return Ok(()) };
        let beyond =
            |rule: &&String| !rule.parse().is_ok_and(|rule| most.iter().any(|own: &NetRule| own.covers(&rule)));
        let Some(rule) = spec.allow_net.iter().find(beyond) else { return Ok(()) };
        let why = format!("this node lets no task reach `{rule}`");
        Err(Error::new(ErrorKind::Forbidden, why).hint(match most.as_slice() {
            [] => "do without the network, or start the node with another --allow-net-at-most".to_owned(),
            most => {
                let most: Vec<String> = most.iter().map(ToString::to_string).collect();
                format!("it allows {}; or start the node with another --allow-net-at-most", most.join(", "))
            }
        }))
    }

    /// A task's first write is done, or isn't.
    fn on_disk(
        &self,
        live: &Arc<Live>,
        place: Place,
        hot: Option<Arc<Runnable>>,
        done: Result<Inserted, DbError>,
    ) -> Result<Inserted, DbError> {
        let Ok(Inserted::New { seq }) = done else {
            self.sched().withdraw(place, live.bytes());
            self.run_next();
            return done;
        };
        let _ = live.seq.set(seq);
        self.live().insert(live.id, Arc::clone(live));
        self.inner.metrics.submitted();
        match (place, hot) {
            (Place::Wait, _) => {
                self.sched().enqueue(Arc::clone(live));
                self.run_next();
            }
            (Place::Run, Some(runnable)) => {
                self.start(Arc::clone(live), runnable, Some(Duration::ZERO), None, Bindings::default());
            }
            (Place::Run, None) => self.begin(Arc::clone(live)),
        }
        done
    }

    /// Gives free places to tasks that wait.
    pub(super) fn run_next(&self) {
        while !self.is_stopping() {
            let Some(live) = self.sched().next() else { return };
            self.begin(live);
        }
    }

    /// Ends a task; one that has ended stays as it is. With `wait`, the answer is held until its end, or for this long. What
    /// was answered is on disk: the end, or that it was asked for.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and what the database fails with: the guest is stopped then all the same.
    pub async fn cancel(&self, id: TaskId, wait: Option<Duration>) -> Result<Task> {
        let mut looks = 0;
        let live = loop {
            if let Some(live) = { self.live().get(&id).cloned() } {
                break live;
            }
            let task = self.get(id, None).await?;
            // One that can't be taken up again is neither ended nor in memory.
            if task.status().is_end() || looks == LOOKS {
                return Ok(task);
            }
            // It is on disk, where a listing may have shown it, and not in memory yet, or no more.
            looks += 1;
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        self.cancel_live(&live, EndReason::CancelledByClient);
        if let Some(wait) = wait {
            self.wait_for(&live, wait).await;
        }
        if !live.told.borrow().status().is_end() {
            self.inner.db.cancelled(live.seq(), micros(SystemTime::now())).await?;
        }
        Ok(live.task())
    }

    pub(super) fn cancel_live(&self, live: &Arc<Live>, why: EndReason) {
        if live.cancelled.set((why, Instant::now())).is_err() {
            return;
        }
        live.cancel.cancel();
        let waiting = self.sched().remove(&live.share, live.id);
        match waiting {
            Some(live) => self.end_before_start(&live, None, false),
            None => self.inner.executor.expedite(live.tag),
        }
    }

    /// Waits for a task's end, or for `most`.
    pub(super) async fn wait_for(&self, live: &Live, most: Duration) {
        let mut told = live.told.subscribe();
        let ended = told.wait_for(|record| record.status().is_end());
        drop(tokio::time::timeout(most, ended).await);
    }
}

pub(super) fn stopping() -> Error {
    Error::new(ErrorKind::Unavailable, "the node is stopping").hint("try again when it is back")
}
