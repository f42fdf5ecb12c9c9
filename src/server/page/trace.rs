//! Owns a task's trace as the page draws it.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use vyr_proto::v0::Trace;

use crate::task::{critical_path, micros, time};

/// A trace.
#[derive(Debug, Serialize)]
pub(super) struct TraceView {
    trace_id: String,
    spans: Vec<SpanView>,
}

/// A span of it; times are microseconds since the Unix epoch.
#[derive(Debug, Serialize)]
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

impl From<Trace> for TraceView {
    fn from(trace: Trace) -> Self {
        let critical = critical_path(&trace.spans, SystemTime::now());
        let at = |stamp| time(stamp).map(micros);
        let said = |text: String| (!text.is_empty()).then_some(text);
        let spans = trace.spans.into_iter().zip(critical).map(|(span, critical)| SpanView {
            start_us: at(span.started_at).unwrap_or_default(),
            end_us: at(span.ended_at),
            name: span.name,
            span_id: span.span_id,
            parent_span_id: said(span.parent_span_id),
            attributes: span.attributes.into_iter().collect(),
            error: said(span.error),
            critical,
        });
        Self { spans: spans.collect(), trace_id: trace.trace_id }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use vyr_proto::v0::Span;

    use super::*;
    use crate::task::timestamp;

    #[test]
    fn a_span_is_told_with_what_is_not_known_as_null() {
        let span = |id: &str, parent: &str, end: Option<i64>| Span {
            span_id: id.into(),
            parent_span_id: parent.into(),
            name: id.into(),
            started_at: Some(timestamp(1_000_001)),
            ended_at: end.map(timestamp),
            attributes: [("a".to_owned(), "b".to_owned())].into(),
            error: if end.is_some() { "it broke".into() } else { String::new() },
        };
        let spans = vec![span("task", "", None), span("pull", "task", Some(2_000_000))];
        let view = TraceView::from(Trace { trace_id: "t".into(), spans });
        let told = serde_json::to_value(&view).unwrap();
        assert_eq!(told["trace_id"], "t");
        assert_eq!(
            told["spans"][1],
            json!({
                "name": "pull", "span_id": "pull", "parent_span_id": "task", "start_us": 1_000_001,
                "end_us": 2_000_000, "attributes": {"a": "b"}, "error": "it broke", "critical": true,
            })
        );
        let task = &told["spans"][0];
        assert!(
            [&task["parent_span_id"], &task["end_us"], &task["error"]].iter().all(|v| **v == Value::Null),
            "{task}"
        );
    }
}
