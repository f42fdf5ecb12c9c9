//! Owns the threads that guests run on: as many as there are cores, apart from the runtime's own workers.
//!
//! A guest that waits costs no thread. One that computes is interrupted by the engine's clock and goes to the back of
//! a second queue, behind guests that are new or were waiting for something: a start or an answer never waits for a loop
//! to end its turn, and a loop still gets every eighth turn.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use async_task::{Runnable, ScheduleInfo, WithInfo};
use rustix::process::setpriority_process;
use rustix::thread::gettid;

use crate::engine::Engine;

/// After so many turns of the first queue, one of the second.
const TURNS: u32 = 8;

/// How much these threads give way to the node's others and to the machine's, as nice(2) has it.
const NICE: i32 = 5;

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
    engine: Engine,
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
    closed: bool,
}

impl Queues {
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
        let computing = if info.woken_while_running {
            queues.second.push_back(guest);
            false
        } else {
            queues.first.push_back(guest);
            queues.computing > 0
        };
        let idle = queues.idle > 0;
        drop(queues);
        if idle {
            self.work.notify_one();
        } else if computing {
            self.engine.kick();
        }
    }

    fn work(&self) {
        let mut queues = self.lock();
        loop {
            if let Some((guest, computes)) = queues.next() {
                queues.computing += usize::from(computes);
                drop(queues);
                // Whatever it is, the next guest needs this thread.
                if catch_unwind(AssertUnwindSafe(|| guest.run())).is_err() {
                    tracing::error!(
                        "a task's own code panicked; it stays as it is on disk until the node starts again"
                    );
                }
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
}

impl Executor {
    /// Starts `threads` of them. What guests wait for (time, network, files) is the business of the current Tokio runtime.
    ///
    /// # Errors
    /// A thread can't be started.
    pub(super) fn start(threads: usize, engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { queues: Mutex::default(), work: Condvar::new(), engine });
        for number in 0..threads {
            let (shared, runtime) = (Arc::clone(&shared), tokio::runtime::Handle::current());
            std::thread::Builder::new().name(format!("vyr-guest-{number}")).spawn(move || {
                let _entered = runtime.enter();
                // Who asks or waits comes before who computes. Refused where the system has its own ideas.
                let _ = setpriority_process(Some(gettid()), NICE);
                shared.work();
            })?;
        }
        Ok(Self { shared })
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
        let executor = Executor::start(1, Engine::new(&EngineOptions::default()).unwrap()).unwrap();
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
}
