//! Owns the spans that a node makes of what it records about a task, beside those that `tracing` makes. They have ids that
//! follow from the task's, so that what belongs below them can be made before them.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;
use std::time::SystemTime;

use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId,
    TraceState, Tracer as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, Sampler, SamplingDecision, SdkTracer, ShouldSample as _, SpanData,
};

use super::export::Counts;
use super::kept::Kept;
use super::names::span;

/// A piece of a task's time.
#[derive(Debug, Clone)]
pub struct TaskSpan {
    /// What was done.
    pub name: Cow<'static, str>,
    /// Its id.
    pub id: SpanId,
    /// What it is a part of; invalid for a task that nobody's trace goes on to.
    pub parent: SpanId,
    /// When it began.
    pub start: SystemTime,
    /// When it ended; `None` while it goes on.
    pub end: Option<SystemTime>,
    /// What is known of it.
    pub attributes: Vec<KeyValue>,
    /// Why it failed.
    pub error: Option<String>,
}

impl From<SpanData> for TaskSpan {
    fn from(data: SpanData) -> Self {
        let error = match data.status {
            Status::Error { description } => Some(description.into_owned()),
            _ => None,
        };
        Self {
            name: data.name,
            id: data.span_context.span_id(),
            parent: data.parent_span_id,
            start: data.start_time,
            end: Some(data.end_time),
            attributes: data.attributes,
            error,
        }
    }
}

/// The trace that a task's spans are in.
#[derive(Debug, Clone)]
pub struct InTrace {
    /// Its id.
    pub trace: TraceId,
    /// The span of somebody else that the task goes on from.
    pub parent: Option<SpanContext>,
}

impl InTrace {
    /// What `span`, which need not be there yet, is to those below it.
    #[must_use]
    pub fn below(&self, span: SpanId, sampled: bool) -> Context {
        let flags = if sampled { TraceFlags::SAMPLED } else { TraceFlags::default() };
        let state = self.parent.as_ref().map_or(TraceState::NONE, |parent| parent.trace_state().clone());
        Context::new().with_remote_span_context(SpanContext::new(self.trace, span, flags, false, state))
    }

    fn above(&self) -> Context {
        match &self.parent {
            Some(parent) => Context::new().with_remote_span_context(parent.clone()),
            None => Context::new(),
        }
    }
}

/// Where a node's tasks leave their spans.
#[derive(Debug)]
pub struct Spans {
    sampler: Sampler,
    kept: Kept,
    collector: Option<(SdkTracer, Arc<Counts>)>,
}

impl Spans {
    pub(super) fn new(sampler: Sampler, kept: Kept, collector: Option<(SdkTracer, Arc<Counts>)>) -> Self {
        Self { sampler, kept, collector }
    }

    /// Whether there is a collector to send to.
    #[must_use]
    pub fn exports(&self) -> bool {
        self.collector.is_some()
    }

    /// What became of the spans so far, where they are sent.
    #[must_use]
    pub fn counts(&self) -> Option<&Arc<Counts>> {
        self.collector.as_ref().map(|(_, counts)| counts)
    }

    /// Whether the collector would take a task's spans now: it has to be asked before they are made.
    #[must_use]
    pub fn takes(&self, spans: u64) -> bool {
        self.collector.as_ref().is_some_and(|(_, counts)| counts.has_room(spans))
    }

    /// Whether the sampler wants a task's trace.
    #[must_use]
    pub fn samples(&self, within: &InTrace) -> bool {
        let above = within.above();
        let result = self.sampler.should_sample(Some(&above), within.trace, span::TASK, &SpanKind::Server, &[], &[]);
        result.decision == SamplingDecision::RecordAndSample
    }

    /// What is kept of a trace.
    #[must_use]
    pub fn kept(&self, trace: TraceId) -> Vec<TaskSpan> {
        self.kept.of(trace).into_iter().map(TaskSpan::from).collect()
    }

