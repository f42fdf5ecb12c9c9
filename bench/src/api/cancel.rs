//! Owns the cancel latency: how long after CancelTask is sent a tight loop has ended, among a hundred other running tasks.

use std::time::Instant;

use anyhow::Result;

use super::client::{Client, elapsed};
use super::echo::EchoClient;
use super::measured::Measured;
use super::server::Server;
use super::{guests, home, keep};
use crate::stage::Stage;

const NOTE: &str = "beside 50 guests that wait in poll_oneoff and 50 tight loops: a tight loop is submitted, watched until \
    it is RUNNING and has written its first byte, then cancelled with wait; timed from sending the cancel to the answer \
    that shows the end; a bare tonic echo before each cancel, under the same load; no round is left out";

pub(crate) async fn measure(stage: &Stage) -> Result<()> {
    let digests = home::fill(stage, "cancel", [guests::spin()?, guests::sleep()?]).await?;
    let [spin, sleep] = digests.try_into().map_err(|d| anyhow::anyhow!("not two digests: {d:?}"))?;
    let (node, echo) = (Server::node(stage, "cancel", &[])?, Server::echo(stage)?);
    let (mut client, mut echo) = (Client::connect(node.address).await?, EchoClient::connect(echo.address).await?);
    let others = if stage.quick { 5 } else { 50 };
    let mut load = Vec::new();
    for _ in 0..others {
        for reference in [&sleep, &spin] {
            load.push(client.submit(reference).await?.id);
        }
    }
    for id in &load {
        client.until_running(id).await?;
    }
    let mut samples = Vec::new();
    for round in 0..stage.rounds(200) {
        let id = client.submit(&spin).await?.id;
        client.until_running(&id).await?;
        client.first_output(&id).await?;
        let began = Instant::now();
        echo.call().await?;
        let echoed = began.elapsed();
        let began = Instant::now();
        let task = client.cancel(&id).await?;
        let answered = began.elapsed();
        let end = task.end.unwrap_or_default();
        let inside = elapsed(end.cancel_latency, "cancel_latency")?;
        samples.extend([
            Measured::time("cancel: echo", round, echoed, "client, monotonic"),
            Measured::time("cancel: sent to answer", round, answered, "client, monotonic, with wait"),
            Measured::time("cancel: cancel_latency", round, inside, "the node's end.cancel_latency"),
        ]);
    }
    for id in &load {
        client.cancel(id).await?;
    }
    node.stop()?;
    keep(stage, "cancel", NOTE, &samples)
}
