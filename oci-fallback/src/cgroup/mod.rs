//! Owns the cgroup of a container: made by its keeper, joined by what makes the container, read, and removed. Engines manage
//! none. Both versions of cgroups count, also side by side, with whatever controllers may be written.

mod layout;

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::process::{Pid, Signal};

pub(crate) use layout::{Controller, Hierarchy, Version, hierarchies};

use crate::container::Limits;
use crate::keeper::STAND_IN;

/// What every name of ours begins with.
const PREFIX: &str = "vyr-";

/// Below this a container's own making may not fit.
const LEAST_MEMORY: u64 = 6 << 20;

/// What makes a container has up to this many processes besides, for a moment.
const MAKERS: u64 = 3;

/// How long a cgroup without living processes may refuse to be removed.
const PATIENCE: Duration = Duration::from_secs(2);

/// The cgroups of one container: one in each hierarchy that has a controller for it.
#[derive(Debug)]
pub(crate) struct Group {
    parts: Vec<Part>,
    /// What is not limited as asked, in words.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug)]
struct Part {
    hierarchy: Hierarchy,
    parent: OwnedFd,
    name: String,
    folder: OwnedFd,
}

/// The folder of a container's cgroup as the container is to see it.
#[derive(Debug)]
pub(crate) struct View {
    /// Its name below `/sys/fs/cgroup`; `None`: it is that folder.
    pub(crate) name: Option<String>,
    /// Here.
    pub(crate) path: PathBuf,
    /// The controllers by which it is also known.
    pub(crate) links: Vec<&'static str>,
}

impl Group {
    /// Makes them with their limits. What can't be made is noted. With `devices`, also the one that the engine manages.
    pub(crate) fn make(id: &str, owner: &str, limits: &Limits, devices: bool) -> Self {
        let mut group = Self { parts: Vec::new(), notes: Vec::new() };
        let name = format!("{PREFIX}{id}.{owner}");
        let mut refused = None;
        for hierarchy in hierarchies() {
            if hierarchy.controllers == [Controller::Devices] && !devices {
                continue;
            }
            match Part::make(hierarchy, &name) {
                Ok(part) => group.parts.push(part),
                Err(error) => refused = Some(error),
            }
        }
        let root = !in_user_namespace();
        for (controller, wanted, words) in [
            (Controller::Memory, limits.memory_bytes.is_some(), "memory is watched, not limited"),
            (
                Controller::Pids,
                true,
                if root { "processes are not limited" } else { "processes are limited by user, not by cgroup" },
            ),
            (Controller::Cpu, limits.cpus_milli.is_some(), "the share of processors is not limited"),
        ] {
            if !wanted {
                continue;
            }
            let mut swap = None;
            let missing = match group.part(controller) {
                Some(part) => match part.limit(controller, limits) {
                    Ok(note) => {
                        swap = note;
                        None
                    }
                    Err(error) => Some(error.to_string()),
                },
                None => Some(match &refused {
                    Some(error) => format!("no cgroup can be made ({error})"),
                    None => format!("there is no {controller} controller"),
                }),
            };
            group.notes.extend(swap);
            if let Some(why) = missing {
                group.notes.push(format!("{words}: {why}"));
                if let Some(part) = group.parts.iter_mut().find(|part| part.hierarchy.controllers.contains(&controller))
                {
                    part.hierarchy.controllers.retain(|other| *other != controller);
                }
            }
        }
        if group.for_engine().is_some() {
            group
                .notes
                .push("the container can't see its own limits: the engine would take them for the machine's".into());
        }
        group
    }

    fn part(&self, controller: Controller) -> Option<&Part> {
        self.parts.iter().find(|part| part.hierarchy.controllers.contains(&controller))
    }

    /// Whether the kernel holds the container to what this controller limits.
    pub(crate) fn has(&self, controller: Controller) -> bool {
        self.part(controller).is_some()
    }

    /// Moves this process into it.
    ///
    /// # Errors
    /// The kernel's own.
    pub(crate) fn join(&self) -> io::Result<()> {
        self.parts.iter().try_for_each(|part| part.write("cgroup.procs", "0"))
    }

    /// Takes back what was allowed for the making.
    pub(crate) fn made(&self, limits: &Limits) {
        if let Some(part) = self.part(Controller::Pids) {
            let _ = part.write("pids.max", &limits.pids.max(1).to_string());
        }
    }

    /// The CPU time of all that was ever in it.
    pub(crate) fn cpu(&self) -> Option<Duration> {
        let part = self.part(Controller::Cpuacct)?;
        match part.hierarchy.version {
            Version::V1 => part.read("cpuacct.usage")?.trim().parse().ok().map(Duration::from_nanos),
            Version::V2 => number(&part.read("cpu.stat")?, "usage_usec").map(Duration::from_micros),
        }
    }

