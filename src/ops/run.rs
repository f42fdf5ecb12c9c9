//! Owns one run in the foreground, and what is known about it afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::Vyr;
use super::prepare::{Origin, Runnable, Wanted, prepare};
use super::state::{Bindings, Wish, artifact_names, check_wishes};
use crate::artifact::ArtifactForm;
use crate::engine::{
    Budget, CancellationToken, Deterministic, DirSpec, Execution, Input, Limits, NetRule, Outcome, Output, RunSpec,
    StateDoor,
};
use crate::error::{Error, ErrorKind, Result};
use crate::state::States;
use crate::telemetry;
use crate::trust::Acceptance;

/// One run.
#[derive(Debug)]
pub struct RunRequest {
    /// The artifact, and how to get it.
    pub wanted: Wanted,
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// The guest's environment.
    pub env: Vec<(String, String)>,
    /// The folders it sees.
    pub dirs: Vec<DirSpec>,
    /// The states that it asks for.
    pub states: Vec<Wish>,
    /// Time and chance are made from this.
    pub deterministic: Option<Deterministic>,
    /// What it may use.
    pub limits: Limits,
    /// Whom it may reach.
    pub allow_net: Vec<NetRule>,
    /// Its standard input.
    pub stdin: Input,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
}

/// What a guest is given, whichever way it was made ready.
#[derive(Debug, Default)]
pub struct Guest {
    /// Arguments after the program's name.
    pub args: Vec<String>,
    /// Its environment.
    pub env: Vec<(String, String)>,
    /// The folders it sees.
    pub dirs: Vec<DirSpec>,
    /// What it may use.
    pub limits: Limits,
    /// Whom it may reach.
    pub allow_net: Vec<NetRule>,
    /// Its standard input.
    pub stdin: Input,
    /// Its standard output.
    pub stdout: Output,
    /// Its standard error.
    pub stderr: Output,
    /// The states that are bound to it.
    pub states: Vec<StateDoor>,
    /// Time and chance are made from this.
    pub deterministic: Option<Deterministic>,
    /// What it shares with other guests.
    pub budget: Option<Arc<Budget>>,
}

/// The variable by which a guest's own telemetry joins the trace that it is run in.
pub const TRACEPARENT: &str = "TRACEPARENT";

/// Runs what is ready to its end, with what the artifact itself says about its command line.
///
/// # Errors
/// The guest was never started.
pub async fn execute(ready: &Runnable, guest: Guest, cancel: &CancellationToken) -> Result<Execution> {
    let command = &ready.command;
    let mut args = command.fixed_args.clone();
    args.extend(if guest.args.is_empty() { command.default_args.clone() } else { guest.args });
    let mut env: Vec<(String, String)> =
        command.env.iter().filter(|(k, _)| !guest.env.iter().any(|(given, _)| given == k)).cloned().collect();
    env.extend(guest.env);
    let spec = RunSpec {
        argv0: command.argv0.clone(),
        args,
        env,
        dirs: guest.dirs,
        states: guest.states,
        stdin: guest.stdin,
        stdout: guest.stdout,
        stderr: guest.stderr,
        limits: guest.limits,
        allow_net: guest.allow_net,
        deterministic: guest.deterministic,
        budget: guest.budget,
    };
    Ok(ready.engine.run(&ready.guest, spec, cancel).await?)
}

/// What happened. The field names are stable.
#[derive(Debug, Clone, Serialize)]
pub struct RunReport {
    /// The REF as it was given.
    pub reference: String,
    /// The digest that it named.
    pub digest: String,
    /// The manifest that ran.
    pub manifest: String,
    /// Its form.
    pub form: ArtifactForm,
    /// `module` or `component`.
    pub kind: &'static str,
    /// The digest of the Wasm bytes.
    pub code: String,
    /// The digest whose signature counts: `digest` or `manifest`.
    pub signed_digest: String,
    /// Why it was allowed to run.
    pub acceptance: Acceptance,
    /// S0, S1 or S2.
    pub start_tier: &'static str,
    /// Where the machine code is from: `compiled` now, `cached`, or `adopted` from a signer with the right to that.
    pub code_origin: Origin,
    /// When instantiation began, RFC 3339.
    pub started_at: String,
    /// From the request to a guest ready to be instantiated, in microseconds.
    pub prepare_us: u64,
    /// Instantiation, in microseconds.
    pub instantiate_us: u64,
    /// The guest's own run, in microseconds.
    pub run_us: u64,
    /// CPU time of the guest's thread, in microseconds.
    pub cpu_us: u64,
    /// The most linear memory it held, in bytes.
    pub peak_memory_bytes: u64,
    /// `exited`, `trapped`, `timed_out` or `cancelled`.
    pub outcome: &'static str,
    /// The outcome in words.
    pub message: String,
    /// The process exit code that follows from it.
    pub exit_code: u8,
    /// The guest's frames, for a trap.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backtrace: Option<String>,
}

