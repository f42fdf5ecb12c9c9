//! Owns one run of a guest, from its instance to its end.

use std::fmt;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};
use wasmtime::component::ResourceTableError;
use wasmtime::{Store, ThrownException, Trap, WasmBacktrace};
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{FsPerms, I32Exit, WasiCtxBuilder, WasiCtxView, WasiView};

use super::backtrace::frames;
use super::denied::Denied;
use super::deterministic::MadeTime;
use super::doors::{self, Doors};
use super::error::{StartError, shown};
use super::limiter::Limiter;
use super::prepare::{Prepared, Program};
use super::spec::{Input, Output, RunSpec};
use super::stdio::Inherited;
use super::{Engine, keyvalue, net};

/// How a guest that started has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// By itself, with this code.
    Exited(i32),
    /// By a trap.
    Trapped(Trapped),
    /// A time limit ended it.
    TimedOut(Clock),
    /// Its cancellation token ended it.
    Cancelled,
    /// By a signal, which only a container can be.
    Signalled(i32),
    /// A container needed more memory than its limit.
    OutOfMemory,
    /// A container wrote more into a state than that may hold; its name.
    OverQuota(String),
}

/// A trap of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trapped {
    /// A stable word: `unreachable`, `memory_out_of_bounds`, `stack_overflow`, …, `host_error`.
    pub kind: &'static str,
    /// The trap in words.
    pub message: String,
    /// The guest's frames, innermost first, a line each, with names where the Wasm has them.
    pub backtrace: Option<String>,
}

/// The clock that a time limit is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Clock {
    /// The wall clock.
    Wall,
    /// CPU time.
    Cpu,
}

impl Outcome {
    /// A stable word for machine output.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Exited(_) => "exited",
            Self::Trapped(_) => "trapped",
            Self::TimedOut(_) => "timed_out",
            Self::Cancelled => "cancelled",
            Self::Signalled(_) => "signalled",
            Self::OutOfMemory => "out_of_memory",
            Self::OverQuota(_) => "over_quota",
        }
    }
}

impl Outcome {
    /// What keeps the next run from ending so, where a limit ended this one.
    #[must_use]
    pub fn helps(&self) -> Option<&'static str> {
        match self {
            Self::TimedOut(Clock::Wall) => Some("--timeout gives it longer"),
            Self::TimedOut(Clock::Cpu) => Some("--cpu gives it longer"),
            Self::OutOfMemory => Some("--memory gives it more"),
            Self::OverQuota(_) => {
                Some("let it remove what it no longer needs, or create a state with a larger --quota")
            }
            Self::Exited(_) | Self::Trapped(_) | Self::Cancelled | Self::Signalled(_) => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exited with code {code}"),
            Self::Trapped(trap) => write!(f, "trapped: {}", trap.message),
            Self::TimedOut(Clock::Wall) => f.write_str("reached its wall clock limit"),
            Self::TimedOut(Clock::Cpu) => f.write_str("reached its CPU limit"),
            Self::Cancelled => f.write_str("was cancelled"),
            Self::Signalled(signal) => write!(f, "was ended by signal {signal}"),
            Self::OutOfMemory => f.write_str("needed more memory than its limit"),
            Self::OverQuota(state) => write!(f, "wrote more into the state `{state}` than that may hold"),
        }
    }
}

/// What happened in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// How it ended.
    pub outcome: Outcome,
    /// When instantiation began.
    pub started_at: SystemTime,
    /// From there to the guest's entry point (or to the end, if that came first).
    pub instantiate: Duration,
    /// From the entry point to the end.
    pub run: Duration,
    /// CPU time of the thread on which the guest ran, instantiation included.
    pub cpu: Duration,
    /// The most linear memory that it held, in bytes.
    pub peak_memory_bytes: u64,
    /// What ran it, where that isn't this engine: a container's.
    pub engine: Option<String>,
    /// What could not be done as asked, and what a guest that failed was denied, in words.
    pub notes: Vec<String>,
}

/// What a store holds for its guest.
pub(super) struct State {
    pub(super) wasi: WasiP1Ctx,
    pub(super) limiter: Limiter,
    /// The states that it may write to; `None` when there are none.
    pub(super) doors: Option<Box<Doors>>,
    /// Its own time, where that is made.
    pub(super) clock: Option<Arc<MadeTime>>,
    /// The states whose keys it may use.
    pub(super) keys: keyvalue::Keys,
    /// What it was denied so far.
    pub(super) denied: Denied,
    /// Whether the guest has called the host: until then it can't have had an effect.
    pub(super) called: bool,
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.called = true;
        self.wasi.ctx()
    }
}

