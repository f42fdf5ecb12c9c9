//! Owns the command line: each verb translates its words into an operation and prints what comes back. One place maps
//! errors to exit codes.

mod args;
mod bundle;
mod client;
mod codes;
mod doctor;
mod new;
mod print;
mod progress;
mod publish;
mod receipt;
#[cfg(test)]
mod reference;
mod replay;
mod run;
mod serve;
mod state;
mod store;
mod system;
mod task;
mod trust;
mod usage;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use args::Global;
use print::Printer;

use crate::config::{Config, EnvVars};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::Vyr;
use crate::telemetry;

/// Run a Wasm artifact by digest, verified, from any OCI registry
#[derive(Debug, Parser)]
#[command(name = "vyr", version, about, propagate_version = true, arg_required_else_help = true, max_term_width = 100)]
#[command(
    after_help = "Wherever a REF stands: host[:port]/repository[:tag][@sha256:…], oci:PATH[:tag|@digest] for an OCI layout \
folder or tar, or a bare digest for what the store holds.\n\nExit codes: the guest's own for run, wait and \
submit --wait; 2 usage, 124 timed out, 125 VYR failed, 126 refused, 127 no such artifact or task, 130 cancelled, \
134 the guest trapped."
)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// Reads the command line, or says what is wrong about it.
    ///
    /// Describing every verb to the parser takes a tenth of a short run's whole time, so a `run` is first read with the
    /// description of `run` alone. Whatever that doesn't accept is for the whole one to accept or to complain of.
    fn read() -> Result<Self, clap::Error> {
        if std::env::args_os().any(|word| word == "run")
            && let Ok(RunAlone { global, command: Alone::Run(run) }) = RunAlone::try_parse()
        {
            return Ok(Self { global, command: Command::Run(run) });
        }
        Self::try_parse()
    }
}

/// [`Cli`] as if there were no other verb.
#[derive(Debug, Parser)]
#[command(name = "vyr", disable_help_subcommand = true)]
struct RunAlone {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Alone,
}

#[derive(Debug, Subcommand)]
enum Alone {
    Run(Box<run::Run>),
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Pull, verify and run an artifact here; its output and exit code pass through
    Run(Box<run::Run>),
    /// Make the folder of a workload: a program, and scripts that build and push it
    New(new::New),
    /// Make a Wasm file an artifact, push it and sign it; prints REF@sha256:…
    Push(publish::Push),
    /// Pull an artifact with its signatures into the store
    Pull(store::Pull),
    /// Put an artifact into the store from its parts
    Put(store::Put),
    /// Copy artifacts with their signatures to an OCI layout folder or tar
    Export(store::Export),
    /// Take artifacts from an OCI layout folder or tar into the store
    Import(store::Import),
    /// Write artifacts to a tar with all that is needed to run them elsewhere
    Save(bundle::Save),
    /// Take such a tar into the store, once all of it is verified
    Load(bundle::Load),
    /// Verify and compile an artifact before anybody runs it
    Warm(bundle::Warm),
    /// Compile an artifact for machines like this one, as a signed artifact beside it
    Compile(bundle::Compile),
    /// Sign an artifact in both forms that cosign reads
    Sign(publish::Sign),
    /// Say whether the trust policy accepts an artifact, and why
    Verify(trust::Verify),
    /// Make a key pair that vyr and cosign sign with
    Keygen(publish::Keygen),
    /// Edit the trust policy
    #[command(subcommand)]
    Trust(trust::Trust),
    /// Show manifest, Wasm, signatures and cache state of an artifact
    Inspect(store::Inspect),
    /// List the artifacts in the store
    Artifacts(store::Artifacts),
    /// Remove what nothing needs from the store
    Gc(store::Gc),
    /// Run the node: tasks behind a gRPC API, until SIGTERM
    Serve(Box<serve::Serve>),
    /// Make and list the bearer tokens of a node's clients
    #[command(subcommand)]
    Token(serve::Token),
    /// Hand an artifact to a node as a task; prints the task's id
    Submit(Box<task::Submit>),
    /// List a node's tasks, newest first
    Tasks(task::Tasks),
    /// Show one task
    Status(task::Status),
    /// Wait until tasks have ended; the exit code is that of the first that failed
    Wait(task::Wait),
    /// Print what a task wrote
    Logs(task::Logs),
    /// Show what a task's time went to
    Trace(task::Trace),
    /// Show, verify and push the signed receipt of a task
    #[command(subcommand)]
    Receipt(Box<receipt::Receipt>),
    /// Run again what a receipt states, and say whether it went the same way
    Replay(Box<replay::ReplayArgs>),
    /// End tasks; may be repeated
    Cancel(task::Cancel),
    /// Keep data for tasks: make, bind, show, remove states
    #[command(subcommand)]
    State(Box<state::State>),
    /// Copy the data folder while a node serves it, to a folder that a node starts from
    Backup(system::Backup),
    /// Check what works on this machine and what is missing, and repair what is damaged
    Doctor(doctor::Doctor),
    /// Print the completion script of a shell
    Completions(system::Completions),
    /// Write the manual pages to a folder
    #[command(hide = true)]
    Man(system::Man),
    /// Print the versions of vyr and its runtime
    Version(system::Version),
}

/// What a verb works with.
#[derive(Debug)]
struct Session {
    vyr: Vyr,
    printer: Printer,
}

