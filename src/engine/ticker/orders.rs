//! Owns a look at the agreement under orders of steps that no clock brings about: the same source, made of the types of
//! shuttle, which runs one thread at a time and chooses which. It explores sequentially consistent memory, as the agreement
//! asks for; loom takes such accesses for weaker ones and would find an order that can't be.

use shuttle::sync::{Arc, Condvar, Mutex};
use shuttle::thread;

use agreement::Agreement;

#[expect(clippy::duplicate_mod, reason = "of other types: that is the point")]
#[path = "agreement.rs"]
mod agreement;

mod sync {
    pub(super) use shuttle::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    pub(super) use shuttle::sync::{Mutex, PoisonError};
}

/// The engine's epoch, for which guests can wait.
#[derive(Default)]
struct Epoch {
    now: Mutex<u64>,
    advanced: Condvar,
}

impl Epoch {
    fn advance(&self) {
        *self.now.lock().unwrap() += 1;
        self.advanced.notify_all();
    }

    /// Comes back when it has advanced: never, if nobody ticks, which the scheduler calls a deadlock.
    fn wait(&self) {
        let now = self.now.lock().unwrap();
        let before = *now;
        drop(self.advanced.wait_while(now, |now| *now == before).unwrap());
    }
}

fn clock(shared: &Agreement, epoch: &Epoch) {
    loop {
        epoch.advance();
        if shared.is_empty() && shared.end() {
            return;
        }
        thread::yield_now();
    }
}

/// Guests come and go, one after the other in each of two threads; each waits until it is ticked for.
fn guests_come_and_go() {
    let (shared, epoch) = (Arc::new(Agreement::default()), Arc::new(Epoch::default()));
    let guests = [(), ()].map(|()| {
        let (shared, epoch) = (Arc::clone(&shared), Arc::clone(&epoch));
        thread::spawn(move || {
            for _ in 0..2 {
                let started = shared.enter(|| {
                    let (shared, epoch) = (Arc::clone(&shared), Arc::clone(&epoch));
                    thread::Builder::new().spawn(move || clock(&shared, &epoch)).map(drop)
                });
                started.unwrap();
                epoch.wait();
                shared.leave();
            }
        })
    });
    guests.into_iter().for_each(|guest| guest.join().unwrap());
}

#[test]
fn whoever_is_in_is_ticked_for_in_any_order_of_steps() {
    shuttle::check_random(guests_come_and_go, 3_000);
    shuttle::check_pct(guests_come_and_go, 3_000, 3);
}
