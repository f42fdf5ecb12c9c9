//! Owns how what was set gets onward: the journal to disk, its content into files, and the journal away.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::group;
use super::super::journal::{self, Journal, OLD};
use super::{Inner, Noted, Writer, lock};

/// A journal larger than this is done away with as soon as its content is on disk as files.
const CHECKPOINT_BYTES: u64 = 16 << 20;

impl Writer {
    /// What is to be forced to disk now.
    pub(in crate::state::kv) fn begin_sync(&self) -> Noted {
        self.sync_asked.store(false, Ordering::Release);
        let inner = lock(&self.inner);
        let journals = [&inner.old, &inner.journal].into_iter().flatten();
        let files = journals
            .filter(|journal| journal.synced < journal.end)
            .map(|journal| (Arc::clone(&journal.file), journal.generation, journal.end))
            .collect();
        Noted { files, renames: inner.renames, renamed: inner.renames > inner.renames_synced }
    }

    /// Says that it was, or that it can't be.
    pub(in crate::state::kv) fn end_sync(&self, noted: &Noted, done: io::Result<()>) {
        let mut inner = lock(&self.inner);
        if let Err(e) = done {
            // The kernel says so once: another try could succeed without what is lost.
            tracing::error!(error = %e, "a state's journal can't be forced to disk");
            inner.broken = Some(format!("its journal can't be forced to disk: {e}"));
            return;
        }
        inner.renames_synced = inner.renames_synced.max(noted.renames);
        let Inner { old, journal, .. } = &mut *inner;
        for journal in [old, journal].into_iter().flatten() {
            for (_, generation, end) in &noted.files {
                if *generation == journal.generation {
                    journal.synced = journal.synced.max(*end);
                }
            }
        }
    }

    fn sync(&self) -> io::Result<()> {
        let noted = self.begin_sync();
        let mut done = noted.files.iter().try_for_each(|(file, _, _)| file.sync_data());
        if noted.renamed && done.is_ok() {
            done = rustix::fs::fsync(self.files.root()).map_err(Into::into);
        }
        let answer = match &done {
            Ok(()) => Ok(()),
            Err(e) => Err(io::Error::new(e.kind(), e.to_string())),
        };
        self.end_sync(&noted, done);
        answer
    }

    pub(in crate::state::kv) fn sync_as_asked(&self) {
        // What went wrong is remembered.
        let _ = self.sync();
    }

    pub(in crate::state::kv) fn apply_as_asked(&self) {
        self.apply_asked.store(false, Ordering::Release);
        let is_long = |inner: &Inner| inner.journal.as_ref().is_some_and(|journal| journal.end > CHECKPOINT_BYTES);
        let mut done = self.apply();
        if done.is_ok() && is_long(&lock(&self.inner)) {
            done = self.checkpoint();
        }
        let Err(e) = done else { return self.told.store(false, Ordering::Relaxed) };
        if !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = %e, "the files of a state can't be brought up to date; its journal has what they lack");
        }
        if !lock(&self.inner).closed && !self.apply_asked.swap(true, Ordering::AcqRel) {
            group::apply_soon(self.me.clone(), false);
        }
    }

    /// Makes the files what was set.
    pub(in crate::state::kv) fn apply(&self) -> io::Result<()> {
        let _turn = lock(&self.turn);
        self.apply_in_turn()
    }

    fn apply_in_turn(&self) -> io::Result<()> {
        let mut inner = lock(&self.inner);
        let (old, current) = inner.ends();
        if inner.closed {
            return Ok(());
        }
        if inner.pending.is_empty() {
            return if inner.owes_marks { inner.mark(old, current) } else { Ok(()) };
        }
        let batch = Arc::new(std::mem::take(&mut inner.pending));
        inner.pending_bytes = 0;
        inner.applying = Some(Arc::clone(&batch));
        drop(inner);
        // The journal goes first: a new file may be empty after a loss of power, and the old one is gone.
        let dropped = |length: u64| {
            self.usage.shrink(length);
            self.usage.remove_entry();
        };
        let done = self.sync().and_then(|()| self.files.apply(&batch, dropped));
        let mut inner = lock(&self.inner);
        inner.applying = None;
        match done {
            Ok(()) => {
                inner.stuck = None;
                inner.owes_marks = true;
                inner.mark(old, current)
            }
            Err(e) => {
                for (key, value) in batch.iter() {
                    if !inner.pending.contains_key(key) {
                        inner.remember(key, value.clone());
                    }
                }
                inner.stuck = Some((e.kind(), e.to_string()));
                Err(e)
            }
        }
    }

    /// Does away with the journal: begins another, forces what the old one says to disk as files, and removes it.
    pub(in crate::state::kv) fn checkpoint(&self) -> io::Result<()> {
        let _alone = lock(&self.checkpointing);
        let turn = lock(&self.turn);
        let mut inner = lock(&self.inner);
        if inner.closed || inner.journal.is_none() {
            return Ok(());
        }
        // There is one where the last checkpoint failed.
        if inner.old.is_none() {
            let next = Journal::next(self.files.root())?;
            inner.old = inner.journal.replace(next);
            inner.renames += 1;
        }
        drop(inner);
        self.apply_in_turn()?;
        drop(turn);
        self.flusher.flush()?;
        let mut inner = lock(&self.inner);
        // Once closed, what has that name may be another writer's.
        if !inner.closed && inner.old.take().is_some() {
            journal::remove(self.files.root(), OLD)?;
        }
        Ok(())
    }

    /// Ends it: no more writes, the files are what was set, and, with `lasting`, are on disk.
    pub(in crate::state::kv) fn close(&self, lasting: bool) -> io::Result<()> {
        lock(&self.inner).closing = true;
        let _turn = lock(&self.turn);
        let mut done = self.apply_in_turn();
        if lasting && done.is_ok() {
            done = self.flusher.flush();
        }
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Ok(());
        }
        inner.closed = true;
        done?;
        if let Some(why) = &inner.broken {
            return Err(io::Error::other(why.clone()));
        }
        journal::remove_all(self.files.root())
    }

    /// Ends it as a crash would: from here on it touches nothing.
    pub(in crate::state::kv) fn abandon(&self) {
        lock(&self.inner).closing = true;
        let _turn = lock(&self.turn);
        lock(&self.inner).closed = true;
    }
}
