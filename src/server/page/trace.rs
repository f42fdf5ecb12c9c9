//! Owns a task's trace as the page draws it.

use std::collections::BTreeMap;

use serde::Serialize;
use vyr_proto::v0::Task;

use crate::task::{StatusExt as _, TaskView, micros, time};

/// A trace.
#[derive(Debug, Serialize)]
pub(super) struct TraceView {
    trace_id: String,
    spans: Vec<SpanView>,
}

/// A span of it; times are microseconds since the Unix epoch.
#[derive(Debug, Clone, Serialize)]
struct SpanView {
    name: String,
    span_id: String,
    parent_span_id: Option<String>,
    start_us: i64,
    /// Null while it goes on.
    end_us: Option<i64>,
    attributes: BTreeMap<String, String>,
    error: Option<String>,
    /// Whether the whole would have been shorter without it.
    critical: bool,
}

/// STUB until the node keeps spans (`Node::trace`): the few that a task's own times tell, of its last attempt.
pub(super) fn of(task: &Task) -> TraceView {
    let view = TaskView::from(task);
    let at = |stamp| time(stamp).map(micros);
    let submitted = at(task.submitted_at).unwrap_or_default();
    let (started, ended) = (at(task.started_at), at(task.ended_at));
    let failed = view.message.clone().filter(|_| task.status().is_end() && view.status != "succeeded");
    let span =
        |number: u32, name: &str, start_us: i64, end_us: Option<i64>, attributes: &[(&str, Option<String>)]| SpanView {
            name: name.to_owned(),
            span_id: format!("{number:016x}"),
            parent_span_id: (number > 1).then(|| format!("{:016x}", 1)),
            start_us: start_us.max(submitted),
            end_us,
            attributes: attributes.iter().filter_map(|(k, v)| Some(((*k).to_owned(), v.clone()?))).collect(),
            error: None,
            critical: true,
        };
    let mut spans = vec![span(
        1,
        "task",
        submitted,
        ended,
        &[("reference", Some(view.reference)), ("task", Some(view.id.clone()))],
    )];
    let took = |us: Option<u64>| us.and_then(|us| i64::try_from(us).ok()).unwrap_or_default();
    match started {
        Some(started) => {
            let prepared = started - took(view.prepare_us);
            let queued = prepared - took(view.queued_us);
            let run = started + took(view.instantiate_us);
            spans.push(span(2, "queued", queued, Some(prepared), &[]));
            spans.push(span(3, "prepare", prepared, Some(started), &[("tier", view.tier), ("digest", view.digest)]));
            if ended.is_none() || view.instantiate_us.is_some() {
                spans.push(span(4, "instantiate", started, Some(run), &[("code", view.code), ("kind", view.kind)]));
            }
            let over = view.run_us.map(|us| run + took(Some(us))).or(ended);
            spans.push(span(5, "execute", run, over, &[("path", view.path)]));
        }
        None => {
            let name = if view.status == "preparing" { "prepare" } else { "queued" };
            spans.push(span(2, name, submitted, ended, &[]));
        }
    }
    if let Some(why) = failed {
        for span in spans.first_mut().into_iter() {
            span.error = Some(why.clone());
        }
        if let Some(last) = spans.last_mut() {
            last.error = Some(why);
        }
    }
    let trace_id = view.trace_id.unwrap_or_else(|| view.id.replace('-', ""));
    TraceView { trace_id, spans }
}
