//! Owns the calls of the task cycle.

use std::future::IntoFuture;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use vyr_proto::v0::{
    CancelTaskRequest, GetReceiptRequest, GetTaskRequest, GetTraceRequest, ListTasksRequest, LogStream,
    SubmitTaskRequest, SubmitTaskResponse, Task, TaskStatus, Trace,
};

use crate::client::{Client, ONE_WAIT, Pending, proto};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::Spec;
use crate::stream::{Logs, Watch};
use crate::task::{Outcome, TaskExt as _};

/// The most tasks that one answer has.
const PAGE: u32 = 1000;
/// How much longer than its timeout a wait may take, for the answer to come.
const GRACE: Duration = Duration::from_secs(1);
/// [`LogEntry::attempt`](vyr_proto::v0::LogEntry::attempt) of all attempts from this one on.
const LAST_ATTEMPT: u32 = 255;

impl Client {
    /// Makes a task: `client.submit(spec).await?`. With its answer the task is on disk, and comes to an end whatever dies.
    ///
    /// What `spec` may be: a [`Spec`], a [`TaskSpec`](vyr_proto::v0::TaskSpec), or just the artifact's reference.
    /// What is wrong with the artifact is no error of this call but the task's end.
    pub fn submit(&self, spec: impl Into<Spec>) -> Submit {
        Submit { client: self.clone(), spec: spec.into(), key: None, wait: None }
    }

    /// Submits a task, waits for its end and reads what it wrote. How it ended is not looked at:
    /// [`Outcome::check`] does that. The task goes on if this is dropped.
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit), [`wait`](Self::wait) and [`logs`](Self::logs).
    pub async fn run(&self, spec: impl Into<Spec>) -> Result<Outcome> {
        let mut task = self.submit(spec).wait(ONE_WAIT).await?;
        if !task.has_ended() {
            task = self.wait(&task.id, None).await?;
        }
        let mut outcome = Outcome { stdout: Vec::new(), stderr: Vec::new(), task };
        let mut logs = self.logs(&outcome.task.id);
        while let Some(entry) = logs.next().await.transpose()? {
            if entry.attempt != outcome.task.attempt.min(LAST_ATTEMPT) {
                continue;
            }
            match entry.stream() {
                LogStream::Stderr => outcome.stderr.extend_from_slice(&entry.data),
                _ => outcome.stdout.extend_from_slice(&entry.data),
            }
        }
        Ok(outcome)
    }

    /// One task. With `wait`, the answer comes when it has ended, or when this has passed, with the task as it stands then.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), and those of any call.
    pub async fn get_task(&self, id: impl Into<String>, wait: Option<Duration>) -> Result<Task> {
        let request = GetTaskRequest { id: id.into(), wait: wait.map(proto) };
        let answer = self.call(wait, request, |mut c, r| async move { c.get_task(r).await }).await?;
        answer.task.ok_or_else(|| Error::lacks("task"))
    }

    /// A task, once it has ended.
    ///
    /// # Errors
    /// [`TimedOut`](ErrorKind::TimedOut) when `timeout` has passed before its end: the task goes on.
    /// [`NotFound`](ErrorKind::NotFound), and those of any call.
    pub async fn wait(&self, id: impl Into<String>, timeout: Option<Duration>) -> Result<Task> {
        let id = id.into();
        let Some(timeout) = timeout else { return self.ended(&id, None).await };
        let until = Instant::now().checked_add(timeout);
        let late = || {
            Error::new(ErrorKind::TimedOut, format_args!("{timeout:?} passed before the end of task {id}"))
                .hint("the task goes on; `cancel` ends it")
        };
        // The node may be gone, and the tries for that last longer.
        match tokio::time::timeout(timeout.saturating_add(GRACE), self.ended(&id, until)).await {
            Ok(Ok(task)) if !task.has_ended() => Err(late()),
            Ok(task) => task,
            Err(_) => Err(late()),
        }
    }

    /// Asks in pieces, until the task has ended or the time has come.
    async fn ended(&self, id: &str, until: Option<Instant>) -> Result<Task> {
        loop {
            let asked = Instant::now();
            let left = until.map_or(ONE_WAIT, |until| until.saturating_duration_since(asked));
            let task = self.get_task(id, Some(left.min(ONE_WAIT))).await?;
            if task.has_ended() || left < ONE_WAIT && asked.elapsed() >= left {
                return Ok(task);
            }
            // A node that doesn't hold its answer back must not be asked in a tight loop.
            if asked.elapsed() < Duration::from_secs(1) {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// Tasks, newest first: `client.list_tasks().limit(20).await?`.
    pub fn list_tasks(&self) -> ListTasks {
        ListTasks { client: self.clone(), request: ListTasksRequest::default(), limit: usize::MAX }
    }

    /// A task's changes: as it stands, then each change, at last its end. A slow reader may miss states in between, never
    /// the end.
    pub fn watch(&self, id: impl Into<String>) -> Watch {
        Watch::new(self.clone(), id.into())
    }

    /// What a task wrote, in the order in which it did: `client.logs(id).follow()`.
    pub fn logs(&self, id: impl Into<String>) -> Logs {
        Logs::new(self.clone(), id.into())
    }

    /// Asks for a task's end. A task that has ended stays as it is, and that is no error. With `wait`, the answer comes
    /// when it has ended, or when this has passed.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), and those of any call.
    pub async fn cancel(&self, id: impl Into<String>, wait: Option<Duration>) -> Result<Task> {
        let request = CancelTaskRequest { id: id.into(), wait: wait.map(proto) };
        let answer = self.call(wait, request, |mut c, r| async move { c.cancel_task(r).await }).await?;
        answer.task.ok_or_else(|| Error::lacks("task"))
    }

    /// What a task's time went to, as spans.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), and those of any call.
    pub async fn get_trace(&self, id: impl Into<String>) -> Result<Trace> {
        let request = GetTraceRequest { id: id.into() };
        let answer = self.call(None, request, |mut c, r| async move { c.get_trace(r).await }).await?;
        answer.trace.ok_or_else(|| Error::lacks("trace"))
    }

    /// The signed receipt of a task that has ended: a Sigstore bundle (JSON), which `vyr receipt verify` takes.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), also for a task that has none or hasn't ended, and those of any call.
    pub async fn get_receipt(&self, id: impl Into<String>) -> Result<Bytes> {
        let request = GetReceiptRequest { id: id.into() };
        Ok(self.call(None, request, |mut c, r| async move { c.get_receipt(r).await }).await?.bundle)
    }
}

/// A submit: [`Client::submit`]. Await it for the [`Task`].
///
/// It carries an idempotency key, so that it can be sent again without making a second task: the one that is given, else a
/// random one. With [`RetryPolicy::none`](crate::RetryPolicy::none) it is sent once and none is made.
#[derive(Debug, Clone)]
#[must_use = "nothing is submitted until it is awaited"]
pub struct Submit {
    client: Client,
    spec: Spec,
    key: Option<String>,
    wait: Option<Duration>,
}

impl Submit {
    /// Makes this and every other submit with the same key and the same spec one task, also from other programs; at most 128
    /// bytes. The node remembers it as long as the task.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// The answer comes when the task has ended, or when this has passed, with the task as it stands then. The task is on
    /// disk before the waiting begins.
    pub fn wait(mut self, limit: Duration) -> Self {
        self.wait = Some(limit);
        self
    }

    /// The same as awaiting it, with the whole answer: whether the task was there before, by its key.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) with each wrong [field](Error::fields); [`NotFound`](ErrorKind::NotFound) for a bare
    /// digest that the store lacks; [`Conflict`](ErrorKind::Conflict) for a key that belongs to another spec;
    /// [`Forbidden`](ErrorKind::Forbidden) for `allow_unsigned` where the node doesn't take it;
    /// [`Exhausted`](ErrorKind::Exhausted) when the queue or the disk is full; and those of any call.
    pub async fn send(self) -> Result<SubmitTaskResponse> {
        let Self { client, spec, key, wait } = self;
        let made = || client.policy().repeats().then(|| uuid::Uuid::new_v4().to_string());
        let request = SubmitTaskRequest {
            spec: Some(spec.into()),
            idempotency_key: key.or_else(made).unwrap_or_default(),
            wait: wait.map(proto),
        };
        client.call(wait, request, |mut c, r| async move { c.submit_task(r).await }).await
    }
}

impl IntoFuture for Submit {
    type Output = Result<Task>;
    type IntoFuture = Pending<Task>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async { self.send().await?.task.ok_or_else(|| Error::lacks("task")) })
    }
}

