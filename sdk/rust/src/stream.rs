//! Owns the streams: a task's changes and its output, which go on by themselves after a connection that broke.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use tonic::Streaming;
use vyr_proto::v0::{
    LogEntry, LogStream, StreamLogsRequest, StreamLogsResponse, Task, WatchTaskRequest, WatchTaskResponse,
};

use crate::client::Client;
use crate::error::{Error, ErrorKind, Result};
use crate::retry::Tries;
use crate::task::TaskExt as _;

/// A task's changes: [`Client::watch`]. A [`Stream`], which is also read by [`next`](Self::next).
///
/// After a connection that broke it is opened again, as the [`RetryPolicy`](crate::RetryPolicy) says; each change that comes
/// resets the count. After an error it is over.
#[must_use = "nothing is asked until it is read"]
pub struct Watch(BoxStream<'static, Result<Task>>);

impl Watch {
    pub(crate) fn new(client: Client, id: String) -> Self {
        let tries = client.tries();
        let watcher = Watcher { client, request: WatchTaskRequest { id }, open: None, last: None, tries };
        let changes = stream::try_unfold(watcher, |mut watcher| async move {
            let task = watcher.next().await?;
            Ok(task.map(|task| (task, watcher)))
        });
        // Nothing follows an error.
        Self(changes.fuse().boxed())
    }

    /// The next change; `None` after the end.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), and those of any call.
    pub async fn next(&mut self) -> Option<Result<Task>> {
        self.0.next().await
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

impl Stream for Watch {
    type Item = Result<Task>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(cx)
    }
}

struct Watcher {
    client: Client,
    request: WatchTaskRequest,
    open: Option<Streaming<WatchTaskResponse>>,
    last: Option<Task>,
    tries: Tries,
}

impl Watcher {
    async fn next(&mut self) -> Result<Option<Task>> {
        while !self.last.as_ref().is_some_and(Task::has_ended) {
            match self.message().await {
                // What is told at the beginning may be known.
                Ok(task) if self.last.as_ref() == Some(&task) => {}
                Ok(task) => {
                    self.tries.progress();
                    self.last = Some(task.clone());
                    return Ok(Some(task));
                }
                Err(error) => {
                    self.open = None;
                    self.tries.again(error).await?;
                }
            }
        }
        Ok(None)
    }

    async fn message(&mut self) -> Result<Task> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let call = |mut c: crate::client::Control, r| async move { c.watch_task(r).await };
                self.open.insert(self.client.once(None, self.request.clone(), call).await?)
            }
        };
        match open.message().await {
            Ok(Some(WatchTaskResponse { task: Some(task) })) => Ok(task),
            Ok(Some(WatchTaskResponse { task: None })) => Err(Error::lacks("task")),
            Ok(None) => Err(cut_short()),
            Err(status) => Err(self.client.error(&status)),
        }
    }
}

fn cut_short() -> Error {
    Error::new(ErrorKind::Unavailable, "the node ended the stream before the task's end")
        .hint("it may be stopping; ask again")
}

/// A task's output: [`Client::logs`]. A [`Stream`] of its writes, which is also read by [`next`](Self::next) or
/// [`next_many`](Self::next_many).
///
/// After a connection that broke it goes on where it was, as the [`RetryPolicy`](crate::RetryPolicy) says; each write that
/// comes resets the count. After an error it is over.
#[must_use = "nothing is asked until it is read"]
pub struct Logs {
    client: Client,
    request: StreamLogsRequest,
    open: Option<BoxStream<'static, Result<StreamLogsResponse>>>,
    ready: VecDeque<LogEntry>,
    /// Where what is ready began.
    offset: u64,
    /// Where to go on after it.
    next_offset: u64,
    dropped_bytes: u64,
}

impl Logs {
    pub(crate) fn new(client: Client, id: String) -> Self {
        let request = StreamLogsRequest { id, ..StreamLogsRequest::default() };
        Self { client, request, open: None, ready: VecDeque::new(), offset: 0, next_offset: 0, dropped_bytes: 0 }
    }

