//! Owns the node's memory: idle, for each task that waits, for each instance that runs.

use std::time::Duration;

use anyhow::{Context, Result};

use super::client::Client;
use super::measured::Measured;
use super::server::Server;
use super::{guests, home, keep};
use crate::stage::Stage;

/// A page of linear memory.
const PAGE_KIB: f64 = 64.0;

const NOTE: &str = "VmRSS and Pss of the node's process, 2 s after the last change; a new process in each round; idle: \
    after the start, one GetNode answered; waiting: what 1000 queued tasks add while a looping guest holds the one place; \
    running: what 500 instances add that wait in poll_oneoff, beside one that was there before, less each one's linear \
    memory of 64 KiB, all of which the guest wrote to";

/// Resident and proportional size of a process, in KiB.
#[derive(Debug, Clone, Copy)]
struct Size {
    rss: f64,
    pss: f64,
}

impl Size {
    async fn of(node: &Server, settle: Duration) -> Result<Self> {
        tokio::time::sleep(settle).await;
        let read = |file: &str, field: &str| -> Result<f64> {
            let path = format!("/proc/{}/{file}", node.pid());
            let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
            let line = text.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
            Ok(line.with_context(|| format!("no {field} in {path}"))?.trim().parse()?)
        };
        Ok(Self { rss: read("status", "VmRSS:")?, pss: read("smaps_rollup", "Pss:")? })
    }

    fn samples(self, case: &str, round: usize, method: &str) -> [Measured; 2] {
        let kib = |what: &str, value| Measured::new(&format!("{case}, {what}"), round, value, "KiB", method);
        [kib("RSS", self.rss), kib("PSS", self.pss)]
    }

    /// What each of `count` has added since `before`, less `known`.
    fn each(self, before: Self, count: u32, known: f64) -> Self {
        let each = |after: f64, before: f64| (after - before) / f64::from(count) - known;
        Self { rss: each(self.rss, before.rss), pss: each(self.pss, before.pss) }
    }
}

pub(crate) async fn measure(stage: &Stage) -> Result<()> {
    let guests = [guests::hello()?, guests::spin()?, guests::sleep()?];
    let digests = home::fill(stage, "memory", guests).await?;
    let [hello, spin, sleep] = digests.try_into().map_err(|d| anyhow::anyhow!("not three digests: {d:?}"))?;
    let (rounds, waiting, running) = if stage.quick { (1, 100, 20) } else { (3, 1000, 500) };
    let settle = Duration::from_millis(if stage.quick { 200 } else { 2000 });
    let mut samples = Vec::new();
    for round in 0..rounds {
        let node = Server::node(stage, "memory", &[])?;
        let client = Client::connect(node.address).await?;
        samples.extend(Size::of(&node, settle).await?.samples("node: idle", round, "read"));
        drop(client);
        node.stop()?;
        samples.extend(of_waiting(stage, round, &spin, &hello, waiting, settle).await?);
        samples.extend(of_running(stage, round, &sleep, running, settle).await?);
    }
    keep(stage, "memory", NOTE, &samples)
}

async fn of_waiting(
    stage: &Stage,
    round: usize,
    spin: &str,
    hello: &str,
    count: u32,
    settle: Duration,
) -> Result<Vec<Measured>> {
    let node = Server::node(stage, "memory", &["--max-running", "1"])?;
    let mut client = Client::connect(node.address).await?;
    let holder = client.submit(spin).await?.id;
    client.first_output(&holder).await?;
    let before = Size::of(&node, settle).await?;
    for _ in 0..count {
        client.submit(hello).await?;
    }
    client.until("its queue's length", |node| node.queued == u64::from(count)).await?;
    let after = Size::of(&node, settle).await?;
    client.cancel(&holder).await?;
    client.until("an empty queue", |node| node.queued == 0 && node.running == 0).await?;
    node.stop()?;
    let mut samples = before.samples("waiting: node before", round, "read").to_vec();
    samples.extend(after.samples(&format!("waiting: node with {count} tasks"), round, "read"));
    samples.extend(after.each(before, count, 0.0).samples("waiting: each task", round, "(after - before) / tasks"));
    Ok(samples)
}

async fn of_running(stage: &Stage, round: usize, sleep: &str, count: u32, settle: Duration) -> Result<Vec<Measured>> {
    let node = Server::node(stage, "memory", &[])?;
    let mut client = Client::connect(node.address).await?;
    let mut ids = Vec::new();
    let running = |count: u64| {
        move |node: &vyr_proto::v0::Node| {
            // Their memory counts once they are instantiated; that they run is told a little before.
            node.running == count && node.memory_bytes >= count * 65536
        }
    };
    ids.push(client.submit(sleep).await?.id);
    client.until("one running instance", running(1)).await?;
    let before = Size::of(&node, settle).await?;
    for _ in 0..count {
        ids.push(client.submit(sleep).await?.id);
    }
    client.until("all instances running", running(u64::from(count) + 1)).await?;
    let after = Size::of(&node, settle).await?;
    for id in &ids {
        client.cancel(id).await?;
    }
    node.stop()?;
    let mut samples = before.samples("running: node with one", round, "read").to_vec();
    samples.extend(after.samples(&format!("running: node with {count} more"), round, "read"));
    let method = "(after - before) / instances - 64 KiB of linear memory";
    samples.extend(after.each(before, count, PAGE_KIB).samples("running: each instance", round, method));
    Ok(samples)
}
