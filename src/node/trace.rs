//! Owns what a task's time went to, as spans. What the record of a task says is made into spans when they are wanted; what
//! was done to make its guest ready comes from `tracing`, below a span whose id is known before.

use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanId, TraceContextExt as _, TraceId};
use opentelemetry::{KeyValue, Value};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use vyr_proto::v0::{self, Execution, Task, TaskStatus};

use super::Node;
use super::live::{Live, whole};
use crate::error::{Error, Result};
use crate::task::{StatusExt as _, TaskId, instant, tier_word, to_duration};
use crate::telemetry::{self, InTrace, Spans, TaskSpan, span};

/// How many spans a task has of its own, or a few less.
const STEPS: u64 = 6;
/// The length of a `traceparent` of version 00 (W3C Trace Context, 3.2); later versions are longer.
const TRACEPARENT_BYTES: usize = 55;

/// The steps of an attempt that have ids of their own.
#[derive(Debug, Clone, Copy)]
enum Step {
    Queue = 1,
    Prepare,
    Persist,
    Instantiate,
    Execute,
    Complete,
}

/// The ids of a task's spans.
#[derive(Debug, Clone)]
pub(super) struct TaskTrace {
    within: InTrace,
    task: SpanId,
}

impl TaskTrace {
    /// Of a task, which goes on from a W3C `traceparent` where there is one. A task's own id serves for a trace's: both
    /// are 16 bytes, and a UUID of version 7 has 62 random bits in its second half.
    pub(super) fn of(id: TaskId, traceparent: &str) -> Self {
        let bytes = id.as_bytes();
        let (_, second) = bytes.split_at(8);
        let task = SpanId::from_bytes(second.try_into().unwrap_or_default());
        // The propagator would take shorter ids, too.
        let parent = (traceparent.len() >= TRACEPARENT_BYTES)
            .then(|| telemetry::context(traceparent).span().span_context().clone())
            .filter(opentelemetry::trace::SpanContext::is_valid);
        let trace = parent.as_ref().map_or_else(|| TraceId::from_bytes(*bytes), |parent| parent.trace_id());
        Self { within: InTrace { trace, parent }, task }
    }

    /// 32 hex digits.
    pub(super) fn trace_id(&self) -> String {
        self.within.trace.to_string()
    }

    fn step(&self, attempt: u32, step: Step) -> SpanId {
        SpanId::from(u64::from_be_bytes(self.task.to_bytes()) ^ (u64::from(attempt) << 8 | step as u64))
    }

    /// The span of making the guest ready; what is done within is below it.
    pub(super) fn preparing(&self) -> tracing::Span {
        let Some(spans) = telemetry::spans() else { return tracing::Span::none() };
        let span = tracing::info_span!("prepare");
        // Fails only where nothing takes spans.
        drop(span.set_parent(self.within.below(self.task, spans.samples(&self.within))));
        span
    }

    /// The context that a guest's own telemetry goes on from; `None` where nobody would see it.
    pub(super) fn for_guest(&self, attempt: u32) -> Option<String> {
        let wanted = self.within.parent.is_some() || telemetry::spans().is_some_and(Spans::exports);
        let sampled = wanted && telemetry::spans().is_some_and(|spans| spans.samples(&self.within));
        sampled.then(|| format!("00-{}-{}-01", self.within.trace, self.step(attempt, Step::Execute)))
    }
}

impl Node {
    /// What a task's time went to, as far as it's known.
    ///
    /// # Errors
    /// As [`Node::get`].
    pub async fn trace(&self, id: TaskId) -> Result<v0::Trace> {
        let task = self.get(id, None).await?;
        let trace = TaskTrace::of(id, task.spec.as_ref().map_or("", |spec| &spec.traceparent));
        let kept = telemetry::spans().map(|spans| spans.kept(trace.within.trace)).unwrap_or_default();
        let mut spans = spans_of(&task, &trace, None);
        // The span itself says more than what is on record of it.
        if kept.iter().any(|span| span.name == span::PREPARE) {
            spans.retain(|span| span.name != span::PREPARE);
        }
        spans.extend(kept);
        if let Some((_, below)) = spans.split_first_mut() {
            below.sort_by_key(|span| span.start);
        }
        Ok(v0::Trace { trace_id: trace.trace_id(), spans: spans.into_iter().map(to_proto).collect() })
    }

    /// Sends the spans of a task that has ended to the collector, if there is one that wants them.
    pub(super) fn send_trace(&self, live: &Live, record: &Task) {
        let Some(spans) = telemetry::spans().filter(|spans| spans.exports()) else { return };
        if !spans.samples(&live.trace.within) || !spans.takes(STEPS) {
            return;
        }
        let (trace, completed) = (live.trace.clone(), SystemTime::now());
        let task = whole(record.clone(), live.id, live.submitted_us, &live.submitter, &live.key, live.shown());
        // Not on the thread of the one that calls, which is the database's writer.
        tokio::spawn(async move {
            let mut own = spans_of(&task, &trace, Some(completed));
            // Where there was something to make ready, `tracing` has sent that itself.
            own.retain(|span| span.name != span::PREPARE);
            spans.send(&trace.within, own);
        });
    }
}

