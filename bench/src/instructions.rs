//! Owns how many instructions a start takes: counted by callgrind, which a busy machine doesn't disturb, and compared with what was
//! recorded last.

use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use vyr::engine::{CancellationToken, CodeCache, Engine, EngineOptions, Outcome, RunSpec};
use vyr::error::Error;
use vyr::oci::ArtifactRef;

use super::samples;
use super::since::{self, Since};
use super::stage::{Stage, version};

/// What is counted: this often, and a few times less; the difference is what the step takes without what is around it.
const TIMES: [u64; 2] = [20, 120];

/// A step of the way to a guest's first instruction, and the guest's own part where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Step {
    /// A reference with a digest is parsed
    Reference,
    /// Compiled code is found, its seal checked, mapped and linked
    Ready,
    /// A module is instantiated and runs to its end
    Module,
    /// A component is instantiated and runs to its end
    Component,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Counted {
    case: String,
    instructions: u64,
    /// What the record before said.
    #[serde(default)]
    last: Option<u64>,
}

/// Does one step often; what callgrind runs.
pub(crate) fn repeat(step: Step, times: u64) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Valgrind has room for few instances.
    let engine = Engine::new(&EngineOptions { pooling: true, max_instances: 2, ..EngineOptions::default() })?;
    let cache = CodeCache::open(folder.path(), &[7; 32]);
    let guest = if step == Step::Component { "hello" } else { "hello-p1" };
    let bytes = std::fs::read(vyr_guests::guest(guest))?;
    let digest = vyr::oci::sha256(&bytes);
    let reference = format!("registry.example/team/guest@{digest}");
    cache.get_or_compile(&engine, &digest, || Ok::<_, Error>(&bytes))?;
    // The first load after compiling hashes the code: its change time is too near to the seal.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let load = || cache.get(&engine, &digest).ok_or_else(|| anyhow!("no cached code"));
    let prepared = engine.prepare(&load()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let cancel = CancellationToken::new();
    for _ in 0..times {
        match step {
            Step::Reference => drop(std::hint::black_box(&reference).parse::<ArtifactRef>()?),
            Step::Ready => drop(engine.prepare(&load()?)?),
            Step::Module | Step::Component => {
                let spec = RunSpec { argv0: "guest".to_owned(), ..RunSpec::default() };
                let ended = runtime.block_on(engine.run(&prepared, spec, &cancel))?;
                ensure!(ended.outcome == Outcome::Exited(0), "{:?}", ended.outcome);
            }
        }
    }
    Ok(())
}

/// Counts each step, says how it compares with the last record, and records it.
pub(crate) fn measure(stage: &Stage) -> Result<()> {
    let path = stage.results.join("instructions.jsonl");
    let before: Vec<Counted> = samples::read(&path).map(|(_, all)| all).unwrap_or_default();
    let mut counted = Vec::new();
    for step in Step::value_variants() {
        let case = step.to_possible_value().context("a step has a name")?.get_name().to_owned();
        let [few, many] = [count(&case, TIMES[0])?, count(&case, TIMES[1])?];
        let instructions = many.saturating_sub(few) / (TIMES[1] - TIMES[0]);
        let last = before.iter().find(|b| b.case == case).map(|b| b.instructions);
        counted.push(Counted { case, instructions, last });
    }
    println!("{}", since::table(&counted));
    let versions = vec![version(&stage.vyr, "--version")?, version("valgrind".as_ref(), "--version")?];
    let note = "user-space instructions a step by callgrind: the difference of 120 and 20 of them, by 100";
    stage.keep("instructions", versions, note, &counted)
}

impl Since for Counted {
    const NAME: &str = "instructions";
    const HEADER: &[&str] = &["instructions", "now", "last", "change"];

    fn row(&self) -> Vec<String> {
        let last = self.last.map_or_else(String::new, |last| last.to_string());
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let change = since::change(self.instructions as f64, self.last.map(|last| last as f64));
        vec![self.case.clone(), self.instructions.to_string(), last, change]
    }
}

fn count(step: &str, times: u64) -> Result<u64> {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe()?);
    command.args(["hot", step, &times.to_string()]);
    let output = command.output().context("valgrind is missing; run: apt-get install valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    let total = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    total.with_context(|| format!("callgrind has said no total: {said}"))
}
