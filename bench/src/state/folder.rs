//! What a state costs a guest's own reads and writes: the same work in a state's folder and in one given with `--dir`.

use std::sync::Arc;

use anyhow::{Result, ensure};
use vyr::engine::{CancellationToken, DirSpec, Engine, EngineOptions, Outcome, Output, Prepared, RunSpec, StateDoor};
use vyr::state::{Mode, NewState, OnBusy, StateClass, StateKind, States};

use super::super::samples::{Sample, micros};
use super::super::stage::Stage;

/// A thousand bytes a write, ten thousand times; then read at once; then a thousand files.
const WORK: [(&str, &[&str]); 3] = [
    ("10,000 writes of 1 kB", &["write:/state/data/large:10000000"]),
    ("read of 10 MB", &["size:/state/data/large"]),
    ("1,000 files made", &["records:/state/data:r:1000"]),
];

async fn once(engine: &Engine, guest: &Prepared, spec: RunSpec) -> Result<f64> {
    let (stdout, said) = Output::capture(1 << 20);
    let ended = engine.run(guest, RunSpec { stdout, ..spec }, &CancellationToken::new()).await?;
    let said = String::from_utf8_lossy(&said.contents()).into_owned();
    ensure!(ended.outcome == Outcome::Exited(0) && !said.contains("denied"), "{}: {said}", ended.outcome);
    Ok(micros(ended.run))
}

pub(super) async fn measure(stage: &Stage) -> Result<()> {
    let home = stage.folder.path().join("folder");
    let states = States::open(&home).await?;
    let engine = Engine::new(&EngineOptions { pooling: true, max_instances: 10, ..EngineOptions::default() })?;
    let mut samples = Vec::new();
    for name in ["state-p1", "state"] {
        let wasm = std::fs::read(vyr_guests::guest(name))?;
        let guest = engine.prepare(&engine.compile_in_memory(name, &wasm)?)?;
        let kind = if name == "state" { "component" } else { "module" };
        for round in 0..stage.rounds(30) {
            let new = NewState {
                name: format!("{kind}{round}").parse()?,
                class: StateClass::Node,
                kind: StateKind::Files,
                quota_bytes: 256 << 20,
                time_to_live: None,
                target: None,
            };
            let state = states.create(new).await?;
            let handle = states.attach(&state, "bench", Mode::ReadWrite, OnBusy::Refuse).await?;
            let folder = home.join(format!("plain-{kind}-{round}"));
            std::fs::create_dir_all(&folder)?;
            for (what, steps) in WORK {
                let args: Vec<String> = steps.iter().map(|&step| step.to_owned()).collect();
                let bound = RunSpec {
                    argv0: "state".to_owned(),
                    args: args.clone(),
                    states: vec![StateDoor { alias: "data".to_owned(), handle: Arc::clone(&handle) }],
                    ..RunSpec::default()
                };
                let dir = DirSpec { host: folder.clone(), guest: "/state/data".to_owned(), read_only: false };
                let plain = RunSpec { argv0: "state".to_owned(), args, dirs: vec![dir], ..RunSpec::default() };
                // Who goes first changes, since the first one finds the disk as the one before left it.
                let mut both = [("state", Some(bound)), ("--dir", Some(plain))];
                if round % 2 == 1 {
                    both.reverse();
                }
                for (door, spec) in &mut both {
                    let Some(spec) = spec.take() else { continue };
                    let wall_us = once(&engine, &guest, spec).await?;
                    samples.push(Sample { case: format!("{door}, {kind}: {what}"), round, wall_us, peak_kib: None });
                }
            }
            tokio::task::spawn_blocking(move || handle.release()).await??;
            states.remove(&state).await?;
            std::fs::remove_dir_all(folder)?;
        }
    }
    stage.keep(
        "state-folder",
        vec![format!("vyr {}", env!("CARGO_PKG_VERSION")), format!("Wasmtime {}", vyr::engine::WASMTIME)],
        "a sample is the guest's own run, the same work in a bound state and in a folder given as with --dir, in turns",
        &samples,
    )
}
