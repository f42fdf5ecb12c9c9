//! `vyr trace`: a task's spans as a waterfall, or as OTLP's JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Value, json};
use vyr_proto::v0::Span;

use super::view::span as short;
use crate::cli::Session;
use crate::cli::args::Output;
use crate::cli::client::NodeArgs;
use crate::cli::print::harmless;
use crate::error::{Error, Result};
use crate::task::{TaskId, critical_path, span_times};

/// How wide a terminal is that doesn't say.
const WIDTH: usize = 100;
/// The fewest columns for the bars.
const BARS: usize = 24;

#[derive(Debug, Args)]
pub(in crate::cli) struct Trace {
    /// The task
    task: TaskId,
    #[command(flatten)]
    node: NodeArgs,
}

impl Trace {
    pub(in crate::cli) async fn execute(self, session: &Session) -> Result<u8> {
        let work = async {
            let node = self.node.connect(session).await?;
            let trace = node.get_trace(self.task.to_string()).await?;
            if session.printer.output != Output::Text {
                return session.printer.result(&otlp(&trace.trace_id, &trace.spans), String::new);
            }
            let width = rustix::termios::tcgetwinsize(std::io::stdout()).map_or(WIDTH, |size| usize::from(size.ws_col));
            let tint = |color: &str, text: &str| session.printer.tint(color, text);
            session.printer.line(&format!("trace {}", trace.trace_id))?;
            session.printer.line(&waterfall(&trace.spans, SystemTime::now(), width, tint).join("\n"))
        };
        work.await.map_err(|e: Error| e.attempted(format_args!("show the trace of task {}", self.task)))?;
        Ok(0)
    }
}

/// The spans in the order of a tree, each with its depth. What belongs to nothing that is here stands at the top.
fn tree(spans: &[Span]) -> Vec<(usize, usize)> {
    fn below(spans: &[Span], parent: usize, depth: usize, seen: &mut [bool], found: &mut Vec<(usize, usize)>) {
        if std::mem::replace(&mut seen[parent], true) {
            return;
        }
        found.push((parent, depth));
        for child in 0..spans.len() {
            if spans[child].parent_span_id == spans[parent].span_id {
                below(spans, child, depth + 1, seen, found);
            }
        }
    }
    let (mut seen, mut found) = (vec![false; spans.len()], Vec::new());
    let alone = |i: &usize| !spans.iter().any(|other| other.span_id == spans[*i].parent_span_id);
    for top in (0..spans.len()).filter(alone).chain(0..spans.len()) {
        below(spans, top, 0, &mut seen, &mut found);
    }
    found
}

/// One line a span: what, when from the beginning, how long, and where that lies. What is on the critical path has full bars.
fn waterfall(spans: &[Span], now: SystemTime, width: usize, tint: impl Fn(&str, &str) -> String) -> Vec<String> {
    let times: Vec<_> = spans.iter().map(|span| span_times(span, now)).collect();
    let (Some(begin), Some(end)) = (times.iter().map(|t| t.0).min(), times.iter().map(|t| t.1).max()) else {
        return vec!["nothing is known of it".to_owned()];
    };
    let whole = end.duration_since(begin).unwrap_or_default().max(Duration::from_micros(1));
    let critical = critical_path(spans, now);
    let rows = tree(spans);
    let name = |&(i, depth): &(usize, usize)| format!("{}{}", "  ".repeat(depth), harmless(&spans[i].name));
    let names = rows.iter().map(|row| name(row).chars().count()).max().unwrap_or(0);
    let room = width.saturating_sub(names + 21).max(BARS);
    let column = |at: SystemTime| {
        let share = at.duration_since(begin).unwrap_or_default().as_secs_f64() / whole.as_secs_f64();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a column"
        )]
        let column = (share * room as f64).round() as usize;
        column.min(room)
    };
    let mut lines = vec![format!("  {:<names$} {:>8} {:>8}", "SPAN", "AFTER", "TOOK")];
    for row in &rows {
        let (i, _) = *row;
        let (from, to) = times[i];
        let after = from.duration_since(begin).unwrap_or_default();
        let took = to.duration_since(from).unwrap_or_default();
        let first = column(from).min(room - 1);
        let long = column(to).saturating_sub(first).max(1);
        let (mark, block) = if critical[i] { ("*", "█") } else { (" ", "░") };
        let color = match (spans[i].error.is_empty(), critical[i]) {
            (false, _) => "31",
            (true, true) => "33",
            (true, false) => "36",
        };
        let goes_on = if spans[i].ended_at.is_none() { "…" } else { "" };
        let bar = format!("{}{}{goes_on}", " ".repeat(first), tint(color, &block.repeat(long)));
        lines.push(format!("{mark} {:<names$} {:>8} {:>8} {bar}", name(row), short(after), short(took)));
        if !spans[i].error.is_empty() {
            let why = harmless(spans[i].error.lines().next().unwrap_or_default());
            lines.push(format!("  {:<names$} {}", "", tint("31", &why)));
        }
    }
    lines.push("* decided how long it took".to_owned());
    lines
}

