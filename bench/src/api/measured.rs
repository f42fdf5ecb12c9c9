//! Owns one measured value: what, when, in which unit, and by whose clock or count.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::samples::micros;

/// One value. Cases are named `<group>: <what>`; the peer of a group is its case whose `<what>` begins with `echo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// What was measured.
    pub(crate) case: String,
    /// Which round: values of one round were taken next to each other.
    pub(crate) round: usize,
    /// How much.
    pub(crate) value: f64,
    /// Of what: `us`, `KiB` or `per second`.
    pub(crate) unit: String,
    /// How it was had.
    pub(crate) method: String,
}

impl Measured {
    pub(crate) fn new(case: &str, round: usize, value: f64, unit: &str, method: &str) -> Self {
        Self { case: case.to_owned(), round, value, unit: unit.to_owned(), method: method.to_owned() }
    }

    /// A time.
    pub(crate) fn time(case: &str, round: usize, time: Duration, method: &str) -> Self {
        Self::new(case, round, micros(time), "us", method)
    }
}

/// The values of one case.
pub(crate) fn values(samples: &[Measured], case: &str) -> Vec<f64> {
    samples.iter().filter(|s| s.case == case).map(|s| s.value).collect()
}
