//! A client in another language that knows nothing but the reflection service does the whole cycle.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use crate::support::{Home, Node, Registry, pushed, run};

/// A Python with the gRPC library, installed once at pinned versions.
fn python() -> PathBuf {
    static PYTHON: OnceLock<PathBuf> = OnceLock::new();
    PYTHON.get_or_init(|| crate::support::tool("python-grpc")).clone()
}

#[test]
fn a_client_made_from_reflection_alone_submits_watches_reads_and_cancels() {
    let (registry, home) = (Registry::start(), Home::new());
    let (hello, sleep) = (pushed(&home, &registry, "hello-p1"), pushed(&home, &registry, "sleep-p1"));
    let node = Node::start(&home, &[]);
    let mut command: Command = home.command(python());
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/node/reflection.py"));
    command.args([&node.address, &hello, &sleep]);
    let out = run(command, b"").expect(0).stdout;
    for line in ["watch TASK_STATUS_SUCCEEDED", "log hello from wasm", "log one", "cancel TASK_STATUS_CANCELLED"] {
        assert!(out.lines().any(|l| l == line), "no `{line}` in\n{out}");
    }
    // What v0 leaves out on purpose, asked of the running server.
    let methods: Vec<&str> = out.lines().filter_map(|l| l.strip_prefix("method ")).collect();
    assert!(methods.len() >= 16, "{methods:?}");
    for method in methods {
        let words = ["policy", "simulate", "explain", "decision", "place", "schedule", "cluster", "join"];
        assert!(!words.iter().any(|w| method.to_lowercase().contains(w)), "{method} belongs to no version 0");
    }
}
