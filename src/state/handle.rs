//! Owns one state while something has it bound: where its data lies, what it may hold, and the right to write.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::digest::content_digest;
use super::folder::{Flusher, Noted};
use super::kv::{self, KvStore};
use super::lock::{self, Writer};
use super::{Folder, State, StateClass, StateError, StateId, StateKind, States, Usage};

/// What a state may hold so that the digest of its content is still made at the end of each writer.
const MOST_CONTENT_BYTES: u64 = 64 << 20;
const MOST_CONTENT_ENTRIES: u64 = 10_000;

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
    /// Opened by who first asks for it.
    keys: Mutex<Option<Arc<KvStore>>>,
    /// Of a synced state: which place what is sealed next has, and the last one that was given when it was bound.
    pub(super) places: super::outbox::Places,
    pub(super) last_seq: u64,
    /// The digest of its content when it was bound, where that was known, and at the end, where that is wanted.
    before: Option<String>,
    after: Mutex<Option<String>>,
    /// Taken by the release.
    locks: Mutex<Option<Locks>>,
}

#[derive(Debug)]
struct Locks {
    _writer: Option<Writer>,
    _user: File,
    _task: Option<File>,
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

    /// The digest of its content as it was bound; `None` where that isn't known: another one is writing, or there is too
    /// much to look at. For a writer that hasn't begun. Blocks.
    ///
    /// # Errors
    /// It can't be read.
    pub fn content_before(&self) -> Result<Option<String>, StateError> {
        match &self.before {
            Some(known) => Ok(Some(known.clone())),
            None if self.read_only() => Ok(None),
            None => self.content(),
        }
    }

    /// The digest of its content at the end of a writer, which the next one then knows from the beginning. Blocks.
    ///
    /// # Errors
    /// It can't be read.
    pub fn content_after(&self) -> Result<Option<String>, StateError> {
        if self.read_only() {
            return Ok(None);
        }
        self.settle()?;
        let content = self.content()?;
        self.after.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&content);
        Ok(content)
    }

    fn content(&self) -> Result<Option<String>, StateError> {
        if self.usage.bytes() > MOST_CONTENT_BYTES || self.usage.entries() > MOST_CONTENT_ENTRIES {
            return Ok(None);
        }
        content_digest(&self.data).map(Some)
    }

    /// Forces to disk what was written.
    #[must_use]
    pub fn flusher(&self) -> &Flusher {
        &self.flusher
    }

    /// Its keys and values. Opened once, at the first call.
    ///
    /// # Errors
    /// [`StateError::NotKeys`] for a state of another kind, [`StateError::Ended`] after the release; the file system's.
    pub fn kv(&self) -> Result<Arc<KvStore>, StateError> {
        if self.state.kind != StateKind::Kv {
            return Err(StateError::NotKeys { name: self.state.name.clone() });
        }
        // In this order, as the release has it: what is opened after that would outlive the right to write.
        let locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.is_none() {
            return Err(StateError::Ended { name: self.state.name.clone() });
        }
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &*keys {
            return Ok(Arc::clone(open));
        }
        let opened = match self.mode {
            Mode::ReadOnly => KvStore::read(&self.folder),
            Mode::ReadWrite => KvStore::write(&self.folder, Arc::clone(&self.usage), self.flusher.clone()),
        };
        let opened = Arc::new(opened.map_err(StateError::io("open the keys in", &self.data))?);
        Ok(Arc::clone(keys.insert(opened)))
    }

    /// Makes the files what was set by key. To be called before anybody looks into the folder, or changes something there,
    /// while keys may be set. Blocks for as long as that takes; without keys that were set lately it costs nothing.
    ///
    /// # Errors
    /// The file system's.
    pub fn settle(&self) -> Result<(), StateError> {
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner).clone();
        keys.map_or(Ok(()), |keys| keys.settle()).map_err(StateError::io("write the keys of", &self.data))
    }

    /// Ends the binding: what was written is on disk when this returns, and another may write. Returns how many bytes the
    /// state holds, if this was its writer. Blocks.
    ///
    /// # Errors
    /// It could not be forced to disk; the binding has ended all the same.
    pub fn release(&self) -> Result<Option<u64>, StateError> {
        let mut held = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(locks) = held.take() else { return Ok(None) };
        let keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner).take();
        // What a task's own folder holds goes with the task.
        let lasting = self.state.class != StateClass::Task;
        let done = match keys {
            // That forces to disk what is in the folder, too.
            Some(keys) => keys.close(lasting).map_err(StateError::io("end the writing in", &self.data)),
            None if lasting && !self.read_only() => {
                self.flusher.flush().map_err(StateError::io("force to disk", &self.data))
            }
            None => Ok(()),
        };
        let done =
            done.and_then(|()| if lasting && !self.read_only() { self.end_writing().map(Some) } else { Ok(None) });
        drop(locks);
        done
    }

    fn end_writing(&self) -> Result<u64, StateError> {
        let (bytes, entries) = self.usage.pending();
        let left = (self.usage.bytes().saturating_sub(bytes), self.usage.entries().saturating_sub(entries));
        let content = self.after.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.folder.end_writing(&Noted { bytes: left.0, entries: left.1, content })?;
        Ok(self.usage.bytes())
    }
}

