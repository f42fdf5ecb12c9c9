//! In process: how long a start takes when the compiled code is mapped (S3) or on disk (S2), against bare Wasmtime.

use std::time::Instant;

use anyhow::{Result, anyhow};
use vyr::engine::{CancellationToken, CodeCache, Engine, EngineOptions, Outcome, RunSpec};
use vyr::error::Error;
use wasmtime::{Linker, Module, Store};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{I32Exit, WasiCtxBuilder};

use super::samples::{Sample, micros};
use super::stage::Stage;

fn took(case: &str, round: usize, began: Instant) -> Sample {
    Sample { case: case.to_owned(), round, wall_us: micros(began.elapsed()), peak_kib: None }
}

pub(crate) fn measure(stage: &Stage) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let samples = runtime.block_on(all(stage))?;
    stage.keep(
        "in-process",
        vec![format!("vyr {}", env!("CARGO_PKG_VERSION")), format!("Wasmtime {}", vyr::engine::WASMTIME)],
        "start to end of the guest; output swallowed; pooling allocator; S2 checks the seal, maps, links, instantiates and runs",
        &samples,
    )
}

async fn all(stage: &Stage) -> Result<Vec<Sample>> {
    let engine = Engine::new(&EngineOptions { pooling: true, max_instances: 100, ..EngineOptions::default() })?;
    let cache = CodeCache::open(stage.folder.path(), &[7; 32]);
    let cancel = CancellationToken::new();
    let mut samples = Vec::new();
    let spec = || RunSpec { argv0: "guest".to_owned(), ..RunSpec::default() };
    for (name, s3, s2) in [("hello-p1", 5000, 1000), ("hello", 5000, 1000), ("py-hello", 200, 200)] {
        let bytes = std::fs::read(vyr_guests::guest(name))?;
        let digest = vyr::oci::sha256(&bytes);
        cache.get_or_compile(&engine, &digest, || Ok::<_, Error>(&bytes))?;
        // The first load after compiling hashes the code: its change time is too near to the seal.
        std::thread::sleep(std::time::Duration::from_millis(100));
        for _ in 0..3 {
            cache.get(&engine, &digest).ok_or_else(|| anyhow!("no cached code"))?;
        }
        let prepared = engine.prepare(&cache.get(&engine, &digest).ok_or_else(|| anyhow!("no cached code"))?)?;
        for round in 0..stage.rounds(s3) + 20 {
            let began = Instant::now();
            let ended = engine.run(&prepared, spec(), &cancel).await?;
            let sample = took(&format!("S3 {name}"), round, began);
            anyhow::ensure!(ended.outcome == Outcome::Exited(0), "{:?}", ended.outcome);
            if round >= 20 {
                samples.push(sample);
            }
        }
        for round in 0..stage.rounds(s2) {
            let began = Instant::now();
            let compiled = cache.get(&engine, &digest).ok_or_else(|| anyhow!("no cached code"))?;
            let loaded = took(&format!("S2 load {name}"), round, began);
            let prepared = engine.prepare(&compiled)?;
            let linked = took(&format!("S2 ready {name}"), round, began);
            let ended = engine.run(&prepared, spec(), &cancel).await?;
            samples.push(took(&format!("S2 {name}"), round, began));
            anyhow::ensure!(ended.outcome == Outcome::Exited(0), "{:?}", ended.outcome);
            samples.extend([loaded, linked]);
        }
    }
    bare(stage, &mut samples).await?;
    Ok(samples)
}

/// Wasmtime alone, with the same pooling, on the hello module.
async fn bare(stage: &Stage, samples: &mut Vec<Sample>) -> Result<()> {
    let mut config = wasmtime::Config::new();
    config.allocation_strategy(wasmtime::InstanceAllocationStrategy::pooling());
    let engine = wasmtime::Engine::new(&config).map_err(|e| anyhow!("{e:#}"))?;
    let bytes = std::fs::read(vyr_guests::guest("hello-p1"))?;
    let file = stage.folder.path().join("bare.cwasm");
    std::fs::write(&file, engine.precompile_module(&bytes).map_err(|e| anyhow!("{e:#}"))?)?;
    let mut linker: Linker<WasiP1Ctx> = Linker::new(&engine);
    wasmtime_wasi::p1::add_to_linker_async(&mut linker, |ctx| ctx).map_err(|e| anyhow!("{e:#}"))?;
    #[expect(unsafe_code, reason = "the peer loads what it compiled a moment ago in a folder of its own")]
    // SAFETY: the file was written above by this process, into a temporary folder that only this user may write.
    let load = || unsafe { Module::deserialize_file(&engine, &file) };
    let module = load().map_err(|e| anyhow!("{e:#}"))?;
    let linked = linker.instantiate_pre(&module).map_err(|e| anyhow!("{e:#}"))?;
    for round in 0..stage.rounds(5000) {
        let began = Instant::now();
        once(&engine, &linked).await?;
        samples.push(took("bare S3 hello-p1", round, began));
    }
    for round in 0..stage.rounds(1000) {
        let began = Instant::now();
        let module = load().map_err(|e| anyhow!("{e:#}"))?;
        let linked = linker.instantiate_pre(&module).map_err(|e| anyhow!("{e:#}"))?;
        once(&engine, &linked).await?;
        samples.push(took("bare S2 hello-p1", round, began));
    }
    Ok(())
}

async fn once(engine: &wasmtime::Engine, linked: &wasmtime::InstancePre<WasiP1Ctx>) -> Result<()> {
    let mut store = Store::new(engine, WasiCtxBuilder::new().arg("guest").build_p1());
    let instance = linked.instantiate_async(&mut store).await.map_err(|e| anyhow!("{e:#}"))?;
    let start = instance.get_typed_func::<(), ()>(&mut store, "_start").map_err(|e| anyhow!("{e:#}"))?;
    match start.call_async(&mut store, ()).await {
        Err(e) if e.downcast_ref::<I32Exit>().is_none_or(|exit| exit.0 != 0) => Err(anyhow!("{e:#}")),
        _ => Ok(()),
    }
}
