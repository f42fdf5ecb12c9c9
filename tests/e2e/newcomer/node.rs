//! Nodes that aren't there, aren't nodes or let nobody in, and tasks that can't be.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use super::{Transcript, push_guest};
use crate::support::{Home, Node, Registry, free_port};

#[test]
fn it_is_not_running() {
    let home = Home::new();
    let port = free_port();
    let mut seen = Transcript::new(&home, "No node is running").with(format!(":{port}"), ":7070");
    let node = format!("http://127.0.0.1:{port}");
    seen.vyr(&["tasks", "--node", &node]).expect(125);
    seen.vyr(&["submit", "--node", &node, "localhost:5000/hello:v1"]).expect(125);
    seen.vyr(&["tasks", "--node", "unix:/run/vyr/node.sock"]).expect(125);
    seen.vyr(&["tasks", "--node", "http://node.invalid:7070"]).expect(125);
    seen.vyr(&["tasks", "--node", "127.0.0.1:7070"]).expect(2);
    seen.is("node-not-running");
}

#[test]
fn what_listens_there_is_no_node() {
    let (registry, home) = (Registry::start(), Home::new());
    let node = Node::start(&home, &[]);
    let mut seen = Transcript::new(&home, "What listens there is no node, or speaks no TLS")
        .with(registry.host(), "localhost:5000")
        .with(node.address.as_str(), "127.0.0.1:7070");
    seen.vyr(&["tasks", "--node", &format!("http://{}", registry.host())]).expect(125);
    seen.vyr(&["tasks", "--node", &format!("https://{}", node.address)]).expect(125);
    seen.is("node-something-else");
}

#[test]
fn its_socket_is_somebody_else_s() {
    let home = Home::new();
    let _node = Node::start(&home, &[]);
    let socket = home.vyr_home().join("node.sock");
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o000)).unwrap();
    let mut seen = Transcript::new(&home, "The node's socket is another user's");
    let node = format!("unix:{}", socket.display());
    let command = home.vyr_as_another_user(["tasks", "--node", &node]);
    seen.ran(&format!("vyr tasks --node {node}"), command, b"").expect(125);
    seen.is("node-socket");
}

#[test]
fn it_wants_a_token() {
    let home = Home::new();
    home.vyr(["token", "add", "me"]).expect(0);
    let tokens = home.vyr_home().join("tokens");
    let node = Node::start(&home, &["--token-file", tokens.to_str().unwrap()]);
    let mut seen = Transcript::new(&home, "The node wants a token").with(node.address.as_str(), "127.0.0.1:7070");
    let address = format!("http://{}", node.address);
    seen.vyr(&["tasks", "--node", &address]).expect(125);
    let mut wrong = home.vyr_command(["tasks", "--node", &address]);
    wrong.env("VYR_TOKEN", "of-yesterday");
    seen.ran(&format!("VYR_TOKEN=of-yesterday vyr tasks --node {address}"), wrong, b"").expect(125);
    seen.is("node-token");
}

#[test]
fn a_second_one_can_not_be_started() {
    let (home, other) = (Home::new(), Home::new());
    let node = Node::start(&home, &[]);
    let mut seen = Transcript::new(&home, "A node can't be started")
        .with(node.address.as_str(), "127.0.0.1:7070")
        .with(other.vyr_home().display().to_string(), "~/other");
    seen.vyr(&["serve", "--listen", "127.0.0.1:7071"]).expect(125);
    let folder = other.vyr_home().display().to_string();
    seen.vyr(&["serve", "--home", &folder, "--listen", &node.address]).expect(125);
    seen.vyr(&["serve", "--home", &folder, "--listen", "0.0.0.0:7071"]).expect(2);
    seen.is("node-second");
}

#[test]
fn a_task_that_is_not_there() {
    let home = Home::new();
    let _node = Node::start(&home, &[]);
    let mut seen = Transcript::new(&home, "No such task");
    let id = "01a21687-8975-70ee-9fe0-936f0d769820";
    seen.vyr(&["logs", id]).expect(127);
    seen.vyr(&["cancel", id]).expect(127);
    seen.vyr(&["status", "hello"]).expect(2);
    seen.is("node-no-such-task");
}

#[test]
fn a_task_that_could_not_run() {
    let (registry, home) = (Registry::start(), Home::new());
    push_guest(&home, &registry, "hello-p1");
    home.oras_push(&registry.reference("unsigned", "v1"), &vyr_guests::guest("hello-p1"));
    let sleep = push_guest(&home, &registry, "sleep-p1");
    let _node = Node::start(&home, &[]);
    let mut seen = Transcript::new(&home, "A task that could not run, or was ended").of(&registry);
    seen.vyr(&["submit", "--wait", &registry.reference("unsigned", "v1")]).expect(126);
    seen.vyr(&["submit", "--wait", &registry.reference("hello", "v2")]).expect(127);
    seen.vyr(&["submit", "--wait", "--timeout", "300ms", &sleep]).expect(124);
    seen.vyr(&["submit", "--allow-unsigned", &registry.reference("unsigned", "v1")]).expect(125);
    seen.is("node-task");
}

#[test]
fn a_key_that_was_used_for_something_else() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = push_guest(&home, &registry, "hello-p1");
    let _node = Node::start(&home, &[]);
    let mut seen = Transcript::new(&home, "An idempotency key that was used for something else").of(&registry);
    seen.vyr(&["submit", "--key", "build-7", &hello, "--", "one"]).expect(0);
    seen.vyr(&["submit", "--key", "build-7", &hello, "--", "two"]).expect(125);
    seen.is("node-key");
}

#[test]
fn there_is_no_room_for_more() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = push_guest(&home, &registry, "sleep-p1");
    let _node = Node::start(&home, &["--max-running", "1", "--max-queued", "1"]);
    let first = home.vyr(["submit", &sleep]).expect(0).stdout.trim().to_owned();
    // It has the one place once it writes.
    let mut follow = home.vyr_command(["logs", "-f", &first]);
    let mut follow = follow.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(follow.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "sleeping\n");
    home.vyr(["submit", &sleep]).expect(0);
    let mut seen = Transcript::new(&home, "The node's queue is full").of(&registry);
    seen.vyr(&["submit", &sleep]).expect(125);
    home.vyr(["cancel", &first]).expect(0);
    follow.wait().unwrap();
    seen.is("node-full");
}
