//! Owns one state while something has it bound: where its data lies, what it may hold, and the right to write.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::folder::Flusher;
use super::lock::{self, Writer};
use super::{Folder, State, StateClass, StateError, States, Usage};

/// What may be done with a state that is bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only read.
    ReadOnly,
    /// Written as well. One at a time.
    ReadWrite,
}

/// What becomes of a second writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnBusy {
    /// It waits for the first one's end.
    #[default]
    Wait,
    /// It is refused.
    Refuse,
}

/// A state that is bound. Dropped without [`StateHandle::release`], it is as after a crash: nothing that was written is
/// lost, and what it holds is counted again at the next bind.
#[derive(Debug)]
pub struct StateHandle {
    state: State,
    folder: Folder,
    data: PathBuf,
    mode: Mode,
    usage: Arc<Usage>,
    flusher: Flusher,
    /// Of a synced state: which place what is sealed next has, and the last one sealed when it was bound.
    pub(super) places: super::outbox::Places,
    pub(super) sealed_seq: u64,
    /// Taken by the release.
    locks: Mutex<Option<Locks>>,
}

#[derive(Debug)]
struct Locks {
    _writer: Option<Writer>,
    _user: Option<File>,
}

impl StateHandle {
    /// The state, as it was created.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Where its parts lie.
    #[must_use]
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What the guest sees.
    #[must_use]
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Whether it may only be read.
    #[must_use]
    pub fn read_only(&self) -> bool {
        self.mode == Mode::ReadOnly
    }

    /// What it holds and may hold. Of use to a writer alone.
    #[must_use]
    pub fn usage(&self) -> &Arc<Usage> {
        &self.usage
    }

    /// Forces to disk what was written.
    #[must_use]
    pub fn flusher(&self) -> &Flusher {
        &self.flusher
    }

    /// Ends the binding: what was written is on disk when this returns, and another may write. Returns how many bytes the
    /// state holds, if this was its writer. Blocks.
    ///
    /// # Errors
    /// It could not be forced to disk; the binding has ended all the same.
    pub fn release(&self) -> Result<Option<u64>, StateError> {
        let Some(locks) = self.locks.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(None) };
        // What a task's own folder holds goes with the task.
        let lasting = self.state.class != StateClass::Task;
        let done = if self.read_only() || !lasting { Ok(None) } else { self.end_writing().map(Some) };
        drop(locks);
        done
    }

    fn end_writing(&self) -> Result<u64, StateError> {
        self.flusher.flush().map_err(StateError::io("force to disk", &self.data))?;
        let (bytes, entries) = self.usage.pending();
        let left = (self.usage.bytes().saturating_sub(bytes), self.usage.entries().saturating_sub(entries));
        self.folder.end_writing(left.0, left.1)?;
        Ok(self.usage.bytes())
    }
}

impl States {
    /// Binds a state for `task` (any name of one execution; states of class `task` have a folder for each). A writer holds
    /// off all others until its handle is released or dropped.
    ///
    /// # Errors
    /// [`StateError::Busy`] for a second writer that doesn't wait; [`StateError::NotFound`] when it was removed meanwhile;
    /// the file system's.
    pub async fn attach(
        &self,
        state: &State,
        task: &str,
        mode: Mode,
        on_busy: OnBusy,
    ) -> Result<Arc<StateHandle>, StateError> {
        let root = self.folder(state.id);
        let gone = || StateError::NotFound { name: state.name.clone() };
        if !root.root().exists() {
            return Err(gone());
        }
        let (folder, writer) = match (state.class, mode) {
            (StateClass::Task, _) => (root.of_task(task), None),
            (_, Mode::ReadOnly) => (root.clone(), None),
            (_, Mode::ReadWrite) => {
                let queue = self.queues().of(state.id);
                let writer = lock::writer(queue, &root.writer_lock(), on_busy == OnBusy::Wait).await?;
                let busy = || StateError::Busy { name: state.name.clone() };
                (root.clone(), Some(writer.ok_or_else(busy)?))
            }
        };
        // After the lock: only who has it gives places.
        let synced = state.class == StateClass::Synced && mode == Mode::ReadWrite;
        let sealed_seq = if synced { self.chain(state.id).await?.sealed_seq } else { 0 };
        let (states, state, writes) = (self.clone(), state.clone(), mode == Mode::ReadWrite);
        let work = move || {
            let user = lock::user(&root.users_lock())?;
            // A removal came in between: what was just locked is nobody's.
            if !root.data().exists() {
                return Err(StateError::NotFound { name: state.name.clone() });
            }
            folder.make()?;
            let (bytes, entries) = if writes { folder.begin_writing()? } else { (0, 0) };
            let pending = if synced { folder.measure_pending()? } else { (0, 0) };
            let usage = Arc::new(Usage::new(state.quota_bytes, bytes, entries).with_pending(pending));
            if writes {
                states.now_written(state.id, &usage);
            }
            let locks = Mutex::new(Some(Locks { _writer: writer, _user: Some(user) }));
            let (data, flusher) = (folder.data(), states.flusher().clone());
            let places = super::outbox::Places::default();
            Ok(Arc::new(StateHandle { state, folder, data, mode, usage, flusher, places, sealed_seq, locks }))
        };
        super::blocking(work).await
    }

    /// Ends a task's share in a state of class `task`: its folder goes. Blocks.
    ///
    /// # Errors
    /// The file system's.
    pub fn end_task(&self, state: &State, task: &str) -> Result<(), StateError> {
        self.folder(state.id).of_task(task).remove()
    }
}
