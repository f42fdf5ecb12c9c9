//! Owns the spans that stay in the process for a while, so that a trace can be looked at with no collector.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::trace::TraceId;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanProcessor};

/// How long a trace is kept.
const AGE: Duration = Duration::from_secs(3600);
/// How many spans are kept in all: some 10 MiB.
const MOST: usize = 20_000;
/// How many of one trace.
const MOST_OF_ONE: usize = 1000;

/// Spans that have ended, by their trace. The oldest traces go first.
#[derive(Debug, Clone, Default)]
pub struct Kept(Arc<Mutex<Traces>>);

#[derive(Debug, Default)]
struct Traces {
    spans: HashMap<TraceId, Vec<SpanData>>,
    order: VecDeque<(Instant, TraceId)>,
    count: usize,
}

impl Kept {
    fn traces(&self) -> MutexGuard<'_, Traces> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of a trace, in the order of its spans' ends.
    #[must_use]
    pub fn of(&self, trace: TraceId) -> Vec<SpanData> {
        self.traces().spans.get(&trace).cloned().unwrap_or_default()
    }

    fn keep(&self, span: SpanData) {
        let trace = span.span_context.trace_id();
        let mut traces = self.traces();
        let Traces { spans, order, count } = &mut *traces;
        while let Some((since, oldest)) = order.front().copied()
            && (since.elapsed() > AGE || *count >= MOST)
        {
            order.pop_front();
            *count -= spans.remove(&oldest).map_or(0, |gone| gone.len());
        }
        let of_one = spans.entry(trace).or_insert_with(|| {
            order.push_back((Instant::now(), trace));
            Vec::new()
        });
        if of_one.len() < MOST_OF_ONE {
            of_one.push(span);
            *count += 1;
        }
    }
}

impl SpanProcessor for Kept {
    fn on_start(&self, _span: &mut Span, _context: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        self.keep(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: Duration) -> OTelSdkResult {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{Span as _, Tracer as _, TracerProvider as _};
    use opentelemetry_sdk::trace::SdkTracerProvider;

    use super::*;

    #[test]
    fn the_oldest_traces_make_room() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_span_processor(kept.clone()).build();
        let tracer = provider.tracer("test");
        let traces: Vec<TraceId> = (0..MOST + 10)
            .map(|_| {
                let mut span = tracer.start("one");
                span.end();
                span.span_context().trace_id()
            })
            .collect();
        assert!(traces.iter().take(10).all(|t| kept.of(*t).is_empty()));
        assert!(traces.iter().skip(11).all(|t| kept.of(*t).len() == 1));
        let traces = kept.traces();
        assert_eq!(traces.order.len(), traces.spans.len());
        assert!(traces.count <= MOST);
    }
}
