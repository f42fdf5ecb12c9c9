//! Owns how much is compiled at a time in a process whose runs are others' to begin: so many at once, in so much memory.
//! Who asks for more waits, and what could never fit is refused before it is read.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Error, ErrorKind, Result};
use crate::fallback::FallbackReason;

/// To compile takes some twenty times the Wasm's size in memory.
const MEMORY_PER_BYTE: u64 = 20;
/// Memory is counted in these, since a semaphore counts in 32 bits.
const UNIT: u64 = 1 << 20;

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

    /// Holds the memory for compiling a Wasm of so many bytes, once there is as much.
    ///
    /// # Errors
    /// [`ErrorKind::CannotStart`] for what takes more than there ever is.
    pub(super) async fn memory(&self, wasm: u64) -> Result<OwnedSemaphorePermit> {
        let needed = wasm.saturating_mul(MEMORY_PER_BYTE).div_ceil(UNIT).max(1);
        let Some(units) = u32::try_from(needed).ok().filter(|units| *units <= self.units) else {
            let most = u64::from(self.units) * UNIT / MEMORY_PER_BYTE;
            return Err(Error::new(
                ErrorKind::CannotStart,
                format!("its Wasm has {wasm} bytes, and this node compiles at most {most}, for the memory that takes"),
            )
            .because(FallbackReason::Limit.as_str())
            .hint(
                "compile it on a larger machine (`vyr compile REF --push --key KEY`), or raise compile-memory-bytes in \
                 [serve] of config.toml",
            ));
        };
        permit(&self.memory, units).await
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

    #[tokio::test]
    async fn what_does_not_fit_waits_and_what_never_does_is_refused() {
        let compiling = Compiling::new(100 * UNIT, 1);
        let error = compiling.memory(6 * UNIT).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CannotStart);
        assert!(error.why().contains("at most 5242880"), "{error}");
        assert!(compiling.memory(u64::MAX).await.is_err());
        let first = compiling.memory(3 * UNIT).await.unwrap();
        let small = compiling.memory(UNIT).await.unwrap();
        let mut third = std::pin::pin!(compiling.memory(3 * UNIT));
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