/// A listing of tasks: [`Client::list_tasks`]. Await it. It asks for as many pages as it takes.
#[derive(Debug, Clone)]
#[must_use = "nothing is asked until it is awaited"]
pub struct ListTasks {
    client: Client,
    request: ListTasksRequest,
    limit: usize,
}

impl ListTasks {
    /// Only tasks in one of these.
    pub fn statuses(mut self, statuses: impl IntoIterator<Item = TaskStatus>) -> Self {
        self.request.statuses.extend(statuses.into_iter().map(i32::from));
        self
    }

    /// Only tasks with this label; with all of them where there are more.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.labels.insert(key.into(), value.into());
        self
    }

    /// Only tasks of this submitter.
    pub fn submitter(mut self, name: impl Into<String>) -> Self {
        self.request.submitter = name.into();
        self
    }

    /// How many at most. Without it: all that the node remembers.
    pub fn limit(mut self, most: usize) -> Self {
        self.limit = most;
        self
    }

    async fn send(mut self) -> Result<Vec<Task>> {
        let mut tasks = Vec::new();
        while tasks.len() < self.limit {
            // By labels the node looks through a page at a time: of a small one it would have to be asked very often.
            self.request.page_size = match self.request.labels.is_empty() {
                true => u32::try_from(self.limit - tasks.len()).unwrap_or(PAGE).min(PAGE),
                false => PAGE,
            };
            let page =
                self.client.call(None, self.request.clone(), |mut c, r| async move { c.list_tasks(r).await }).await?;
            tasks.extend(page.tasks);
            self.request.page_token = page.next_page_token;
            if self.request.page_token.is_empty() {
                break;
            }
        }
        tasks.truncate(self.limit);
        Ok(tasks)
    }
}

impl IntoFuture for ListTasks {
    type Output = Result<Vec<Task>>;
    type IntoFuture = Pending<Vec<Task>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}
