//! Owns how much is compiled at a time in a process whose runs are others' to begin: so many at once, in so much memory.
//! Who asks for more waits, and what could never fit is refused before it is read. And on which threads: on those that give way
//! to whoever asks or waits, as guests do.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::engine::functions;
use crate::error::{Error, ErrorKind, Result};
use crate::fallback::FallbackReason;

/// To compile takes some twenty times the Wasm's size in memory.
const MEMORY_PER_BYTE: u64 = 20;
/// What a compiled function takes until all are, however small it is: 5.3 KiB each of a hundred thousand empty ones.
const MEMORY_PER_FUNCTION: u64 = 6 << 10;
/// Memory is counted in these, since a semaphore counts in 32 bits.
const UNIT: u64 = 1 << 20;

/// How much guests, and compiling for them, give way to the node's other threads and to the machine's, as nice(2) has it.
const NICE: i32 = 5;

/// Has the current thread give way, for good; on Linux that is a thread's own. Where it isn't allowed, all is done the same.
pub fn give_way() {
    let _ = rustix::process::nice(NICE);
}

/// What there is to compile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Work {
    bytes: u64,
    functions: u64,
}

impl Work {
    /// Of a Wasm that has so many bytes, and was not looked into yet.
    pub(super) fn of_size(bytes: u64) -> Self {
        Self { bytes, functions: 0 }
    }

    /// Of this Wasm.
    pub(super) fn of(wasm: &[u8]) -> Self {
        Self { bytes: wasm.len() as u64, functions: functions(wasm) }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn memory(self) -> u64 {
        let by_function = self.functions.saturating_mul(MEMORY_PER_FUNCTION);
        self.bytes.saturating_mul(MEMORY_PER_BYTE).max(by_function)
    }

    /// Why it can't be done in so much memory.
    fn too_much(self, memory: u64) -> String {
        let (count, what, most) = if self.memory() > self.bytes.saturating_mul(MEMORY_PER_BYTE) {
            (self.functions, "functions", memory / MEMORY_PER_FUNCTION)
        } else {
            (self.bytes, "bytes", memory / MEMORY_PER_BYTE)
        };
        format!("its Wasm has {count} {what}, and this node compiles at most {most}, for the memory that takes")
    }
}

/// The bounds.
#[derive(Debug, Clone)]
pub struct Compiling {
    memory: Arc<Semaphore>,
    units: u32,
    turns: Arc<Semaphore>,
}

impl Compiling {
    /// So much memory, in bytes, for all that is compiled, and so many compilations at once.
    #[must_use]
    pub fn new(memory: u64, at_once: usize) -> Self {
        let units = u32::try_from(memory / UNIT).unwrap_or(u32::MAX).max(1);
        let turns = Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS)));
        Self { memory: Arc::new(Semaphore::new(units as usize)), units, turns }
    }

    /// Holds the memory for this, once there is as much.
    ///
    /// # Errors
    /// [`ErrorKind::CannotStart`] for what takes more than there ever is.
    pub(super) async fn memory(&self, work: Work) -> Result<OwnedSemaphorePermit> {
        let needed = work.memory().div_ceil(UNIT).max(1);
        let Some(units) = u32::try_from(needed).ok().filter(|units| *units <= self.units) else {
            let why = work.too_much(u64::from(self.units) * UNIT);
            return Err(Error::new(ErrorKind::CannotStart, why).because(FallbackReason::Limit.as_str()).hint(
                "compile it on a larger machine (`vyr compile REF --push --key KEY`), or raise compile-memory-bytes in \
                 [serve] of config.toml",
            ));
        };
        permit(&self.memory, units).await
    }

    /// Has what the compiler splits among threads done on ones that give way, in all of this process. Who comes later finds
    /// that settled.
    pub fn give_way_in_parallel() {
        let pool = rayon::ThreadPoolBuilder::new().thread_name(|_| "vyr-compile".to_owned());
        if let Err(e) = pool.start_handler(|_| give_way()).build_global() {
            tracing::debug!(error = %e, "the threads for compiling were there already");
        }
    }

    /// Does `work` on a thread of its own that gives way, and waits for it.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`]: the system gives no thread.
    ///
    /// # Panics
    /// When `work` does.
    pub(super) fn aside<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
        let span = tracing::Span::current();
        let work = || {
            give_way();
            span.in_scope(work)
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("vyr-compile".to_owned()).spawn_scoped(scope, work);
            let thread =
                thread.map_err(|e| Error::new(ErrorKind::Internal, format!("no thread to compile on: {e}")))?;
            Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Holds one of the places in which something is compiled, once one is free.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit> {
        permit(&self.turns, 1).await
    }
}

async fn permit(of: &Arc<Semaphore>, count: u32) -> Result<OwnedSemaphorePermit> {
    // It is never closed.
    Arc::clone(of).acquire_many_owned(count).await.map_err(|e| Error::new(ErrorKind::Internal, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_small_functions_take_more_than_their_bytes() {
        let functions = "(func)".repeat(1000);
        let wasm = wat::parse_str(format!("(component (core module {functions}) (core module (func)))")).unwrap();
        assert_eq!(Work::of(&wasm), Work { bytes: wasm.len() as u64, functions: 1001 });
        assert_eq!(Work::of(&wasm).memory(), 1001 * MEMORY_PER_FUNCTION);
        assert_eq!(Work::of_size(10).memory(), 200);
        // Whatever it says of itself: what is there counts, and what it isn't is said by the compiler.
        assert_eq!(Work::of(b"\0asm\x01\0\0\0\x0a\x05\xff\xff\xff\xff\x0f").functions, 0);
    }

    #[test]
    fn what_is_done_aside_gives_way_and_what_it_says_comes_back() {
        let nice = || rustix::process::nice(0).unwrap();
        let before = nice();
        let name = || std::thread::current().name().map(str::to_owned);
        let aside = Compiling::aside(|| (nice(), name())).unwrap();
        assert_eq!(aside, ((before + NICE).min(19), Some("vyr-compile".to_owned())));
        assert_eq!(nice(), before, "the caller's own stays");
        assert!(std::panic::catch_unwind(|| Compiling::aside(|| panic!("as the compiler might"))).is_err());
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_and_what_never_does_is_refused() {
        let compiling = Compiling::new(100 * UNIT, 1);
        let bytes = Work::of_size;
        let error = compiling.memory(bytes(6 * UNIT)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotStart);
        assert!(error.why().contains("6291456 bytes, and this node compiles at most 5242880"), "{error}");
        assert!(compiling.memory(bytes(u64::MAX)).await.is_err());
        let error = compiling.memory(Work { bytes: 500_000, functions: 100_000 }).await.unwrap_err();
        assert!(error.why().contains("100000 functions, and this node compiles at most 17066"), "{error}");
        let first = compiling.memory(bytes(3 * UNIT)).await.unwrap();
        let small = compiling.memory(bytes(UNIT)).await.unwrap();
        let mut third = std::pin::pin!(compiling.memory(bytes(3 * UNIT)));
        assert!(futures_util::poll!(&mut third).is_pending());
        drop(first);
        let _third = third.await.unwrap();
        drop(small);
        let turn = compiling.turn().await.unwrap();
        let mut next = std::pin::pin!(compiling.turn());
        assert!(futures_util::poll!(&mut next).is_pending());
        drop(turn);
        drop(next.await.unwrap());
    }
}
