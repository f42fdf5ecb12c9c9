//! Owns the writing side of one kv state: what was set and isn't in the files yet.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use super::super::{Flusher, Folder, Usage};
use super::files::{Changes, Files, Found};
use super::journal::Journal;
use super::{Seen, fingerprint, group};

mod onward;

/// With so much to be written as files, nobody waits for more of it.
const HURRY_BYTES: usize = 1 << 20;

/// With more than this to be written as files, who sets helps before setting: some 100 ms of work.
const MOST_PENDING_BYTES: usize = 8 << 20;
const MOST_PENDING_KEYS: usize = 4096;

/// Journals larger than this together have who sets wait for the disk.
const MOST_JOURNAL_BYTES: u64 = 128 << 20;

/// What a change costs in memory beside its bytes, roughly.
const OVERHEAD: usize = 96;

/// The writing side. At most one at a time is alive for a folder: its maker holds the state's lease.
#[derive(Debug)]
pub(super) struct Writer {
    files: Files,
    usage: Arc<Usage>,
    flusher: Flusher,
    me: Weak<Self>,
    /// Held by who forces files to disk to do away with a journal. Taken before `turn`.
    checkpointing: Mutex<()>,
    /// Held by who writes files. Taken before `inner`.
    turn: Mutex<()>,
    inner: Mutex<Inner>,
    sync_asked: AtomicBool,
    apply_asked: AtomicBool,
    /// That files can't be written was said, and is so still.
    told: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    closing: bool,
    closed: bool,
    pending: Changes,
    pending_bytes: usize,
    /// What is being written as files just now.
    applying: Option<Arc<Changes>>,
    journal: Option<Journal>,
    old: Option<Journal>,
    /// How often a journal got its name, and how many of those are on disk.
    renames: u64,
    renames_synced: u64,
    /// Files are ahead of what the journals say of them.
    owes_marks: bool,
    /// What is promised can't be kept any more: nothing is written from here on.
    broken: Option<String>,
    /// Files can't be written at the moment.
    stuck: Option<(io::ErrorKind, String)>,
    watched: HashMap<String, Weak<AtomicU64>>,
}

/// How far the journals had got when a sync began.
#[derive(Debug, Default)]
pub(super) struct Noted {
    files: Vec<(Arc<File>, u64, u64)>,
    renames: u64,
    renamed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn length(value: &[u8]) -> u64 {
    value.len() as u64
}

impl Inner {
    /// What was set and may not be in the file.
    fn overlay(&self, key: &str) -> Option<&Option<Bytes>> {
        self.pending.get(key).or_else(|| self.applying.as_ref()?.get(key))
    }

    fn check_open(&self) -> io::Result<()> {
        if self.closing { Err(io::Error::other("the state is no longer bound")) } else { Ok(()) }
    }

    fn check_unbroken(&self) -> io::Result<()> {
        match &self.broken {
            Some(why) => Err(io::Error::other(format!("the state takes no more writes: {why}"))),
            None => Ok(()),
        }
    }

    fn remember(&mut self, key: &str, value: Option<Bytes>) {
        self.pending_bytes += key.len() + value.as_ref().map_or(0, Bytes::len) + OVERHEAD;
        if let Some(before) = self.pending.insert(key.to_owned(), value) {
            self.pending_bytes -= key.len() + before.map_or(0, |before| before.len()) + OVERHEAD;
        }
    }

    fn journal_bytes(&self) -> u64 {
        [&self.old, &self.journal].into_iter().flatten().map(|journal| journal.end).sum()
    }

    fn mark(&mut self, old: u64, current: u64) -> io::Result<()> {
        // The old one first: who reads relies on it.
        for (journal, offset) in [(&mut self.old, old), (&mut self.journal, current)] {
            if let Some(journal) = journal
                && let Err((e, stands)) = journal.mark(offset)
            {
                if stands {
                    self.broken = Some(e.to_string());
                }
                return Err(e);
            }
        }
        self.owes_marks = false;
        Ok(())
    }

