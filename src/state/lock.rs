//! Owns who has a state: one writer, any number of readers, in this process and in others. Locks end with their process.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::{StateError, StateId};

/// How often another process's lock is asked for: there is no queue between processes.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Writers of this process wait for each other in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Queues(Mutex<HashMap<StateId, Weak<tokio::sync::Mutex<()>>>>);

impl Queues {
    pub(super) fn of(&self, id: StateId) -> Arc<tokio::sync::Mutex<()>> {
        let mut queues = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&id).and_then(Weak::upgrade) {
            return queue;
        }
        queues.retain(|_, queue| queue.strong_count() > 0);
        let queue = Arc::default();
        queues.insert(id, Arc::downgrade(&queue));
        queue
    }
}

/// The right to write, while it lives.
#[derive(Debug)]
pub(super) struct Writer {
    _file: File,
    _turn: tokio::sync::OwnedMutexGuard<()>,
}

fn open(path: &Path) -> Result<File, StateError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(StateError::io("open the lock", path))
}

/// Takes the right to write; `None` when somebody has it and `wait` is false.
pub(super) async fn writer(
    queue: Arc<tokio::sync::Mutex<()>>,
    path: &Path,
    wait: bool,
) -> Result<Option<Writer>, StateError> {
    let turn = match Arc::clone(&queue).try_lock_owned() {
        Ok(turn) => turn,
        Err(_) if wait => queue.lock_owned().await,
        Err(_) => return Ok(None),
    };
    let file = open(path)?;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(Writer { _file: file, _turn: turn })),
            Err(TryLockError::WouldBlock) if wait => tokio::time::sleep(ASK_AGAIN).await,
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(StateError::io("lock", path)(e)),
        }
    }
}

/// Says that somebody has it bound, while it lives.
pub(super) fn user(path: &Path) -> Result<File, StateError> {
    let file = open(path)?;
    // Only a removal holds it alone, for a moment.
    file.lock_shared().map_err(StateError::io("lock", path))?;
    Ok(file)
}

/// Takes a lock alone; `None` when somebody has it.
pub(super) fn alone(path: &Path) -> Result<Option<File>, StateError> {
    let file = open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(e)) => Err(StateError::io("lock", path)(e)),
    }
}

/// Waits for a lock that is held for moments.
pub(super) fn turn(path: &Path) -> Result<File, StateError> {
    let file = open(path)?;
    file.lock().map_err(StateError::io("lock", path))?;
    Ok(file)
}
