//! The examples of `vyr-client`, as somebody runs them: compiled programs that find the node by themselves.

use std::path::Path;
use std::process::Command;

use crate::support::{Home, Node, Output, Registry, pushed, run};

/// An example, in this home.
#[track_caller]
fn example(home: &Home, name: &str, arguments: &[&str]) -> Output {
    let vyr = Path::new(env!("CARGO_BIN_EXE_vyr"));
    let program = vyr.with_file_name("examples").join(name);
    assert!(
        program.is_file(),
        "{} is not there; build it with `cargo build -p vyr-client --examples`",
        program.display()
    );
    let mut command: Command = home.command(program);
    command.args(arguments);
    run(command, b"")
}

#[test]
fn submit_passes_the_output_through_and_exits_as_the_task_did() {
    let (registry, home) = (Registry::start(), Home::new());
    let echo = pushed(&home, &registry, "echo-env-p1");
    let node = Node::start(&home, &[]);
    let words = ["one", "two words", "--exit", "5"];
    let vyr = home.vyr([&["submit", "--logs", &echo, "--"][..], &words].concat()).expect(5);
    let shown = example(&home, "submit", &[&[echo.as_str()][..], &words].concat()).expect(5);
    assert_eq!(shown.stdout, vyr.stdout);
    // What it was before is told where it is asked for in time.
    shown.says(&["copied 0 bytes", "task ", "failed", "is failed"]);
    example(&home, "submit", &[&echo]).expect(0);
    let listed = home.vyr(["tasks", "--label", "example=submit", "--output", "json"]).expect(0).json();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed}");
    example(&home, "submit", &["localhost:1/nothing:v1"]).expect(125);
    example(&home, "submit", &["UPPER"]).expect(125).says(&["error: spec.reference"]);
    example(&home, "submit", &[]).expect(125).says(&["REFERENCE"]);
    drop(node);
    example(&home, "submit", &[&echo]).expect(125).says(&["no node answers", "vyr serve"]);
}

#[test]
fn cancel_ends_a_task_that_runs() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = pushed(&home, &registry, "sleep-p1");
    let _node = Node::start(&home, &[]);
    let shown = example(&home, "cancel", &[&sleep]).expect(0);
    assert!(shown.stdout.ends_with("running\ncancelled (cancelled_by_client), exit code Some(130)\n"), "{shown:?}");
}

#[test]
fn artifact_puts_a_layout_into_the_store_with_no_registry() {
    let home = Home::new();
    home.write("app.wasm", std::fs::read(vyr_guests::guest("hello-p1")).unwrap());
    home.tool("oras", ["push", "--oci-layout", "layout:v1", "app.wasm:application/wasm"]).expect(0);
    let node = Node::start(&home, &[]);
    let put = example(&home, "artifact", &["layout", "registry.example/app:v1"]).expect(0);
    let lines: Vec<&str> = put.stdout.lines().collect();
    assert!(lines[0].starts_with("sha256:") && lines[0].ends_with("oras-wasm"), "{put:?}");
    assert!(lines[1].starts_with("not trusted: "), "{put:?}");
    let digest = lines[0].split(' ').next().unwrap();
    home.vyr(["submit", "--wait", digest]).expect(126);
    // As the folder has it: the node says what is wrong with it.
    let manifest = home.work().join("layout/blobs/sha256").join(digest.strip_prefix("sha256:").unwrap());
    let mut bytes = std::fs::read(&manifest).unwrap();
    bytes.push(b' ');
    let _ = std::fs::remove_file(&manifest);
    std::fs::write(&manifest, bytes).unwrap();
    example(&home, "artifact", &["layout", "registry.example/app:v2"]).expect(1).says(&["Refused", digest]);
    drop(node);
}

#[test]
fn state_lets_tasks_share_what_they_write() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state-p1");
    let _node = Node::start(&home, &[]);
    let words = [guest.as_str(), "text:/state/notes/a:hello", "read:/state/notes/a"];
    let shown = example(&home, "state", &words).expect(0);
    assert_eq!(shown.stdout, "text ok \nread ok hello\n5 of 1048576 bytes used\n");
    home.vyr(["state", "show", "notes"]).expect(127);
}
