//! Owns runs that give the same output each time and everywhere: time and chance are made, not the machine's.
//!
//! Every look at a clock takes one microsecond of the guest's own time, and a guest that waits for a time is there at
//! once: how fast the machine is can't be told. Chance is ChaCha20 (RFC 8439) keyed with the seed. What floating-point
//! operations leave open is settled by the engine (one NaN), which is why such guests are compiled apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chacha20::ChaCha20Rng;
use chacha20::rand_core::SeedableRng as _;
use wasmtime::component::{HasData, Resource};
use wasmtime::{AsContextMut as _, Caller, Linker};
use wasmtime_wasi::clocks::{HostMonotonicClock, HostWallClock, WasiClocksCtxView, WasiClocksView as _};
use wasmtime_wasi::p1::wasi_snapshot_preview1::{self as wasi, WasiSnapshotPreview1 as _};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::{DynPollable, Pollable, subscribe};
use wasmtime_wasi::{WasiCtxBuilder, async_trait};
use wiggle::{GuestMemory, GuestPtr};

use super::run::State;

/// What one look at a clock takes, in nanoseconds.
const LOOK: u64 = 1000;

/// What time and chance are made from. Two runs of one guest with the same inputs and these give the same output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deterministic {
    /// Chance.
    pub seed: u64,
    /// The wall clock at the guest's start.
    pub start: SystemTime,
}

impl Default for Deterministic {
    /// Seed 0, at the beginning of the year 2000.
    fn default() -> Self {
        Self { seed: 0, start: UNIX_EPOCH + Duration::from_secs(946_684_800) }
    }
}

/// A guest's own time.
#[derive(Debug)]
pub(super) struct MadeTime {
    /// Since the start, in nanoseconds.
    passed: AtomicU64,
    start: Duration,
}

impl MadeTime {
    fn look(&self) -> u64 {
        self.passed.fetch_add(LOOK, Ordering::Relaxed)
    }

    /// Waits until a time, which is then.
    fn wait(&self, until: u64) {
        self.passed.fetch_max(until, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone)]
struct Shared(Arc<MadeTime>);

impl HostMonotonicClock for Shared {
    fn resolution(&self) -> u64 {
        LOOK
    }

    fn now(&self) -> u64 {
        self.0.look()
    }
}

impl HostWallClock for Shared {
    fn resolution(&self) -> Duration {
        Duration::from_nanos(LOOK)
    }

    fn now(&self) -> Duration {
        self.0.start.saturating_add(Duration::from_nanos(self.0.look()))
    }
}

impl Deterministic {
    /// Makes a guest's time and chance.
    pub(super) fn apply(self, builder: &mut WasiCtxBuilder) -> Arc<MadeTime> {
        let start = self.start.duration_since(UNIX_EPOCH).unwrap_or_default();
        let clock = Arc::new(MadeTime { passed: AtomicU64::new(0), start });
        let chance = |stream: u64| {
            let mut seed = [0; 32];
            let (first, rest) = seed.split_at_mut(8);
            first.copy_from_slice(&self.seed.to_le_bytes());
            if let Some(second) = rest.get_mut(..8) {
                second.copy_from_slice(&stream.to_le_bytes());
            }
            ChaCha20Rng::from_seed(seed)
        };
        builder
            .wall_clock(Shared(Arc::clone(&clock)))
            .monotonic_clock(Shared(Arc::clone(&clock)))
            .secure_random(chance(0))
            .insecure_random(chance(1))
            .insecure_random_seed(u128::from(self.seed));
        clock
    }
}

/// Puts made time before a module's waits; `linker` has them already and allows shadowing.
pub(super) fn add_to_module_linker(linker: &mut Linker<State>) -> wasmtime::Result<()> {
    linker.func_wrap_async(
        "wasi_snapshot_preview1",
        "poll_oneoff",
        |mut caller: Caller<'_, State>, (subscriptions, events, count, happened): (i32, i32, i32, i32)| {
            Box::new(async move {
                let Some(memory) = caller.get_export("memory").and_then(wasmtime::Extern::into_memory) else {
                    wasmtime::bail!("missing required memory export");
                };
                let fuel = caller.as_context_mut().hostcall_fuel();
                let (bytes, state) = memory.data_and_store_mut(&mut caller);
                state.called = true;
                state.wasi.set_hostcall_fuel(fuel);
                let mut memory = GuestMemory::Unshared(bytes);
                if let Some(clock) = &state.clock
                    && let Some(wait) = only_clock(&memory, subscriptions.cast_unsigned(), count.cast_unsigned())
                {
                    let until = if wait.absolute { wait.nanos } else { clock.look().saturating_add(wait.nanos) };
                    let until = if wait.wall { until.saturating_sub(nanos(clock.start)) } else { until };
                    clock.wait(until);
                    let done = wait.tell(&mut memory, events.cast_unsigned(), happened.cast_unsigned());
                    return Ok(done.map_or(FAULT, |()| 0));
                }
                wasi::poll_oneoff(&mut state.wasi, &mut memory, subscriptions, events, count, happened).await
            })
        },
    )?;
    Ok(())
}

