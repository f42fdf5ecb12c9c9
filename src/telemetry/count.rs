//! Owns the counters of what operations do, which may be done in a node or in none: then they count into nothing.

use std::sync::LazyLock;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Counter;

use super::meters;
use super::names::metric;

static PULLS: LazyLock<Vec<Counter<u64>>> =
    LazyLock::new(|| counters(metric::PULLS, "Artifacts that were fetched from a registry, by outcome"));
static REFUSED: LazyLock<Vec<Counter<u64>>> =
    LazyLock::new(|| counters(metric::REFUSED, "Artifacts that the trust policy refused, by reason"));
static FALLBACKS: LazyLock<Vec<Counter<u64>>> =
    LazyLock::new(|| counters(metric::FALLBACKS, "Containers that ran in a Wasm's place, by reason"));

static STATE_PUSHED: LazyLock<Vec<Counter<u64>>> =
    LazyLock::new(|| counters(metric::STATE_PUSHED, "Segments of states that were pushed"));
static STATE_PUSHED_BYTES: LazyLock<Vec<Counter<u64>>> =
    LazyLock::new(|| counters(metric::STATE_PUSHED_BYTES, "Bytes of the segments of states that were pushed"));
static STATE_FAILED: LazyLock<Vec<Counter<u64>>> =
    LazyLock::new(|| counters(metric::STATE_FAILED, "Syncs of states that failed"));

/// The counter for everybody who takes it.
pub fn counters(name: &'static str, what: &'static str) -> Vec<Counter<u64>> {
    meters().iter().map(|meter| meter.u64_counter(name).with_description(what).build()).collect()
}

/// One more.
pub fn one_more(counters: &[Counter<u64>], attributes: &[KeyValue]) {
    counters.iter().for_each(|counter| counter.add(1, attributes));
}

/// An artifact was pulled, or wasn't.
pub fn pulled(ok: bool) {
    one_more(&PULLS, &[KeyValue::new("outcome", if ok { "ok" } else { "failed" })]);
}

/// The trust policy said no.
pub fn refused(reason: &'static str) {
    one_more(&REFUSED, &[KeyValue::new("reason", reason)]);
}

/// A container ran in a Wasm's place.
pub fn fell_back(reason: &'static str) {
    one_more(&FALLBACKS, &[KeyValue::new("reason", reason)]);
}

/// Segments of a state were pushed.
pub fn segments_pushed(segments: u64, bytes: u64) {
    STATE_PUSHED.iter().for_each(|counter| counter.add(segments, &[]));
    STATE_PUSHED_BYTES.iter().for_each(|counter| counter.add(bytes, &[]));
}

/// A state's sync failed.
pub fn sync_failed() {
    one_more(&STATE_FAILED, &[]);
}
