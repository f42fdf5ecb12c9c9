//! Owns the two threads that work for all writers of this process: one forces journals to disk, one brings files up to
//! date. They are started with the first journal and end with the process.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::writer::Writer;
use crate::state::Flusher;

/// How long a set waits for others to be forced to disk with it. Half of what is promised; the other half is the disk's.
const SYNC_AFTER: Duration = Duration::from_millis(5);

/// How long a set waits for others of the same key to be written as one file.
const APPLY_AFTER: Duration = Duration::from_millis(50);

/// With more journals than this, the whole file system is forced to disk once instead.
const JOURNALS: usize = 8;

static TO_SYNC: Queue = Queue::new();
static TO_APPLY: Queue = Queue::new();
static STARTED: Mutex<bool> = Mutex::new(false);

/// Writers that want something done soon.
struct Queue {
    inner: Mutex<Waiting>,
    changed: Condvar,
}

struct Waiting {
    writers: Vec<Weak<Writer>>,
    hurry: bool,
}

impl Queue {
    const fn new() -> Self {
        Self { inner: Mutex::new(Waiting { writers: Vec::new(), hurry: false }), changed: Condvar::new() }
    }

    fn push(&self, writer: Weak<Writer>, hurry: bool) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.writers.push(writer);
        inner.hurry |= hurry;
        if inner.hurry || inner.writers.len() == 1 {
            self.changed.notify_one();
        }
    }

    /// Waits for the first one, lets others join it, and takes all.
    fn take(&self, after: Duration) -> Vec<Arc<Writer>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        while inner.writers.is_empty() {
            inner = self.changed.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
        let until = Instant::now() + after;
        while !inner.hurry {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inner = self.changed.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inner.hurry = false;
        let mut writers: Vec<_> = std::mem::take(&mut inner.writers).iter().filter_map(Weak::upgrade).collect();
        drop(inner);
        writers.sort_by_key(Arc::as_ptr);
        writers.dedup_by(|a, b| Arc::ptr_eq(a, b));
        writers
    }
}

/// Starts the threads unless they run.
pub(super) fn start() -> io::Result<()> {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*started {
        std::thread::Builder::new().name("vyr-kv-sync".into()).spawn(|| {
            loop {
                sync(&TO_SYNC.take(SYNC_AFTER));
            }
        })?;
        std::thread::Builder::new().name("vyr-kv-files".into()).spawn(|| {
            loop {
                for writer in TO_APPLY.take(APPLY_AFTER) {
                    writer.apply_as_asked();
                }
            }
        })?;
        *started = true;
    }
    Ok(())
}

pub(super) fn sync_soon(writer: Weak<Writer>) {
    TO_SYNC.push(writer, false);
}

/// `hurry`: don't wait for others.
pub(super) fn apply_soon(writer: Weak<Writer>, hurry: bool) {
    TO_APPLY.push(writer, hurry);
}

fn sync(writers: &[Arc<Writer>]) {
    if writers.len() <= JOURNALS {
        for writer in writers {
            writer.sync_as_asked();
        }
        return;
    }
    let noted: Vec<_> = writers.iter().map(|writer| writer.begin_sync()).collect();
    let mut flushers: Vec<&Flusher> = Vec::new();
    for writer in writers {
        if !flushers.iter().any(|known| known.is_same(writer.flusher())) {
            flushers.push(writer.flusher());
        }
    }
    let done: Vec<_> = flushers.iter().map(|flusher| flusher.flush()).collect();
    for (writer, noted) in writers.iter().zip(noted) {
        let at = flushers.iter().position(|known| known.is_same(writer.flusher()));
        match at.and_then(|at| done.get(at)) {
            Some(Ok(())) => writer.end_sync(&noted, Ok(())),
            Some(Err(e)) => writer.end_sync(&noted, Err(io::Error::new(e.kind(), e.to_string()))),
            None => {}
        }
    }
}
