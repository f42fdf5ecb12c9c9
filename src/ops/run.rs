//! Owns one run in the foreground, and what is known about it afterwards.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::Vyr;
use super::container;
use super::prepare::{Origin, Program, Runnable, Wanted, prepare, prepare_instead};
use super::state::{Bindings, Wish, artifact_names, check_wishes};
use crate::artifact::ArtifactForm;
use crate::engine::{
    Budget, CancellationToken, Deterministic, DirSpec, Execution, Input, Limits, NetRule, Outcome, Output, RunSpec,
    StateDoor, WASMTIME,
};
use crate::error::{Error, ErrorKind, Result};
use crate::fallback::FallbackReason;
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
    /// How its container is run, where that is the way.
    pub container: container::Options,
    /// Whether it is given this process's standard streams; else it reads nothing and what it writes is swallowed.
    pub inherit_stdio: bool,
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
    /// How its container is run, where that is the way.
    pub container: container::Options,
}

/// The variable by which a guest's own telemetry joins the trace that it is run in.
pub const TRACEPARENT: &str = "TRACEPARENT";

/// Runs what is ready to its end, with what the artifact itself says about its command line.
///
/// # Errors
/// The guest was never started.
pub async fn execute(ready: &Runnable, guest: Guest, cancel: &CancellationToken) -> Result<Execution> {
    let (engine, program, command) = match &ready.program {
        Program::Wasm { engine, guest, command } => (engine, guest, command),
        Program::Container(image) => return container::execute(image, guest, cancel).await,
    };
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
    Ok(engine.run(program, spec, cancel).await?)
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
    /// Which way it ran: `wasm` or `container`.
    pub path: &'static str,
    /// Why the container ran and not the Wasm, as a stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_reason: Option<FallbackReason>,
    /// The same in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_message: Option<String>,
    /// What ran it.
    pub engine: String,
    /// What this machine could not do as asked, and what a guest that failed was denied.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// `module`, `component` or `image`.
    pub kind: &'static str,
    /// The digest of the Wasm bytes; of a container, that of its image's config.
    pub code: String,
    /// The digest whose signature counts: `digest` or `manifest`.
    pub signed_digest: String,
    /// Why it was allowed to run.
    pub acceptance: Acceptance,
    /// S0, S1 or S2.
    pub start_tier: &'static str,
    /// Where the machine code is from: `compiled` now, `cached`, or `adopted` from a signer with the right to that. Of a
    /// container: `unpacked` now, or `cached`.
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
    /// `exited`, `trapped`, `timed_out` or `cancelled`; of a container, `signalled`, `out_of_memory` or `over_quota`, too.
    pub outcome: &'static str,
    /// The outcome in words.
    pub message: String,
    /// What keeps the next run from ending so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<&'static str>,
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
    let run_it = |e: Error| e.attempted(format_args!("run {reference}"));
    let ready = tokio::select! {
        biased;
        ready = prepare(vyr, &request.wanted) => ready.map_err(run_it)?,
        () = cancel.cancelled() => return Err(run_it(interrupted())),
    };
    let bound = bind(vyr, &request, &ready, cancel).await.map_err(run_it)?;
    let ran = run_bound(vyr, &request, ready, &bound, began, cancel).await;
    if let Some((bindings, run)) = bound {
        let own: Vec<_> = bindings.of_the_task().map(|state| state.id).collect();
        bindings.close(vyr).await.map_err(run_it)?;
        for id in own {
            vyr.states().await?.end_task(id, &run).await?;
        }
    }
    let (ready, prepared_in, execution) = ran.map_err(run_it)?;
    Ok(report(reference, &ready, prepared_in, &execution))
}

/// Runs what is ready, and where that could not be started, the container beside it.
async fn run_bound(
    vyr: &Vyr,
    request: &RunRequest,
    mut ready: Runnable,
    bound: &Option<(Bindings, String)>,
    began: Instant,
    cancel: &CancellationToken,
) -> Result<(Runnable, Duration, Execution)> {
    loop {
        let prepared_in = began.elapsed();
        let span = tracing::Span::current();
        span.record("digest", tracing::field::display(&ready.root));
        span.record("tier", ready.tier);
        let guest = guest(request, bound.as_ref().map(|(bindings, _)| bindings.doors()).unwrap_or_default());
        let execution = match bound {
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
        match execution {
            Ok(execution) => {
                if let Some(fallback) = ready.fallback() {
                    telemetry::count::fell_back(fallback.reason.as_str());
                }
                return Ok((ready, prepared_in, execution));
            }
            Err(e) => ready = prepare_instead(vyr, &request.wanted, &ready, e).await?,
        }
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Cancelled, "interrupted before the guest started")
}

fn guest(request: &RunRequest, states: Vec<StateDoor>) -> Guest {
    let mut env = request.env.clone();
    // Only where somebody collects: then the guest's own telemetry joins.
    if !env.iter().any(|(name, _)| name == TRACEPARENT)
        && let Some(context) = telemetry::current_traceparent()
    {
        env.push((TRACEPARENT.to_owned(), context));
    }
    let own = request.inherit_stdio;
    let output = || if own { Output::Inherit } else { Output::Null };
    Guest {
        args: request.args.clone(),
        env,
        dirs: request.dirs.clone(),
        limits: request.limits,
        allow_net: request.allow_net.clone(),
        stdin: if own { Input::Inherit } else { Input::Null },
        stdout: output(),
        stderr: output(),
        states,
        deterministic: request.deterministic,
        budget: None,
        container: request.container.clone(),
    }
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
        () = cancel.cancelled() => return Err(interrupted()),
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
        path: if ready.fallback().is_some() { "container" } else { "wasm" },
        fallback_reason: ready.fallback().map(|fallback| fallback.reason),
        fallback_message: ready.fallback().map(|fallback| fallback.message.clone()),
        engine: engine_name(execution),
        notes: execution.notes.clone(),
        kind: ready.kind,
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
        next: execution.outcome.helps(),
        exit_code: exit_code(&execution.outcome),
        backtrace,
    }
}

/// What ran it, with its version.
#[must_use]
pub fn engine_name(execution: &Execution) -> String {
    execution.engine.clone().unwrap_or_else(|| format!("wasmtime {WASMTIME}"))
}

/// The code of a process that a signal ended, as a shell shows it: 128 and the signal's number.
#[must_use]
pub fn signalled(signal: i32) -> i32 {
    128_i32.saturating_add(signal)
}

/// The signal by which the system ends what has no memory left.
pub const SIGKILL: i32 = 9;

/// The process exit code that stands for an outcome.
#[must_use]
pub fn exit_code(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Exited(code) => vyr_client::process_code(*code),
        Outcome::Trapped(_) => TRAPPED,
        Outcome::TimedOut(_) => 124,
        Outcome::Cancelled => 130,
        Outcome::Signalled(signal) => u8::try_from(signalled(*signal) & 0xff).unwrap_or(u8::MAX),
        Outcome::OutOfMemory | Outcome::OverQuota(_) => u8::try_from(signalled(SIGKILL)).unwrap_or(u8::MAX),
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(crate::task::sayable(time)).to_string()
}