fn to_proto(span: TaskSpan) -> v0::Span {
    let valid = |id: SpanId| if id == SpanId::INVALID { String::new() } else { id.to_string() };
    v0::Span {
        span_id: span.id.to_string(),
        parent_span_id: valid(span.parent),
        name: span.name.into_owned(),
        started_at: Some(span.start.into()),
        ended_at: span.end.map(Into::into),
        attributes: span.attributes.iter().map(|a| (a.key.to_string(), a.value.to_string())).collect(),
        error: span.error.unwrap_or_default(),
    }
}

/// The spans that follow from a task's record, its own first. `completed` is when its end was on disk, where that is known.
fn spans_of(task: &Task, trace: &TaskTrace, completed: Option<SystemTime>) -> Vec<TaskSpan> {
    let submitted = task.submitted_at.map_or(SystemTime::UNIX_EPOCH, instant);
    let ended = task.ended_at.map(instant);
    let attempt = task.attempt.max(1);
    let parent = trace.within.parent.as_ref().map_or(SpanId::INVALID, |parent| parent.span_id());
    let error =
        task.end.as_ref().filter(|_| !matches!(task.status(), TaskStatus::Succeeded)).map(|e| e.message.clone());
    let mut spans = vec![TaskSpan {
        name: span::TASK.into(),
        id: trace.task,
        parent,
        start: submitted,
        end: completed.or(ended),
        attributes: facts(task),
        error: error.clone(),
    }];
    let mut step = |name: &'static str, step: Step, start: SystemTime, end: Option<SystemTime>, attributes| {
        if end.is_none_or(|end| end > start) {
            let id = trace.step(attempt, step);
            spans.push(TaskSpan { name: name.into(), id, parent: trace.task, start, end, attributes, error: None });
        }
    };
    match task.execution.as_ref().and_then(|x| Some((x, to_duration(x.submit_to_start?)))) {
        Some((x, before)) => {
            let took = |duration: Option<prost_types::Duration>| duration.map_or(Duration::ZERO, to_duration);
            let (queued, prepared) = (took(x.queued), took(x.prepare));
            let (instantiating, running) = (took(x.instantiate), took(x.run));
            // When a later attempt was due is not on record; when it was started is.
            let due = match (attempt, task.started_at.map(instant)) {
                (1, _) | (_, None) => submitted,
                (_, Some(started)) => started.checked_sub(before.saturating_sub(instantiating)).unwrap_or(submitted),
            };
            let started = due + before.saturating_sub(instantiating);
            let ready = due + queued + prepared;
            let running = started + instantiating + running;
            step(span::QUEUE, Step::Queue, due, Some(due + queued), Vec::new());
            step(span::PREPARE, Step::Prepare, due + queued, Some(ready), tier(x));
            step(span::PERSIST, Step::Persist, ready, Some(started), Vec::new());
            step(span::INSTANTIATE, Step::Instantiate, started, Some(started + instantiating), Vec::new());
            step(span::EXECUTE, Step::Execute, started + instantiating, Some(running), usage(x));
            step(span::COMPLETE, Step::Complete, running, completed.or(ended), Vec::new());
        }
        None => {
            if let (Some(started), None) = (task.started_at.map(instant), ended) {
                step(span::EXECUTE, Step::Execute, started, None, Vec::new());
            }
        }
    }
    // What went wrong while it ran went wrong there.
    let ran = task.end.as_ref().is_some_and(|end| end.exit_code.is_some() || end.trap.is_some());
    if let (Some(why), true) = (error, ran)
        && let Some(execute) = spans.iter_mut().find(|span| span.name == span::EXECUTE)
    {
        execute.error = Some(why);
    }
    spans
}

fn fact(key: &'static str, value: impl Into<Value>) -> KeyValue {
    KeyValue::new(key, value)
}

