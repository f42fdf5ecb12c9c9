//! The classes, each sentence of their guarantees: tasks of a node, its death, and who may write when.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use vyr_proto::v0::*;

use crate::support::{Client, Home, Node, Registry, pushed, spec};

fn binding(state: &str, alias: &str) -> StateBinding {
    StateBinding { state: state.into(), alias: alias.into(), ..StateBinding::default() }
}

fn with(mut spec: TaskSpec, states: &[StateBinding]) -> TaskSpec {
    spec.states = states.to_vec();
    spec
}

async fn create(client: &mut Client, name: &str, class: StateClass) -> State {
    let request = CreateStateRequest { name: name.into(), class: class.into(), ..CreateStateRequest::default() };
    client.0.create_state(request).await.unwrap().into_inner().state.unwrap()
}

#[tokio::test]
async fn a_nodes_tasks_share_a_state_of_class_node_one_writer_at_a_time() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let made = create(&mut client, "shared", StateClass::Node).await;
    assert_eq!((made.quota_bytes, made.used_bytes), (64 << 20, 0));

    // The first holds it for a while; the second waits for that, being prepared.
    let slow = ["text:/state/s/x:1", "sleep:3000", "text:/state/s/x:2"];
    let first = client.submit(with(spec(&guest, &slow), &[binding("shared", "s")])).await;
    client.until(&first.id, TaskStatus::Running).await;
    let second = client.submit(with(spec(&guest, &["read:/state/s/x"]), &[binding("shared", "s")])).await;
    let refuse = StateBinding { on_busy: OnBusy::Refuse.into(), ..binding("shared", "s") };
    let refused = client.run(with(spec(&guest, &[]), &[refuse])).await;
    assert_eq!((refused.status(), refused.end.unwrap().error_kind.as_str()), (TaskStatus::Failed, "conflict"));
    // A reader waits for nobody, and sees what was written.
    let reader = StateBinding { read_only: true, ..binding("shared", "s") };
    let read = client.run(with(spec(&guest, &["read:/state/s/x"]), &[reader])).await;
    assert!(client.stdout(&read.id).await.starts_with("read ok "), "a reader reads beside the writer");
    assert_eq!(client.get(&second.id).await.status(), TaskStatus::Preparing);
    let in_use = client.0.delete_state(DeleteStateRequest { state: "shared".into() }).await.unwrap_err();
    assert_eq!(in_use.code(), tonic::Code::AlreadyExists, "{in_use}");
    client.wait(&second.id).await;
    assert_eq!(client.stdout(&second.id).await, "read ok 2\n", "after the first one's end");

    let got = client.0.get_state(GetStateRequest { state: made.id.clone() }).await.unwrap().into_inner().state.unwrap();
    assert_eq!((got.name.as_str(), got.used_bytes), ("shared", 1));
    // The same from the command line, beside the node and through it.
    assert_eq!(home.vyr(["state", "get", "shared", "x"]).expect(0).stdout, "2");
    let url = format!("http://{}", node.address);
    let shown = home.vyr(["state", "ls", "--node", &url, "--output", "json"]).expect(0).json();
    assert_eq!(shown[0]["used_bytes"].as_u64(), Some(1), "{shown}");
    let cancelled = client.submit(with(spec(&guest, &["sleep:60000"]), &[binding("shared", "s")])).await;
    let waits = client.submit(with(spec(&guest, &[]), &[binding("shared", "s")])).await;
    let ended = client.cancel(&waits.id).await;
    assert_eq!(ended.status(), TaskStatus::Cancelled, "who waits for a state can be cancelled");
    client.cancel(&cancelled.id).await;
    client.0.delete_state(DeleteStateRequest { state: "shared".into() }).await.unwrap();
    let missing = client.run(with(spec(&guest, &[]), &[binding("shared", "s")])).await;
    assert_eq!(missing.end.unwrap().error_kind, "not_found");
}

