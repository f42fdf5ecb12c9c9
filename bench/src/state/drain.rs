//! What it takes to get a synced state's segments away: many small records, sealed, and drained to the registry of a node on
//! loopback.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vyr::config::{Config, Flags};
use vyr::ops::state::{CreateRequest, create, sync};
use vyr::ops::{Silent, Vyr};
use vyr::state::{Mode, OnBusy, StateClass, StateKind, States};

use super::super::api::Server;
use super::super::samples::{Sample, micros};
use super::super::stage::{Stage, version};

/// Records in the outbox.
const COUNT: usize = 100_000;

pub(super) fn measure(stage: &Stage, count: Option<usize>) -> Result<()> {
    let count = count.unwrap_or(if stage.quick { 500 } else { COUNT });
    let node = Server::node(stage, "drain-node", &["--no-socket"])?;
    let target = format!("localhost:{}/readings", node.address.port());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(1).build()?;
    let mut samples: Vec<Sample> = Vec::new();
    let mut keep = |case: String, round: usize, took: Duration| {
        samples.push(Sample { case, round, wall_us: micros(took), peak_kib: None });
    };
    runtime.block_on(async {
        let home = stage.folder.path().join("drain-writer");
        let config = Config::load(Flags { home: Some(home), ..Flags::default() })?;
        let vyr = Vyr::new(config, Arc::new(Silent));
        let request = CreateRequest {
            name: "readings".into(),
            class: StateClass::Synced,
            kind: StateKind::Files,
            quota_bytes: 1 << 30,
            time_to_live: None,
            target: Some(target),
        };
        let state = create(&vyr, request).await?;
        let states: &States = vyr.states().await?;
        let handle = states.attach(&state, "bench", Mode::ReadWrite, OnBusy::Refuse).await?;
        std::fs::create_dir_all(handle.data().join("outbox"))?;
        // As many guests at once close their records.
        let took = Instant::now();
        let writers = 64;
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..writers)
                .map(|writer| {
                    let handle = &handle;
                    scope.spawn(move || -> std::io::Result<()> {
                        for number in (writer..count).step_by(writers) {
                            let name = format!("{number:06}");
                            std::fs::write(handle.data().join("outbox").join(&name), [b'x'; 100])?;
                            handle.take_outbox(name.as_ref())?;
                        }
                        Ok(())
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|thread| match thread.join() {
                Ok(done) => done,
                Err(_) => Err(std::io::Error::other("a writer panicked")),
            })
        })?;
        keep(format!("acknowledge {count} records, {writers} writers"), 0, took.elapsed());
        handle.release()?;
        let writer = vyr::ops::state::writer_id(&vyr)?;
        let took = Instant::now();
        let sealed = states.seal(&state, &writer).await?;
        ensure!(sealed == count as u64, "{sealed} were sealed");
        keep(format!("seal {count} segments"), 0, took.elapsed());
        let took = Instant::now();
        let watching = tokio::spawn({
            let (states, id) = (states.clone(), state.id);
            async move {
                let (mut last, mut at, mut steps) = (0, Instant::now(), Vec::new());
                loop {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let Ok(chain) = states.chain(id).await else { return steps };
                    if chain.pushed_seq >= last + 1024 || chain.pushed_seq == chain.sealed_seq {
                        steps.push((chain.pushed_seq - last, at.elapsed()));
                        (last, at) = (chain.pushed_seq, Instant::now());
                    }
                    if chain.pushed_seq == chain.sealed_seq {
                        return steps;
                    }
                }
            }
        });
        let report = sync(&vyr, "readings").await?;
        let whole = took.elapsed();
        ensure!(report.pushed == count as u64 && report.pending == 0, "{report:?}");
        keep(format!("drain {count} segments"), 0, whole);
        for (round, (segments, took)) in watching.await?.into_iter().enumerate() {
            keep(format!("drain, each of {segments}"), round, took.div_f64(segments.max(1) as f64));
        }
        println!(
            "{count} segments in {:.1} s, {:.0} a second",
            whole.as_secs_f64(),
            count as f64 / whole.as_secs_f64()
        );
        Ok::<_, anyhow::Error>(())
    })?;
    stage.keep(
        "state-drain",
        vec![version(&stage.vyr, "--version")?],
        "records of 100 bytes, each a segment with a signature, pushed by one process to the registry of a node on loopback, both on this machine's cores",
        &samples,
    )
}