enum Ended<T> {
    Itself(T),
    TimedOut(Clock),
    Cancelled,
}

/// By the C library: rustix looks for the clock in memory that the kernel maps, which isn't there under valgrind, by which the
/// way to a guest is counted.
fn thread_cpu() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// Polls `guest` until it ends, a limit is reached or `cancel` is cancelled; adds its CPU time to `cpu`.
/// The clocks are read here at each poll rather than left to timers: a runtime whose only worker is busy
/// with guests looks at its timers seldom.
async fn supervise<T>(
    mut guest: Pin<&mut (impl Future<Output = T> + Send)>,
    began: Instant,
    limits: super::Limits,
    cancel: &CancellationToken,
    cpu: &mut Duration,
) -> Ended<T> {
    let deadline = limits.wall.and_then(|wall| began.checked_add(wall));
    let mut timer = pin!(deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into()))));
    let mut cancelled = pin!(cancel.cancelled());
    std::future::poll_fn(move |cx| {
        if cancelled.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ended::Cancelled);
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Poll::Ready(Ended::TimedOut(Clock::Wall));
        }
        let before = thread_cpu();
        let polled = guest.as_mut().poll(cx);
        *cpu += thread_cpu().saturating_sub(before);
        if let Poll::Ready(value) = polled {
            return Poll::Ready(Ended::Itself(value));
        }
        // It may have been interrupted for just that, and its next turn may be far.
        if cancel.is_cancelled() {
            return Poll::Ready(Ended::Cancelled);
        }
        if limits.cpu.is_some_and(|limit| *cpu >= limit) {
            return Poll::Ready(Ended::TimedOut(Clock::Cpu));
        }
        if let Some(timer) = timer.as_mut().as_pin_mut()
            && timer.get_mut().as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Ended::TimedOut(Clock::Wall));
        }
        Poll::Pending
    })
    .await
}

impl Engine {
    /// Runs a guest to its end. The future is `Send`, needs a Tokio runtime with time and I/O enabled, and
    /// may be polled on a current-thread runtime: a guest that computes hands the thread back every 10 ms.
    /// Dropping it ends the guest as a cancellation does.
    ///
    /// A guest may leave a thread behind that is blocked in the system (a read of a FIFO in one of its
    /// folders; of the inherited standard input, see [`Input::Inherit`]): who ends the process should not
    /// wait for the runtime's blocking threads, but call `Runtime::shutdown_background` or exit.
    ///
    /// # Errors
    /// A [`StartError`] when the guest was never started; all that happens later is an [`Outcome`].
    pub async fn run(
        &self,
        prepared: &Prepared,
        spec: RunSpec,
        cancel: &CancellationToken,
    ) -> Result<Execution, StartError> {
        let limits = spec.limits;
        let (started_at, began) = (SystemTime::now(), Instant::now());
        let ended_early = |outcome| Execution {
            outcome,
            started_at,
            instantiate: began.elapsed(),
            run: Duration::ZERO,
            cpu: Duration::ZERO,
            peak_memory_bytes: 0,
            engine: None,
            notes: Vec::new(),
        };
        let allowed = if spec.allow_net.is_empty() {
            net::Allowed::default()
        } else {
            let mut unused = Duration::ZERO;
            match supervise(pin!(net::resolve(&spec.allow_net)), began, limits, cancel, &mut unused).await {
                Ended::Itself(allowed) => allowed?,
                Ended::TimedOut(clock) => return Ok(ended_early(Outcome::TimedOut(clock))),
                Ended::Cancelled => return Ok(ended_early(Outcome::Cancelled)),
            }
        };
        let budget = spec.budget.clone();
        let doors = doors(&spec);
        let keys = keyvalue::Keys::of(&spec.states);
        let (wasi, clock, denied) = context(spec, allowed)?;
        let state = State {
            wasi,
            doors,
            clock,
            keys,
            denied,
            limiter: Limiter::new(limits.memory_bytes, limits.table_elements, limits.instances, budget),
            called: false,
        };
        let mut store = Store::try_new(self.wasmtime(), state).map_err(StartError::engine)?;
        store.limiter(|state| &mut state.limiter);
        store.set_epoch_deadline(1);
        store.epoch_deadline_async_yield_and_update(1);
        let ticking = self.tick()?;

        let entered = OnceLock::new();
        let mut cpu = Duration::ZERO;
        let ended = supervise(pin!(guest(prepared, &mut store, &entered)), began, limits, cancel, &mut cpu).await;
        let (instantiate, run) = match entered.get() {
            Some(at) => (at.duration_since(began), at.elapsed()),
            None => (began.elapsed(), Duration::ZERO),
        };
        drop(ticking);
        if let (Some(doors), true) = (&mut store.data_mut().doors, ended_itself(&ended)) {
            doors.finish();
        }
        let outcome = match ended {
            Ended::Itself(Ok(code)) => Outcome::Exited(code),
            Ended::Itself(Err(error)) => {
                let started = entered.get().is_some() || store.data().called;
                outcome_of(&error, started, store.data())?
            }
            Ended::TimedOut(clock) => Outcome::TimedOut(clock),
            Ended::Cancelled => Outcome::Cancelled,
        };
        tracing::debug!(%outcome, ?instantiate, ?run, ?cpu, "guest ended");
        let peak_memory_bytes = store.data().limiter.peak();
        // Who copes with a denial has nothing to be told.
        let notes = match &outcome {
            Outcome::Exited(0) | Outcome::TimedOut(_) | Outcome::Cancelled => Vec::new(),
            _ => {
                let state = store.data();
                let full = state.doors.as_ref().map(|doors| doors.full()).unwrap_or_default();
                state.denied.remarks(&state.limiter, full)
            }
        };
        Ok(Execution { outcome, started_at, instantiate, run, cpu, peak_memory_bytes, engine: None, notes })
    }
}