    /// Goes on until the task has ended. Without it: up to what there is now.
    pub fn follow(mut self) -> Self {
        self.request.follow = true;
        self
    }

    /// Only this one. Without it: both.
    pub fn stream(mut self, stream: LogStream) -> Self {
        self.request.stream = stream.into();
        self
    }

    /// Where to begin: the [`offset`](Self::offset) that an earlier reader had come to.
    pub fn from(mut self, offset: u64) -> Self {
        self.request.offset = offset;
        (self.offset, self.next_offset) = (offset, offset);
        self
    }

    /// The next write; `None` after the last.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Storage`](ErrorKind::Storage) for an output that the node can't read; and those
    /// of any call.
    pub async fn next(&mut self) -> Option<Result<LogEntry>> {
        StreamExt::next(self).await
    }

    /// All writes that have come, at least one; `None` after the last.
    ///
    /// # Errors
    /// As [`next`](Self::next).
    pub async fn next_many(&mut self) -> Option<Result<Vec<LogEntry>>> {
        let first = match self.next().await? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let entries = std::iter::once(first).chain(self.ready.drain(..)).collect();
        self.offset = self.next_offset;
        Some(Ok(entries))
    }

    /// Where a later reader goes on ([`from`](Self::from)) without missing anything. It moves when all of what came in one
    /// message has been read.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes the task wrote beyond what is kept of its output. Known when all of it has been read.
    #[must_use]
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes
    }

    fn open(&self) -> BoxStream<'static, Result<StreamLogsResponse>> {
        let (client, tries) = (self.client.clone(), self.client.tries());
        let reader = Reader { client, request: self.request.clone(), open: None, tries };
        let pieces = stream::try_unfold(reader, |mut reader| async move {
            let piece = reader.next().await?;
            Ok(piece.map(|piece| (piece, reader)))
        });
        // Nothing follows an error.
        pieces.fuse().boxed()
    }
}

impl fmt::Debug for Logs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Logs").field("request", &self.request).field("offset", &self.offset).finish_non_exhaustive()
    }
}

impl Stream for Logs {
    type Item = Result<LogEntry>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(entry) = this.ready.pop_front() {
                if this.ready.is_empty() {
                    this.offset = this.next_offset;
                }
                return Poll::Ready(Some(Ok(entry)));
            }
            if this.open.is_none() {
                this.open = Some(this.open());
            }
            let Some(open) = &mut this.open else { return Poll::Ready(None) };
            match std::task::ready!(open.poll_next_unpin(cx)) {
                Some(Ok(piece)) => {
                    this.next_offset = piece.next_offset;
                    this.dropped_bytes = this.dropped_bytes.max(piece.dropped_bytes);
                    this.ready.extend(piece.entries);
                    if this.ready.is_empty() {
                        this.offset = this.next_offset;
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

struct Reader {
    client: Client,
    request: StreamLogsRequest,
    open: Option<Streaming<StreamLogsResponse>>,
    tries: Tries,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<StreamLogsResponse>> {
        loop {
            let error = match self.message().await {
                Ok(Some(piece)) => {
                    self.request.offset = piece.next_offset;
                    self.tries.progress();
                    return Ok(Some(piece));
                }
                Ok(None) if !self.request.follow => return Ok(None),
                // The end of a stream that follows is the task's; one that was cut on the way could look the same.
                Ok(None) => {
                    self.open = None;
                    match self.client.get_task(&self.request.id, None).await {
                        Ok(task) if task.has_ended() => {
                            // What came after the cut.
                            self.request.follow = false;
                            continue;
                        }
                        Ok(_) => cut_short(),
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => error,
            };
            self.open = None;
            self.tries.again(error).await?;
        }
    }

    async fn message(&mut self) -> Result<Option<StreamLogsResponse>> {
        let open = match &mut self.open {
            Some(open) => open,
            None => {
                let call = |mut c: crate::client::Control, r| async move { c.stream_logs(r).await };
                self.open.insert(self.client.once(None, self.request.clone(), call).await?)
            }
        };
        open.message().await.map_err(|status| self.client.error(&status))
    }
}
