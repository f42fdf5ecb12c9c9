//! Owns the parts that are programs of their own, since they drive a whole cluster and many processes: they are started here, so
//! that all of the benchmarks are parts of one command.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::stage::Stage;

const BENCH: &str = env!("CARGO_MANIFEST_DIR");

/// Kubernetes and vyr in the same rounds.
pub(crate) fn kubernetes(stage: &Stage, deb: Option<&Path>, more: &[OsString]) -> Result<()> {
    let mut command = program("baseline/measure", Some(stage));
    if let Some(deb) = deb {
        command.arg("--deb").arg(deb);
    }
    command.args(more);
    run(command)
}

/// Cost as work grows, and density.
pub(crate) fn growth(stage: &Stage) -> Result<()> {
    run(program("growth", Some(stage)))
}

/// The page and the pictures of both.
pub(crate) fn report() -> Result<()> {
    run(program("baseline/report", None))
}

fn program(name: &str, stage: Option<&Stage>) -> Command {
    let mut command = Command::new(Path::new(BENCH).join(name));
    if let Some(stage) = stage {
        command.arg("--vyr").arg(&stage.vyr).arg("--results").arg(&stage.results);
        if stage.quick {
            command.arg("--quick");
        }
    }
    command
}

fn run(mut command: Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    Ok(())
}