/// Instantiates and runs; `entered` is set when the entry point is about to be called.
async fn guest(prepared: &Prepared, store: &mut Store<State>, entered: &OnceLock<Instant>) -> wasmtime::Result<i32> {
    // Steps of a span that there is. A node's guests have none: it makes their spans of what is recorded anyway.
    let part = !Span::current().is_disabled();
    let instantiating = if part { tracing::info_span!("instantiate", digest = &*prepared.label) } else { Span::none() };
    let executing = || {
        let _ = entered.set(Instant::now());
        if part { tracing::info_span!("execute", digest = &*prepared.label) } else { Span::none() }
    };
    match &prepared.program {
        Program::Module { pre, start } => {
            let instance = pre.instantiate_async(&mut *store).instrument(instantiating).await?;
            let start = instance
                .get_module_export(&mut *store, start)
                .and_then(wasmtime::Extern::into_func)
                .ok_or_else(|| wasmtime::format_err!("`_start` is gone"))?
                .typed::<(), ()>(&*store)?;
            start.call_async(&mut *store, ()).instrument(executing()).await?;
            Ok(0)
        }
        Program::Component(pre) => {
            let command = pre.instantiate_async(&mut *store).instrument(instantiating).await?;
            let result = command.wasi_cli_run().call_run(&mut *store).instrument(executing()).await?;
            Ok(i32::from(result.is_err()))
        }
    }
}

/// The doors of a guest's states, by the numbers that a module knows their folders by.
fn doors(spec: &RunSpec) -> Option<Box<Doors>> {
    let mut doors = Doors::new(&spec.states)?;
    for (number, state) in (doors::p1::FIRST_PREOPEN..).skip(spec.dirs.len()).zip(&spec.states) {
        doors.preopened(number, &state.handle);
    }
    Some(doors)
}

/// Whether the guest came to its end by itself, which closes what it left open; what was cut short may be half written.
fn ended_itself(ended: &Ended<wasmtime::Result<i32>>) -> bool {
    match ended {
        Ended::Itself(Ok(_)) => true,
        Ended::Itself(Err(error)) => error.is::<I32Exit>(),
        Ended::TimedOut(_) | Ended::Cancelled => false,
    }
}

/// The most of the host's things that a guest holds at once: files, streams, sockets, timers. Each costs some hundred bytes that
/// no limit of linear memory counts, or a descriptor of this process. What a process of the system may have open is 1,024 by
/// default.
const HELD_AT_MOST: usize = 16_384;

type Context = (WasiP1Ctx, Option<Arc<MadeTime>>, Denied);

