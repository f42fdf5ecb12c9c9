//! `vyr run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::Session;
use super::args::{ContainerArgs, Folder, Output as Format, duration, folder, pair, size, state};
use crate::engine::{CancellationToken, Deterministic, DirSpec, Limits, NetRule};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::ArtifactRef;
use crate::ops::prepare::Wanted;
use crate::ops::resolve::PullMode;
use crate::ops::run::{RunReport, RunRequest, run};
use crate::ops::state::Wish;

#[derive(Debug, Args)]
pub(super) struct Run {
    /// The artifact
    reference: ArtifactRef,
    /// Arguments of the guest, after --
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
    /// Set a variable in the guest's environment (repeatable); nothing is inherited
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Give the guest a folder (repeatable)
    #[arg(long = "dir", value_name = "HOST::GUEST[:ro]", value_parser = folder)]
    dirs: Vec<Folder>,
    /// Give the guest a state as the folder /state/ALIAS (repeatable); with :refuse it doesn't wait for another writer
    #[arg(long = "state", value_name = "ALIAS=NAME[:ro][:refuse]", value_parser = state)]
    states: Vec<Wish>,
    /// Let the guest connect to an address (repeatable); without it there is no network
    #[arg(long, value_name = "HOST:PORT")]
    allow_net: Vec<NetRule>,
    /// The most memory: of Wasm its linear memory, of a container all of it
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1GiB")]
    memory: u64,
    /// The most wall-clock time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// The most CPU time
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    cpu: Option<Duration>,
    /// When to ask the registry: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: PullMode,
    /// Run it although the trust policy refuses; this is recorded in audit.jsonl
    #[arg(long)]
    allow_unsigned: bool,
    /// Compile nothing here: run only code that is compiled already, or that a trusted signer compiled
    #[arg(long)]
    compiled_only: bool,
    /// Make time and chance from a seed, so that the output is the same each time and everywhere; no network
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true, default_missing_value = "0", conflicts_with = "allow_net")]
    deterministic: Option<u64>,
    #[command(flatten)]
    container: ContainerArgs,
    /// Write what happened to this file, as JSON (with --output json it goes to stderr)
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Run {
    pub(super) async fn execute(self: Box<Self>, session: &Session) -> Result<u8> {
        let request = RunRequest {
            wanted: Wanted {
                reference: self.reference,
                pull: self.pull,
                allow_unsigned: self.allow_unsigned,
                compiled_only: self.compiled_only,
                deterministic: self.deterministic.is_some(),
                path: self.container.path,
                asked_by: None,
            },
            args: self.args,
            env: self.env,
            dirs: self
                .dirs
                .into_iter()
                .map(|d| DirSpec { host: d.host, guest: d.guest, read_only: d.read_only })
                .collect(),
            states: self.states,
            deterministic: self.deterministic.map(|seed| Deterministic { seed, ..Deterministic::default() }),
            limits: Limits { memory_bytes: self.memory, wall: self.timeout, cpu: self.cpu, ..Limits::default() },
            allow_net: self.allow_net,
            container: self.container.options(),
            inherit_stdio: true,
        };
        let grace = request.container.stop_grace;
        let cancel = CancellationToken::new();
        let guest = run(&session.vyr, request, &cancel);
        tokio::pin!(guest);
        let report = tokio::select! {
            biased;
            report = &mut guest => report?,
            () = interrupted() => {
                cancel.cancel();
                // A guest ends within some ticks of its clock, a container when it has been asked to; while it is still
                // being prepared there is none to end.
                match tokio::time::timeout(Duration::from_millis(500).max(grace + Duration::from_secs(1)), &mut guest).await {
                    Ok(report) => report?,
                    Err(_) => return Err(Error::new(ErrorKind::Cancelled, "interrupted before the guest started")),
                }
            }
        };
        tell(session, &report);
        if session.printer.output != Format::Text {
            let text = serde_json::to_string(&report).map_err(|e| Error::new(ErrorKind::Internal, e))?;
            drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes()));
        }
        if let Some(path) = &self.report {
            let text = serde_json::to_vec_pretty(&report).map_err(|e| Error::new(ErrorKind::Internal, e))?;
            std::fs::write(path, text).map_err(|e| {
                Error::new(ErrorKind::Storage, format!("the report {} can't be written: {e}", path.display()))
            })?;
        }
        Ok(report.exit_code)
    }
}

/// What the exit code alone doesn't say.
fn tell(session: &Session, report: &RunReport) {
    for note in &report.notes {
        session.printer.note(note);
    }
    if session.printer.output == Format::Text && report.outcome != "exited" {
        let mut text = format!("the guest {}", report.message);
        if let Some(backtrace) = &report.backtrace {
            text.push('\n');
            text.push_str(backtrace.trim_end());
        }
        if let Some(next) = report.next {
            text.push_str(&format!("\n  next: {next}"));
        }
        session.printer.warning(&text);
    }
}

/// Resolves at Ctrl-C or SIGTERM.
pub(super) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