    fn ends(&self) -> (u64, u64) {
        let end = |journal: &Option<Journal>| journal.as_ref().map_or(0, |journal| journal.end);
        (end(&self.old), end(&self.journal))
    }
}

impl Writer {
    /// Of a folder whose journals were recovered.
    pub(super) fn open(folder: &Folder, usage: Arc<Usage>, flusher: Flusher) -> io::Result<Arc<Self>> {
        let files = Files::open(folder)?;
        Ok(Arc::new_cyclic(|me| Self {
            files,
            usage,
            flusher,
            me: me.clone(),
            checkpointing: Mutex::default(),
            turn: Mutex::default(),
            inner: Mutex::default(),
            sync_asked: AtomicBool::new(false),
            apply_asked: AtomicBool::new(false),
            told: AtomicBool::new(false),
        }))
    }

    /// Whether all changes are on disk in the journal.
    #[cfg(test)]
    pub(super) fn is_synced(&self) -> bool {
        let inner = lock(&self.inner);
        [&inner.old, &inner.journal].into_iter().flatten().all(Journal::is_synced)
    }

    #[cfg(test)]
    pub(super) fn clear_stuck(&self) {
        lock(&self.inner).stuck = None;
    }

    pub(super) fn flusher(&self) -> &Flusher {
        &self.flusher
    }

    pub(super) fn get(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        let inner = lock(&self.inner);
        inner.check_open()?;
        if let Some(value) = inner.overlay(key) {
            return Ok(value.as_ref().map(|value| value.to_vec()));
        }
        drop(inner);
        self.files.read(key)
    }

    pub(super) fn exists(&self, key: &str) -> io::Result<bool> {
        let inner = lock(&self.inner);
        inner.check_open()?;
        if let Some(value) = inner.overlay(key) {
            return Ok(value.is_some());
        }
        drop(inner);
        Ok(matches!(self.files.find(key)?, Found::Value(_)))
    }

    pub(super) fn keys(&self, after: Option<&str>, most: usize) -> io::Result<Vec<String>> {
        let inner = lock(&self.inner);
        inner.check_open()?;
        let both = inner.applying.iter().flat_map(|applying| applying.iter()).chain(&inner.pending);
        let overlay = both.map(|(key, value)| (key.clone(), value.is_some())).collect();
        drop(inner);
        self.files.keys(after, most, &overlay)
    }

    pub(super) fn set(&self, key: &str, value: Option<Bytes>) -> io::Result<()> {
        let mut inner = self.begin(value.is_some())?;
        self.put(&mut inner, key, value)
    }

    pub(super) fn update<T>(
        &self,
        key: &str,
        new: impl FnOnce(Option<&[u8]>) -> io::Result<(Bytes, T)>,
    ) -> io::Result<T> {
        let mut inner = self.begin(true)?;
        let (value, answer) = new(self.current(&inner, key)?.as_deref())?;
        self.put(&mut inner, key, Some(value))?;
        Ok(answer)
    }

    pub(super) fn look(&self, key: &str) -> io::Result<Seen> {
        let mut inner = lock(&self.inner);
        inner.check_open()?;
        let print = fingerprint(self.current(&inner, key)?.as_deref());
        inner.watched.retain(|_, watch| watch.strong_count() > 0);
        let known = inner.watched.get(key).and_then(Weak::upgrade);
        let watch = known.unwrap_or_default();
        inner.watched.insert(key.to_owned(), Arc::downgrade(&watch));
        let version = watch.load(Ordering::Relaxed);
        Ok(Seen { key: key.to_owned(), print, watch, version })
    }

    pub(super) fn swap(&self, seen: &Seen, value: Bytes) -> io::Result<bool> {
        let mut inner = self.begin(true)?;
        // The count sees a value that changed and changed back, the print a file that a module wrote.
        if seen.watch.load(Ordering::Relaxed) != seen.version
            || fingerprint(self.current(&inner, &seen.key)?.as_deref()) != seen.print
        {
            return Ok(false);
        }
        self.put(&mut inner, &seen.key, Some(value))?;
        Ok(true)
    }

