//! Owns the threads that guests run on: as many as there are cores, apart from the runtime's own workers.
//!
//! A guest that waits costs no thread. One that computes is interrupted by the engine's clock and goes to the back of
//! a second queue, behind guests that are new or were waiting for something: a start or an answer never waits for a loop
//! to end its turn, and a loop still gets every eighth turn.
//!
//! What no clock interrupts, one instruction that fills a gigabyte or a call of the host that takes long, keeps its thread. So
//! somebody looks whether turns begin while guests wait for one, and lends them a thread more, for the first queue alone.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_task::{Runnable, ScheduleInfo, WithInfo};
use tokio::runtime::Handle;

use crate::engine::Engine;
use crate::ops::give_way;

/// After so many turns of the first queue, one of the second.
const TURNS: u32 = 8;

/// Where no turn began for so long and a guest of the first queue waits for one, all threads are held. A guest that can be
/// interrupted hands its thread back within much less than that.
const HELD: Duration = Duration::from_millis(2);
/// So many spare threads there are at most for each of the others, with what holds them in the end: it, too, is of guests.
const MOST_SPARES: usize = 4;
/// How long a spare thread, or who looks for the need of one, waits for more of it.
const LINGER: Duration = Duration::from_millis(500);

/// What tells one guest's turns from another's.
pub(super) type Tag = u64;

#[derive(Debug)]
pub(super) struct Executor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    queues: Mutex<Queues>,
    work: Condvar,
    /// Where spare threads wait.
    spare: Condvar,
    /// Where who looks after the threads waits until guests do.
    behind: Condvar,
    most_spares: usize,
    engine: Engine,
    runtime: Handle,
}

#[derive(Debug, Default)]
struct Queues {
    /// New, or woken by what they waited for.
    first: VecDeque<Runnable<Tag>>,
    /// Interrupted in the middle of computing.
    second: VecDeque<Runnable<Tag>>,
    turns: u32,
    idle: usize,
    /// Workers that run a guest of the second queue: those can be interrupted for one of the first.
    computing: usize,
    /// Turns that began so far.
    begun: u64,
    /// Threads that were lent, and those of them that wait.
    spares: usize,
    idle_spares: usize,
    /// Somebody looks whether turns begin.
    watched: bool,
    closed: bool,
}

impl Queues {
    /// A guest that is new or was woken waits, and no thread is free for it.
    fn is_behind(&self) -> bool {
        !self.first.is_empty() && self.idle == 0 && self.idle_spares == 0
    }

