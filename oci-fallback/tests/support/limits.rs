//! Owns the cases of what a container may use.

use std::time::{Duration, Instant};

use vyr_oci_fallback::container::Outcome;

use super::ends::nothing_left;
use super::{World, argv, sh};

pub(super) fn disk_is_bounded(world: &World) {
    for (writable_root, place) in [(false, "/tmp"), (true, "/srv")] {
        let mut wish = sh(&format!(
            "dd if=/dev/zero of={place}/big bs=64k count=200 2>&1; dd if=/dev/zero of=/var/tmp/more bs=64k count=200 2>&1; \
             du -k {place}/big | cut -f1"
        ));
        wish.limits.disk_bytes = 4 << 20;
        wish.writable_root = writable_root;
        if writable_root {
            wish.process.argv[2] = wish.process.argv[2].replace("/var/tmp", "/tmp");
        }
        let ran = world.run(wish);
        ran.ended(&Outcome::Exited(0));
        assert_eq!(ran.stdout.matches("No space left").count(), 2, "{}", ran.stdout);
        let kilobytes: u64 = ran.stdout.lines().last().unwrap().parse().unwrap();
        assert!(kilobytes <= 4096, "{kilobytes}");
    }
}

pub(super) fn fork_bomb(world: &World) {
    let mut wish = sh("bomb() { bomb | bomb & }; bomb; sleep 0.5; echo alive; exit 5");
    wish.limits.pids = 40;
    wish.limits.wall = Some(Duration::from_secs(20));
    let ran = world.run(wish);
    assert!(ran.stderr.contains("fork"), "{} {}", ran.stdout, ran.stderr);
    assert!(matches!(ran.end.as_ref().unwrap().outcome, Outcome::Exited(_)), "{:?}", ran.end);
    nothing_left(&ran);
}

pub(super) fn memory(world: &World) {
    let mut wish = sh("tail /dev/zero");
    wish.limits.memory_bytes = Some(32 << 20);
    wish.limits.wall = Some(Duration::from_secs(30));
    let started = Instant::now();
    let ran = world.run(wish);
    let execution = ran.ended(&Outcome::OutOfMemory);
    assert!(started.elapsed() < Duration::from_secs(20));
    if !world.is_user() {
        assert!(execution.notes.is_empty(), "{execution:?}");
        assert!((16 << 20..=33 << 20).contains(&execution.peak_memory_bytes), "{execution:?}");
    }
    let mut wish = sh("echo fits");
    wish.limits.memory_bytes = Some(32 << 20);
    world.run(wish).ended(&Outcome::Exited(0));
}

pub(super) fn cpu(world: &World) {
    let mut wish = sh("while :; do :; done");
    wish.limits.cpu = Some(Duration::from_millis(300));
    let ran = world.run(wish);
    let execution = ran.ended(&Outcome::Cpu);
    let used = execution.cpu;
    assert!(used >= Duration::from_millis(290) && used < Duration::from_millis(900), "{used:?}");
}

pub(super) fn share_of_processors(world: &World) {
    if world.is_user() {
        return;
    }
    let mut wish = sh("end=$(($(date +%s) + 3)); while [ $(date +%s) -lt $end ]; do :; done");
    wish.limits.cpus_milli = Some(200);
    let ran = world.run(wish);
    let execution = ran.ended(&Outcome::Exited(0));
    let share = execution.cpu.as_secs_f64() / execution.run.as_secs_f64();
    assert!(share < 0.35, "{share}: {execution:?}");
}

/// The least memory that there can be is enough for a container's own making.
pub(super) fn little_memory(world: &World) {
    let mut wish = argv(&["true"]);
    wish.limits.memory_bytes = Some(1);
    let ran = world.run(wish);
    if world.is_user() {
        assert!(ran.end.is_ok(), "{:?}", ran.end);
    } else {
        ran.ended(&Outcome::Exited(0));
    }
}

pub(super) fn wall_clock(world: &World) {
    let mut wish = sh("trap '' TERM; sleep 1000");
    wish.limits.wall = Some(Duration::from_millis(700));
    let started = Instant::now();
    let ran = world.run(wish);
    ran.ended(&Outcome::WallClock);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    nothing_left(&ran);
}

/// capabilities(7).
const CAP_SYS_RESOURCE: u32 = 24;

/// A node that the kernel is to spare when it lacks memory doesn't have its containers spared too.
pub(super) fn killed_before_the_node(world: &World) {
    // Only root may ask for that, and not everywhere.
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let held = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    if u64::from_str_radix(held.trim(), 16).unwrap() & (1 << CAP_SYS_RESOURCE) == 0 {
        return;
    }
    let id = sh("").id + "-spared";
    let output = world.other_from("/proc/self/exe", "spared", &id).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("0\n"), "{output:?}");
}
