//! The task cycle by the command line, over the Unix socket that it finds by itself.

use std::process::Stdio;

use crate::support::{Home, Node, Registry, pushed, run};

#[test]
fn submit_with_logs_behaves_as_run_does() {
    let (registry, home) = (Registry::start(), Home::new());
    let [echo, trap, exit] = ["echo-env-p1", "trap-p1", "exit-p1"].map(|g| pushed(&home, &registry, g));
    let alone = home.vyr(["run", "-e", "A=b", &echo, "--", "one", "--exit", "5"]).expect(5);
    let nobody = home.vyr(["tasks"]).expect(125);
    nobody.says(&["no node answers", "vyr serve"]);
    let _node = Node::start(&home, &[]);
    let there = home.vyr(["submit", "--logs", "-e", "A=b", &echo, "--", "one", "--exit", "5"]).expect(5);
    assert_eq!(there.stdout, alone.stdout);
    assert_eq!(there.stderr, alone.stderr);
    home.vyr(["submit", "--logs", &trap]).expect(134).says(&["unreachable"]);
    home.vyr(["submit", "--wait", &exit, "--", "3"]).expect(3);
    home.vyr(["submit", "--wait", "--timeout", "1ms", &pushed(&home, &registry, "sleep-p1")]).expect(124);
    home.vyr(["submit", "--wait", "localhost:1/nothing:v1"]).expect(125);
    let unknown = format!("sha256:{}", "0".repeat(64));
    home.vyr(["submit", &unknown]).expect(127).says(&["not in the store"]);
    home.vyr(["submit", "UPPER"]).expect(2);
}

#[test]
fn a_task_is_followed_shown_waited_for_and_cancelled() {
    let (registry, home) = (Registry::start(), Home::new());
    let (sleep, hello) = (pushed(&home, &registry, "sleep-p1"), pushed(&home, &registry, "hello-p1"));
    let node = Node::start(&home, &[]);
    let id = home.vyr(["submit", "--label", "team=blue", &sleep]).expect(0).stdout.trim().to_owned();
    assert_eq!(id.len(), 36, "the id and nothing else");
    let mut follow = home.vyr_command(["logs", "-f", &id]);
    let follower = follow.stdout(Stdio::piped()).spawn().unwrap();
    home.vyr(["wait", "--timeout", "200ms", &id]).expect(124);
    let listed = loop {
        let listed = home.vyr(["tasks"]).expect(0).stdout;
        if !listed.contains("preparing") {
            break listed;
        }
    };
    assert!(listed.contains(&id) && listed.contains("running"), "{listed}");
    home.vyr(["cancel", "--wait", &id]).expect(0);
    home.vyr(["cancel", &id]).expect(0);
    home.vyr(["wait", &id]).expect(130);
    let followed = follower.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&followed.stdout), "sleeping\n");
    let shown: serde_json::Value =
        serde_json::from_str(&home.vyr(["status", &id, "--output", "json"]).expect(0).stdout).unwrap();
    assert_eq!((&shown["status"], &shown["labels"]["team"]), (&"cancelled".into(), &"blue".into()));
    assert!(shown["submitter"].as_str().unwrap().starts_with("uid:"), "{shown}");
    let by_label = home.vyr(["tasks", "--label", "team=red"]).expect(0).stdout;
    assert!(!by_label.contains(&id), "{by_label}");
    home.vyr(["status", "nonsense"]).expect(2);
    home.vyr(["logs", "01a213d9-6b35-7763-a12b-196331e176a7"]).expect(127);
    // Over TCP, by name.
    let mut tcp = home.vyr_command(["submit", "--wait", "--node", &format!("http://{}", node.address), &hello]);
    tcp.env("NO_COLOR", "1");
    run(tcp, b"").expect(0);
}
