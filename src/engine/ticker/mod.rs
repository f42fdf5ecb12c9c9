//! Owns the clock that makes busy guests yield: one thread an engine, there only while guests run.

mod agreement;
#[cfg(test)]
mod orders;

use std::sync::Arc;
use std::time::Duration;

use wasmtime::EngineWeak;

use agreement::Agreement;

/// What [`agreement`] is made of.
mod sync {
    pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(super) use std::sync::{Mutex, PoisonError};
}

/// How often a guest that computes hands the thread back: the precision of limits and cancellation.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// The thread ends after this many ticks without a guest.
const IDLE_TICKS: u32 = 100;

#[derive(Debug, Default)]
pub(super) struct Ticker {
    shared: Arc<Agreement>,
}

/// While one of these lives, the engine's epoch advances.
#[derive(Debug)]
pub(super) struct Ticking(Arc<Agreement>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Ticker {
    /// Makes the epoch of `engine` advance until the returned value is dropped.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(super) fn tick(&self, engine: &wasmtime::Engine) -> std::io::Result<Ticking> {
        let guard = Ticking(Arc::clone(&self.shared));
        self.shared.enter(|| {
            let (shared, engine) = (Arc::clone(&self.shared), engine.weak());
            let thread = std::thread::Builder::new().name("vyr-epoch".into()).stack_size(64 << 10);
            thread.spawn(move || run(&shared, &engine)).map(drop)
        })?;
        Ok(guard)
    }
}

fn run(shared: &Agreement, engine: &EngineWeak) {
    let mut idle = 0;
    loop {
        std::thread::sleep(TICK);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        drop(engine);
        idle = if shared.is_empty() { idle + 1 } else { 0 };
        if idle >= IDLE_TICKS {
            if shared.end() {
                return;
            }
            idle = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_ends_when_idle_and_comes_back() {
        let engine = wasmtime::Engine::default();
        let ticker = Ticker::default();
        drop(ticker.tick(&engine).unwrap());
        let ends = std::time::Instant::now() + Duration::from_secs(20);
        while ticker.shared.is_ticking() {
            assert!(std::time::Instant::now() < ends, "the thread should have ended");
            std::thread::sleep(TICK);
        }
        let _ticking = ticker.tick(&engine).unwrap();
        assert!(ticker.shared.is_ticking());
    }
}
