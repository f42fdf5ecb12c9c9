//! Owns the counters of what operations do, which may be done in a node or in none: then they count into nothing.

use std::sync::LazyLock;

use opentelemetry::metrics::Counter;
use opentelemetry::{KeyValue, global};

use super::names::metric;

static PULLS: LazyLock<Counter<u64>> =
    LazyLock::new(|| counter(metric::PULLS, "Artifacts that were fetched from a registry, by outcome"));
static REFUSED: LazyLock<Counter<u64>> =
    LazyLock::new(|| counter(metric::REFUSED, "Artifacts that the trust policy refused, by reason"));

fn counter(name: &'static str, what: &'static str) -> Counter<u64> {
    global::meter("vyr").u64_counter(name).with_description(what).build()
}

/// An artifact was pulled, or wasn't.
pub fn pulled(ok: bool) {
    PULLS.add(1, &[KeyValue::new("outcome", if ok { "ok" } else { "failed" })]);
}

/// The trust policy said no.
pub fn refused(reason: &'static str) {
    REFUSED.add(1, &[KeyValue::new("reason", reason)]);
}