/// `errno` of WASI preview 1: a bad address.
const FAULT: i32 = 21;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One subscription to a clock.
struct Wait {
    user: u64,
    wall: bool,
    absolute: bool,
    nanos: u64,
}

/// The wait of a module that waits for one time and nothing else, as a sleep is. The layout of a subscription is WASI
/// preview 1's (witx/p1/typenames.witx): user data, tag, clock, timeout, precision, flags.
fn only_clock(memory: &GuestMemory<'_>, at: u32, count: u32) -> Option<Wait> {
    let field = |offset: u32| at.checked_add(offset);
    let long = |offset| memory.read(GuestPtr::<u64>::new(field(offset)?)).ok();
    if count != 1 || memory.read(GuestPtr::<u8>::new(field(8)?)).ok()? != 0 {
        return None;
    }
    let clock = memory.read(GuestPtr::<u32>::new(field(16)?)).ok()?;
    let flags = memory.read(GuestPtr::<u16>::new(field(40)?)).ok()?;
    Some(Wait { user: long(0)?, wall: clock == 0, absolute: flags & 1 == 1, nanos: long(24)? })
}

impl Wait {
    /// Writes the one event, and that it is one.
    fn tell(&self, memory: &mut GuestMemory<'_>, event: u32, happened: u32) -> Option<()> {
        let field = |offset: u32| event.checked_add(offset);
        memory.write(GuestPtr::<u64>::new(field(0)?), self.user).ok()?;
        memory.write(GuestPtr::<u16>::new(field(8)?), 0).ok()?;
        memory.write(GuestPtr::<u8>::new(field(10)?), 0).ok()?;
        memory.write(GuestPtr::<u32>::new(happened), 1).ok()
    }
}

/// WASI's own clocks, with made time before their waits.
pub(super) struct View<'a> {
    wasi: WasiClocksCtxView<'a>,
    clock: Option<&'a Arc<MadeTime>>,
}

struct HasClock;

impl HasData for HasClock {
    type Data<'a> = View<'a>;
}

/// A time that is as soon as somebody waits for it.
struct Then {
    clock: Arc<MadeTime>,
    until: u64,
}

#[async_trait]
impl Pollable for Then {
    async fn ready(&mut self) {
        self.clock.wait(self.until);
    }
}

impl View<'_> {
    fn then(&mut self, clock: Arc<MadeTime>, until: u64) -> wasmtime::Result<Resource<DynPollable>> {
        let then = self.wasi.table.push(Then { clock, until })?;
        subscribe(self.wasi.table, then)
    }
}

impl monotonic_clock::Host for View<'_> {
    fn now(&mut self) -> wasmtime::Result<u64> {
        self.wasi.now()
    }

    fn resolution(&mut self) -> wasmtime::Result<u64> {
        self.wasi.resolution()
    }

    fn subscribe_instant(&mut self, when: u64) -> wasmtime::Result<Resource<DynPollable>> {
        match self.clock {
            Some(clock) => self.then(Arc::clone(clock), when),
            None => self.wasi.subscribe_instant(when),
        }
    }

    fn subscribe_duration(&mut self, duration: u64) -> wasmtime::Result<Resource<DynPollable>> {
        match self.clock {
            Some(clock) => {
                let until = clock.look().saturating_add(duration);
                self.then(Arc::clone(clock), until)
            }
            None => self.wasi.subscribe_duration(duration),
        }
    }
}

/// Puts made time before a component's waits; `linker` has them already and allows shadowing.
pub(super) fn add_to_component_linker(linker: &mut wasmtime::component::Linker<State>) -> wasmtime::Result<()> {
    monotonic_clock::add_to_linker::<State, HasClock>(linker, |state| {
        state.called = true;
        View { wasi: state.wasi.clocks(), clock: state.clock.as_ref() }
    })
}
