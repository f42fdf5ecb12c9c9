//! Owns what a keeper itself holds a container to: the time limits, and where no cgroup does it, memory.

use std::fs;
use std::time::Duration;

use super::wire::{self, Order};
use crate::cgroup::{Controller, Group};
use crate::container::Outcome;

/// How often memory is looked at where no cgroup limits it.
const LOOK: Duration = Duration::from_millis(100);

/// The shortest wait between two looks at CPU time.
const SHORTEST: Duration = Duration::from_millis(5);

/// What is watched of one run.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    order: &'a Order,
    group: &'a Group,
    memory: Option<u64>,
    ticks: u64,
    page: u64,
    processors: u32,
    /// The most memory seen, in bytes, where no cgroup tells.
    peak: u64,
}

/// What the processes of a run use together.
#[derive(Debug, Default, Clone, Copy)]
struct Use {
    cpu: Duration,
    memory: u64,
}

impl<'a> Watch<'a> {
    pub(super) fn new(order: &'a Order, group: &'a Group) -> Self {
        Self {
            order,
            group,
            memory: order.limits.memory_bytes.filter(|_| !group.has(Controller::Memory)),
            ticks: rustix::param::clock_ticks_per_second().max(1),
            page: u64::try_from(rustix::param::page_size()).unwrap_or(4096),
            processors: std::thread::available_parallelism()
                .ok()
                .and_then(|count| u32::try_from(count.get()).ok())
                .unwrap_or(1),
            peak: 0,
        }
    }

    /// Looks. Either a limit is reached, or it says how long may be waited until the next look.
    pub(super) fn look(&mut self) -> Result<Option<Duration>, Outcome> {
        let mut wait = None;
        let mut sooner = |other: Duration| wait = Some(wait.map_or(other, |wait: Duration| wait.min(other)));
        if let Some(deadline) = self.order.deadline {
            match deadline.checked_sub(wire::now()) {
                None | Some(0) => return Err(Outcome::WallClock),
                Some(left) => sooner(Duration::from_nanos(left)),
            }
        }
        let counted = self.group.cpu();
        let mut seen = None;
        if self.memory.is_some() || (self.order.limits.cpu.is_some() && counted.is_none()) {
            let all = self.all();
            self.peak = self.peak.max(all.memory);
            seen = Some(all);
        }
        if let Some(limit) = self.order.limits.cpu {
            let used = counted.or(seen.map(|all| all.cpu)).unwrap_or_default();
            match limit.checked_sub(used) {
                None | Some(Duration::ZERO) => return Err(Outcome::Cpu),
                // All processors busy would use it up in this time.
                Some(left) => sooner((left / self.processors).max(SHORTEST)),
            }
        }
        if let (Some(limit), Some(all)) = (self.memory, seen) {
            if all.memory > limit {
                return Err(Outcome::OutOfMemory);
            }
            sooner(LOOK);
        }
        Ok(wait)
    }

    /// CPU time and the most memory, after all has ended.
    pub(super) fn total(&self) -> (Duration, u64) {
        let cpu = self.group.cpu().unwrap_or_else(|| self.process("self", true).map(|own| own.cpu).unwrap_or_default());
        (cpu, self.group.peak().unwrap_or(self.peak))
    }

    /// All processes of this pid namespace but the keeper.
    fn all(&self) -> Use {
        let mut all = self.process("self", true).unwrap_or_default();
        all.memory = 0;
        let Ok(entries) = fs::read_dir("/proc") else { return all };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) else {
                continue;
            };
            if name == "1" {
                continue;
            }
            if let Some(one) = self.process(name, false) {
                all.cpu += one.cpu;
                all.memory += one.memory;
            }
        }
        all
    }

    /// One process: its own use, or that of its children that have ended. proc_pid_stat(5), fields 14 to 17 and 24.
    fn process(&self, pid: &str, children: bool) -> Option<Use> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
        let ticks =
            if children { number(16)? + number(17)? } else { number(14)? + number(15)? + number(16)? + number(17)? };
        let cpu = Duration::from_millis(ticks * 1000 / self.ticks);
        Some(Use { cpu, memory: number(24)? * self.page })
    }
}
