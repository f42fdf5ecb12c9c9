//! Owns the node's instruments.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};
use vyr_proto::v0::{self, StartTier, TaskStatus};

use super::Node;
use crate::task::{StatusExt as _, tier_word};
use crate::telemetry::{self, metric};

/// The instruments; they count into whatever `telemetry` has installed, or nowhere.
#[derive(Debug)]
pub struct Metrics {
    submitted: Counter<u64>,
    ended: Counter<u64>,
    start: Histogram<f64>,
}

impl Metrics {
    pub(super) fn new() -> Self {
        let meter = global::meter("vyr");
        Self {
            submitted: meter.u64_counter(metric::SUBMITTED).with_description("Tasks that were acknowledged").build(),
            ended: meter.u64_counter(metric::ENDED).with_description("Tasks that ended, by status").build(),
            start: meter
                .f64_histogram(metric::START)
                .with_unit("s")
                .with_description("From a submit's arrival to the guest's entry point, by tier")
                .with_boundaries(vec![
                    0.000_1, 0.000_2, 0.000_3, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0,
                ])
                .build(),
        }
    }

    pub(super) fn submitted(&self) {
        self.submitted.add(1, &[]);
    }

    pub(super) fn ended(&self, status: TaskStatus) {
        self.ended.add(1, &[KeyValue::new("status", status.word())]);
    }

    pub(super) fn started(&self, tier: StartTier, took: Option<Duration>) {
        if let Some(took) = took {
            self.start.record(took.as_secs_f64(), &[KeyValue::new("tier", tier_word(tier))]);
        }
    }
}

/// Lets the node's load be read whenever somebody asks.
pub(super) fn observe(node: &Node) {
    let meter = global::meter("vyr");
    let weak = Arc::downgrade(&node.inner);
    let gauge = |name: &'static str, what: &'static str, read: fn(&v0::Node) -> u64| {
        let weak = weak.clone();
        // What is built goes on being read; the handle does nothing.
        let _ = meter
            .u64_observable_gauge(name)
            .with_description(what)
            .with_callback(move |observer| {
                if let Some(inner) = weak.upgrade() {
                    observer.observe(read(&Node { inner }.describe()), &[]);
                }
            })
            .build();
    };
    gauge(metric::RUNNING, "Tasks that are prepared or run", |node| node.running);
    gauge(metric::QUEUED, "Tasks that wait", |node| node.queued);
    let weak_code = weak.clone();
    let _ = meter
        .u64_observable_gauge(metric::MAPPED)
        .with_description("Compiled code that is mapped, in bytes")
        .with_callback(move |observer| {
            if let Some(inner) = weak_code.upgrade() {
                observer.observe(inner.ready.bytes(), &[]);
            }
        })
        .build();
    if let Some(counts) = telemetry::spans().and_then(telemetry::Spans::counts) {
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
    gauge(metric::MEMORY, "Linear memory that guests hold, in bytes", |node| node.memory_bytes);
}
