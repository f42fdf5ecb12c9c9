//! A copy of a node's data folder, made while tasks come and end: a node that starts from it has all that was acknowledged before.

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, pushed, run, spec};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_a_busy_node_is_a_node() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut busy = Vec::new();
    for _ in 0..3 {
        let (mut client, hello, stop) = (node.connect().await, hello.clone(), Arc::clone(&stop));
        busy.push(tokio::spawn(async move {
            let mut ended = 0;
            while !stop.load(Ordering::Relaxed) {
                client.run(spec(&hello, &["busy"])).await;
                ended += 1;
            }
            ended
        }));
    }
    let mut acknowledged = Vec::new();
    for round in 0..4 {
        for number in 0..10 {
            let task = client.run(spec(&hello, &[&format!("{round}-{number}")])).await;
            acknowledged.push(client.get(&task.id).await);
        }
        let copy = home.work().join(format!("copy-{round}"));
        let done =
            home.vyr(["backup".as_ref(), copy.as_os_str(), "--output".as_ref(), "json".as_ref()]).expect(0).json();
        assert_eq!(done["databases"], serde_json::json!(["tasks.sqlite", "state.sqlite", "vyr.sqlite"]), "{done}");
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        for private in ["db/tasks.sqlite", "keys/machine.key", "keys/node.secret"] {
            assert_eq!(mode(&copy.join(private)), 0o600, "{private}");
        }
        for left_out in ["cache", "ingest", "leases", "node.lock", "node.sock"] {
            assert!(!copy.join(left_out).exists(), "{left_out}");
        }
        let restored = Node::start(&home, &["--home", copy.to_str().unwrap()]);
        let mut other = restored.connect().await;
        for task in &acknowledged {
            assert_eq!(&other.get(&task.id).await, task);
        }
        let last = acknowledged.last().unwrap();
        assert_eq!(other.stdout(&last.id).await, format!("hello from wasm\n{round}-9\n"));
        // What it says, and what it has to run something: the store, who is trusted, the registry being none of it.
        assert_eq!(other.run(spec(&hello, &["restored"])).await.status(), TaskStatus::Succeeded);
        restored.kill();
    }
    stop.store(true, Ordering::Relaxed);
    for one in busy {
        assert!(one.await.unwrap() > 0, "the node has stood still");
    }
}

#[test]
fn a_backup_overwrites_nothing_and_leaves_nothing_half() {
    let home = Home::new();
    home.vyr(["keygen"]).expect(0);
    home.vyr(["artifacts"]).expect(0);
    let there = home.work().join("there");
    std::fs::create_dir(&there).unwrap();
    std::fs::write(there.join("file"), "mine").unwrap();
    let there = there.to_str().unwrap().to_owned();
    home.vyr(["backup", &there]).expect(2).says(&["could not back up", "there is something in", "next: name a folder"]);
    assert_eq!(std::fs::read_to_string(home.work().join("there/file")).unwrap(), "mine");
    let inside = home.vyr_home().join("copy");
    home.vyr(["backup", inside.to_str().unwrap()]).expect(2).says(&["is inside the data folder"]);
    home.vyr(["backup", "/nonexistent/folder"]).expect(2).says(&["/nonexistent can't be written to"]);
    // Ended in the middle: there is nothing that looks like a copy.
    let small = home.work().join("small");
    std::fs::create_dir(&small).unwrap();
    let limited = "ulimit -f 8; exec \"$0\" backup \"$1\"";
    std::fs::write(home.vyr_home().join("large"), vec![0; 1 << 20]).unwrap();
    let mut command = home.command("bash");
    command.args(["-c", limited]).arg(env!("CARGO_BIN_EXE_vyr")).arg(small.join("copy"));
    command.env("VYR_HOME", home.vyr_home());
    let status = command.stderr(std::process::Stdio::null()).status().unwrap();
    assert!(!status.success());
    assert!(!small.join("copy").exists());
}

/// A container writes to its state as whoever it is, and may close to the node's user what it wrote.
#[test]
fn what_a_guest_closed_to_this_user_is_left_out_and_said_and_nothing_else_is() {
    let home = Home::new();
    home.vyr(["state", "create", "readings"]).expect(0);
    let key = home.vyr_home().join("keys/own.key");
    std::fs::create_dir_all(key.parent().unwrap()).unwrap();
    std::fs::write(&key, "a secret").unwrap();
    let state = std::fs::read_dir(home.vyr_home().join("state")).unwrap().next().unwrap().unwrap().path();
    let inside = state.strip_prefix(home.vyr_home()).unwrap().join("data");
    let data = state.join("data");
    std::fs::write(data.join("kept"), "by the node's user").unwrap();
    std::os::unix::fs::symlink("kept", data.join("link")).unwrap();
    std::fs::create_dir(data.join("folder")).unwrap();
    std::fs::write(data.join("folder/within"), "a folder that can't be read").unwrap();
    std::fs::write(data.join("file"), "a file that can't be read").unwrap();
    let out = home.work().join("out");
    std::fs::create_dir(&out).unwrap();
    let chown = |path: &std::path::Path, owner: &str| {
        if rustix::process::geteuid().is_root() {
            let mut command = std::process::Command::new("chown");
            assert!(command.arg("-hR").arg(owner).arg(path).status().unwrap().success());
        }
    };
    chown(&home.vyr_home(), "65534:65534");
    chown(&out, "65534:65534");
    let closed = [data.join("file"), data.join("folder")];
    for path in &closed {
        chown(path, "0:0");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o000)).unwrap();
    }
    let copy = out.join("copy");
    let arguments = |copy: &std::path::Path| ["backup".into(), copy.to_owned(), "--output".into(), "json".into()];
    let done = run(home.vyr_as_another_user(arguments(&copy)), b"").expect(0);
    let mut left_out: Vec<_> =
        done.json()["left_out"].as_array().unwrap().iter().map(|path| path.to_string()).collect();
    left_out.sort();
    assert_eq!(left_out, closed.each_ref().map(|path| format!("{path:?}")));
    let done = done.says(
        &closed
            .each_ref()
            .map(|path| format!("{} can't be read, and is left out", path.display()))
            .each_ref()
            .map(String::as_str),
    );
    assert_eq!(done.stderr.matches("left out").count(), 2, "{}", done.stderr);
    let there = copy.join(inside);
    assert_eq!(std::fs::read_to_string(there.join("kept")).unwrap(), "by the node's user");
    assert_eq!(std::fs::read_link(there.join("link")).unwrap(), std::path::Path::new("kept"));
    assert!(!there.join("file").exists() && !there.join("folder").exists());
    assert_eq!(std::fs::read_to_string(copy.join("keys/own.key")).unwrap(), "a secret");

    // What isn't a guest's has to be in it: without its keys it is no copy of a node.
    chown(&key, "0:0");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o000)).unwrap();
    let second = out.join("second");
    run(home.vyr_as_another_user(arguments(&second)), b"").expect(125).says(&["can't read", "own.key"]);
    assert_eq!(std::fs::read_dir(&out).unwrap().count(), 1, "nothing half is left");
    std::fs::set_permissions(data.join("folder"), std::fs::Permissions::from_mode(0o700)).unwrap();
}