/// Runs the program; its exit code is the whole answer to the shell.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(e) => return usage::explain(&e),
    };
    let printer = Printer::new(cli.global.output);
    match start(cli, printer) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            printer.error(&e);
            ExitCode::from(e.kind().exit_code())
        }
    }
}

fn start(mut cli: Cli, printer: Printer) -> Result<u8> {
    let config = Config::load(cli.global.flags())?;
    let session = Session { vyr: Vyr::new(config, Arc::new(progress::Terminal::new(printer))), printer };
    if let Command::Serve(serve) = &mut cli.command {
        serve.begin(&session).map_err(|e| e.attempted("start the node"))?;
    }
    let settings = telemetry_settings(printer, matches!(cli.command, Command::Serve(_)));
    let (serves, runs) = (matches!(cli.command, Command::Serve(_)), matches!(cli.command, Command::Run(_)));
    // One thread does for one guest; the exporter, where there is one, has to go on while the guest computes.
    let mut builder = if settings.otlp || serves {
        tokio::runtime::Builder::new_multi_thread()
    } else {
        tokio::runtime::Builder::new_current_thread()
    };
    if !serves {
        builder.worker_threads(1);
    }
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Internal, format!("the runtime can't start: {e}")))?;
    let guard = {
        let _entered = runtime.enter();
        telemetry::install(&settings)?
    };
    let root = tracing::info_span!("vyr");
    guard.adopt(&root);
    let result = runtime.block_on(tracing::Instrument::instrument(session.execute(cli.command), root));
    // A thread that is blocked in a read of the guest's must not hold the process up.
    guard.shutdown();
    if serves {
        // Guests that are still there end with the process, and until then need what they wait for.
        std::mem::forget(runtime);
    } else {
        runtime.shutdown_background();
    }
    if runs {
        // Unmapping what the end of the process unmaps anyway takes its time while another thread lives.
        std::mem::forget(session);
    }
    result
}

/// What the environment says; `node` when this process is one.
fn telemetry_settings(printer: Printer, node: bool) -> telemetry::Settings {
    let endpoint = EnvVars::first(&[EnvVars::OTEL_EXPORTER_OTLP_ENDPOINT, EnvVars::OTEL_EXPORTER_OTLP_TRACES_ENDPOINT]);
    telemetry::Settings {
        otlp: endpoint.is_some(),
        grpc: endpoint.is_some() && EnvVars::get(EnvVars::OTEL_EXPORTER_OTLP_PROTOCOL).as_deref() == Some("grpc"),
        queue: EnvVars::get(EnvVars::OTEL_BSP_MAX_QUEUE_SIZE).and_then(|size| size.parse().ok()),
        rate: EnvVars::get(EnvVars::VYR_SPANS_PER_SECOND).and_then(|rate| rate.parse().ok()),
        sampler: (EnvVars::get(EnvVars::OTEL_TRACES_SAMPLER), EnvVars::get(EnvVars::OTEL_TRACES_SAMPLER_ARG)),
        node,
        log: EnvVars::get(EnvVars::VYR_LOG),
        color: printer.color(),
        traceparent: EnvVars::get(EnvVars::TRACEPARENT),
    }
}

impl Session {
    async fn execute(&self, command: Command) -> Result<u8> {
        match command {
            Command::Run(verb) => verb.execute(self).await,
            Command::New(verb) => verb.execute(self),
            Command::Push(verb) => verb.execute(self).await,
            Command::Pull(verb) => verb.execute(self).await,
            Command::Put(verb) => verb.execute(self).await,
            Command::Export(verb) => verb.execute(self).await,
            Command::Import(verb) => verb.execute(self).await,
            Command::Save(verb) => verb.execute(self).await,
            Command::Load(verb) => verb.execute(self).await,
            Command::Warm(verb) => verb.execute(self).await,
            Command::Compile(verb) => verb.execute(self).await,
            Command::Sign(verb) => verb.execute(self).await,
            Command::Verify(verb) => verb.execute(self).await,
            Command::Keygen(verb) => verb.execute(self),
            Command::Trust(verb) => verb.execute(self),
            Command::Inspect(verb) => verb.execute(self).await,
            Command::Artifacts(verb) => verb.execute(self).await,
            Command::Gc(verb) => verb.execute(self).await,
            Command::Serve(verb) => verb.execute(self).await,
            Command::Token(verb) => verb.execute(self),
            Command::Submit(verb) => verb.execute(self).await,
            Command::Tasks(verb) => verb.execute(self).await,
            Command::Status(verb) => verb.execute(self).await,
            Command::Wait(verb) => verb.execute(self).await,
            Command::Logs(verb) => verb.execute(self).await,
            Command::Trace(verb) => verb.execute(self).await,
            Command::Cancel(verb) => verb.execute(self).await,
            Command::Replay(verb) => verb.execute(self).await,
            Command::Receipt(verb) => verb.execute(self).await,
            Command::State(verb) => verb.execute(self).await,
            Command::Backup(verb) => verb.execute(self).await,
            Command::Doctor(verb) => verb.execute(self).await,
            Command::Completions(verb) => verb.execute(self),
            Command::Man(verb) => verb.execute(self),
            Command::Version(verb) => verb.execute(self),
        }
    }
}