    /// The next guest, and whether it computes.
    fn next(&mut self) -> Option<(Runnable<Tag>, bool)> {
        let second_first = self.turns >= TURNS && !self.second.is_empty();
        if second_first || self.first.is_empty() {
            self.turns = 0;
            return self.second.pop_front().map(|guest| (guest, true));
        }
        self.turns += 1;
        self.first.pop_front().map(|guest| (guest, false))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn schedule(&self, guest: Runnable<Tag>, info: ScheduleInfo) {
        let mut queues = self.lock();
        let first = !info.woken_while_running;
        if first {
            queues.first.push_back(guest);
        } else {
            queues.second.push_back(guest);
        }
        let idle = queues.idle > 0;
        let (computing, spare) = (first && queues.computing > 0, first && queues.idle_spares > 0);
        self.see_who_waits(&mut queues);
        drop(queues);
        if idle {
            self.work.notify_one();
            return;
        }
        if computing {
            self.engine.kick();
        }
        if spare {
            self.spare.notify_one();
        }
    }

    /// Has the threads looked after where a guest is left waiting. To be called wherever that may begin: when one comes, and
    /// when a thread that was free takes one of several, since until it does all of them count on it.
    fn see_who_waits(&self, queues: &mut Queues) {
        if self.most_spares > 0 && !queues.watched && queues.is_behind() {
            queues.watched = true;
            self.behind.notify_one();
        }
    }

    fn work(&self) {
        let mut queues = self.lock();
        loop {
            if let Some((guest, computes)) = queues.next() {
                queues.begun += 1;
                queues.computing += usize::from(computes);
                self.see_who_waits(&mut queues);
                drop(queues);
                turn(guest);
                queues = self.lock();
                queues.computing -= usize::from(computes);
            } else if queues.closed {
                return;
            } else {
                queues.idle += 1;
                queues = self.work.wait(queues).unwrap_or_else(PoisonError::into_inner);
                queues.idle -= 1;
            }
        }
    }

    /// Serves the first queue on a thread that was lent, until there was nothing to do for a while.
    fn help(&self) {
        let mut queues = self.lock();
        loop {
            if let Some(guest) = queues.first.pop_front() {
                queues.begun += 1;
                self.see_who_waits(&mut queues);
                drop(queues);
                turn(guest);
                queues = self.lock();
                continue;
            }
            if queues.closed {
                break;
            }
            queues.idle_spares += 1;
            let (after, waited) = self.spare.wait_timeout(queues, LINGER).unwrap_or_else(PoisonError::into_inner);
            queues = after;
            queues.idle_spares -= 1;
            if waited.timed_out() && queues.first.is_empty() {
                break;
            }
        }
        queues.spares -= 1;
    }

    /// Lends a thread whenever guests wait and all threads are held.
    fn watch(self: &Arc<Self>) {
        let mut queues = self.lock();
        while !queues.closed {
            if !queues.is_behind() {
                queues.watched = false;
                queues = self.behind.wait(queues).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            queues.watched = true;
            let mut calm = Duration::ZERO;
            while calm < LINGER && !queues.closed {
                let begun = queues.begun;
                drop(queues);
                std::thread::sleep(HELD);
                queues = self.lock();
                if !queues.is_behind() {
                    calm += HELD;
                    continue;
                }
                calm = Duration::ZERO;
                if queues.begun == begun && queues.spares < self.most_spares {
                    let shared = Arc::clone(self);
                    match thread("vyr-guest-spare".into(), &self.runtime, move || shared.help()) {
                        Ok(()) => queues.spares += 1,
                        Err(e) => tracing::debug!(error = %e, "no spare thread for guests that wait"),
                    }
                }
            }
        }
    }
}

/// One turn of a guest. Whatever it is, the next one needs this thread.
fn turn(guest: Runnable<Tag>) {
    if catch_unwind(AssertUnwindSafe(|| guest.run())).is_err() {
        tracing::error!("a task's own code panicked; it stays as it is on disk until the node starts again");
    }
}

/// Starts a thread for guests. What they wait for (time, network, files) is the business of `runtime`.
fn thread(name: String, runtime: &Handle, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let runtime = runtime.clone();
    let work = move || {
        let _entered = runtime.enter();
        // Who asks or waits comes before who computes.
        give_way();
        work();
    };
    std::thread::Builder::new().name(name).spawn(work).map(drop)
}

impl Executor {
    /// Starts `threads` of them. What guests wait for (time, network, files) is the business of the current Tokio runtime.
    ///
    /// # Errors
    /// A thread can't be started.
    pub(super) fn start(threads: usize, engine: Engine) -> std::io::Result<Self> {
        Self::with(threads, threads * MOST_SPARES, engine)
    }

    fn with(threads: usize, most_spares: usize, engine: Engine) -> std::io::Result<Self> {
        let (queues, runtime) = (Mutex::default(), Handle::current());
        let [work, spare, behind] = [(); 3].map(|()| Condvar::new());
        let shared = Arc::new(Shared { queues, work, spare, behind, most_spares, engine, runtime });
        let executor = Self { shared: Arc::clone(&shared) };
        for number in 0..threads {
            let worker = Arc::clone(&shared);
            thread(format!("vyr-guest-{number}"), &shared.runtime, move || worker.work())?;
        }
        if most_spares > 0 {
            let builder = std::thread::Builder::new().name("vyr-guest-watch".into()).stack_size(64 << 10);
            builder.spawn(move || shared.watch())?;
        }
        Ok(executor)
    }

    /// Runs `guest` on these threads. A panic ends the guest and nothing else.
    pub(super) fn spawn(&self, tag: Tag, guest: impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::clone(&self.shared);
        let schedule = WithInfo(move |guest, info| shared.schedule(guest, info));
        let (runnable, task) = async_task::Builder::new().metadata(tag).spawn(|_| guest, schedule);
        task.detach();
        runnable.schedule();
    }

    /// Gives the guest its next turn at once: one that waits for its turn goes to the front, one that is in the middle
    /// of its turn is interrupted.
    pub(super) fn expedite(&self, tag: Tag) {
        let mut queues = self.shared.lock();
        match queues.second.iter().position(|guest| *guest.metadata() == tag) {
            Some(at) => {
                if let Some(guest) = queues.second.remove(at) {
                    queues.first.push_front(guest);
                }
                self.shared.see_who_waits(&mut queues);
                let interrupt = queues.computing > 0 && queues.idle == 0;
                drop(queues);
                if interrupt {
                    self.shared.engine.kick();
                }
            }
            None => {
                drop(queues);
                self.shared.engine.kick();
            }
        }
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        self.shared.spare.notify_all();
        self.shared.behind.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::EngineOptions;

    /// Yields as an interrupted guest does.
    async fn turn() {
        let mut yielded = false;
        std::future::poll_fn(|cx| {
            if yielded {
                return std::task::Poll::Ready(());
            }
            yielded = true;
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn what_is_new_goes_before_what_computes_and_what_computes_still_gets_on() {
        let executor = Executor::with(1, 0, Engine::new(&EngineOptions::default()).unwrap()).unwrap();
        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let hold = say.clone();
        executor.spawn(0, async move {
            turn().await;
            gate.recv().unwrap();
            hold.send(0).unwrap();
        });
        // The only thread waits at the gate once the first guest had its first turn.
        for tag in 1..=20 {
            let say = say.clone();
            executor.spawn(tag, async move { say.send(tag).unwrap() });
        }
        for tag in 100..102 {
            let say = say.clone();
            executor.spawn(tag, async move {
                turn().await;
                say.send(tag).unwrap();
            });
        }
        open.send(()).unwrap();
        let mut order = Vec::new();
        for _ in 0..23 {
            order.push(said.recv().await.unwrap());
        }
        let place = |tag| order.iter().position(|t| *t == tag).unwrap();
        assert!(place(20) < place(100) && place(20) < place(101), "{order:?}");
    }

    #[tokio::test]
    async fn the_expedited_goes_first() {
        let mut queues = Queues::default();
        assert!(queues.next().is_none());
        let executor = Executor::start(0, Engine::new(&EngineOptions::default()).unwrap()).unwrap();
        for tag in 0..3 {
            executor.spawn(tag, async {});
        }
        // As if each had been interrupted.
        let mut shared = executor.shared.lock();
        let moved: Vec<_> = shared.first.drain(..).collect();
        shared.second.extend(moved);
        drop(shared);
        executor.expedite(2);
        let mut shared = executor.shared.lock();
        assert_eq!(shared.next().map(|(guest, _)| *guest.metadata()), Some(2));
        assert_eq!(shared.next().map(|(guest, _)| *guest.metadata()), Some(0));
        shared.turns = TURNS;
        assert!(shared.next().is_some_and(|(_, computes)| computes));
    }

    #[tokio::test]
    async fn who_holds_every_thread_keeps_nobody_waiting_and_what_was_lent_goes_back() {
        let executor = Executor::start(2, Engine::new(&EngineOptions::default()).unwrap()).unwrap();
        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        // Two hold both threads, as an instruction does that takes long, and a third the first that is lent.
        let gates: Vec<_> = (0..3)
            .map(|tag| {
                let (open, gate) = std::sync::mpsc::channel::<()>();
                executor.spawn(tag, async move { assert!(gate.recv().is_err()) });
                open
            })
            .collect();
        for tag in 3..40 {
            let say = say.clone();
            executor.spawn(tag, async move {
                // Woken by what it waited for, it finds all held again.
                tokio::time::sleep(Duration::from_millis(1)).await;
                say.send(tag).unwrap();
            });
        }
        for _ in 3..40 {
            let next = tokio::time::timeout(Duration::from_secs(60), said.recv());
            assert!(next.await.expect("a guest waits for those that hold the threads").is_some());
        }
        assert!((2..=2 * MOST_SPARES).contains(&executor.shared.lock().spares));
        drop(gates);
        let ends = std::time::Instant::now() + Duration::from_secs(60);
        while executor.shared.lock().spares > 0 {
            assert!(std::time::Instant::now() < ends, "the spare threads should have ended");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn who_comes_with_one_that_holds_the_only_free_thread_is_not_left_waiting() {
        let executor = Executor::start(1, Engine::new(&EngineOptions::default()).unwrap()).unwrap();
        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        let is_idle = async {
            while executor.shared.lock().idle == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), is_idle).await.expect("it has nothing to do");
        let (open, gate) = std::sync::mpsc::channel::<()>();
        executor.spawn(0, async move { assert!(gate.recv().is_err()) });
        // The thread was told of the first and has most likely not woken up yet: this one counts on it too.
        executor.spawn(1, async move { say.send(1).unwrap() });
        let next = tokio::time::timeout(Duration::from_secs(60), said.recv());
        assert_eq!(next.await.expect("a thread is lent"), Some(1));
        drop(open);
    }

    #[tokio::test]
    async fn a_guest_that_panics_takes_no_thread_along() {
        let executor = Executor::with(1, 0, Engine::new(&EngineOptions::default()).unwrap()).unwrap();
        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        executor.spawn(0, async { panic!("a guest's own code") });
        executor.spawn(1, async move { say.send(1).unwrap() });
        let next = tokio::time::timeout(Duration::from_secs(60), said.recv());
        assert_eq!(next.await.expect("the only thread is there yet"), Some(1));
    }
}
