//! Owns what the page is told as it happens (Server-Sent Events): the node, and either a listing's first tasks or one task.
//!
//! Nothing is done for this on the way of a task. While a page is open it is looked four times a second whether anything
//! was written; only then the tasks that are shown are read, and what is new about them is sent.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::{Response, StatusCode, header};
use axum::response::IntoResponse as _;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::data::tasks;
use super::query::{Listing, Query};
use super::views::{NodeView, TaskDetail, TaskRow};
use super::{Page, Refusal};
use crate::error::{Error, ErrorKind, Result};
use crate::node::Node;
use crate::task::{TaskId, rfc3339};

/// How often it is looked whether anything is new.
const LOOK: Duration = Duration::from_millis(250);
/// How often the node's gauges are looked at.
const GAUGES: Duration = Duration::from_secs(1);
/// After how long something is said where there is nothing new, so that both sides notice when the other has gone.
const STILL_HERE: Duration = Duration::from_secs(10);

/// What is shown beside the node.
#[derive(Debug)]
enum Shown {
    Nothing,
    Tasks(Box<Listed>),
    Task { id: TaskId, sent: String, over: bool },
}

#[derive(Debug, Default)]
struct Listed {
    listing: Listing,
    /// The rows that were sent, by their hash.
    sent: HashMap<String, u64>,
    order: Vec<String>,
    hasher: RandomState,
    /// What was known of the node when the tasks were last read.
    mark: (u64, u64, u64),
    /// Read once more: what is told may come a moment after what is written.
    again: bool,
}

/// What is new about a listing: changed rows, all ids in their order, and where older tasks begin.
#[derive(Debug, Serialize)]
struct Changed<'a> {
    tasks: Vec<TaskRow>,
    order: &'a [String],
    next: Option<String>,
}

#[derive(Debug)]
struct Telling {
    node: Node,
    caller: String,
    shown: Shown,
    looks: Interval,
    gauges: Option<Instant>,
    sent_node: String,
    said: Option<Instant>,
    over: bool,
    _one_of_few: OwnedSemaphorePermit,
}

/// Begins to tell: of the task `task`, else with `view=tasks` of those that the other parameters say.
///
/// # Errors
/// Too many are listening already.
pub(super) fn answer(page: &Page, query: &Query, caller: &str) -> Result<Response<Body>, Refusal> {
    let shown = match (query.get("task"), query.get("view")) {
        (Some(id), _) => Shown::Task { id: id.parse()?, sent: String::new(), over: false },
        (None, Some("tasks")) => {
            let listing = query.listing()?;
            Shown::Tasks(Box::new(Listed { listing, again: true, ..Listed::default() }))
        }
        _ => Shown::Nothing,
    };
    let permit = page.streams.clone().try_acquire_owned().map_err(|_| {
        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many pages are open on this node")
            .hint("close some; the page tries again by itself")
    })?;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let telling = Telling {
        node: page.node.clone(),
        caller: caller.to_owned(),
        shown,
        looks,
        gauges: None,
        sent_node: String::new(),
        said: None,
        over: false,
        _one_of_few: permit,
    };
    let events = stream::unfold(telling, |mut telling| async {
        let text = telling.next().await?;
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(text)), telling))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, Body::from_stream(events)).into_response())
}

/// One event. JSON in one line has no line break that could end it early.
fn event(name: &str, data: &str) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn text(document: &impl Serialize) -> Result<String> {
    serde_json::to_string(document).map_err(|e| Error::new(ErrorKind::Internal, e))
}

impl Telling {
    /// What is new, as soon as there is something; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        while !self.over {
            self.looks.tick().await;
            let new = match self.look().await {
                Ok(new) => new,
                Err(e) => {
                    self.over = true;
                    let problem = serde_json::json!({"kind": e.kind().as_str(), "why": e.why(), "next": e.next()});
                    event("problem", &problem.to_string())
                }
            };
            let silent = self.said.is_none_or(|at| at.elapsed() > STILL_HERE);
            if silent || !new.is_empty() {
                self.said = Some(Instant::now());
                let now = if silent { clock() } else { String::new() };
                return Some(now + &new);
            }
        }
        None
    }

    async fn look(&mut self) -> Result<String> {
        let mut new = String::new();
        if self.gauges.is_none_or(|at| at.elapsed() >= GAUGES) {
            self.gauges = Some(Instant::now());
            let node = text(&NodeView::new(&self.node, &self.caller))?;
            if node != self.sent_node {
                new.push_str(&event("node", &node));
                self.sent_node = node;
            }
        }
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Tasks(listed) => new.push_str(&listed.look(&self.node).await?),
            Shown::Task { over: true, .. } => {}
            Shown::Task { id, sent, over } => {
                let task = self.node.get(*id, None).await?;
                let now = text(&TaskDetail::from(&task))?;
                if now != *sent {
                    new.push_str(&event("task", &now));
                    *sent = now;
                }
                *over = task.ended_at.is_some();
            }
        }
        let node = self.node.describe();
        // Nothing more comes of it, and open streams hold up its end.
        self.over = node.stopping && node.running == 0;
        Ok(new)
    }
}

/// What time it is here: durations that go on are counted by the browser's clock, which may be another.
fn clock() -> String {
    event("clock", &serde_json::json!({ "now": rfc3339(SystemTime::now()) }).to_string())
}

impl Listed {
    async fn look(&mut self, node: &Node) -> Result<String> {
        let told = node.describe();
        let mark = (node.written(), told.queued, told.running);
        if !self.again && mark == self.mark {
            return Ok(String::new());
        }
        // A task that waits or is made ready goes on without a write.
        self.again = mark != self.mark;
        self.mark = mark;
        let (found, next) = tasks(node, &self.listing, None).await?;
        let rows: Vec<TaskRow> = found.iter().map(TaskRow::from).collect();
        let order: Vec<String> = rows.iter().map(|row| row.id.clone()).collect();
        self.again |= rows.iter().any(|row| matches!(row.status, "queued" | "preparing"));
        let (mut sent, mut changed) = (HashMap::with_capacity(rows.len()), Vec::new());
        for row in rows {
            let hash = self.hasher.hash_one(text(&row)?);
            if self.sent.get(&row.id) != Some(&hash) {
                sent.insert(row.id.clone(), hash);
                changed.push(row);
            } else {
                sent.insert(row.id, hash);
            }
        }
        let first = self.sent.is_empty() && self.order.is_empty();
        if changed.is_empty() && order == self.order && !(first && sent.is_empty()) {
            return Ok(String::new());
        }
        (self.sent, self.order) = (sent, order);
        let next = next.map(|seq| seq.to_string());
        Ok(event("tasks", &text(&Changed { tasks: changed, order: &self.order, next })?))
    }
}
