//! Nothing of a container is left, whoever dies and whenever.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::shell;
use crate::support::{Home, Node};

/// How many runs, and how many of them are cut off: few in the usual run, 500 by hand.
#[expect(clippy::disallowed_methods, reason = "a test's own setting")]
fn rounds(default: usize) -> usize {
    std::env::var("VYR_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(default)
}

/// What a machine has that a container could leave behind: processes of one, mounts, cgroups; and the folders of a home.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Left {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    folders: BTreeSet<String>,
}

impl Left {
    fn and(&self, other: &Self, of: impl Fn(&BTreeSet<String>, &BTreeSet<String>) -> BTreeSet<String>) -> Self {
        Self {
            processes: of(&self.processes, &other.processes),
            mounts: of(&self.mounts, &other.mounts),
            cgroups: of(&self.cgroups, &other.cgroups),
            folders: of(&self.folders, &other.folders),
        }
    }
}

fn look(home: &Home) -> Left {
    let mut left = Left::default();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().replace('\0', " ");
        if line.contains("marked-by-the-test") || line.starts_with("vyr-container") && is_of(home, &entry.path()) {
            left.processes.insert(format!("{} {line}", entry.file_name().to_string_lossy()));
        }
    }
    for line in fs::read_to_string("/proc/self/mountinfo").unwrap().lines() {
        left.mounts.insert(line.split(' ').nth(4).unwrap().to_owned());
    }
    cgroups(Path::new("/sys/fs/cgroup"), 6, &mut left.cgroups);
    for folder in [".", "snapshots", "snapshots/overlay", "snapshots/flat", "containers", "run"] {
        for entry in fs::read_dir(home.vyr_home().join(folder)).into_iter().flatten().flatten() {
            left.folders.insert(format!("{folder}/{}", entry.file_name().to_string_lossy()));
        }
    }
    left
}

/// Whether a process works in this home: other tests have containers at the same time.
fn is_of(home: &Home, process: &Path) -> bool {
    let cwd = fs::read_link(process.join("cwd")).unwrap_or_default();
    let environment = fs::read_to_string(process.join("environ")).unwrap_or_default();
    cwd.starts_with(home.work()) || environment.contains(&*home.vyr_home().to_string_lossy())
}

fn cgroups(folder: &Path, depth: usize, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if depth > 0 && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let name = entry.path().to_string_lossy().into_owned();
            if name.contains("vyr-") {
                found.insert(name);
            }
            cgroups(&entry.path(), depth - 1, found);
        }
    }
}

/// Waits until it is as it was: what was killed takes a moment to go. The machine's other tests and nodes have mounts and
/// control groups that come and go: what was left is there all the time.
#[track_caller]
fn settled(home: &Home, before: &Left) {
    let (began, mut left) = (Instant::now(), None::<Left>);
    loop {
        let new = look(home).and(before, |now, before| now.difference(before).cloned().collect());
        // Whoever is still at work here may leave more.
        let at_work = !new.processes.is_empty() || !new.folders.is_empty();
        let now = match left {
            Some(left) if !at_work => left.and(&new, |left, new| left.intersection(new).cloned().collect()),
            _ => new,
        };
        if now == Left::default() {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "left behind: {now:#?}");
        left = Some(now);
        std::thread::sleep(Duration::from_millis(50));
    }
}

const SCRIPT: &str = "(sleep 300; : marked-by-the-test) & sleep 300; : marked-by-the-test";

#[test]
fn mixed_runs_and_kills_leave_nothing() {
    let home = Home::new();
    let layout = shell(&home);
    home.vyr(["run", "--allow-unsigned", &layout]).expect(0);
    let before = look(&home);
    for round in 0..rounds(24) {
        let options: &[&str] = match round % 3 {
            0 => &[],
            1 => &["--writable-root"],
            _ => &["--container-engine", "crun"],
        };
        let start = [&["run", "--allow-unsigned"], options, &[layout.as_str(), "--"]].concat();
        if round % 2 == 0 {
            home.vyr([&start[..], &["echo done"]].concat()).expect(0);
            continue;
        }
        let mut child = home.vyr_command([&start[..], &[SCRIPT]].concat()).spawn().unwrap();
        // Before, in and after the making of the container.
        std::thread::sleep(Duration::from_millis((round as u64 * 37) % 160));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    settled(&home, &before);
}

#[test]
fn a_node_that_is_killed_leaves_nothing() {
    let home = Home::new();
    let layout = shell(&home);
    let node = Node::start(&home, &["--allow-unsigned"]);
    let target = format!("{}/plain:v1", node.host());
    let copy = ["copy", "--insecure-policy", "--dest-tls-verify=false", &layout, &format!("docker://{target}")];
    home.tool("skopeo", copy).expect(0);
    let address = format!("http://{}", node.address);
    let submit = ["submit", "--node", &address, "--allow-unsigned", &target, "--", SCRIPT];
    home.vyr(["run", "--allow-unsigned", &layout]).expect(0);
    let before = look(&home);
    for _ in 0..4 {
        home.vyr(submit).expect(0);
    }
    let began = Instant::now();
    while look(&home).processes.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(30), "no container was started: {}", node.said());
        std::thread::sleep(Duration::from_millis(20));
    }
    node.kill();
    settled(&home, &before);
}
