//! Owns the account of what one guest holds: linear memory, tables, instances.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::ResourceLimiter;

use super::error::MEMORY;

/// What the guests of one node may hold together, in bytes of linear memory. What a guest holds is given back when it
/// ends.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// The most that guests may hold, in bytes.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What they hold now, in bytes.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|total| *total <= self.limit)
            })
            .is_ok()
    }

    /// Takes `bytes` for as long as what is returned lives; `None` when they aren't free now.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Reserved> {
        self.take(bytes).then(|| Reserved { budget: Arc::clone(self), bytes })
    }

    fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Some of a budget, given back when it is dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.give_back(self.bytes);
    }
}

/// The account of one store. All linear memories together are held under one limit, to the byte; so are all
/// table elements.
///
/// What was granted is never given back when the growth then fails in the runtime (the address space is
/// used up): the runtime reports some failures without having asked first, so giving back could be turned
/// into memory that isn't counted. Growth beyond a memory's own maximum is refused here, before it counts.
#[derive(Debug)]
pub(super) struct Limiter {
    memory_limit: u64,
    table_limit: u64,
    instances: usize,
    memory: u64,
    tables: u64,
    peak: u64,
    /// The first refusal of something that a guest needs at its start: what, needed, limit.
    refused: Option<(&'static str, u64, u64)>,
    budget: Option<Arc<Budget>>,
    /// The budget, not the guest's own limit, has refused what the guest needs at its start.
    out_of_budget: bool,
    /// Its own limit has refused it more memory.
    denied_growth: bool,
}

impl Drop for Limiter {
    fn drop(&mut self) {
        if let Some(budget) = &self.budget {
            budget.give_back(self.memory);
        }
    }
}

impl Limiter {
    pub(super) fn new(memory_limit: u64, table_limit: u64, instances: usize, budget: Option<Arc<Budget>>) -> Self {
        Self {
            memory_limit,
            table_limit,
            instances,
            memory: 0,
            tables: 0,
            peak: 0,
            refused: None,
            budget,
            out_of_budget: false,
            denied_growth: false,
        }
    }

    /// The memory limit, in bytes, where it has refused the guest more.
    pub(super) fn denied_growth(&self) -> Option<u64> {
        self.denied_growth.then_some(self.memory_limit)
    }

    pub(super) fn out_of_budget(&self) -> bool {
        self.out_of_budget
    }

    /// The most linear memory that the guest held, in bytes.
    pub(super) fn peak(&self) -> u64 {
        self.peak
    }

    pub(super) fn refused(&self) -> Option<(&'static str, u64, u64)> {
        self.refused
    }
}

fn grown(used: u64, current: usize, desired: usize) -> u64 {
    used.saturating_sub(current as u64).saturating_add(desired as u64)
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = grown(self.memory, current, desired);
        if total > self.memory_limit {
            self.denied_growth = true;
            if current == 0 {
                self.refused.get_or_insert((MEMORY, total, self.memory_limit));
            }
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        if let Some(budget) = &self.budget
            && !budget.take(total.saturating_sub(self.memory))
        {
            if current == 0 && total > budget.limit() {
                // No waiting helps.
                self.refused.get_or_insert((
                    "bytes of the memory that guests may hold together",
                    total,
                    budget.limit(),
                ));
            } else {
                self.out_of_budget |= current == 0;
            }
            return Ok(false);
        }
        self.memory = total;
        self.peak = self.peak.max(total);
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = grown(self.tables, current, desired);
        if total > self.table_limit {
            if current == 0 {
                self.refused.get_or_insert(("table elements", total, self.table_limit));
            }
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.tables = total;
        Ok(true)
    }

    fn instances(&self) -> usize {
        self.instances
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memories_share_one_limit() {
        let mut limiter = Limiter::new(300, 10, 1, None);
        assert!(limiter.memory_growing(0, 100, None).unwrap());
        assert!(limiter.memory_growing(0, 200, None).unwrap());
        assert!(!limiter.memory_growing(200, 201, None).unwrap());
        assert!(limiter.refused().is_none(), "a refused growth is the guest's own affair");
        assert!(!limiter.memory_growing(0, 1, None).unwrap());
        assert_eq!(limiter.refused(), Some(("bytes of memory", 301, 300)));
        assert_eq!(limiter.peak(), 300);
    }

    #[test]
    fn growth_beyond_the_memorys_own_maximum_does_not_count() {
        let mut limiter = Limiter::new(1000, 10, 1, None);
        assert!(limiter.memory_growing(0, 100, Some(100)).unwrap());
        assert!(!limiter.memory_growing(100, 200, Some(100)).unwrap());
        assert!(limiter.memory_growing(0, 900, None).unwrap());
    }

    #[test]
    fn a_budget_is_shared_and_given_back() {
        let budget = Arc::new(Budget::new(100));
        let mut one = Limiter::new(1000, 10, 1, Some(Arc::clone(&budget)));
        let mut two = Limiter::new(1000, 10, 1, Some(Arc::clone(&budget)));
        assert!(one.memory_growing(0, 60, None).unwrap());
        assert!(!two.memory_growing(0, 50, None).unwrap() && two.out_of_budget() && two.refused().is_none());
        assert!(two.memory_growing(0, 40, None).unwrap());
        assert!(!one.memory_growing(60, 61, None).unwrap() && !one.out_of_budget());
        drop(two);
        assert!(one.memory_growing(60, 100, None).unwrap());
        assert_eq!(budget.used(), 100);
        drop(one);
        assert_eq!(budget.used(), 0);
    }
}
