//! What a guest isn't given, the limits that end it, and how its own failures look.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use super::{Transcript, push_guest, wat};
use crate::support::{Home, Node, Output, Registry};

#[test]
fn it_has_no_network() {
    let (registry, home) = (Registry::start(), Home::new());
    let net = push_guest(&home, &registry, "net");
    let mut seen = Transcript::new(&home, "A guest has no network").of(&registry);
    seen.vyr(&["run", &net, "--", "api.example:443"]).expect(1);
    seen.vyr(&["run", &net, "--", "192.0.2.7:443"]).expect(1);
    seen.vyr(&["run", "--allow-net", "192.0.2.7:443", &net, "--", "192.0.2.7:80"]).expect(1);
    seen.vyr(&["run", "--allow-net", "192.0.2.7:443", &net, "--", "api.example:443"]).expect(1);
    seen.vyr(&["run", "--allow-net", "registry.invalid:443", &net, "--", "registry.invalid:443"]).expect(125);
    seen.is("guest-no-network");
}

#[test]
fn a_task_has_no_network_and_the_node_says_so() {
    let (registry, home) = (Registry::start(), Home::new());
    let net = push_guest(&home, &registry, "net");
    let _node = Node::start(&home, &[]);
    let id = home.vyr(["submit", &net, "--", "api.example:443"]).expect(0).stdout.trim().to_owned();
    home.vyr(["wait", &id]).expect(1);
    let task = home.vyr(["status", &id, "--output", "json"]).expect(0).json();
    let wanted =
        "the guest looked up api.example, and it has no network: --allow-net api.example:PORT lets it connect there";
    assert_eq!((&task["notes"][0], &task["next"]), (&wanted.into(), &wanted.into()), "{task}");
}

#[test]
fn it_has_no_folder_and_no_variable() {
    let (registry, home) = (Registry::start(), Home::new());
    let echo = push_guest(&home, &registry, "echo-env");
    home.write("data/in.txt", "x");
    let mut seen = Transcript::new(&home, "A guest has no folder and no variable").of(&registry);
    seen.vyr(&["run", &echo, "--", "--ls", "/data"]).expect(0);
    seen.vyr(&["run", "--dir", "data::/data", "--env", "MODE=fast", &echo, "--", "--ls", "/data"]).expect(0);
    seen.vyr(&["run", "--dir", "data:/data", &echo]).expect(125);
    seen.vyr(&["run", "--dir", "nowhere::/data", &echo]).expect(125);
    seen.is("guest-no-folder");
}

#[test]
fn it_has_too_little_memory() {
    let (registry, home) = (Registry::start(), Home::new());
    let memory = push_guest(&home, &registry, "memory-p1");
    let mut seen = Transcript::new(&home, "The memory limit").of(&registry);
    seen.vyr(&["run", "--memory", "64MiB", &memory, "--", "268435456"]).expect(3);
    seen.vyr(&["run", "--memory", "64KiB", &memory]).expect(125);
    seen.is("guest-memory");
    // Who copes with it, or isn't denied, has nothing to be told.
    let fine = home.vyr(["run", "--memory", "512MiB", &memory, "--", "268435456"]).expect(0);
    assert_eq!(fine.stderr, "");
}

#[test]
fn it_takes_too_long() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = push_guest(&home, &registry, "sleep-p1");
    let spin = push_guest(&home, &registry, "spin-p1");
    let mut seen = Transcript::new(&home, "A time limit").of(&registry);
    seen.vyr(&["run", "--timeout", "300ms", &sleep]).expect(124);
    seen.vyr(&["run", "--cpu", "200ms", &spin]).expect(124);
    seen.is("guest-time");
}

#[test]
fn it_is_interrupted() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = push_guest(&home, &registry, "sleep-p1");
    let mut command = home.vyr_command(["run", &sleep]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    let mut seen = Transcript::new(&home, "Ctrl-C").of(&registry);
    seen.text.push_str(&format!("$ vyr run {sleep}\n{line}^C\n"));
    seen.text.push_str(&String::from_utf8_lossy(&output.stderr));
    seen.text.push_str(&format!("(exit code {})\n", output.status.code().unwrap()));
    seen.is("guest-interrupted");
}

#[test]
fn it_fails_by_itself() {
    let (registry, home) = (Registry::start(), Home::new());
    let exit = push_guest(&home, &registry, "exit-p1");
    wat(
        &home,
        "divide.wasm",
        r#"(module $divide (func $by_zero (param i32) (result i32) (i32.div_u (i32.const 1) (local.get 0)))
             (memory (export "memory") 1) (func (export "_start") (drop (call $by_zero (i32.const 0)))))"#,
    );
    let divide = registry.reference("divide", "v1");
    home.vyr(["push", &divide, "divide.wasm"]).expect(0);
    let mut seen = Transcript::new(&home, "The guest's own failures").of(&registry);
    seen.vyr(&["run", &exit, "--", "3"]).expect(3);
    seen.vyr(&["run", &divide]).expect(134);
    seen.is("guest-fails");
}

/// A note is for who sits before it; a program's guest may cope with a denial.
#[test]
fn a_guest_that_ends_well_is_told_nothing() {
    let (registry, home) = (Registry::start(), Home::new());
    let files = push_guest(&home, &registry, "files");
    let said: Output = home.vyr(["run", &files]).expect(0);
    assert_eq!(said.stderr, "");
}
