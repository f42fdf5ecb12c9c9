//! Owns what is asked of tasks: those in memory that go on, those on disk that ended.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::watch;
use vyr_proto::v0::{LogStream, Task, TaskSpec};

use super::Node;
use super::live::{Live, shown, whole};
use super::log::{Ended, Piece};
use crate::db::{Filter, Row};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::ops::blocking;
use crate::task::{StatusExt as _, TaskId};

/// Some of a listing.
#[derive(Debug)]
pub struct Page {
    /// Newest first.
    pub tasks: Vec<Task>,
    /// Where the next page begins; `None` after the last.
    pub next: Option<i64>,
}

/// A task's changes.
#[derive(Debug)]
pub struct Watch {
    live: Option<(Arc<Live>, watch::Receiver<Arc<Task>>)>,
    ended: Option<Task>,
    first: bool,
}

impl Watch {
    /// The next change: at first the state as it stands, at last the end, then `None`.
    pub async fn next(&mut self) -> Option<Task> {
        if let Some(ended) = self.ended.take() {
            return Some(ended);
        }
        let (live, told) = self.live.as_mut()?;
        if !std::mem::take(&mut self.first) && told.changed().await.is_err() {
            self.live = None;
            return None;
        }
        let status = told.borrow_and_update().status();
        let task = live.task();
        if status.is_end() || task.ended_at.is_some() {
            self.live = None;
        }
        Some(task)
    }
}

/// A task's output, from an offset on.
#[derive(Debug)]
pub struct Logs {
    node: Node,
    id: TaskId,
    live: Option<Arc<Live>>,
    offset: u64,
    stream: LogStream,
    follow: bool,
}

impl Logs {
    /// The next piece; `None` when there is no more, or none yet for who doesn't follow.
    ///
    /// # Errors
    /// The output can't be read.
    pub async fn next(&mut self) -> Result<Option<Piece>> {
        loop {
            let (offset, stream) = (self.offset, self.stream);
            if offset == u64::MAX {
                return Ok(None);
            }
            let piece = match &self.live {
                Some(live) => {
                    let changed = live.log.changed();
                    tokio::pin!(changed);
                    // Before the reading, so that what comes between is noticed.
                    changed.as_mut().enable();
                    let log = Arc::clone(&live.log);
                    let piece = blocking(move || log.read(offset, stream).map_err(|e| unreadable(&e))).await?;
                    if piece.next == offset && !piece.last {
                        if !self.follow {
                            self.offset = u64::MAX;
                            return Ok(None);
                        }
                        changed.await;
                        continue;
                    }
                    piece
                }
                None => {
                    let row = self.node.inner.db.log(self.id).await?;
                    let path = self.node.log_path(self.id);
                    let task = self.node.read_task(self.id).await?;
                    let (attempts, dropped) = (task.attempt, task.logs.unwrap_or_default().dropped_bytes);
                    blocking(move || {
                        let ended = Ended { row: row.as_deref(), path: &path, attempts, dropped };
                        ended.read(offset, stream).map_err(|e| unreadable(&e))
                    })
                    .await?
                }
            };
            self.offset = if piece.last { u64::MAX } else { piece.next };
            if piece.entries.is_empty() && !piece.last {
                continue;
            }
            return Ok(Some(piece));
        }
    }
}

fn unreadable(e: &std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("the task's output can't be read: {e}"))
}

fn not_found(id: TaskId) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no task {id}"))
        .hint("`vyr tasks` lists the tasks; ended ones are forgotten after a while")
}

fn from_row(row: Row) -> Result<Task> {
    let damaged = |e: prost::DecodeError| Error::new(ErrorKind::Storage, format!("task {} is damaged: {e}", row.id));
    let spec = shown(&TaskSpec::decode(&row.spec[..]).map_err(damaged)?);
    let mut record = Task::decode(&row.record[..]).map_err(damaged)?;
    record.status = row.status.into();
    record.attempt = record.attempt.max(1);
    Ok(whole(record, row.id, row.submitted_us, &row.submitter, row.key.as_deref().unwrap_or_default(), spec))
}

impl Node {
    /// A number that has grown when a task was written to disk, for who shows tasks as they change. What is told may follow
    /// a moment later, and [`TaskStatus::Preparing`] is not written at all.
    ///
    /// [`TaskStatus::Preparing`]: vyr_proto::v0::TaskStatus::Preparing
    #[must_use]
    pub fn written(&self) -> u64 {
        self.inner.db.written()
    }

    /// The digests of the artifacts whose compiled code is mapped: they start at once.
    #[must_use]
    pub fn mapped(&self) -> HashSet<Digest> {
        self.inner.ready.digests()
    }

    fn running(&self, id: TaskId) -> Option<Arc<Live>> {
        self.live().get(&id).cloned()
    }

    async fn read_task(&self, id: TaskId) -> Result<Task> {
        from_row(self.inner.db.get(id).await?.ok_or_else(|| not_found(id))?)
    }

    /// One task. With `wait`, the answer is held until its end, or for this long.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and what the database fails with.
    pub async fn get(&self, id: TaskId, wait: Option<Duration>) -> Result<Task> {
        let Some(live) = self.running(id) else { return self.read_task(id).await };
        if let Some(wait) = wait {
            self.wait_for(&live, wait).await;
        }
        Ok(live.task())
    }

    /// Up to `size` tasks below a place, newest first; fewer where they are large.
    ///
    /// # Errors
    /// What the database fails with.
    pub async fn list(
        &self,
        below: Option<i64>,
        size: u32,
        filter: &Filter,
        labels: &std::collections::BTreeMap<String, String>,
    ) -> Result<Page> {
        let (rows, more) = self.inner.db.list(below, size, filter).await?;
        let next = rows.last().filter(|_| more).map(|row| row.seq);
        let mut tasks = Vec::with_capacity(rows.len());
        for row in rows {
            let task = match self.running(row.id) {
                Some(live) => live.task(),
                None => from_row(row)?,
            };
            let spec = task.spec.as_ref();
            let labelled = labels.iter().all(|(k, v)| spec.is_some_and(|spec| spec.labels.get(k) == Some(v)));
            // Memory may be ahead of what the rows were chosen by.
            if labelled && (filter.statuses.is_empty() || filter.statuses.contains(&task.status())) {
                tasks.push(task);
            }
        }
        Ok(Page { tasks, next })
    }

    /// A task's changes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and what the database fails with.
    pub async fn watch(&self, id: TaskId) -> Result<Watch> {
        Ok(match self.running(id) {
            Some(live) => {
                let told = live.told.subscribe();
                Watch { live: Some((live, told)), ended: None, first: true }
            }
            None => Watch { live: None, ended: Some(self.read_task(id).await?), first: true },
        })
    }

    /// A task's output.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], and what the database fails with.
    pub async fn logs(&self, id: TaskId, offset: u64, stream: LogStream, follow: bool) -> Result<Logs> {
        let live = self.running(id);
        if live.is_none() {
            self.read_task(id).await?;
        }
        Ok(Logs { node: self.clone(), id, live, offset, stream, follow })
    }
}
