//! Owns the node's instruments.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use vyr_proto::v0::{ExecutionPath, StartTier, TaskStatus};

use super::Node;
use crate::task::{StatusExt as _, tier_word};
use crate::telemetry::count::{counters, one_more};
use crate::telemetry::{self, metric};

/// Bounds for who can't take an exponential histogram, in seconds.
const BOUNDS: [f64; 15] =
    [0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0];

/// The instruments; they count into whatever `telemetry` has installed, or nowhere.
#[derive(Debug)]
pub struct Metrics {
    submitted: Vec<Counter<u64>>,
    ended: Vec<Counter<u64>>,
    start: Vec<Histogram<f64>>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let start = |meter: &opentelemetry::metrics::Meter| {
            meter
                .f64_histogram(metric::START)
                .with_unit("s")
                .with_description("From a submit's arrival to the guest's entry point, by tier and path")
                .with_boundaries(BOUNDS.to_vec())
                .build()
        };
        Self {
            submitted: counters(metric::SUBMITTED, "Tasks that were acknowledged"),
            ended: counters(metric::ENDED, "Tasks that ended, by status"),
            start: telemetry::meters().iter().map(start).collect(),
        }
    }

    pub(super) fn submitted(&self) {
        one_more(&self.submitted, &[]);
    }

    pub(super) fn ended(&self, status: TaskStatus) {
        one_more(&self.ended, &[KeyValue::new("status", status.word())]);
    }

    pub(super) fn started(&self, tier: StartTier, path: ExecutionPath, took: Option<Duration>) {
        let Some(took) = took else { return };
        let path = if path == ExecutionPath::Container { "container" } else { "wasm" };
        let attributes = [KeyValue::new("tier", tier_word(tier)), KeyValue::new("path", path)];
        self.start.iter().for_each(|start| start.record(took.as_secs_f64(), &attributes));
    }
}

/// Lets the node's load be read whenever somebody asks.
pub(super) fn observe(node: &Node) {
    type Read = fn(&Node) -> u64;
    let gauges: [(&'static str, &'static str, Read); 6] = [
        (metric::RUNNING, "Tasks that are prepared or run", |node| node.describe().running),
        (metric::QUEUED, "Tasks that wait", |node| node.describe().queued),
        (metric::MEMORY, "Linear memory that guests hold, in bytes", |node| node.describe().memory_bytes),
        (metric::MAPPED, "Compiled code that is mapped and ready, in bytes", |node| node.inner.ready.bytes()),
        (metric::STATE_PENDING, "Segments of states that wait to be pushed", |node| node.waiting().segments()),
        (metric::STATE_LAG, "How long the oldest of them waits, in seconds", |node| node.waiting().lag_seconds()),
    ];
    for meter in telemetry::meters() {
        for (name, what, read) in gauges {
            let weak = Arc::downgrade(&node.inner);
            // What is built goes on being read; the handle does nothing.
            let _ = meter
                .u64_observable_gauge(name)
                .with_description(what)
                .with_callback(move |observer| {
                    if let Some(inner) = weak.upgrade() {
                        observer.observe(read(&Node { inner }), &[]);
                    }
                })
                .build();
        }
        let Some(counts) = telemetry::spans().and_then(telemetry::Spans::counts) else { continue };
        let _ = meter
            .u64_observable_counter(metric::SPANS)
            .with_description("Spans for the collector, by what became of them")
            .with_callback(|observer| {
                for (outcome, count) in counts.read() {
                    observer.observe(count, &[KeyValue::new("outcome", outcome)]);
                }
            })
            .build();
    }
}
