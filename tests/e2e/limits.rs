//! Limits on time, memory and network, and what a trap looks like.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use vyr_guests::guest;

use crate::support::{Home, Registry};

fn pushed(registry: &Registry, home: &Home, name: &str) -> String {
    let digest = home.oras_push(&registry.reference(name, "v1"), &guest(name));
    registry.by_digest(name, &digest)
}

#[test]
fn a_timeout_ends_a_loop_and_a_sleep_with_124() {
    let (registry, home) = (Registry::start(), Home::new());
    for name in ["spin", "spin-p1", "sleep", "sleep-p1"] {
        let reference = pushed(&registry, &home, name);
        home.vyr(["pull", "--allow-unsigned", &reference]).expect(0);
        let ran = home.vyr(["run", "--allow-unsigned", "--timeout", "300ms", &reference]).expect(124);
        assert!(ran.took < Duration::from_secs(5), "{name} took {:?}", ran.took);
        assert!(
            ran.has_line(if name.starts_with("spin") { "spinning" } else { "sleeping" }),
            "{name}: output comes through"
        );
    }
}

#[test]
fn a_cpu_limit_counts_cpu_and_not_sleep() {
    let (registry, home) = (Registry::start(), Home::new());
    let spin = pushed(&registry, &home, "spin-p1");
    home.vyr(["run", "--allow-unsigned", "--cpu", "200ms", &spin]).expect(124);
    let sleep = pushed(&registry, &home, "sleep-p1");
    let ran = home.vyr(["run", "--allow-unsigned", "--cpu", "500ms", &sleep, "--", "1000"]).expect(0);
    assert!(ran.has_line("woke"));
}

#[test]
fn a_memory_limit_is_seen_by_the_guest() {
    let (registry, home) = (Registry::start(), Home::new());
    for name in ["memory", "memory-p1"] {
        let reference = pushed(&registry, &home, name);
        let wanted = (256_u64 << 20).to_string();
        let run = |limit| home.vyr(["run", "--allow-unsigned", "--memory", limit, &reference, "--", &wanted]);
        let ran = run("64MiB");
        assert_ne!(ran.status, 0, "{name}");
        let got: u64 = ran
            .stdout
            .strip_prefix("denied after ")
            .and_then(|rest| rest.split(' ').next())
            .and_then(|n| n.parse().ok())
            .unwrap_or_else(|| panic!("{name}: {ran:?}"));
        assert!((40..64).contains(&got), "{name} got {got} MiB of 64");
        assert_eq!(run("512MiB").expect(0).stdout, "got 256 MiB\n");
    }
}

#[test]
fn the_network_is_denied_unless_the_address_is_allowed() {
    let (registry, home) = (Registry::start(), Home::new());
    let reference = pushed(&registry, &home, "net");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        reader.get_mut().write_all(b"pong\n").unwrap();
        line
    });
    // A component can only end with success or failure: its own 4 arrives as 1.
    let denied = home.vyr(["run", "--allow-unsigned", &reference, "--", &address]).expect(1);
    assert!(denied.stdout.starts_with("denied"), "{}", denied.stdout);
    home.vyr(["run", "--allow-unsigned", "--allow-net", "127.0.0.1:1", &reference, "--", &address]).expect(1);
    let allowed = home.vyr(["run", "--allow-unsigned", "--allow-net", &address, &reference, "--", &address]).expect(0);
    assert_eq!(allowed.stdout, "answer pong\n");
    assert_eq!(server.join().unwrap(), "ping\n", "the denied ones never connected");
}

#[test]
fn a_trap_shows_the_guest_s_own_backtrace() {
    let (registry, home) = (Registry::start(), Home::new());
    for name in ["trap", "trap-p1"] {
        let reference = pushed(&registry, &home, name);
        for (how, function) in [("unreachable", "vyr_unreachable"), ("oob", "vyr_inner"), ("overflow", "vyr_recurse")] {
            let ran = home.vyr(["run", "--allow-unsigned", &reference, "--", how]).says(&[function]);
            assert_ne!(ran.status, 0, "{name} {how}");
        }
        home.vyr(["run", "--allow-unsigned", &reference, "--", "panic"]).says(&["panicked on purpose", "vyr_inner"]);
    }
}

#[test]
fn all_of_a_big_output_arrives() {
    let (registry, home) = (Registry::start(), Home::new());
    for name in ["noisy", "noisy-p1"] {
        let reference = pushed(&registry, &home, name);
        let ran = home.vyr(["run", "--allow-unsigned", &reference, "--", "3000001"]).expect(0);
        assert_eq!(ran.stdout.len(), 3_000_001, "{name}");
        assert!(ran.stdout.starts_with("abcdef") && ran.stdout[64..].starts_with("abcdef"));
    }
}

#[test]
fn ctrl_c_ends_a_loop_and_a_sleep_with_130() {
    let (registry, home) = (Registry::start(), Home::new());
    for name in ["spin", "sleep-p1"] {
        let reference = pushed(&registry, &home, name);
        let mut command = home.vyr_command(["run", "--allow-unsigned", &reference]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("s"), "{name} started: {line}");
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let asked = Instant::now();
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if asked.elapsed() > Duration::from_secs(10) {
                let _ = child.kill();
                let _ = child.wait();
                panic!("{name} went on for 10 s after Ctrl-C");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(130), "{name}");
    }
}
