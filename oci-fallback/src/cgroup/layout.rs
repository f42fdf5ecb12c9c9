//! Owns what is known of this machine's cgroups: which controllers are in which hierarchy, and where in it this process is.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a cgroup can limit or count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Pids,
    Cpu,
    /// Counts CPU time; every cgroup of version 2 does.
    Cpuacct,
    /// Of version 1; for engines that don't start without it.
    Devices,
}

impl Controller {
    const ALL: [Self; 5] = [Self::Memory, Self::Pids, Self::Cpu, Self::Cpuacct, Self::Devices];

    /// As the kernel writes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Pids => "pids",
            Self::Cpu => "cpu",
            Self::Cpuacct => "cpuacct",
            Self::Devices => "devices",
        }
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The two kinds of hierarchy: cgroups(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

/// One hierarchy with controllers for us.
#[derive(Debug, Clone)]
pub(crate) struct Hierarchy {
    pub(crate) version: Version,
    pub(crate) controllers: Vec<Controller>,
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// Where in it our cgroups go: in the one that this process is in.
    pub(crate) base: PathBuf,
}

/// The one that holds vyr's own processes where it must not hold them itself.
const LEAF: &str = "vyr-host";

/// The hierarchies that can be seen here.
pub(crate) fn hierarchies() -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    find(&mounts, &own)
}

fn find(mounts: &str, own: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    let mut unified = None;
    for line in mounts.lines() {
        // proc_pid_mountinfo(5): … root, mount point, options, optional fields, `-`, type, source, super options.
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let mut before = before.split(' ').skip(3);
        let (Some(root), Some(mount)) = (before.next(), before.next()) else { continue };
        let mut after = after.split(' ');
        let (kind, options) = (after.next(), after.nth(1).unwrap_or_default());
        match kind {
            Some("cgroup") => {
                let controllers: Vec<_> = Controller::ALL
                    .into_iter()
                    .filter(|one| options.split(',').any(|name| name == one.name()))
                    .collect();
                let taken = |one: &Controller| found.iter().any(|other| other.controllers.contains(one));
                if controllers.is_empty() || controllers.iter().any(taken) {
                    continue;
                }
                let cgroup = path_of(own, |listed| listed.split(',').any(|name| name == controllers[0].name()));
                let base = below(mount, root, cgroup);
                found.push(Hierarchy { version: Version::V1, controllers, mount: mount.into(), base });
            }
            Some("cgroup2") if unified.is_none() => {
                let cgroup = path_of(own, str::is_empty);
                unified = Some((PathBuf::from(mount), below(mount, root, cgroup)));
            }
            _ => {}
        }
    }
    if let Some((mount, base)) = unified {
        let base = match base.file_name() {
            Some(name) if name == LEAF => base.parent().map_or(base.clone(), Path::to_owned),
            _ => base,
        };
        let there = fs::read_to_string(base.join("cgroup.controllers")).unwrap_or_default();
        let taken = |one: &Controller| found.iter().any(|other| other.controllers.contains(one));
        let mut controllers: Vec<_> = Controller::ALL
            .into_iter()
            .filter(|one| there.split_ascii_whitespace().any(|name| name == one.name()))
            .filter(|one| !taken(one))
            .collect();
        // Beside hierarchies of version 1 it has no controllers, and to count CPU time alone it isn't worth its price.
        if found.is_empty() || !controllers.is_empty() {
            if !taken(&Controller::Cpuacct) {
                controllers.push(Controller::Cpuacct);
            }
            found.push(Hierarchy { version: Version::V2, controllers, mount, base });
        }
    }
    found
}

/// This process's cgroup in the hierarchy whose controllers are `wanted`: lines `number:controllers:path`.
fn path_of(own: &str, wanted: impl Fn(&str) -> bool) -> &str {
    own.lines()
        .find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            wanted(controllers).then_some(path)
        })
        .unwrap_or("/")
}

/// Where a cgroup is below a mount that shows the hierarchy from `root` on.
fn below(mount: &str, root: &str, cgroup: &str) -> PathBuf {
    let rest = match root {
        "/" => cgroup,
        // A container that sees its own part of the hierarchy alone, and a path that begins above it.
        root => cgroup.strip_prefix(root).unwrap_or("/"),
    };
    Path::new(mount).join(rest.trim_start_matches('/'))
}

impl Hierarchy {
    /// Makes its controllers count for what is made in its base. Version 2 wants that said, and allows it only where no
    /// process is in the base itself: ours then go into a leaf beside.
    ///
    /// # Errors
    /// It isn't ours to change.
    pub(crate) fn prepare(&mut self) -> io::Result<()> {
        if self.version == Version::V1 {
            return Ok(());
        }
        let control = self.base.join("cgroup.subtree_control");
        let given = fs::read_to_string(&control)?;
        let wanted: Vec<String> = self
            .controllers
            .iter()
            .filter(|one| {
                **one != Controller::Cpuacct && !given.split_ascii_whitespace().any(|name| name == one.name())
            })
            .map(|one| format!("+{one}"))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let wanted = wanted.join(" ");
        match fs::write(&control, &wanted) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                self.make_room()?;
                fs::write(&control, &wanted)
            }
            other => other,
        }
    }

    /// Moves the processes of the base into its leaf, if all are this program's.
    fn make_room(&self) -> io::Result<()> {
        let program = |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).map(|file| (file.dev(), file.ino()));
        let own = program("self")?;
        let there = fs::read_to_string(self.base.join("cgroup.procs"))?;
        // One that has ended meanwhile is nobody's.
        let ours =
            |pid| program(pid).map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |other| other == own);
        if !there.lines().all(ours) {
            return Err(io::Error::other("other programs are in vyr's cgroup: give it one of its own"));
        }
        let leaf = self.base.join(LEAF);
        if let Err(error) = fs::create_dir(&leaf)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error);
        }
        there.lines().try_for_each(|pid| match fs::write(leaf.join("cgroup.procs"), pid) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            other => other,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_a_base_in_the_own_cgroup_of_each_hierarchy() {
        let mounts = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let found = find(mounts, "4:memory:/a/b\n2:cpu,cpuacct:/\n1:name=systemd:/c\n0::/\n");
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].base, Path::new("/sys/fs/cgroup/memory/a/b"));
        assert_eq!(found[1].controllers, [Controller::Cpu, Controller::Cpuacct]);
        assert_eq!(found[1].base, Path::new("/sys/fs/cgroup/cpu,cpuacct/"));
    }

    #[test]
    fn a_mount_that_shows_a_part_is_taken_as_that() {
        assert_eq!(below("/sys/fs/cgroup", "/docker/x", "/docker/x/y"), Path::new("/sys/fs/cgroup/y"));
        assert_eq!(below("/sys/fs/cgroup", "/docker/x", "/else"), Path::new("/sys/fs/cgroup/"));
    }
}
