//! Owns the account of what one guest holds: linear memory, tables, instances.

use wasmtime::ResourceLimiter;

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
}

impl Limiter {
    pub(super) fn new(memory_limit: u64, table_limit: u64, instances: usize) -> Self {
        Self { memory_limit, table_limit, instances, memory: 0, tables: 0, peak: 0, refused: None }
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
            if current == 0 {
                self.refused.get_or_insert(("bytes of memory", total, self.memory_limit));
            }
            return Ok(false);
        }
        if maximum.is_some_and(|maximum| desired > maximum) {
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
        let mut limiter = Limiter::new(300, 10, 1);
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
        let mut limiter = Limiter::new(1000, 10, 1);
        assert!(limiter.memory_growing(0, 100, Some(100)).unwrap());
        assert!(!limiter.memory_growing(100, 200, Some(100)).unwrap());
        assert!(limiter.memory_growing(0, 900, None).unwrap());
    }
}
