//! Owns the clock that makes busy guests yield: one thread an engine, there only while guests run.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use wasmtime::EngineWeak;

/// How often a guest that computes hands the thread back: the precision of limits and cancellation.
pub(super) const TICK: Duration = Duration::from_millis(10);
/// The thread ends after this many ticks without a guest.
const IDLE_TICKS: u32 = 100;

#[derive(Debug, Default)]
pub(super) struct Ticker {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    guests: AtomicUsize,
    ticking: AtomicBool,
    starting: Mutex<()>,
}

/// While one of these lives, the engine's epoch advances.
#[derive(Debug)]
pub(super) struct Ticking(Arc<Shared>);

impl Drop for Ticking {
    fn drop(&mut self) {
        self.0.guests.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Ticker {
    /// Makes the epoch of `engine` advance until the returned value is dropped.
    ///
    /// # Errors
    /// The thread can't be started.
    pub(super) fn tick(&self, engine: &wasmtime::Engine) -> std::io::Result<Ticking> {
        self.shared.guests.fetch_add(1, Ordering::SeqCst);
        let guard = Ticking(Arc::clone(&self.shared));
        if !self.shared.ticking.load(Ordering::SeqCst) {
            let _starting = self.shared.starting.lock().unwrap_or_else(PoisonError::into_inner);
            if !self.shared.ticking.load(Ordering::SeqCst) {
                let (shared, engine) = (Arc::clone(&self.shared), engine.weak());
                std::thread::Builder::new()
                    .name("vyr-epoch".into())
                    .stack_size(64 << 10)
                    .spawn(move || run(&shared, &engine))?;
                self.shared.ticking.store(true, Ordering::SeqCst);
            }
        }
        Ok(guard)
    }
}

fn run(shared: &Shared, engine: &EngineWeak) {
    let mut idle = 0;
    loop {
        std::thread::sleep(TICK);
        let Some(engine) = engine.upgrade() else { return };
        engine.increment_epoch();
        drop(engine);
        idle = if shared.guests.load(Ordering::SeqCst) == 0 { idle + 1 } else { 0 };
        if idle < IDLE_TICKS {
            continue;
        }
        // A guest that comes now either sees `ticking` false and waits for the lock to start a new thread, or
        // has been counted already and is seen here: it can't fall between.
        let _starting = shared.starting.lock().unwrap_or_else(PoisonError::into_inner);
        shared.ticking.store(false, Ordering::SeqCst);
        if shared.guests.load(Ordering::SeqCst) == 0 {
            return;
        }
        shared.ticking.store(true, Ordering::SeqCst);
        idle = 0;
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
        while ticker.shared.ticking.load(Ordering::SeqCst) {
            assert!(std::time::Instant::now() < ends, "the thread should have ended");
            std::thread::sleep(TICK);
        }
        let _ticking = ticker.tick(&engine).unwrap();
        assert!(ticker.shared.ticking.load(Ordering::SeqCst));
    }
}
