//! Owns the calls to a node that the measurements share.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tonic::transport::{Channel, Endpoint};
use vyr_proto::v0::control_client::ControlClient;
use vyr_proto::v0::{
    CancelTaskRequest, GetNodeRequest, GetReceiptRequest, Node, StreamLogsRequest, SubmitTaskRequest, Task, TaskSpec,
    TaskStatus, WatchTaskRequest,
};

/// How long an answer is waited for.
pub(crate) const WAIT: prost_types::Duration = prost_types::Duration { seconds: 30, nanos: 0 };
/// How long a node may take to get where it should.
const REACH: Duration = Duration::from_secs(60);

/// A connection of its own.
pub(crate) async fn connect(address: SocketAddr) -> Result<Channel> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect().await?)
}

/// A client of a node.
#[derive(Debug, Clone)]
pub(crate) struct Client(ControlClient<Channel>);

impl Client {
    /// Connects, and has one answer from the node before anything is timed.
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let mut client = Self::over(connect(address).await?);
        client.node().await?;
        Ok(client)
    }

    pub(crate) fn over(channel: Channel) -> Self {
        Self(ControlClient::new(channel))
    }

    pub(crate) async fn node(&mut self) -> Result<Node> {
        self.0.get_node(GetNodeRequest {}).await?.into_inner().node.context("no node in the answer")
    }

    /// Waits until the node is as it should be.
    pub(crate) async fn until(&mut self, what: &str, reached: impl Fn(&Node) -> bool) -> Result<()> {
        let began = Instant::now();
        loop {
            let node = self.node().await?;
            if reached(&node) {
                return Ok(());
            }
            ensure!(began.elapsed() < REACH, "the node did not come to {what}: {node:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn send(&mut self, request: SubmitTaskRequest) -> Result<Task> {
        self.0.submit_task(request).await?.into_inner().task.context("no task in the answer")
    }

    /// Submits and returns when the task is on disk.
    pub(crate) async fn submit(&mut self, reference: &str) -> Result<Task> {
        self.send(request(reference, None)).await
    }

    /// Submits and waits for the end, which must be a good one.
    pub(crate) async fn run(&mut self, reference: &str) -> Result<Task> {
        succeeded(self.send(request(reference, Some(WAIT))).await?)
    }

    /// The length of the statement in a task's receipt, in bytes.
    pub(crate) async fn statement_bytes(&mut self, id: &str) -> Result<usize> {
        let answer = self.0.get_receipt(GetReceiptRequest { id: id.to_owned() }).await?.into_inner();
        let bundle: serde_json::Value = serde_json::from_slice(&answer.bundle)?;
        let payload = bundle["dsseEnvelope"]["payload"].as_str().context("no payload in the bundle")?;
        let padding = payload.bytes().rev().take_while(|b| *b == b'=').count();
        Ok(payload.len() / 4 * 3 - padding)
    }

    /// Ends a task and waits for that.
    pub(crate) async fn cancel(&mut self, id: &str) -> Result<Task> {
        let request = CancelTaskRequest { id: id.to_owned(), wait: Some(WAIT) };
        let task = self.0.cancel_task(request).await?.into_inner().task.context("no task in the answer")?;
        ensure!(task.status() == TaskStatus::Cancelled && task.ended_at.is_some(), "not cancelled: {task:?}");
        Ok(task)
    }

    /// Watches until the task runs.
    pub(crate) async fn until_running(&mut self, id: &str) -> Result<()> {
        let mut changes = self.0.watch_task(WatchTaskRequest { id: id.to_owned() }).await?.into_inner();
        while let Some(change) = changes.message().await? {
            match change.task.context("no task in the change")? {
                task if task.status() == TaskStatus::Running => return Ok(()),
                task if task.ended_at.is_some() => bail!("it ended before it ran: {task:?}"),
                _ => {}
            }
        }
        bail!("the changes of {id} ended before it ran")
    }

    /// The first of a task's output, waited for.
    pub(crate) async fn first_output(&mut self, id: &str) -> Result<Vec<u8>> {
        let request = StreamLogsRequest { id: id.to_owned(), follow: true, ..StreamLogsRequest::default() };
        let mut pieces = self.0.stream_logs(request).await?.into_inner();
        while let Some(piece) = pieces.message().await? {
            if let Some(entry) = piece.entries.first() {
                return Ok(entry.data.to_vec());
            }
        }
        bail!("{id} wrote nothing")
    }
}

/// A submit of an artifact by its digest.
pub(crate) fn request(reference: &str, wait: Option<prost_types::Duration>) -> SubmitTaskRequest {
    let spec = TaskSpec { reference: reference.to_owned(), ..TaskSpec::default() };
    SubmitTaskRequest { spec: Some(spec), wait, ..SubmitTaskRequest::default() }
}

pub(crate) fn succeeded(task: Task) -> Result<Task> {
    ensure!(task.status() == TaskStatus::Succeeded, "it did not succeed: {task:?}");
    Ok(task)
}

/// A duration of the API.
pub(crate) fn elapsed(duration: Option<prost_types::Duration>, what: &str) -> Result<Duration> {
    let duration = duration.with_context(|| format!("the node did not say {what}"))?;
    Duration::try_from(duration).map_err(|e| anyhow::anyhow!("{what} is not a duration: {e}"))
}
