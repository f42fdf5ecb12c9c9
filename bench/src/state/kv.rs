//! Sets and gets by `wasi:keyvalue`, timed by the component itself.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize;
use vyr::engine::{CancellationToken, Engine, EngineOptions, Outcome, Output, Prepared, RunSpec, StateDoor};
use vyr::state::{Mode, NewState, OnBusy, StateClass, StateHandle, StateKind, States};

use super::super::samples::{Sample, micros};
use super::super::stage::Stage;

/// What the guest says of a series.
#[derive(Debug, Deserialize)]
struct Said {
    count: f64,
    wall_us: f64,
}

struct Bench {
    engine: Engine,
    guest: Prepared,
    samples: Vec<Sample>,
}

impl Bench {
    async fn series(&mut self, case: &str, round: usize, handle: &Arc<StateHandle>, args: &[&str]) -> Result<()> {
        let (stdout, out) = Output::capture(1 << 16);
        let (stderr, err) = Output::capture(1 << 16);
        let spec = RunSpec {
            argv0: "keyvalue".to_owned(),
            args: ["data"].iter().chain(args).map(|&arg| arg.to_owned()).collect(),
            states: vec![StateDoor { alias: "data".to_owned(), handle: Arc::clone(handle) }],
            stdout,
            stderr,
            ..RunSpec::default()
        };
        let ended = self.engine.run(&self.guest, spec, &CancellationToken::new()).await?;
        if ended.outcome != Outcome::Exited(0) {
            bail!("{args:?}: {}: {}", ended.outcome, String::from_utf8_lossy(&err.contents()));
        }
        let said: Said = serde_json::from_slice(&out.contents()).context("the guest's figures")?;
        self.keep(case, round, said.wall_us / said.count);
        Ok(())
    }

    fn keep(&mut self, case: &str, round: usize, wall_us: f64) {
        self.samples.push(Sample { case: case.to_owned(), round, wall_us, peak_kib: None });
    }
}

pub(super) async fn measure(stage: &Stage) -> Result<()> {
    let home = stage.folder.path().join("kv");
    let states = States::open(&home).await?;
    let engine = Engine::new(&EngineOptions { pooling: true, max_instances: 10, ..EngineOptions::default() })?;
    let wasm = std::fs::read(vyr_guests::guest("keyvalue"))?;
    let guest = engine.prepare(&engine.compile_in_memory("keyvalue", &wasm)?)?;
    let mut bench = Bench { engine, guest, samples: Vec::new() };
    for round in 0..stage.rounds(30) {
        let state = states
            .create(NewState {
                name: format!("s{round}").parse()?,
                class: StateClass::Node,
                kind: StateKind::Kv,
                quota_bytes: 256 << 20,
                time_to_live: None,
                target: None,
            })
            .await?;
        let attach = async |mode| states.attach(&state, "bench", mode, OnBusy::Refuse).await;
        let writer = attach(Mode::ReadWrite).await?;
        bench.series("set, new keys", round, &writer, &["bench-set", "20000", "20000"]).await?;
        bench.series("set, 1000 keys", round, &writer, &["bench-set", "50000", "1000"]).await?;
        bench.series("set, 1000 keys, 10 kB", round, &writer, &["bench-set", "5000", "1000", "10000"]).await?;
        bench.series("get beside sets", round, &writer, &["bench-get", "50000", "1000"]).await?;
        let began = Instant::now();
        let held = tokio::task::spawn_blocking(move || writer.release()).await??;
        bench.keep("release", round, micros(began.elapsed()));
        ensure!(held.is_some_and(|held| held >= 2_000_000), "{held:?} bytes are not what was set");
        let writer = attach(Mode::ReadWrite).await?;
        bench.series("get", round, &writer, &["bench-get", "100000", "1000"]).await?;
        bench.series("get, 20000 keys", round, &writer, &["bench-get", "100000", "20000"]).await?;
        let reader = attach(Mode::ReadOnly).await?;
        bench.series("get, read-only", round, &reader, &["bench-get", "100000", "1000"]).await?;
        drop((writer, reader));
        states.remove(&state).await?;
    }
    stage.keep(
        "state-kv",
        vec![format!("vyr {}", env!("CARGO_PKG_VERSION")), format!("Wasmtime {}", vyr::engine::WASMTIME)],
        "a sample is the mean of one series by one component, in µs for each set or get of 100 B where no size is named; \
         class node, journals forced to disk in groups; release: the whole call",
        &bench.samples,
    )
}