    /// The most memory that was in use, in bytes.
    pub(crate) fn peak(&self) -> Option<u64> {
        let part = self.part(Controller::Memory)?;
        let file = match part.hierarchy.version {
            Version::V1 => "memory.max_usage_in_bytes",
            Version::V2 => "memory.peak",
        };
        part.read(file)?.trim().parse().ok()
    }

    /// How many of its processes the kernel has killed for want of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let Some(part) = self.part(Controller::Memory) else { return 0 };
        let file = match part.hierarchy.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        part.read(file).and_then(|text| number(&text, "oom_kill")).unwrap_or(0)
    }

    /// Where the engine may make its own, by the name that it knows the hierarchy by.
    pub(crate) fn for_engine(&self) -> Option<(&'static str, PathBuf)> {
        let part = self.part(Controller::Devices)?;
        Some((Controller::Devices.name(), part.hierarchy.base.join(&part.name)))
    }

    /// The cgroup that an engine is to make, as it names it: below the container's. `None`: none can be made.
    pub(crate) fn path_for_engine(&self) -> Option<String> {
        if self.for_engine().is_some() {
            return Some(format!("/{STAND_IN}"));
        }
        let part = self.parts.iter().find(|part| part.hierarchy.version == Version::V2)?;
        let base = part.hierarchy.base.strip_prefix(&part.hierarchy.mount).ok()?;
        Some(Path::new("/").join(base).join(&part.name).join(STAND_IN).to_string_lossy().into_owned())
    }

    /// What of it the container may see.
    pub(crate) fn views(&self) -> Vec<View> {
        // An engine that manages one itself would take these for the machine's, and try to manage them too.
        if self.for_engine().is_some() {
            return Vec::new();
        }
        // A unified hierarchy beside others holds nothing for it.
        let unified = self.parts.iter().all(|part| part.hierarchy.version == Version::V2);
        self.parts
            .iter()
            .filter(|part| unified || part.hierarchy.version == Version::V1)
            .filter(|part| part.hierarchy.controllers != [Controller::Devices])
            .map(|part| {
                let name = match part.hierarchy.version {
                    Version::V1 => part.hierarchy.mount.file_name().map(|name| name.to_string_lossy().into_owned()),
                    Version::V2 => None,
                };
                let links = part.hierarchy.controllers.iter().map(|controller| controller.name()).collect();
                View { name, path: part.hierarchy.base.join(&part.name), links }
            })
            .collect()
    }

    /// Removes it. All its processes have to be killed before.
    pub(crate) fn remove(&self) {
        let until = Instant::now() + PATIENCE;
        for part in &self.parts {
            remove(&part.folder, STAND_IN, until);
            remove(&part.parent, &part.name, until);
        }
    }
}

impl Part {
    fn make(mut hierarchy: Hierarchy, name: &str) -> io::Result<Self> {
        if let Err(error) = hierarchy.prepare() {
            // Root may make them at the top, where processes are no hindrance, as engines do that manage cgroups themselves.
            hierarchy.base.clone_from(&hierarchy.mount);
            hierarchy.prepare().map_err(|_| error)?;
        }
        let folder = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let parent = rustix::fs::open(&hierarchy.base, folder, Mode::empty())?;
        rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))?;
        let folder = rustix::fs::openat(&parent, name, folder, Mode::empty())?;
        Ok(Self { hierarchy, parent, name: name.to_owned(), folder })
    }

    /// What of it isn't limited, in words.
    fn limit(&self, controller: Controller, limits: &Limits) -> io::Result<Option<String>> {
        let v1 = self.hierarchy.version == Version::V1;
        match controller {
            Controller::Memory => {
                let bytes = limits.memory_bytes.unwrap_or(u64::MAX).max(LEAST_MEMORY).to_string();
                self.write(if v1 { "memory.limit_in_bytes" } else { "memory.max" }, &bytes)?;
                // Neither is everywhere: not without swap, not on older kernels.
                let swap = if v1 {
                    self.write("memory.memsw.limit_in_bytes", &bytes)
                } else {
                    let _ = self.write("memory.oom.group", "1");
                    self.write("memory.swap.max", "0")
                };
                let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
                return Ok(swap.err().and_then(|error| unlimited_swap(&error, &swaps)));
            }
            Controller::Pids => self.write("pids.max", &limits.pids.max(1).saturating_add(MAKERS).to_string())?,
            Controller::Cpu => {
                // A thousandth of a processor is 100 µs of each 100 ms; the kernel takes no less than a millisecond.
                let quota = limits.cpus_milli.unwrap_or(1000).saturating_mul(100).max(1000);
                if v1 {
                    self.write("cpu.cfs_period_us", "100000")?;
                    self.write("cpu.cfs_quota_us", &quota.to_string())?;
                } else {
                    self.write("cpu.max", &format!("{quota} 100000"))?;
                }
            }
            Controller::Cpuacct | Controller::Devices => {}
        }
        Ok(None)
    }

    fn write(&self, file: &str, text: &str) -> io::Result<()> {
        let file = rustix::fs::openat(&self.folder, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::io::write(file, text.as_bytes())?;
        Ok(())
    }

    fn read(&self, file: &str) -> Option<String> {
        let file = rustix::fs::openat(&self.folder, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        io::read_to_string(fs::File::from(file)).ok()
    }
}

/// That swap isn't limited, where `swaps` says that this machine has some: proc_swaps(5), a header and a line each.
fn unlimited_swap(error: &io::Error, swaps: &str) -> Option<String> {
    (swaps.lines().count() > 1).then(|| format!("memory that is swapped out is not limited: {error}"))
}

/// The value of a line `name value`.
fn number(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Whether cgroups can be made in a hierarchy.
///
/// # Errors
/// The kernel's own.
pub(crate) fn trial(hierarchy: &Hierarchy) -> io::Result<()> {
    let folder = hierarchy.base.join(format!("{PREFIX}trial.{}", owner()));
    fs::create_dir(&folder)?;
    fs::remove_dir(&folder)
}

/// Whether this process's root is an ordinary user outside: user_namespaces(7).
fn in_user_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !map.contains("4294967295"))
}

