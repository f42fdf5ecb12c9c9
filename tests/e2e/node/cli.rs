//! The task cycle by the command line, over the Unix socket that it finds by itself.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Home, Node, Registry, free_port, pushed, run};

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

/// What a pipeline reads with jq: one document, whatever the guest writes and however it ends.
#[test]
fn a_waited_submit_is_one_document_on_stdout_for_programs() {
    let (registry, home) = (Registry::start(), Home::new());
    let [echo, trap, sleep] = ["echo-env-p1", "trap-p1", "sleep-p1"].map(|g| pushed(&home, &registry, g));
    let _node = Node::start(&home, &[]);
    let submit = |words: &[&str]| home.vyr([&["submit", "--wait", "--output", "json"][..], words].concat());

    let quiet = submit(&[&echo, "--", "--exit", "5"]).expect(5);
    let shown = quiet.json();
    assert_eq!(
        (&shown["status"], &shown["exit_code"], &shown["end_reason"]),
        (&"failed".into(), &5.into(), &"exited".into())
    );
    assert!(echo.ends_with(shown["digest"].as_str().unwrap()), "{shown}");
    for field in ["id", "message", "trace_id", "submitted_at", "started_at", "ended_at"] {
        assert!(shown[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {shown}");
    }
    assert_eq!(quiet.stderr, "", "nothing of the guest without --logs");

    // The guest's output goes where it is in nobody's way.
    let loud = submit(&["--logs", &echo, "--", "word"]).expect(0);
    assert_eq!(loud.json()["status"], "succeeded");
    assert_eq!(loud.stderr, "arg 1 word\nstdin\ncopied 0 bytes\n");
    let line = home.vyr(["submit", "--logs", "--output", "jsonl", &echo]).expect(0);
    assert_eq!((line.stdout.lines().count(), &line.json()["exit_code"]), (1, &0.into()));

    let trapped = submit(&[&trap]).expect(134).json();
    assert_eq!((&trapped["end_reason"], &trapped["trap"]["kind"]), (&"trapped".into(), &"unreachable".into()));
    let late = submit(&["--timeout", "50ms", &sleep]).expect(124).json();
    assert_eq!((&late["status"], &late["exit_code"]), (&"timed_out".into(), &serde_json::Value::Null));
    let missing = submit(&[&registry.reference("nothing", "v1")]).expect(127).json();
    assert_eq!((&missing["status"], &missing["error_kind"]), (&"failed".into(), &"not_found".into()));
    assert!(missing["message"].is_string(), "{missing}");

    // What never became a task is an error, and no document.
    let wrong = submit(&["UPPER"]).expect(2);
    assert_eq!(wrong.stdout, "");
    let nobody = submit(&["--node", "http://127.0.0.1:1", &echo]).expect(125);
    let error: serde_json::Value = serde_json::from_str(&nobody.stderr).unwrap();
    assert_eq!((nobody.stdout.as_str(), &error["error"]["kind"]), ("", &"unavailable".into()));
    assert!(error["error"]["next"].as_str().unwrap().contains("--node"), "{error}");
}

#[test]
fn who_waits_watches_or_follows_outlives_a_node_that_is_away_for_a_moment() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = pushed(&home, &registry, "sleep-p1");
    let listen = format!("127.0.0.1:{}", free_port());
    let node = Node::start(&home, &["--listen", &listen]);
    let words = ["submit", "--on-interrupt", "run-again", &sleep, "--", "4000"];
    let id = home.vyr(words).expect(0).stdout.trim().to_owned();
    let start = |words: &[&str]| {
        let mut command = home.vyr_command(words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut watcher = start(&["status", "--watch", &id]);
    let mut told = BufReader::new(watcher.stdout.take().unwrap()).lines();
    while !told.next().unwrap().unwrap().contains("running") {}
    let mut follower = start(&["logs", "-f", &id]);
    let mut written = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(written.next().unwrap().unwrap(), "sleeping");
    let waiter = start(&["wait", &id]);
    // What is some time older is there after the kill, so the follower's place is one.
    std::thread::sleep(Duration::from_millis(1500));
    node.kill();
    let _node = Node::start(&home, &["--listen", &listen]);
    let waited = waiter.wait_with_output().unwrap();
    assert!(waited.status.success(), "{waited:?}");
    assert!(watcher.wait().unwrap().success() && told.last().unwrap().unwrap().contains("succeeded"));
    assert_eq!(written.map(Result::unwrap).collect::<Vec<_>>(), ["sleeping", "woke"], "of the second attempt");
    assert!(follower.wait().unwrap().success());
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