/// The exit code of a guest that trapped: 128 + SIGABRT, as a shell shows a program that was aborted.
pub const TRAPPED: u8 = 134;

/// Runs it to its end. `cancel` ends it early, whatever the guest does.
///
/// # Errors
/// Whatever keeps it from starting; all that happens afterwards is in the report.
#[tracing::instrument(name = "run", skip_all, fields(reference = %request.wanted.reference, digest, tier))]
pub async fn run(vyr: &Vyr, request: RunRequest, cancel: &CancellationToken) -> Result<RunReport> {
    let began = Instant::now();
    let reference = request.wanted.reference.to_string();
    check_wishes(&request.states).map_err(|e| e.attempted(format_args!("run {reference}")))?;
    let ready = prepare(vyr, &request.wanted).await.map_err(|e| e.attempted(format_args!("run {reference}")))?;
    let run_it = |e: Error| e.attempted(format_args!("run {reference}"));
    let bound = bind(vyr, &request, &ready, cancel).await.map_err(run_it)?;
    let prepared_in = began.elapsed();
    let span = tracing::Span::current();
    span.record("digest", tracing::field::display(&ready.root));
    span.record("tier", ready.tier);
    let mut env = request.env;
    // Only where somebody collects: then the guest's own telemetry joins.
    if !env.iter().any(|(name, _)| name == TRACEPARENT)
        && let Some(context) = telemetry::current_traceparent()
    {
        env.push((TRACEPARENT.to_owned(), context));
    }
    let guest = Guest {
        args: request.args,
        env,
        dirs: request.dirs,
        limits: request.limits,
        allow_net: request.allow_net,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        states: bound.as_ref().map(|(bindings, _)| bindings.doors()).unwrap_or_default(),
        deterministic: request.deterministic,
        budget: None,
    };
    let execution = match &bound {
        Some((bindings, _)) => {
            let ended = CancellationToken::new();
            let guest = async {
                let execution = execute(&ready, guest, cancel).await;
                ended.cancel();
                execution
            };
            tokio::join!(guest, bindings.seal_while_running(vyr, &ended)).0
        }
        None => execute(&ready, guest, cancel).await,
    };
    if let Some((bindings, run)) = bound {
        let own: Vec<_> = bindings.of_the_task().map(|state| state.id).collect();
        bindings.close(vyr).await.map_err(run_it)?;
        for id in own {
            vyr.states().await?.end_task(id, &run).await?;
        }
    }
    let execution = execution.map_err(run_it)?;
    Ok(report(reference, &ready, prepared_in, &execution))
}

/// Binds the run's states, under a name for the run; `None` where there are none.
async fn bind(
    vyr: &Vyr,
    request: &RunRequest,
    ready: &Runnable,
    cancel: &CancellationToken,
) -> Result<Option<(Bindings, String)>> {
    if request.states.is_empty() && !States::may_bind_in(vyr.config().home.root()) {
        return Ok(None);
    }
    let run = format!("run-{}", uuid::Uuid::now_v7());
    let names = artifact_names(&request.wanted.reference, &ready.root);
    let bindings = tokio::select! {
        biased;
        () = cancel.cancelled() => return Err(Error::new(ErrorKind::Cancelled, "interrupted before the guest started")),
        bindings = Bindings::open(vyr, &names, &request.states, &run) => bindings?,
    };
    Ok(Some((bindings, run)))
}

fn report(reference: String, ready: &Runnable, prepared_in: Duration, execution: &Execution) -> RunReport {
    let backtrace = match &execution.outcome {
        Outcome::Trapped(trap) => trap.backtrace.clone(),
        _ => None,
    };
    RunReport {
        reference,
        digest: ready.root.to_string(),
        manifest: ready.selected.to_string(),
        form: ready.form,
        kind: if ready.component { "component" } else { "module" },
        code: ready.code.to_string(),
        signed_digest: ready.signed().to_string(),
        acceptance: ready.acceptance().clone(),
        start_tier: ready.tier,
        code_origin: ready.origin,
        started_at: rfc3339(execution.started_at),
        prepare_us: micros(prepared_in),
        instantiate_us: micros(execution.instantiate),
        run_us: micros(execution.run),
        cpu_us: micros(execution.cpu),
        peak_memory_bytes: execution.peak_memory_bytes,
        outcome: execution.outcome.as_str(),
        message: execution.outcome.to_string(),
        exit_code: exit_code(&execution.outcome),
        backtrace,
    }
}

/// The process exit code that stands for an outcome.
#[must_use]
pub fn exit_code(outcome: &Outcome) -> u8 {
    match outcome {
        // As the system does with a process's own code.
        Outcome::Exited(code) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        Outcome::Trapped(_) => TRAPPED,
        Outcome::TimedOut(_) => 124,
        Outcome::Cancelled => 130,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}