/// What is known of the whole task, by the names of the semantic conventions where they have one.
fn facts(task: &Task) -> Vec<KeyValue> {
    let mut facts = vec![
        fact("rpc.system", "grpc"),
        fact("rpc.service", "vyr.control.v0.Control"),
        fact("rpc.method", "SubmitTask"),
        fact("vyr.task.id", task.id.clone()),
        fact("vyr.task.status", task.status().word()),
        fact("vyr.task.attempt", i64::from(task.attempt)),
    ];
    if let Some(spec) = &task.spec {
        facts.push(fact("vyr.artifact.reference", spec.reference.clone()));
    }
    if let Some(x) = task.execution.as_ref().filter(|x| !x.digest.is_empty()) {
        facts.push(fact("oci.manifest.digest", x.digest.clone()));
        facts.push(fact("vyr.artifact.form", x.form.clone()));
        facts.push(fact("vyr.trust.acceptance", x.acceptance.clone()));
        facts.push(fact("vyr.path", if x.path() == v0::ExecutionPath::Container { "container" } else { "wasm" }));
        if !x.fallback_reason.is_empty() {
            facts.push(fact("vyr.fallback.reason", x.fallback_reason.clone()));
        }
        facts.extend(tier(x));
    }
    if let Some(end) = &task.end {
        facts.extend(end.exit_code.map(|code| fact("process.exit.code", i64::from(code))));
        if task.status() != TaskStatus::Succeeded {
            let word = if end.error_kind.is_empty() { task.status().word().to_owned() } else { end.error_kind.clone() };
            facts.push(fact("error.type", word));
        }
    }
    facts
}

fn tier(x: &Execution) -> Vec<KeyValue> {
    vec![fact("vyr.start.tier", tier_word(x.tier()))]
}

fn usage(x: &Execution) -> Vec<KeyValue> {
    let cpu = x.cpu.map_or(Duration::ZERO, to_duration);
    let peak = i64::try_from(x.peak_memory_bytes).unwrap_or(i64::MAX);
    vec![fact("vyr.cpu.seconds", cpu.as_secs_f64()), fact("vyr.memory.peak", peak)]
}

/// What failed, on the span of making ready.
pub(super) fn failed(span: &tracing::Span, error: &Error) {
    span.set_status(opentelemetry::trace::Status::error(error.why().to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::timestamp;

    fn after(us: i64) -> SystemTime {
        instant(timestamp(us))
    }

    fn ended(attempt: u32) -> Task {
        let us = |us: u64| prost_types::Duration::try_from(Duration::from_micros(us)).ok();
        Task {
            id: TaskId::new().to_string(),
            status: TaskStatus::Succeeded.into(),
            submitted_at: Some(timestamp(1_000_000)),
            started_at: Some(timestamp(2_000_000)),
            ended_at: Some(timestamp(2_000_700)),
            attempt,
            execution: Some(Execution {
                queued: us(100),
                prepare: us(200),
                submit_to_start: us(450),
                instantiate: us(50),
                run: us(500),
                ..Execution::default()
            }),
            ..Task::default()
        }
    }

    fn times(spans: &[TaskSpan]) -> Vec<(&str, SystemTime, SystemTime)> {
        spans.iter().map(|s| (&*s.name, s.start, s.end.unwrap())).collect()
    }

    #[test]
    fn the_steps_follow_each_other_without_a_gap() {
        let trace = TaskTrace::of(TaskId::new(), "");
        let mut task = ended(1);
        task.ended_at = Some(timestamp(1_001_000));
        let spans = spans_of(&task, &trace, None);
        let expected = [
            ("task", 1_000_000, 1_001_000),
            ("queue", 1_000_000, 1_000_100),
            ("prepare", 1_000_100, 1_000_300),
            ("persist", 1_000_300, 1_000_400),
            ("instantiate", 1_000_400, 1_000_450),
            ("execute", 1_000_450, 1_000_950),
            ("complete", 1_000_950, 1_001_000),
        ];
        assert_eq!(times(&spans), expected.map(|(name, start, end)| (name, after(start), after(end))));
        assert!(spans.iter().skip(1).all(|s| s.parent == spans[0].id));
        let ids: std::collections::HashSet<SpanId> = spans.iter().map(|s| s.id).collect();
        assert_eq!(ids.len(), spans.len());
    }

    #[test]
    fn a_later_attempt_is_where_it_was_started() {
        let trace = TaskTrace::of(TaskId::new(), "");
        let spans = spans_of(&ended(2), &trace, None);
        let instantiate = spans.iter().find(|s| s.name == "instantiate").unwrap();
        assert_eq!(instantiate.start, after(2_000_000));
    }

    #[test]
    fn a_task_joins_the_trace_that_it_is_given_and_no_other() {
        let id = TaskId::new();
        let own = TaskTrace::of(id, "");
        assert_eq!(own.trace_id(), hex::encode(id.as_bytes()));
        let joined = TaskTrace::of(id, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
        assert_eq!(joined.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let parent = spans_of(&ended(1), &joined, None)[0].parent;
        assert_eq!(parent.to_string(), "00f067aa0ba902b7");
        for bad in ["junk", "00-00000000000000000000000000000000-00f067aa0ba902b7-01", "00-4bf9-1-01"] {
            assert_eq!(TaskTrace::of(id, bad).trace_id(), own.trace_id(), "{bad}");
        }
    }
}
