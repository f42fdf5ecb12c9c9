//! Owns the soak: for minutes, good, trapping, looping, flooding, sleeping and cancelled guests at once; what the node
//! holds and how long a good one takes must not grow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::task::JoinSet;
use vyr_proto::v0::{Limits, SubmitTaskRequest, Task, TaskStatus};

use super::client::{Client, WAIT, request};
use super::measured::Measured;
use super::server::Server;
use super::{guests, home, keep};
use crate::samples::quantile;
use crate::stage::Stage;

const NOTE: &str = "one node, six clients at once, each with one kind of guest: hello; one that traps; a tight loop with a \
    limit of 100 ms; one that writes 2 MB of which 256 KiB are kept; a sleep of 50 ms; a tight loop that is cancelled. Every 5 s: the \
    node's VmRSS, its open files, the P50 and P99 of the hello cycles since, and all ends since; `round` is the second";
const EVERY: Duration = Duration::from_secs(5);

/// What the clients have seen since the last look.
#[derive(Debug, Default)]
struct Seen {
    hello: Mutex<Vec<f64>>,
    ended: AtomicU64,
    over: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Good,
    Trap,
    Loop,
    Flood,
    Sleep,
    Cancel,
}

fn limited(reference: &str, args: &[&str], limits: Limits) -> SubmitTaskRequest {
    let mut request = request(reference, Some(WAIT));
    if let Some(spec) = &mut request.spec {
        spec.limits = Some(limits);
        spec.args = args.iter().map(|a| (*a).to_owned()).collect();
    }
    request
}

/// One guest of a kind, from its submit to an end that must be the right one.
async fn one(client: &mut Client, kind: Kind, digest: &str) -> Result<()> {
    let ended = |task: &Task, wanted: TaskStatus| -> Result<()> {
        ensure!(task.status() == wanted, "{kind:?} should have {wanted:?}: {task:?}");
        Ok(())
    };
    match kind {
        Kind::Good => client.run(digest).await.map(drop),
        Kind::Sleep => ended(&client.send(limited(digest, &["50"], Limits::default())).await?, TaskStatus::Succeeded),
        Kind::Trap => ended(&client.send(request(digest, Some(WAIT))).await?, TaskStatus::Failed),
        Kind::Loop => {
            let timeout = Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 });
            let limits = Limits { timeout, ..Limits::default() };
            ended(&client.send(limited(digest, &[], limits)).await?, TaskStatus::TimedOut)
        }
        Kind::Flood => {
            let limits = Limits { log_bytes: 256 << 10, ..Limits::default() };
            let task = client.send(limited(digest, &["2000000"], limits)).await?;
            ended(&task, TaskStatus::Succeeded)?;
            let kept = task.logs.context("the output is summed up")?;
            ensure!(kept.stdout_bytes == 256 << 10 && kept.dropped_bytes == 2_000_000 - (256 << 10), "{kept:?}");
            Ok(())
        }
        Kind::Cancel => {
            let task = client.submit(digest).await?;
            client.until_running(&task.id).await?;
            client.cancel(&task.id).await.map(drop)
        }
    }
}

async fn work(mut client: Client, kind: Kind, digest: String, seen: Arc<Seen>) -> Result<()> {
    while !seen.over.load(Ordering::Relaxed) {
        let began = Instant::now();
        one(&mut client, kind, &digest).await?;
        seen.ended.fetch_add(1, Ordering::Relaxed);
        if matches!(kind, Kind::Good) {
            let took = began.elapsed().as_secs_f64() * 1e6;
            seen.hello.lock().unwrap_or_else(PoisonError::into_inner).push(took);
        }
    }
    Ok(())
}

/// # Errors
///
/// The error of a client that ended before the soak did.
fn none_gave_up(clients: &mut JoinSet<Result<()>>) -> Result<()> {
    match clients.try_join_next() {
        None => Ok(()),
        Some(client) => client?.and_then(|()| bail!("a client ended before the soak")),
    }
}

fn rss(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
    Ok(line.context("no VmRSS")?.trim().parse()?)
}

#[expect(clippy::cast_precision_loss, reason = "counts of a plot")]
pub(crate) async fn measure(stage: &Stage, minutes: u64) -> Result<()> {
    let built = |name| -> Result<Vec<u8>> { Ok(std::fs::read(vyr_guests::guest(name))?) };
    let guests = [guests::hello()?, built("trap-p1")?, guests::spin()?, built("noisy-p1")?, built("sleep-p1")?];
    let digests = home::fill(stage, "soak", guests).await?;
    let [hello, trap, spin, noisy, sleep] =
        digests.try_into().map_err(|d| anyhow::anyhow!("not five digests: {d:?}"))?;
    let node = Server::node(stage, "soak", &[])?;
    let seen = Arc::new(Seen::default());
    let mut clients = JoinSet::new();
    let kinds = [
        (Kind::Good, &hello),
        (Kind::Trap, &trap),
        (Kind::Loop, &spin),
        (Kind::Flood, &noisy),
        (Kind::Sleep, &sleep),
        (Kind::Cancel, &spin),
    ];
    for (kind, digest) in kinds {
        let mut client = Client::connect(node.address).await?;
        // Compiling gives way to guests that run: no look should be about how long it waited for them.
        one(&mut client, kind, digest).await.with_context(|| format!("the first {kind:?}"))?;
        clients.spawn(work(client, kind, digest.clone(), Arc::clone(&seen)));
    }
    let (every, looks) =
        if stage.quick { (Duration::from_secs(1), 3) } else { (EVERY, minutes * 60 / EVERY.as_secs()) };
    let mut samples = Vec::new();
    let began = Instant::now();
    for _ in 0..looks {
        let look = Instant::now();
        tokio::time::sleep(every).await;
        // A stall makes the look longer and is in its P99; no client waits for longer than `WAIT`.
        while seen.hello.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            none_gave_up(&mut clients)?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let second = usize::try_from(began.elapsed().as_secs())?;
        let mut add = |what: &str, value: f64, unit: &str, method: &str| {
            samples.push(Measured::new(&format!("soak: {what}"), second, value, unit, method));
        };
        add("RSS", rss(node.pid())?, "KiB", "VmRSS");
        let files = std::fs::read_dir(format!("/proc/{}/fd", node.pid()))?.count();
        add("open files", files as f64, "files", "/proc/PID/fd");
        let hello = std::mem::take(&mut *seen.hello.lock().unwrap_or_else(PoisonError::into_inner));
        add("hello, P50", quantile(&hello, 0.5), "us", "client, submit to answer with wait");
        add("hello, P99", quantile(&hello, 0.99), "us", "client, submit to answer with wait");
        let ended = seen.ended.swap(0, Ordering::Relaxed) as f64 / look.elapsed().as_secs_f64();
        add("ends", ended, "per second", "of all kinds");
        none_gave_up(&mut clients)?;
    }
    seen.over.store(true, Ordering::Relaxed);
    while let Some(client) = clients.join_next().await {
        client??;
    }
    node.stop()?;
    keep(stage, "soak", NOTE, &samples)
}