impl Drop for StateHandle {
    fn drop(&mut self) {
        // Before the locks go: whoever gets them next must have the folder for himself.
        if let Some(keys) = self.keys.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            keys.abandon();
        }
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
        let last_seq = if synced { self.last_place(&root, state.id).await? } else { 0 };
        let (states, state, writes) = (self.clone(), state.clone(), mode == Mode::ReadWrite);
        let work = move || {
            let user = lock::user(&root.users_lock())?;
            // A removal came in between: what was just locked is nobody's.
            if !root.data().exists() {
                return Err(StateError::NotFound { name: state.name.clone() });
            }
            folder.make()?;
            // Says that the task's own folder is in use, too.
            let task = if folder == root { None } else { Some(lock::user(&folder.users_lock())?) };
            if writes && state.kind == StateKind::Kv {
                kv::recover(&folder, states.flusher()).map_err(StateError::io("recover the keys in", folder.root()))?;
            }
            let noted = if writes { Some(folder.begin_writing()?) } else { folder.noted() };
            let (bytes, entries) =
                noted.as_ref().filter(|_| writes).map_or((0, 0), |noted| (noted.bytes, noted.entries));
            let before = noted.and_then(|noted| noted.content);
            let pending = if synced { folder.measure_pending()? } else { (0, 0) };
            let usage = Arc::new(Usage::new(state.quota_bytes, bytes, entries).with_pending(pending));
            if writes {
                states.now_written(state.id, &usage);
            }
            let locks = Mutex::new(Some(Locks { _writer: writer, _user: user, _task: task }));
            let keys = Mutex::default();
            let (data, flusher) = (folder.data(), states.flusher().clone());
            let places = super::outbox::Places::default();
            Ok(Arc::new(StateHandle {
                state,
                folder,
                data,
                mode,
                usage,
                flusher,
                keys,
                places,
                last_seq,
                before,
                after: Mutex::default(),
                locks,
            }))
        };
        super::blocking(work).await
    }

    /// The last place in a synced state's chain that was given. For its writer.
    async fn last_place(&self, root: &Folder, id: StateId) -> Result<u64, StateError> {
        // In this order: what is sealed and pushed meanwhile is in one of the two, and no place is given twice. What comes
        // under a place that was sealed already would count as pushed.
        let sealing = root.sealing();
        let waiting = super::blocking(move || super::outbox::items(&sealing).map_err(StateError::io("list", &sealing)));
        let last = waiting.await?.last().map_or(0, |item| item.seq);
        Ok(last.max(self.chain(id).await?.sealed_seq))
    }

    /// Ends a task's share in a state of class `task`: its folder goes.
    ///
    /// # Errors
    /// The file system's.
    pub async fn end_task(&self, id: StateId, task: &str) -> Result<(), StateError> {
        let folder = self.folder(id).of_task(task);
        super::blocking(move || folder.remove()).await
    }

    /// Removes what tasks left behind that nobody has any more: all but those of which `keep` says so, and those that some
    /// process has bound. Returns how many.
    ///
    /// # Errors
    /// The file system's.
    pub async fn sweep_tasks(
        &self,
        id: StateId,
        keep: impl Fn(&str) -> bool + Send + 'static,
    ) -> Result<usize, StateError> {
        let root = self.folder(id);
        let work = move || {
            let Ok(tasks) = std::fs::read_dir(root.tasks()) else { return Ok(0) };
            let mut gone = 0;
            for task in tasks.flatten() {
                let name = task.file_name().to_string_lossy().into_owned();
                let folder = root.of_task(&name);
                if !keep(&name) && lock::alone(&folder.users_lock())?.is_some() {
                    // One keeps neither the others nor the node.
                    match folder.remove() {
                        Ok(()) => gone += 1,
                        Err(e) => tracing::warn!(error = %e, "a task's state could not be removed"),
                    }
                }
            }
            Ok(gone)
        };
        super::blocking(work).await
    }
}
