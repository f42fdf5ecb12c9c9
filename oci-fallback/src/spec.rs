//! Owns the runtime bundle: what of the kernel a container gets, and what not. The runtime specification is
//! <https://github.com/opencontainers/runtime-spec/blob/v1.0.2/config.md>.

use std::fs;
use std::io;

use serde_json::{Value, json};

use crate::cgroup::{Controller, Group};
use crate::container::Network;
use crate::engine::Choice;
use crate::keeper::wire::Order;
use crate::keeper::{Place, STAND_IN};

/// What root in a container may do beyond an ordinary user: to own files, to become other users, to open low ports. Less than
/// Docker's by making devices, raw packets, audit records, chroot, file capabilities.
const CAPABILITIES: [&str; 9] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
];

/// Files of the kernel that tell of the machine or change it: Docker's.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Files of the kernel that may only be read: Docker's.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// How many files a process may have open, where this process may allow that many.
const FILES: u64 = 1 << 20;

/// The makers of a container, which count as its processes where these are limited by user.
const MAKERS: u64 = 5;

/// The largest `/dev/shm`.
const SHARED_MEMORY: u64 = 64 << 20;

/// Writes `config.json` into the bundle.
///
/// # Errors
/// The file can't be written.
pub(crate) fn write(order: &Order, place: &Place, group: &Group, notes: &mut Vec<String>) -> io::Result<()> {
    fs::write(place.bundle.join("config.json"), serde_json::to_vec(&config(order, place, group, notes))?)
}

fn config(order: &Order, place: &Place, group: &Group, notes: &mut Vec<String>) -> Value {
    let process = &order.process;
    let (mut uid, mut gid, mut groups) = (process.uid, process.gid, process.groups.clone());
    if order.user {
        // The library's last step gives the user its number.
        if (uid, gid) != (0, 0) && order.engine != Choice::Libcontainer {
            notes.push(format!("runs as the only user there is here, not as {uid}:{gid}"));
        }
        (uid, gid) = (0, 0);
        groups.clear();
    }
    let mut bounding = CAPABILITIES.to_vec();
    if order.user && order.engine == Choice::Libcontainer && (process.uid, process.gid) != (0, 0) {
        // The last step gives root another number in a further user namespace, which takes this: user_namespaces(7). None of
        // it is left in there.
        bounding.push("CAP_SETFCAP");
    }
    let capabilities: &[&str] = if uid == 0 { &bounding } else { &[] };
    let environment: Vec<String> = process.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut annotations = json!({});
    let namespaces = ["pid", "mount", "ipc", "uts", "cgroup"].map(|kind| json!({ "type": kind }));
    let mut linux = json!({
        "namespaces": namespaces,
        "maskedPaths": MASKED,
        "readonlyPaths": READ_ONLY,
    });
    if let Choice::Installed(_) = order.engine {
        linux["seccomp"] = crate::seccomp::config();
        // `crun` takes the compiled filter in place of the list.
        if let Ok(program) = crate::seccomp::encoded() {
            annotations["run.oci.seccomp_bpf_data"] = program.into();
        }
    }
    let own = group.path_for_engine().filter(|_| order.engine.wants_cgroup());
    // Where cgroups are covered, it is a stand-in. Where they can be seen and not written, it is to be left to the engine.
    let cgroup = own.or_else(|| place.covers_cgroups().then(|| format!("/{STAND_IN}")));
    if let Some(cgroup) = cgroup {
        linux["cgroupsPath"] = cgroup.into();
    }
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": { "path": place.root, "readonly": !order.writable_root },
        "hostname": order.hostname,
        "annotations": annotations,
        "process": {
            "terminal": false,
            "user": { "uid": uid, "gid": gid, "additionalGids": groups, "umask": 0o022 },
            "args": process.argv,
            "env": environment,
            "cwd": process.cwd,
            "capabilities": {
                // The bounding set is for programs that root starts as another user.
                "bounding": bounding,
                "effective": capabilities,
                "permitted": capabilities,
                "inheritable": [],
                "ambient": [],
            },
            "rlimits": rlimits(order, group),
            "noNewPrivileges": true,
        },
        "mounts": mounts(order, place),
        "linux": linux,
    });
    if is_spared() {
        config["process"]["oomScoreAdj"] = 0.into();
    }
    config
}

/// Whether the kernel is to spare this process when it lacks memory, which is meant for vyr and not for its containers.
fn is_spared() -> bool {
    fs::read_to_string("/proc/self/oom_score_adj")
        .is_ok_and(|score| score.trim().parse::<i32>().is_ok_and(|score| score < 0))
}

fn rlimits(order: &Order, group: &Group) -> Vec<Value> {
    use rustix::process::{Resource, getrlimit};
    // More than its own hard limit an ordinary user can't give.
    let files = getrlimit(Resource::Nofile).maximum.map_or(FILES, |hard| hard.min(FILES));
    let limit = |name: &str, value: u64| json!({ "type": name, "soft": value, "hard": value });
    let mut limits = vec![limit("RLIMIT_NOFILE", files), limit("RLIMIT_CORE", 0)];
    if !group.has(Controller::Pids) && order.user {
        // In a user namespace of its own the count of a user's processes is the container's.
        let most = getrlimit(Resource::Nproc).maximum.unwrap_or(u64::MAX);
        limits.push(limit("RLIMIT_NPROC", order.limits.pids.saturating_add(MAKERS).min(most)));
    }
    limits
}

fn mounts(order: &Order, place: &Place) -> Vec<Value> {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let shared = format!("size={}", order.limits.disk_bytes.min(SHARED_MEMORY));
    // Group 5 is `tty`, which a user namespace of one user doesn't have.
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    if !order.user {
        terminals.push("gid=5");
    }
    let mut all = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &terminals),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shared]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    if order.user && order.network == Network::Host {
        // A user namespace may mount only the sysfs of a network of its own. What is mounted in this one is to be read only
        // too, which `ro` doesn't say.
        all.push(mount("/sys", "none", "/sys", &["rbind", "nosuid", "noexec", "nodev", "ro", "rro"]));
        if place.cgroup.is_empty() {
            // The keeper's own files are there, and a bind takes them along.
            all.push(mount("/sys/fs/cgroup", "tmpfs", "tmpfs", &["nosuid", "noexec", "nodev", "ro", "size=4k"]));
        }
    } else {
        all.push(mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]));
    }
    for (here, there) in &place.cgroup {
        all.push(mount(there, "bind", &here.to_string_lossy(), &["bind", "nosuid", "noexec", "nodev", "ro"]));
    }
    all
}
