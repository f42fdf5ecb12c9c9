use std::fs;

use super::*;

/// A cgroup of plain files: what is written and read is the same, the kernel is not.
fn part(folder: &Path, version: Version, files: &[(&str, &str)]) -> Part {
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    let open = |path: &Path| rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    let controllers = vec![Controller::Memory, Controller::Pids, Controller::Cpu, Controller::Cpuacct];
    let hierarchy = Hierarchy { version, controllers, mount: folder.into(), base: folder.into() };
    Part { hierarchy, parent: open(folder), name: "name".into(), folder: open(folder) }
}

fn limits() -> Limits {
    Limits { memory_bytes: Some(64 << 20), pids: 10, cpus_milli: Some(1500), ..Limits::default() }
}

#[test]
fn version_2_by_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let files = [
        ("memory.max", ""),
        ("memory.swap.max", ""),
        ("memory.oom.group", ""),
        ("pids.max", ""),
        ("cpu.max", ""),
        ("cpu.stat", "usage_usec 1500000\nuser_usec 1000000\n"),
        ("memory.peak", "4096\n"),
        ("memory.events", "low 0\nhigh 0\nmax 7\noom 3\noom_kill 2\noom_group_kill 1\n"),
    ];
    let group = Group { parts: vec![part(folder.path(), Version::V2, &files)], notes: Vec::new() };
    for controller in [Controller::Memory, Controller::Pids, Controller::Cpu] {
        group.parts[0].limit(controller, &limits()).unwrap();
    }
    let read = |name: &str| fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("memory.max"), "67108864");
    assert_eq!((read("memory.swap.max").as_str(), read("memory.oom.group").as_str()), ("0", "1"));
    assert_eq!(read("pids.max"), "13", "with its makers");
    assert_eq!(read("cpu.max"), "150000 100000");
    assert_eq!(group.cpu(), Some(Duration::from_millis(1500)));
    assert_eq!(group.peak(), Some(4096));
    assert_eq!(group.oom_kills(), 2);
    assert_eq!(group.path_for_engine().as_deref(), Some("/name/vyr"));
    assert!(group.views()[0].name.is_none());
}

#[test]
fn swap_that_cannot_be_limited_is_told_where_there_is_some() {
    let folder = tempfile::tempdir().unwrap();
    let part = part(folder.path(), Version::V1, &[("memory.limit_in_bytes", "")]);
    let told = part.limit(Controller::Memory, &limits()).unwrap();
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    assert_eq!(told.is_some(), swaps.lines().count() > 1, "{told:?}");
    let error = io::Error::from(io::ErrorKind::NotFound);
    let header = "Filename Type Size Used Priority\n";
    assert_eq!(unlimited_swap(&error, header), None);
    assert!(unlimited_swap(&error, &format!("{header}/dev/vda2 partition 1 0 -2\n")).unwrap().contains("swapped"));
}

#[test]
fn a_name_tells_whether_its_keeper_lives() {
    let own = format!("{PREFIX}some-id.{}", owner());
    assert!(!is_orphan(&own));
    let here = namespace().unwrap();
    assert!(is_orphan(&format!("{PREFIX}some-id.{}.1.{here}", std::process::id())), "the number is another's now");
    assert!(is_orphan(&format!("{PREFIX}some-id.4194305.77.{here}")));
    assert!(!is_orphan(&format!("{PREFIX}some-id.4194305.77.{}", here + 1)), "it may live in its own pid namespace");
    for other in ["vyr-x.1.2", "vyr-x.1.2.3.4", "vyr-host", "vyr-x", "vyr-x.y.z", "user.slice", "vyr-x.1", "system.1.2"]
    {
        assert!(!is_orphan(other), "{other}");
    }
}
