//! Owns what is below `/page/v0/`: each path and what the node is asked for it.

use axum::body::Body;
use axum::http::Response;
use serde::Serialize;
use vyr_proto::v0::{LogStream, Task};

use super::query::{Listing, Query};
use super::trace::TraceView;
use super::views::{ArtifactView, NodeView, TaskDetail, TaskRow};
use super::{Page, Refusal, events, json, not_found};
use crate::error::Result;
use crate::node::Node;
use crate::oci::{ArtifactRef, parse_digest};
use crate::ops::state::{self, StateView};
use crate::ops::transfer;
use crate::server::put;
use crate::task::{LogView, TaskId};

/// How much output one answer has, roughly and in bytes.
const OUTPUT: usize = 256 << 10;
/// How many times the tasks on disk are asked for more, where few of them are wanted.
const LOOKS: usize = 8;

/// Some tasks, newest first.
#[derive(Debug, Serialize)]
struct Tasks {
    tasks: Vec<TaskRow>,
    /// `before` for older ones; null where there are none.
    next: Option<String>,
}

/// Some of a task's output.
#[derive(Debug, Default, Serialize)]
struct Output {
    entries: Vec<LogView>,
    /// `offset` of what follows.
    next: u64,
    /// Nothing ever follows.
    last: bool,
    dropped_bytes: u64,
}

/// Some artifacts, in the order of their digests.
#[derive(Debug, Serialize)]
struct Artifacts {
    artifacts: Vec<ArtifactView>,
    /// `after` for more; null where there are none.
    next: Option<String>,
}

/// Some states, in the order of their names.
#[derive(Debug, Serialize)]
struct States {
    states: Vec<StateView>,
    /// `after` for more; null where there are none.
    next: Option<String>,
}

/// What the trust policy says of one artifact.
#[derive(Debug, Serialize)]
struct TrustView {
    digest: String,
    accepted: bool,
    reason: String,
}

impl Page {
    pub(super) async fn data(&self, path: &str, query: Option<&str>, caller: &str) -> Result<Response<Body>, Refusal> {
        let query = Query::read(query);
        let node = &self.node;
        let parts: Vec<&str> = path.split('/').collect();
        Ok(match parts.as_slice() {
            ["node"] => json(&NodeView::new(node, caller)),
            ["tasks"] => {
                let (tasks, next) = tasks(node, &query.listing()?, query.number("before")?).await?;
                json(&Tasks { tasks: tasks.iter().map(TaskRow::from).collect(), next: next.map(|seq| seq.to_string()) })
            }
            ["tasks", id] => json(&TaskDetail::from(&node.get(id.parse()?, None).await?)),
            ["tasks", id, "logs"] => json(&output(node, id.parse()?, query.number("offset")?.unwrap_or(0)).await?),
            ["tasks", id, "trace"] => json(&TraceView::from(node.trace(id.parse()?).await?)),
            ["artifacts"] => json(&artifacts(node, query.get("after"), query.listing()?.rows).await?),
            ["artifacts", digest] => {
                let (artifact, _) = put::get(node.vyr(), &ArtifactRef::Stored(parse_digest(digest)?)).await?;
                let trust = artifact.trust.unwrap_or_default();
                json(&TrustView { digest: artifact.digest, accepted: trust.accepted, reason: trust.reason })
            }
            ["states"] => {
                let after = query.get("after").unwrap_or_default();
                let (states, next) = state::list(node.vyr(), after, query.listing()?.rows).await?;
                json(&States { states: states.iter().map(StateView::new).collect(), next })
            }
            ["events"] => events::answer(self, &query, caller)?,
            _ => return Err(not_found("there is nothing here")),
        })
    }
}

/// Tasks below a place, newest first, and where older ones begin. Most tasks on disk may be others than those wanted: it
/// looks on for a while, so that what is shown is as full as it can be at a bounded cost.
pub(super) async fn tasks(node: &Node, listing: &Listing, below: Option<i64>) -> Result<(Vec<Task>, Option<i64>)> {
    let (mut found, mut next) = (Vec::new(), below);
    for _ in 0..LOOKS {
        let page = node.list(next, listing.rows, &listing.filter, &listing.labels).await?;
        found.extend(page.tasks);
        next = page.next;
        if next.is_none() || found.len() >= listing.rows as usize / 2 {
            break;
        }
    }
    Ok((found, next))
}

async fn output(node: &Node, id: TaskId, offset: u64) -> Result<Output> {
    let mut logs = node.logs(id, offset, LogStream::Unspecified, false).await?;
    let mut output = Output { next: offset, ..Output::default() };
    let mut bytes = 0;
    while bytes < OUTPUT
        && !output.last
        && let Some(piece) = logs.next().await?
    {
        bytes += piece.entries.iter().map(|entry| entry.data.len()).sum::<usize>();
        output.entries.extend(piece.entries.iter().map(LogView::from));
        (output.next, output.last, output.dropped_bytes) = (piece.next, piece.last, piece.dropped);
    }
    Ok(output)
}

async fn artifacts(node: &Node, after: Option<&str>, most: u32) -> Result<Artifacts> {
    let mut rows = transfer::artifacts(node.vyr(), false).await?;
    rows.sort_by(|a, b| a.digest.cmp(&b.digest));
    let from = after.map_or(0, |after| rows.partition_point(|row| row.digest.as_str() <= after));
    let more = rows.len() > from + most as usize;
    let rows: Vec<transfer::Row> = rows.into_iter().skip(from).take(most as usize).collect();
    let next = rows.last().filter(|_| more).map(|row| row.digest.clone());
    let node = node.clone();
    // A manifest of each is read.
    crate::ops::blocking(move || {
        let mapped = node.mapped();
        let artifacts = rows.into_iter().map(|row| ArtifactView::new(&node, row, &mapped)).collect();
        Ok(Artifacts { artifacts, next })
    })
    .await
}