/// How a keeper is told from all others of this machine's life: its number, when it was started, and the pid namespace in
/// which that is its number.
pub(crate) fn owner() -> String {
    let pid = std::process::id();
    format!("{pid}.{}.{}", started(pid).unwrap_or_default(), namespace().unwrap_or_default())
}

/// This process's pid namespace: namespaces(7).
fn namespace() -> Option<u64> {
    fs::metadata("/proc/self/ns/pid").ok().map(|namespace| namespace.ino())
}

/// When a process was started that hasn't ended, in clock ticks since boot: fields 3 and 22 of proc_pid_stat(5).
fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name may hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    // What nobody has waited for yet is dead all the same.
    fields.next().filter(|state| !matches!(*state, "Z" | "X"))?;
    fields.nth(18)?.parse().ok()
}

/// How deep below a hierarchy's root, and how many of its cgroups, are looked at for what was left.
const DEEPEST: usize = 8;
const MOST: usize = 20_000;

/// Removes the cgroups of keepers that don't live any more, and kills what is left in them: in this process's own cgroup, or
/// `everywhere`, since vyr may have run in another one before.
pub(crate) fn sweep(everywhere: bool) {
    for hierarchy in hierarchies() {
        let mut left = MOST;
        if everywhere {
            sweep_below(&hierarchy.mount, DEEPEST, &mut left);
        } else {
            sweep_below(&hierarchy.base, 0, &mut left);
            sweep_below(&hierarchy.mount, 0, &mut left);
        }
    }
}

fn sweep_below(folder: &Path, depth: usize, left: &mut usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        let Some(rest) = left.checked_sub(1) else { return };
        *left = rest;
        match entry.file_name().to_str() {
            Some(name) if is_orphan(name) => clear(folder, name),
            _ if depth > 0 => sweep_below(&entry.path(), depth - 1, left),
            _ => {}
        }
    }
}

/// Whether this names a cgroup of ours whose keeper is dead. One from another pid namespace can't be told to be: vyr in a
/// container may share its cgroups with others.
fn is_orphan(name: &str) -> bool {
    let Some((_, owner)) = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('.')) else { return false };
    let mut parts = owner.split('.').map(|part| part.parse::<u64>().ok());
    let (Some(Some(pid)), Some(Some(start)), Some(Some(there)), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return false;
    };
    let Ok(pid) = pid.try_into() else { return false };
    namespace() == Some(there) && started(pid) != Some(start)
}

fn clear(base: &Path, name: &str) {
    let folder = base.join(name);
    let until = Instant::now() + PATIENCE;
    let _ = fs::write(folder.join("cgroup.kill"), "1");
    for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
        // 0 is a process of another pid namespace; to kill it would be to kill ourselves.
        if let Some(pid) = pid.parse().ok().filter(|pid| *pid > 1).and_then(Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
    if let Ok(parent) = rustix::fs::open(base, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        if let Ok(folder) = rustix::fs::open(&folder, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            remove(folder, STAND_IN, until);
        }
        remove(parent, name, until);
    }
}

fn remove(parent: impl AsFd, name: &str, until: Instant) {
    while let Err(rustix::io::Errno::BUSY) = rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
        // The last of its processes is on its way out.
        if Instant::now() > until {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests;
