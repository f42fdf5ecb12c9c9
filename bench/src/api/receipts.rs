//! Owns what receipts cost: a task's latency and the cycles a second of a node that signs one for each task, beside those of
//! one that makes none; and what they take on disk.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::client::Client;
use super::measured::{Measured, values};
use super::server::Server;
use super::throughput::{count, seconds_of};
use super::{guests, home, keep};
use crate::samples::quantile;
use crate::stage::Stage;

const WITH: &str = "with";
const WITHOUT: &str = "without";

const NOTE: &str = "nodes with and without --no-receipts in turns, new in each round; latency: submit of the hello module with \
    wait, from the call to the answer, one after the other over one connection, 200 before that don't count; cycles: 32 \
    clients over 32 connections for 10 s after 1 s that doesn't count, each value one second's count; bytes: the tasks' \
    database after the latency's tasks, by task";

pub(crate) async fn measure(stage: &Stage) -> Result<()> {
    let (rounds, seconds, tasks) = if stage.quick { (1, 1, 200) } else { (5, 10, 10_000) };
    let hello = guests::hello()?;
    let mut samples = Vec::new();
    for round in 0..rounds {
        for (case, flags) in [(WITHOUT, &["--no-receipts"][..]), (WITH, &[][..])] {
            let name = format!("receipts-{case}-{round}");
            let filled = home::fill(stage, &name, [hello.clone()]).await?;
            let reference = filled.first().context("nothing was put")?;
            rustix::fs::sync();
            let node = Server::node(stage, &name, flags)?;
            let mut client = Client::connect(node.address).await?;
            for _ in 0..200 {
                client.run(reference).await?;
            }
            for number in 0..tasks {
                let began = Instant::now();
                client.run(reference).await?;
                let method = "by the client's clock";
                let at = round * tasks + number;
                samples.push(Measured::time(&format!("receipts: latency {case}"), at, began.elapsed(), method));
            }
            if case == WITH {
                let task = client.run(reference).await?;
                let bytes = f64::from(u32::try_from(client.statement_bytes(&task.id).await?)?);
                samples.push(Measured::new("receipts: bytes of the statement", round, bytes, "B", "the DSSE payload"));
            }
            drop(client);
            node.stop()?;
            let bytes = database(&stage.folder.path().join(&name))?;
            let each = bytes / f64::from(u32::try_from(tasks + 200)?);
            samples.push(Measured::new(&format!("receipts: bytes {case}"), round, each, "B", "size of the file"));
            rustix::fs::sync();
            let node = Server::node(stage, &name, flags)?;
            Client::connect(node.address).await?.run(reference).await?;
            let counts = count(node.address, Some(reference), 32, seconds).await?;
            node.stop()?;
            samples.extend(seconds_of(&format!("receipts: cycles {case}"), round, &counts));
            std::fs::remove_dir_all(stage.folder.path().join(&name))?;
        }
    }
    keep(stage, "receipts", NOTE, &samples)
}

/// The size of the tasks' database once its log is in it.
fn database(home: &Path) -> Result<f64> {
    let path = home.join("db/tasks.sqlite");
    let done = std::process::Command::new("python3")
        .args(["-c", "import sqlite3,sys; sqlite3.connect(sys.argv[1]).execute('PRAGMA wal_checkpoint(TRUNCATE)')"])
        .arg(&path)
        .status()?;
    ensure!(done.success(), "the log was not moved into the database");
    Ok(f64::from(u32::try_from(std::fs::metadata(path)?.len())?))
}

fn middle(samples: &[Measured], case: &str) -> f64 {
    quantile(&values(samples, case), 0.5)
}

/// What a receipt adds to a task's latency, P50, in µs.
pub(super) fn latency(samples: &[Measured]) -> f64 {
    middle(samples, "receipts: latency with") - middle(samples, "receipts: latency without")
}

/// The share of the cycles that is left with receipts.
pub(super) fn share(samples: &[Measured]) -> f64 {
    middle(samples, "receipts: cycles with") / middle(samples, "receipts: cycles without")
}

/// What a receipt takes on disk beside its statement, in bytes.
pub(super) fn beside(samples: &[Measured]) -> f64 {
    middle(samples, "receipts: bytes with")
        - middle(samples, "receipts: bytes without")
        - middle(samples, "receipts: bytes of the statement")
}