    fn current(&self, inner: &Inner, key: &str) -> io::Result<Option<Bytes>> {
        match inner.overlay(key) {
            Some(value) => Ok(value.clone()),
            None => Ok(self.files.read(key)?.map(Bytes::from)),
        }
    }

    /// For a change: sees to it that what waits stays bounded.
    fn begin(&self, needs_room: bool) -> io::Result<MutexGuard<'_, Inner>> {
        loop {
            let inner = lock(&self.inner);
            inner.check_open()?;
            inner.check_unbroken()?;
            if let Some((kind, why)) = inner.stuck.as_ref().filter(|_| needs_room) {
                return Err(io::Error::new(*kind, why.clone()));
            }
            let too_much = inner.pending_bytes > MOST_PENDING_BYTES || inner.pending.len() > MOST_PENDING_KEYS;
            let too_long = inner.journal_bytes() > MOST_JOURNAL_BYTES;
            let helps = too_much && inner.stuck.is_none();
            if !too_long && !helps {
                return Ok(inner);
            }
            drop(inner);
            if too_long {
                self.checkpoint()?;
            } else {
                self.apply()?;
            }
        }
    }

    fn put(&self, inner: &mut Inner, key: &str, value: Option<Bytes>) -> io::Result<()> {
        let before = match inner.overlay(key) {
            Some(value) => value.as_deref().map(length),
            None => match self.files.find(key)? {
                Found::Value(length) => Some(length),
                Found::Nothing => None,
                Found::Other if value.is_none() => None,
                Found::Other => {
                    let why = "a folder or a link has the name of that key";
                    return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
                }
            },
        };
        let after = value.as_deref().map(length);
        if before.is_none() && after.is_none() {
            return Ok(());
        }
        let (was, is) = (before.unwrap_or(0), after.unwrap_or(0));
        let full = |full| io::Error::new(io::ErrorKind::QuotaExceeded, full);
        // Room is taken before the write and given back after it: so that a failure can always be undone.
        let more = is.saturating_sub(was);
        let is_new = before.is_none();
        if is_new {
            self.usage.add_entry().map_err(full)?;
        }
        let taken = if is >= was { self.usage.grow(more) } else { Ok(()) };
        let done = taken.map_err(full).and_then(|()| {
            let written = self.record(inner, key, value.as_deref());
            if written.is_err() {
                self.usage.shrink(more);
            }
            written
        });
        if let Err(e) = done {
            if is_new {
                self.usage.remove_entry();
            }
            return Err(e);
        }
        self.usage.shrink(was.saturating_sub(is));
        if after.is_none() {
            self.usage.remove_entry();
        }
        if let Some(watch) = inner.watched.get(key).and_then(Weak::upgrade) {
            watch.fetch_add(1, Ordering::Relaxed);
        }
        let hurried = inner.pending_bytes >= HURRY_BYTES;
        inner.remember(key, value);
        if !self.sync_asked.swap(true, Ordering::AcqRel) {
            group::sync_soon(self.me.clone());
        }
        let hurry = !hurried && inner.pending_bytes >= HURRY_BYTES;
        if !self.apply_asked.swap(true, Ordering::AcqRel) || hurry {
            group::apply_soon(self.me.clone(), hurry);
        }
        Ok(())
    }

    fn record(&self, inner: &mut Inner, key: &str, value: Option<&[u8]>) -> io::Result<()> {
        if inner.journal.is_none() {
            group::start()?;
            inner.journal = Some(Journal::first(self.files.root())?);
            inner.renames += 1;
        }
        let Some(journal) = &mut inner.journal else { return Ok(()) };
        journal.append_change(key, value).map_err(|(e, stands)| {
            if stands {
                inner.broken = Some(e.to_string());
            }
            e
        })
    }
}
