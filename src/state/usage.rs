//! Owns how much a state holds, to the byte: every door asks here before it makes the state larger.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// There is no room for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the state's quota is reached")]
pub struct Full;

/// What a state holds and may hold: the lengths of its files together, in bytes, and how many files and folders there are.
#[derive(Debug)]
pub struct Usage {
    bytes: AtomicU64,
    entries: AtomicU64,
    /// What of that waits to be pushed.
    pending_bytes: AtomicU64,
    pending_entries: AtomicU64,
    quota: u64,
    most_entries: u64,
    /// Room was refused.
    refused: AtomicBool,
}

/// Files and folders that any state may have; a larger quota allows one for each KiB of it.
const MIN_ENTRIES: u64 = 65_536;

impl Usage {
    /// Of a state that may hold `quota` bytes.
    #[must_use]
    pub fn new(quota: u64, bytes: u64, entries: u64) -> Self {
        let most_entries = (quota / 1024).max(MIN_ENTRIES);
        Self {
            bytes: AtomicU64::new(bytes),
            entries: AtomicU64::new(entries),
            pending_bytes: AtomicU64::new(0),
            pending_entries: AtomicU64::new(0),
            quota,
            most_entries,
            refused: AtomicBool::new(false),
        }
    }

    /// What it holds, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How many files and folders it has.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// What it may hold, in bytes.
    #[must_use]
    pub fn quota(&self) -> u64 {
        self.quota
    }

    /// Makes room for `more` bytes.
    ///
    /// # Errors
    /// [`Full`]; then nothing changed.
    pub fn grow(&self, more: u64) -> Result<(), Full> {
        let grown = |held: u64| held.checked_add(more).filter(|sum| *sum <= self.quota);
        match self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown) {
            Ok(_) => Ok(()),
            // What is larger than its quota, since that was so when it came, may still be written in place.
            Err(_) if more == 0 => Ok(()),
            Err(_) => Err(self.refuse()),
        }
    }

    fn refuse(&self) -> Full {
        self.refused.store(true, Ordering::Relaxed);
        Full
    }

    /// Whether room was refused since this was last asked.
    #[must_use]
    pub fn take_refusal(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }

    /// Gives room back.
    pub fn shrink(&self, less: u64) {
        let shrunk = |held: u64| Some(held.saturating_sub(less));
        let _ = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, shrunk);
    }

    /// A length changes from `before` to `after`.
    ///
    /// # Errors
    /// [`Full`]; then nothing changed.
    pub fn change(&self, before: u64, after: u64) -> Result<(), Full> {
        match after.checked_sub(before) {
            Some(more) => self.grow(more),
            None => {
                self.shrink(before - after);
                Ok(())
            }
        }
    }

    /// The same with what waits to be pushed beside what guests see.
    pub(super) fn with_pending(self, (bytes, entries): (u64, u64)) -> Self {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.entries.fetch_add(entries, Ordering::Relaxed);
        self.pending_bytes.store(bytes, Ordering::Relaxed);
        self.pending_entries.store(entries, Ordering::Relaxed);
        self
    }

    /// What waits to be pushed: bytes and files. It is part of what is held.
    #[must_use]
    pub fn pending(&self) -> (u64, u64) {
        (self.pending_bytes.load(Ordering::Relaxed), self.pending_entries.load(Ordering::Relaxed))
    }

    /// A file of so many bytes is not the guest's any more, and waits to be pushed.
    pub(super) fn to_pending(&self, bytes: u64) {
        self.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.pending_entries.fetch_add(1, Ordering::Relaxed);
    }

    /// A file of so many bytes comes to those that wait; `false` when there is no room, unless it `must`.
    pub(super) fn add_pending(&self, bytes: u64, must: bool) -> bool {
        if self.grow(bytes).is_err() {
            if !must {
                return false;
            }
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.entries.fetch_add(1, Ordering::Relaxed);
        self.to_pending(bytes);
        true
    }

    /// One that waited was pushed.
    pub(super) fn pushed(&self, bytes: u64) {
        let less = |by: u64| move |held: u64| Some(held.saturating_sub(by));
        let _ = self.pending_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less(bytes));
        let _ = self.pending_entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less(1));
        self.shrink(bytes);
        self.remove_entry();
    }

    /// What guests see was counted anew; returns the sum with what waits to be pushed.
    pub(super) fn set_held(&self, bytes: u64, entries: u64) -> u64 {
        let (pending_bytes, pending_entries) = self.pending();
        let sum = bytes.saturating_add(pending_bytes);
        self.bytes.store(sum, Ordering::Relaxed);
        self.entries.store(entries.saturating_add(pending_entries), Ordering::Relaxed);
        sum
    }

    /// Whether it holds more than it may.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.bytes() > self.quota || self.entries.load(Ordering::Relaxed) > self.most_entries
    }

    /// One more file or folder.
    ///
    /// # Errors
    /// [`Full`]; then nothing changed.
    pub fn add_entry(&self) -> Result<(), Full> {
        let grown = |count: u64| count.checked_add(1).filter(|sum| *sum <= self.most_entries);
        self.entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).map(drop).map_err(|_| self.refuse())
    }

    /// One less.
    pub fn remove_entry(&self) {
        let shrunk = |count: u64| Some(count.saturating_sub(1));
        let _ = self.entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, shrunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_it_may_and_not_a_byte_more() {
        let usage = Usage::new(100, 0, 0);
        usage.grow(100).unwrap();
        assert_eq!(usage.grow(1), Err(Full));
        assert_eq!(usage.grow(u64::MAX), Err(Full));
        assert!(usage.take_refusal() && !usage.take_refusal(), "it is told once");
        usage.grow(0).unwrap();
        usage.change(60, 59).unwrap();
        usage.change(10, 11).unwrap();
        assert_eq!(usage.change(10, 11), Err(Full));
        assert_eq!(usage.bytes(), 100);
        usage.shrink(1000);
        assert_eq!(usage.bytes(), 0);
    }

    #[test]
    fn files_and_folders_are_bounded_too() {
        let usage = Usage::new(100, 0, MIN_ENTRIES - 1);
        usage.add_entry().unwrap();
        assert_eq!(usage.add_entry(), Err(Full));
        usage.remove_entry();
        usage.add_entry().unwrap();
    }
}