#[tokio::test]
async fn a_state_of_class_task_is_each_tasks_own_through_all_its_attempts() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let made = create(&mut client, "scratch", StateClass::Task).await;
    let tasks = home.vyr_home().join("state").join(&made.id).join("tasks");
    let left = || std::fs::read_dir(&tasks).map_or(0, Iterator::count);

    let own = ["ls:/state/s", "text:/state/s/x:1", "ls:/state/s"];
    for _ in 0..2 {
        let task = client.run(with(spec(&guest, &own), &[binding("scratch", "s")])).await;
        assert_eq!(client.stdout(&task.id).await, "ls ok \ntext ok \nls ok x\n");
    }
    // Another attempt finds what the first one left.
    let mut again = with(
        spec(&guest, &["append:/state/s/x:1", "ls:/state/s", "read:/state/s/x", "exit:1"]),
        &[binding("scratch", "s")],
    );
    again.retry = Some(RetryPolicy {
        max_attempts: 3,
        on: vec![RetryOn::Failure.into()],
        initial_backoff: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        max_backoff: None,
    });
    let task = client.run(again).await;
    assert!(client.stdout(&task.id).await.ends_with("read ok xxx\n"), "{}", client.stdout(&task.id).await);
    // Gone with their tasks, a moment after the end was told.
    for _ in 0..200 {
        if left() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left(), 0);

    // A killed node's leftovers go at the next start, but for a task that runs again.
    let lost =
        client.submit(with(spec(&guest, &["text:/state/s/x:1", "sleep:60000"]), &[binding("scratch", "s")])).await;
    let mut keep =
        with(spec(&guest, &["append:/state/s/x:1", "read:/state/s/x", "sleep:2000"]), &[binding("scratch", "s")]);
    keep.on_interrupt = OnInterrupt::RunAgain.into();
    let keep = client.submit(keep).await;
    let wrote = |task: &Task| std::fs::metadata(tasks.join(&task.id).join("data/x")).is_ok_and(|x| x.len() == 1);
    while !wrote(&lost) || !wrote(&keep) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    node.kill();
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    assert_eq!(client.wait(&lost.id).await.status(), TaskStatus::Lost);
    let kept = client.wait(&keep.id).await;
    assert_eq!(kept.status(), TaskStatus::Succeeded);
    assert!(client.stdout(&keep.id).await.contains("read ok xx\n"), "{}", client.stdout(&keep.id).await);
    for _ in 0..200 {
        if left() == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left(), 0);
}

#[test]
fn what_a_killed_run_had_written_is_there() {
    let (registry, home) = (Registry::start(), Home::new());
    for guest in ["state", "state-p1"] {
        let guest = pushed(&home, &registry, guest);
        home.vyr(["state", "create", "kept", "--quota", "1MiB"]).expect(0);
        let arguments = ["run", "--state", "s=kept", &guest, "--", "records:/state/s:r:1000000"];
        let mut child = home.vyr_command(arguments).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        for _ in 0..50 {
            line.clear();
            said.read_line(&mut line).unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let last = line.trim().to_owned();
        let mut acknowledged = 50;
        while said.read_line(&mut line).unwrap() > 0 {
            acknowledged += 1;
            line.clear();
        }
        // The writer's right died with it, and what it held is counted again.
        let ran =
            home.vyr(["run", "--state", "s=kept:refuse", &guest, "--", &format!("read:/state/s/{last}")]).expect(0);
        assert_eq!(ran.stdout, format!("read ok record {last}\n"));
        let shown = home.vyr(["state", "show", "kept", "--output", "json"]).expect(0).json();
        let files = shown["files"].as_array().unwrap();
        assert!(files.len() >= acknowledged, "{} of {acknowledged}", files.len());
        let held: u64 = files.iter().map(|f| f["size"].as_u64().unwrap()).sum();
        assert_eq!(shown["used_bytes"].as_u64(), Some(held));
        home.vyr(["state", "rm", "kept"]).expect(0);
    }
}
