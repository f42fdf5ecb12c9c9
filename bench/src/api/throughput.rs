//! Owns durable cycles a second: submit, wait, end with success, by many clients at once; and the same with a long history.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::client::{Client, connect};
use super::echo::EchoClient;
use super::measured::Measured;
use super::server::Server;
use super::{guests, history, home, keep};
use crate::stage::Stage;

const CLIENTS: usize = 32;
/// What doesn't count at the beginning.
const WARM: Duration = Duration::from_secs(1);

const NOTE: &str = "32 clients, each sending its next call when the last was answered, for 10 s after 1 s that doesn't \
    count; a cycle is a submit of the hello module with wait that ended as SUCCEEDED, on disk before and after; each \
    value is one second's count; client and server share the machine; the nodes with a short history are new in each \
    round, the one with a long history has that many finished tasks (copies of one) in its database before the first";

pub(crate) async fn measure(stage: &Stage) -> Result<()> {
    let (rounds, seconds, finished) = if stage.quick { (1, 1, 20_000) } else { (3, 10, 1_000_000) };
    let hello = guests::hello()?;
    let full = home::fill(stage, "full", [hello.clone()]).await?;
    let full = full.first().context("nothing was put")?;
    let node = Server::node(stage, "full", &[])?;
    Client::connect(node.address).await?.run(full).await?;
    node.stop()?;
    history::lengthen(&stage.folder.path().join("full"), finished).await?;
    let echo = Server::echo(stage)?;
    let mut samples = Vec::new();
    for round in 0..rounds {
        for connections in [32, 4] {
            let group = format!("{connections} connections");
            let case = format!("{group}: echo");
            let counts = count(echo.address, None, connections, seconds).await?;
            samples.extend(seconds_of(&case, round, &counts));
            let name = format!("short-{connections}-{round}");
            let short = home::fill(stage, &name, [hello.clone()]).await?;
            let case = format!("{group}: cycles");
            let reference = short.first().context("nothing was put")?;
            samples.extend(cycles(stage, &case, round, &name, reference, connections, seconds).await?);
            std::fs::remove_dir_all(stage.folder.path().join(&name))?;
        }
        let case = format!("32 connections: cycles, {finished} tasks before");
        samples.extend(cycles(stage, &case, round, "full", full, 32, seconds).await?);
    }
    keep(stage, "throughput", NOTE, &samples)
}

async fn cycles(
    stage: &Stage,
    case: &str,
    round: usize,
    home: &str,
    reference: &str,
    connections: usize,
    seconds: usize,
) -> Result<Vec<Measured>> {
    // What was written before must not fall into this.
    rustix::fs::sync();
    let node = Server::node(stage, home, &[])?;
    Client::connect(node.address).await?.run(reference).await?;
    let counts = count(node.address, Some(reference), connections, seconds).await?;
    node.stop()?;
    Ok(seconds_of(case, round, &counts))
}

pub(super) fn seconds_of(case: &str, round: usize, counts: &[u32]) -> Vec<Measured> {
    let each = counts.iter().enumerate();
    each.map(|(second, count)| {
        let round = round * counts.len() + second;
        Measured::new(case, round, f64::from(*count), "per second", "calls answered within one second")
    })
    .collect()
}

enum Work {
    Echo(EchoClient),
    Cycle(Client, Arc<str>),
}

impl Work {
    async fn once(&mut self) -> Result<()> {
        match self {
            Self::Echo(client) => client.call().await,
            Self::Cycle(client, reference) => client.run(reference).await.map(drop),
        }
    }
}

/// How many calls were answered in each second. Cycles of an artifact, or echoes where none is given.
pub(super) async fn count(
    address: SocketAddr,
    reference: Option<&str>,
    connections: usize,
    seconds: usize,
) -> Result<Vec<u32>> {
    let mut channels = Vec::new();
    for _ in 0..connections {
        channels.push(connect(address).await?);
    }
    let reference: Option<Arc<str>> = reference.map(Arc::from);
    let counts: Arc<Vec<AtomicU32>> = Arc::new((0..seconds).map(|_| AtomicU32::new(0)).collect());
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for channel in channels.into_iter().cycle().take(CLIENTS) {
        let mut work = match &reference {
            None => Work::Echo(EchoClient::over(channel)),
            Some(reference) => Work::Cycle(Client::over(channel), Arc::clone(reference)),
        };
        let counts = Arc::clone(&counts);
        clients.spawn(async move {
            loop {
                work.once().await?;
                let Some(counted) = began.elapsed().checked_sub(WARM) else { continue };
                let second = usize::try_from(counted.as_secs())?;
                match counts.get(second) {
                    Some(count) => count.fetch_add(1, Ordering::Relaxed),
                    None => return anyhow::Ok(()),
                };
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    Ok(counts.iter().map(|count| count.load(Ordering::Relaxed)).collect())
}
