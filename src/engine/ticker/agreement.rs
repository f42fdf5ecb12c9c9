//! Owns the agreement between guests that come and the clock's thread, which may be about to end: whoever is in is ticked for.
//!
//! Each side writes first and looks at the other's word then, so that one of both sees it; this holds for sequentially
//! consistent memory only. The types come from `super::sync`: the standard library's, or in tests those of a scheduler that
//! tries orders of the threads' steps.

use super::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, PoisonError};

#[derive(Debug, Default)]
pub(super) struct Agreement {
    guests: AtomicUsize,
    ticking: AtomicBool,
    starting: Mutex<()>,
}

impl Agreement {
    /// A guest is in, and needs a thread; `start` starts one, if there is none.
    ///
    /// # Errors
    /// Those of `start`. The guest is in all the same until [`Self::leave`].
    pub(super) fn enter<E>(&self, start: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        self.guests.fetch_add(1, Ordering::SeqCst);
        if self.is_ticking() {
            return Ok(());
        }
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_ticking() {
            return Ok(());
        }
        start()?;
        self.ticking.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// A guest has left.
    pub(super) fn leave(&self) {
        self.guests.fetch_sub(1, Ordering::SeqCst);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.guests.load(Ordering::SeqCst) == 0
    }

    pub(super) fn is_ticking(&self) -> bool {
        self.ticking.load(Ordering::SeqCst)
    }

    /// The thread would end: whether it has to. When not, a guest has come meanwhile.
    pub(super) fn end(&self) -> bool {
        // A guest that comes now either sees `ticking` false and waits for the lock to start a new thread, or
        // has been counted already and is seen here: it can't fall between.
        let _starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        self.ticking.store(false, Ordering::SeqCst);
        if self.is_empty() {
            return true;
        }
        self.ticking.store(true, Ordering::SeqCst);
        false
    }
}
