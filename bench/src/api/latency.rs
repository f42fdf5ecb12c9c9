//! Owns the start latency by tier: from just before the submit is sent to the guest's first instruction.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, anyhow, ensure};
use vyr_proto::v0::StartTier;

use super::client::{Client, WAIT, elapsed, request, succeeded};
use super::echo::EchoClient;
use super::measured::Measured;
use super::server::Server;
use super::{guests, home, keep};
use crate::stage::Stage;

/// Rounds of S3 that don't count.
const WARM: usize = 20;

const NOTE: &str = "one call after the other over one connection, a bare tonic echo before each; first instruction: the \
    guest reads the real-time clock first of all, and the client noted the same machine's clock just before the submit; \
    submit_to_start: the node's own monotonic clock; S2 and S1 without warm-up after the node's start (its first submit \
    included; code files are in the page cache), S3 after 20 rounds that don't count; S1 compiles a Rust hello module of \
    a new digest each time, and since hello prints no clock its start is the node's own figure";

pub(crate) async fn measure(stage: &Stage) -> Result<()> {
    let (s3, s2, s1) = (stage.rounds(2000), stage.rounds(200), stage.rounds(200));
    let (clock, hello) = (guests::clock()?, guests::hello()?);
    let same = home::fill(stage, "latency", [clock.clone()]).await?;
    let mapped = home::fill(stage, "latency", (0..s2).map(|n| guests::variant(&clock, n))).await?;
    let fresh = home::fill(stage, "latency", (0..s1).map(|n| guests::variant(&hello, n))).await?;
    // The first node compiles. The second finds code whose change time is too near to its seal and hashes it once more,
    // as it would be for any code that is older than a moment. The third is measured.
    for _ in 0..2 {
        let node = Server::node(stage, "latency", &[])?;
        let mut client = Client::connect(node.address).await?;
        for reference in &mapped {
            client.run(reference).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        node.stop()?;
    }
    let (node, echo) = (Server::node(stage, "latency", &[])?, Server::echo(stage)?);
    let mut pair =
        Pair { client: Client::connect(node.address).await?, echo: EchoClient::connect(echo.address).await? };
    pair.echo.call().await?;
    let mut samples = Vec::new();
    for (round, reference) in mapped.iter().enumerate() {
        samples.extend(pair.round("S2", round, reference, StartTier::S2, true).await?);
    }
    for reference in &same {
        for _ in 0..WARM {
            pair.echo.call().await?;
            pair.client.run(reference).await?;
        }
        for round in 0..s3 {
            samples.extend(pair.round("S3", round, reference, StartTier::S3, true).await?);
        }
    }
    for (round, reference) in fresh.iter().enumerate() {
        samples.extend(pair.round("S1", round, reference, StartTier::S1, false).await?);
    }
    node.stop()?;
    keep(stage, "latency", NOTE, &samples)
}

struct Pair {
    client: Client,
    echo: EchoClient,
}

impl Pair {
    /// One echo, then one start.
    async fn round(
        &mut self,
        group: &str,
        round: usize,
        reference: &str,
        tier: StartTier,
        says_clock: bool,
    ) -> Result<Vec<Measured>> {
        let began = Instant::now();
        self.echo.call().await?;
        let echo = began.elapsed();
        let request = request(reference, Some(WAIT));
        let (sent, began) = (SystemTime::now(), Instant::now());
        let task = self.client.send(request).await?;
        let answered = began.elapsed();
        let task = succeeded(task)?;
        let execution = task.execution.clone().unwrap_or_default();
        ensure!(execution.tier() == tier, "{group} started as {}: {task:?}", execution.tier().as_str_name());
        let started = elapsed(execution.submit_to_start, "submit_to_start")?;
        let time = |what: &str, time, method: &str| Measured::time(&format!("{group}: {what}"), round, time, method);
        let mut samples = vec![
            time("echo", echo, "client, monotonic"),
            time("submit_to_start", started, "the node's execution.submit_to_start"),
            time("submit to answer", answered, "client, monotonic, with wait"),
        ];
        if says_clock {
            let output = self.client.first_output(&task.id).await?;
            let output: [u8; 8] = output.try_into().map_err(|o| anyhow!("not a clock's eight bytes: {o:?}"))?;
            let us = microseconds(u64::from_le_bytes(output), sent)?;
            let method = "guest's CLOCK_REALTIME less the client's before the submit";
            samples.push(Measured::new(&format!("{group}: first instruction"), round, us, "us", method));
        }
        Ok(samples)
    }
}

/// From `sent` to a time in nanoseconds since the Unix epoch. A clock that was set back in between shows as less than 0.
fn microseconds(nanos: u64, sent: SystemTime) -> Result<f64> {
    let sent = i128::try_from(sent.duration_since(UNIX_EPOCH)?.as_nanos())?;
    let nanos = i64::try_from(i128::from(nanos) - sent)?;
    #[expect(clippy::cast_precision_loss, reason = "far less than 2^53 nanoseconds")]
    Ok(nanos as f64 / 1e3)
}