    /// Sends a task's spans, the task's own first. It must have been sampled.
    pub fn send(&self, within: &InTrace, spans: Vec<TaskSpan>) {
        let Some((tracer, _)) = &self.collector else { return };
        let mut task = true;
        for span in spans {
            let (above, kind) = if std::mem::take(&mut task) {
                (within.above(), SpanKind::Server)
            } else {
                (within.below(span.parent, true), SpanKind::Internal)
            };
            GIVEN.set(Some(span.id));
            GIVEN_TRACE.set(Some(within.trace));
            let builder = SpanBuilder::from_name(span.name)
                .with_kind(kind)
                .with_start_time(span.start)
                .with_attributes(span.attributes);
            let mut made = tracer.build_with_context(builder, &above);
            GIVEN_TRACE.set(None);
            if let Some(why) = span.error {
                made.set_status(Status::error(why));
            }
            made.end_with_timestamp(span.end.unwrap_or_else(SystemTime::now));
        }
    }
}

thread_local! {
    static GIVEN: Cell<Option<SpanId>> = const { Cell::new(None) };
    static GIVEN_TRACE: Cell<Option<TraceId>> = const { Cell::new(None) };
}

/// Ids as [`Spans::send`] wants them: the SDK has no other way to say which id a span gets.
#[derive(Debug, Default)]
pub(super) struct GivenIds(RandomIdGenerator);

impl IdGenerator for GivenIds {
    fn new_trace_id(&self) -> TraceId {
        GIVEN_TRACE.take().unwrap_or_else(|| self.0.new_trace_id())
    }

    fn new_span_id(&self) -> SpanId {
        GIVEN.take().unwrap_or_else(|| self.0.new_span_id())
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TracerProvider as _;
    use std::sync::Mutex;

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanExporter};

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Sent(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Sent {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    fn span(name: &'static str, id: u64, parent: u64) -> TaskSpan {
        TaskSpan {
            name: name.into(),
            id: SpanId::from(id),
            parent: SpanId::from(parent),
            start: SystemTime::UNIX_EPOCH,
            end: Some(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(id)),
            attributes: Vec::new(),
            error: (id == 3).then(|| "it broke".to_owned()),
        }
    }

    #[test]
    fn spans_go_out_under_the_ids_that_they_were_given() {
        let exporter = Sent::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .with_id_generator(GivenIds::default())
            .build();
        let collector = (provider.tracer("test"), Arc::new(Counts::default()));
        let spans = Spans::new(Sampler::ParentBased(Box::new(Sampler::AlwaysOn)), Kept::default(), Some(collector));
        let alone = InTrace { trace: TraceId::from(7_u128), parent: None };
        assert!(spans.samples(&alone));
        spans.send(&alone, vec![span("task", 2, 0), span("execute", 3, 2)]);
        let theirs =
            |flags| SpanContext::new(TraceId::from(8_u128), SpanId::from(1_u64), flags, true, TraceState::NONE);
        let joined = InTrace { trace: TraceId::from(8_u128), parent: Some(theirs(TraceFlags::SAMPLED)) };
        spans.send(&joined, vec![span("task", 4, 1)]);
        assert!(!spans.samples(&InTrace { parent: Some(theirs(TraceFlags::default())), ..joined }));

        let sent = exporter.0.lock().unwrap().clone();
        let facts: Vec<_> = sent
            .iter()
            .map(|s| (&*s.name, s.span_context.trace_id(), s.span_context.span_id(), s.parent_span_id))
            .collect();
        let (trace, id) = (TraceId::from, SpanId::from);
        assert_eq!(
            facts,
            [
                ("task", trace(7_u128), id(2_u64), SpanId::INVALID),
                ("execute", trace(7_u128), id(3_u64), id(2_u64)),
                ("task", trace(8_u128), id(4_u64), id(1_u64)),
            ]
        );
        assert_eq!(sent[1].status, Status::error("it broke"));
        assert_eq!(sent[1].end_time.duration_since(sent[1].start_time).unwrap().as_secs(), 3);
    }
}
