//! Owns what is measured through the Control API: a node that is a child process, over loopback gRPC, beside a bare tonic
//! echo in the same run.

mod cancel;
mod client;
mod echo;
mod guests;
mod history;
mod home;
mod latency;
mod measured;
mod memory;
mod plot;
mod receipts;
mod report;
mod server;
mod soak;
mod telemetry;
mod throughput;

use anyhow::Result;
use clap::ValueEnum;
use tokio::runtime::Builder;

pub(crate) use client::{Client, WAIT, elapsed, succeeded};
pub(crate) use echo::serve as serve_echo;
pub(crate) use report::report;
pub(crate) use server::Server;

use super::stage::{Stage, version};

/// One of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// From a submit to the guest's first instruction, by tier
    Latency,
    /// Durable cycles a second, with a short and with a long history
    Throughput,
    /// Memory of an idle node, of a waiting task, of a running instance
    Memory,
    /// From a cancel to the end of a tight loop
    Cancel,
    /// Durable cycles a second with telemetry, and without
    Telemetry,
    /// Latency, cycles a second and disk with receipts, and without
    Receipts,
}

pub(crate) fn measure(stage: &Stage, only: Option<Only>) -> Result<()> {
    // One thread for what happens one after the other: the client adds no wakeups of its own to either side.
    let single = Builder::new_current_thread().enable_all().build()?;
    let wanted = |part| only.is_none_or(|only| only == part);
    if wanted(Only::Latency) {
        single.block_on(latency::measure(stage))?;
    }
    if wanted(Only::Throughput) {
        Builder::new_multi_thread().enable_all().build()?.block_on(throughput::measure(stage))?;
    }
    if wanted(Only::Memory) {
        single.block_on(memory::measure(stage))?;
    }
    if wanted(Only::Cancel) {
        single.block_on(cancel::measure(stage))?;
    }
    if wanted(Only::Telemetry) {
        Builder::new_multi_thread().enable_all().build()?.block_on(telemetry::measure(stage))?;
    }
    if wanted(Only::Receipts) {
        Builder::new_multi_thread().enable_all().build()?.block_on(receipts::measure(stage))?;
    }
    Ok(())
}

/// For minutes, all kinds of guests at once.
pub(crate) fn soak(stage: &Stage, minutes: u64) -> Result<()> {
    Builder::new_current_thread().enable_all().build()?.block_on(soak::measure(stage, minutes))
}

/// Writes the raw file of one measurement.
fn keep(stage: &Stage, part: &str, note: &str, samples: &[measured::Measured]) -> Result<()> {
    stage.keep(&format!("api-{part}"), vec![version(&stage.vyr, "--version")?], note, samples)
}