fn context(spec: RunSpec, allowed: net::Allowed) -> Result<Context, StartError> {
    let mut builder = WasiCtxBuilder::new();
    builder.arg(&spec.argv0).args(&spec.args).envs(&spec.env);
    match spec.stdin {
        Input::Null => {}
        Input::Inherit => drop(builder.stdin(std::io::stdin())),
        Input::Stream(stream) => drop(builder.stdin(stream)),
    }
    match spec.stdout {
        Output::Null => {}
        Output::Inherit => drop(builder.stdout(Inherited::Stdout)),
        Output::Stream(stream) => drop(builder.stdout(stream)),
    }
    match spec.stderr {
        Output::Null => {}
        Output::Inherit => drop(builder.stderr(Inherited::Stderr)),
        Output::Stream(stream) => drop(builder.stderr(stream)),
    }
    for dir in spec.dirs {
        let perms = if dir.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        if let Err(error) = builder.preopened_dir(&dir.host, &dir.guest, perms) {
            let source =
                error.downcast::<std::io::Error>().unwrap_or_else(|error| std::io::Error::other(shown(&error)));
            return Err(StartError::DirUnavailable { host: dir.host, guest: dir.guest, source });
        }
    }
    for state in spec.states {
        let perms = if state.handle.read_only() { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
        if let Err(error) = builder.preopened_dir(state.handle.data(), state.guest_path(), perms) {
            let (host, guest) = (state.handle.data().to_owned(), state.guest_path());
            return Err(StartError::DirUnavailable { host, guest, source: std::io::Error::other(shown(&error)) });
        }
    }
    let denied = allowed.apply(&mut builder);
    let clock = spec.deterministic.map(|made| made.apply(&mut builder));
    let mut wasi = builder.build_p1();
    wasi.ctx().table.set_max_capacity(HELD_AT_MOST);
    Ok((wasi, clock, denied))
}

/// What an error of the runtime means: an end of the guest if it had started, else a failed start.
fn outcome_of(error: &wasmtime::Error, started: bool, state: &State) -> Result<Outcome, StartError> {
    if let Some(exit) = error.downcast_ref::<I32Exit>() {
        return Ok(Outcome::Exited(exit.0));
    }
    let backtrace = error.downcast_ref::<WasmBacktrace>();
    // The pool of stacks is asked last, when the entry point is called.
    if error.is::<wasmtime::PoolConcurrencyLimitError>() && backtrace.is_none() && !state.called {
        return Err(StartError::Busy { why: shown(error) });
    }
    if !started && backtrace.is_none() {
        if state.limiter.out_of_budget() {
            return Err(StartError::Busy { why: "the memory that guests may hold together is in use".into() });
        }
        return Err(match state.limiter.refused() {
            Some((what, needed, limit)) => StartError::Limit { what, needed, limit },
            None => StartError::from_link(error),
        });
    }
    let (kind, message) = match error.downcast_ref::<Trap>() {
        Some(trap) => (trap_kind(*trap), trap.to_string().trim_start_matches("wasm trap: ").to_owned()),
        None if error.is::<ThrownException>() => {
            ("uncaught_exception", "an exception was thrown and not caught".into())
        }
        None if matches!(error.downcast_ref::<ResourceTableError>(), Some(ResourceTableError::Full)) => {
            ("host_error", format!("it held more than {HELD_AT_MOST} files, streams, sockets and timers at once"))
        }
        None => ("host_error", error.root_cause().to_string()),
    };
    Ok(Outcome::Trapped(Trapped { kind, message, backtrace: backtrace.map(frames) }))
}

fn trap_kind(trap: Trap) -> &'static str {
    match trap {
        Trap::StackOverflow => "stack_overflow",
        Trap::MemoryOutOfBounds => "memory_out_of_bounds",
        Trap::HeapMisaligned => "unaligned_atomic",
        Trap::TableOutOfBounds => "table_out_of_bounds",
        Trap::IndirectCallToNull => "indirect_call_to_null",
        Trap::BadSignature => "indirect_call_type_mismatch",
        Trap::IntegerOverflow => "integer_overflow",
        Trap::IntegerDivisionByZero => "integer_divide_by_zero",
        Trap::BadConversionToInteger => "invalid_conversion_to_integer",
        Trap::UnreachableCodeReached => "unreachable",
        Trap::NullReference => "null_reference",
        Trap::ArrayOutOfBounds => "array_out_of_bounds",
        Trap::AllocationTooLarge => "allocation_too_large",
        Trap::CastFailure => "cast_failure",
        _ => "other",
    }
}
