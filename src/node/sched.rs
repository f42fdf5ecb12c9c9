//! Owns who runs next: places, and a queue for each submitter that take turns, so that one can't starve the rest.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::live::Live;
use crate::task::TaskId;

/// Places and queues. A pure structure: it starts nothing.
#[derive(Debug)]
pub(super) struct Sched {
    max_running: usize,
    max_queued: usize,
    running: usize,
    /// Promised places in the queue, those in `queues` included.
    queued: usize,
    max_queued_bytes: u64,
    /// What those were submitted with, in bytes: who waits has it in memory.
    queued_bytes: u64,
    queues: HashMap<Arc<str>, VecDeque<Arc<Live>>>,
    /// Whose turn it is, first.
    turns: VecDeque<Arc<str>>,
}

/// What a submit gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It may run now.
    Run,
    /// It waits.
    Wait,
}

impl Sched {
    pub(super) fn new(max_running: usize, max_queued: usize, max_queued_bytes: u64) -> Self {
        let (queues, turns) = (HashMap::new(), VecDeque::new());
        Self { max_running, max_queued, running: 0, queued: 0, max_queued_bytes, queued_bytes: 0, queues, turns }
    }

    /// Promises a place to a submit of so many bytes.
    ///
    /// # Errors
    /// There is none: how many wait, and with how many bytes.
    pub(super) fn promise(&mut self, bytes: u64) -> Result<Place, (usize, u64)> {
        if self.running < self.max_running && self.queued == 0 {
            self.running += 1;
            return Ok(Place::Run);
        }
        if self.queued >= self.max_queued || (self.queued > 0 && self.queued_bytes + bytes > self.max_queued_bytes) {
            return Err((self.queued, self.queued_bytes));
        }
        self.queued += 1;
        self.queued_bytes += bytes;
        Ok(Place::Wait)
    }

    fn unqueue(&mut self, bytes: u64) {
        self.queued -= 1;
        self.queued_bytes -= bytes;
    }

    /// Queues a task that was acknowledged before, even beyond the bound.
    pub(super) fn queue_again(&mut self, live: Arc<Live>) {
        self.queued += 1;
        self.queued_bytes += live.bytes();
        self.enqueue(live);
    }

    /// Takes a promise back.
    pub(super) fn withdraw(&mut self, place: Place, bytes: u64) {
        match place {
            Place::Run => self.running -= 1,
            Place::Wait => self.unqueue(bytes),
        }
    }

    /// Queues a task that was promised a place there.
    pub(super) fn enqueue(&mut self, live: Arc<Live>) {
        let submitter = Arc::clone(&live.share);
        let queue = self.queues.entry(Arc::clone(&submitter)).or_default();
        if queue.is_empty() {
            self.turns.push_back(submitter);
        }
        queue.push_back(live);
    }

    /// A running task has ended.
    pub(super) fn release(&mut self) {
        self.running -= 1;
    }

    /// The next task that may run, which takes a place.
    pub(super) fn next(&mut self) -> Option<Arc<Live>> {
        if self.running >= self.max_running {
            return None;
        }
        let submitter = self.turns.pop_front()?;
        let queue = self.queues.get_mut(&submitter)?;
        let live = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(&submitter);
        } else {
            self.turns.push_back(submitter);
        }
        let live = live?;
        self.unqueue(live.bytes());
        self.running += 1;
        Some(live)
    }

    /// Takes a task out of the queue; `None` when it isn't there.
    pub(super) fn remove(&mut self, submitter: &Arc<str>, id: TaskId) -> Option<Arc<Live>> {
        let queue = self.queues.get_mut(submitter)?;
        let at = queue.iter().position(|live| live.id == id)?;
        let live = queue.remove(at);
        if queue.is_empty() {
            self.queues.remove(submitter);
            self.turns.retain(|turn| turn != submitter);
        }
        self.unqueue(live.as_ref().map_or(0, |live| live.bytes()));
        live
    }

    /// How many run and how many wait.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.running, self.queued)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::log::TaskLog;
    use vyr_proto::v0::{Task, TaskSpec};

    fn task(submitter: &str) -> Arc<Live> {
        let log = TaskLog::new("/nowhere".into(), 0);
        let (spec, record) = (TaskSpec::default(), Task::default());
        let share: Arc<str> = submitter.into();
        Arc::new(Live::new(TaskId::new(), 0, spec, Arc::clone(&share), share, String::new(), 0, record, log))
    }

    fn queue(sched: &mut Sched, submitter: &str) -> Arc<Live> {
        assert_eq!(sched.promise(0), Ok(Place::Wait));
        let live = task(submitter);
        sched.enqueue(Arc::clone(&live));
        live
    }

    #[test]
    fn submitters_take_turns() {
        let mut sched = Sched::new(1, 100, 1000);
        assert_eq!(sched.promise(0), Ok(Place::Run));
        for _ in 0..5 {
            queue(&mut sched, "greedy");
        }
        queue(&mut sched, "modest");
        let mut order = Vec::new();
        for _ in 0..6 {
            assert!(sched.next().is_none(), "no place is free");
            sched.release();
            order.push(sched.next().unwrap().submitter.to_string());
        }
        assert_eq!(order, ["greedy", "modest", "greedy", "greedy", "greedy", "greedy"]);
        assert_eq!(sched.load(), (1, 0));
    }

    #[test]
    fn the_queue_is_bounded_and_nobody_jumps_it() {
        let mut sched = Sched::new(1, 2, 1000);
        assert_eq!(sched.promise(0), Ok(Place::Run));
        queue(&mut sched, "a");
        queue(&mut sched, "a");
        assert!(sched.promise(0).is_err());
        sched.release();
        assert!(sched.promise(0).is_err(), "a free place belongs to who waits");
        assert!(sched.next().is_some());
        assert_eq!(sched.promise(0), Ok(Place::Wait));
        sched.withdraw(Place::Wait, 0);
        assert_eq!(sched.load(), (1, 1));
    }

    #[test]
    fn what_waits_is_bounded_in_bytes_too_and_one_may_always_wait() {
        let mut sched = Sched::new(1, 100, 1000);
        assert_eq!(sched.promise(5000), Ok(Place::Run), "who runs doesn't wait");
        assert_eq!(sched.promise(5000), Ok(Place::Wait));
        assert_eq!(sched.promise(1), Err((1, 5000)));
        sched.withdraw(Place::Wait, 5000);
        assert_eq!(sched.promise(400), Ok(Place::Wait));
        assert_eq!(sched.promise(600), Ok(Place::Wait));
        assert_eq!(sched.promise(1), Err((2, 1000)));
        sched.withdraw(Place::Wait, 400);
        assert_eq!(sched.promise(1), Ok(Place::Wait));
        // What was acknowledged before waits whatever it takes.
        sched.queue_again(task("a"));
        let all = sched.next();
        assert!(all.is_none() && sched.load() == (1, 3));
    }

    #[test]
    fn a_task_leaves_the_queue_by_its_id() {
        let mut sched = Sched::new(0, 10, 1000);
        let first = queue(&mut sched, "a");
        let second = queue(&mut sched, "a");
        assert!(sched.remove(&"b".into(), first.id).is_none());
        assert_eq!(sched.remove(&"a".into(), first.id).unwrap().id, first.id);
        assert!(sched.remove(&"a".into(), first.id).is_none());
        assert_eq!(sched.remove(&"a".into(), second.id).unwrap().id, second.id);
        assert!(sched.turns.is_empty() && sched.queues.is_empty());
        assert_eq!(sched.load(), (0, 0));
    }
}