/// As OTLP's JSON has it (OTLP specification 1.9, "JSON Protobuf Encoding"): what collectors and backends take.
fn otlp(trace: &str, spans: &[Span]) -> Value {
    let nanos = |at: Option<prost_types::Timestamp>| {
        let at = at.and_then(|at| SystemTime::try_from(at).ok());
        at.map(|at| at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos().to_string())
    };
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let spans: Vec<Value> = spans
        .iter()
        .enumerate()
        .map(|(i, span)| {
            let mut attributes: Vec<_> = span.attributes.iter().collect();
            attributes.sort();
            json!({
                "traceId": trace, "spanId": span.span_id, "parentSpanId": span.parent_span_id, "name": span.name,
                // SPAN_KIND_SERVER for the task itself, SPAN_KIND_INTERNAL for its parts.
                "kind": if i == 0 { 2 } else { 1 },
                "startTimeUnixNano": nanos(span.started_at),
                "endTimeUnixNano": nanos(span.ended_at),
                "attributes": attributes.iter().map(|(k, v)| text(k, v)).collect::<Vec<_>>(),
                "status": if span.error.is_empty() { json!({}) } else { json!({ "code": 2, "message": span.error }) },
            })
        })
        .collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": [text("service.name", "vyr")] },
        "scopeSpans": [{ "scope": { "name": "vyr", "version": env!("CARGO_PKG_VERSION") }, "spans": spans }],
    }] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::timestamp;

    fn span(name: &str, parent: &str, start: i64, end: Option<i64>) -> Span {
        Span {
            span_id: name.into(),
            parent_span_id: parent.into(),
            name: name.into(),
            started_at: Some(timestamp(start)),
            ended_at: end.map(timestamp),
            ..Span::default()
        }
    }

    #[test]
    fn a_waterfall_is_read_from_left_to_right() {
        let mut spans = vec![
            span("task", "theirs", 0, Some(1000)),
            span("prepare", "task", 0, Some(500)),
            span("execute", "task", 500, Some(1000)),
            span("pull", "prepare", 250, Some(500)),
        ];
        spans[3].error = "no\x1b[2Jsuch thing\nat all".into();
        let lines = waterfall(&spans, SystemTime::now(), 51, |_, text| text.to_owned());
        assert_eq!(
            lines,
            [
                "  SPAN         AFTER     TOOK",
                "* task           0µs    1.0ms ████████████████████████",
                "*   prepare      0µs    500µs ████████████",
                "*     pull     250µs    250µs       ██████",
                "            no\\u{1b}[2Jsuch thing",
                "*   execute    500µs    500µs             ████████████",
                "* decided how long it took",
            ]
        );
        assert_eq!(waterfall(&[], SystemTime::now(), 80, |_, t| t.to_owned()).len(), 1);
    }

    #[test]
    fn otlp_json_has_nanoseconds_as_text_and_ids_as_hex() {
        let value = otlp("0af7651916cd43dd8448eb211c80319c", &[span("00f067aa0ba902b7", "", 1, Some(2))]);
        let span = &value["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["startTimeUnixNano"], "1000");
        assert_eq!(span["traceId"], "0af7651916cd43dd8448eb211c80319c");
        assert_eq!((&span["kind"], &span["status"]), (&json!(2), &json!({})));
    }
}
