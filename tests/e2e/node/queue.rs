//! The queue is bounded, fair, and outlives the node; stopping is orderly.

use tonic_types::StatusExt as _;
use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, pushed, spec};

#[tokio::test]
async fn a_full_queue_says_so_and_a_cancel_takes_a_task_out_of_it() {
    let (registry, home) = (Registry::start(), Home::new());
    let (sleep, hello) = (pushed(&home, &registry, "sleep-p1"), pushed(&home, &registry, "hello-p1"));
    let node = Node::start(&home, &["--max-running", "1", "--max-queued", "2"]);
    let mut client = node.connect().await;
    let holder = client.submit(spec(&sleep, &[])).await;
    client.until(&holder.id, TaskStatus::Running).await;
    let first = client.submit(spec(&hello, &[])).await;
    let second = client.submit(spec(&hello, &[])).await;
    assert_eq!((first.status(), second.status()), (TaskStatus::Queued, TaskStatus::Queued));
    let full = client.try_submit(spec(&hello, &[])).await.unwrap_err();
    assert_eq!(full.code(), tonic::Code::ResourceExhausted);
    let details = full.get_error_details();
    assert!(details.retry_info().unwrap().retry_delay.is_some());
    assert_eq!(details.error_info().unwrap().reason, "EXHAUSTED");
    let at = client.0.get_node(GetNodeRequest {}).await.unwrap().into_inner().node.unwrap();
    assert_eq!((at.running, at.queued), (1, 2));
    let gone = client.cancel(&first.id).await;
    assert_eq!((gone.status(), gone.started_at), (TaskStatus::Cancelled, None));
    let third = client.submit(spec(&hello, &[])).await;
    client.cancel(&holder.id).await;
    for id in [&second.id, &third.id] {
        assert_eq!(client.wait(id).await.status(), TaskStatus::Succeeded);
    }
}

#[tokio::test]
async fn one_client_with_many_tasks_does_not_starve_another() {
    let (registry, home) = (Registry::start(), Home::new());
    let (sleep, hello) = (pushed(&home, &registry, "sleep-p1"), pushed(&home, &registry, "hello-p1"));
    let node = Node::start(&home, &["--max-running", "1"]);
    let (mut greedy, mut modest) = (node.connect().await, node.connect().await);
    let holder = greedy.submit(spec(&sleep, &[])).await;
    greedy.until(&holder.id, TaskStatus::Running).await;
    let mut many = Vec::new();
    for _ in 0..200 {
        many.push(greedy.submit(spec(&hello, &[])).await.id);
    }
    let one = modest.submit(spec(&hello, &[])).await;
    greedy.cancel(&holder.id).await;
    let mine = modest.wait(&one.id).await.ended_at.unwrap();
    let mut before = 0;
    for id in &many {
        let theirs = greedy.wait(id).await.ended_at.unwrap();
        before += i32::from((theirs.seconds, theirs.nanos) < (mine.seconds, mine.nanos));
    }
    assert!(before <= 2, "{before} of 200 that came before went before");
}

#[tokio::test]
async fn stopping_lets_running_tasks_finish_then_cancels_and_keeps_what_waits() {
    let (registry, home) = (Registry::start(), Home::new());
    let (sleep, hello) = (pushed(&home, &registry, "sleep-p1"), pushed(&home, &registry, "hello-p1"));
    let arguments = ["--max-running", "2", "--drain", "2s"];
    let node = Node::start(&home, &arguments);
    let mut client = node.connect().await;
    let short = client.submit(spec(&sleep, &["1000"])).await;
    let long = client.submit(spec(&sleep, &["100000"])).await;
    client.until(&short.id, TaskStatus::Running).await;
    client.until(&long.id, TaskStatus::Running).await;
    let waiting = client.submit(spec(&hello, &[])).await;
    node.terminate();
    // The connection is still served; new work isn't taken.
    let refused = loop {
        match client.try_submit(spec(&hello, &[])).await {
            Ok(_) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert_eq!(client.wait(&short.id).await.status(), TaskStatus::Succeeded);
    let said = node.said();
    assert_eq!(node.wait(), 0, "{said}");
    assert!(!home.vyr_home().join("node.sock").exists());

    let node = Node::start(&home, &arguments);
    let mut client = node.connect().await;
    let cancelled = client.get(&long.id).await;
    assert_eq!((cancelled.status(), cancelled.end.unwrap().reason()), (TaskStatus::Cancelled, EndReason::NodeStopped));
    assert_eq!(client.wait(&waiting.id).await.status(), TaskStatus::Succeeded);
}

#[tokio::test]
async fn the_memory_budget_makes_guests_wait_rather_than_fail() {
    let (registry, home) = (Registry::start(), Home::new());
    let (sleep, hello) = (pushed(&home, &registry, "sleep-p1"), pushed(&home, &registry, "hello-p1"));
    // Each of these guests begins with 1.1 MB: two fit.
    let node = Node::start(&home, &["--memory-budget", "2500000B"]);
    let mut client = node.connect().await;
    let mut holders = Vec::new();
    for _ in 0..2 {
        let task = client.submit(spec(&sleep, &[])).await;
        client.until(&task.id, TaskStatus::Running).await;
        holders.push(task.id);
    }
    while client.0.get_node(GetNodeRequest {}).await.unwrap().into_inner().node.unwrap().memory_bytes < 2_000_000 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let task = client.submit(spec(&hello, &[])).await;
    let waited =
        GetTaskRequest { id: task.id.clone(), wait: Some(prost_types::Duration { seconds: 0, nanos: 400_000_000 }) };
    let waited = client.0.get_task(waited).await.unwrap().into_inner().task.unwrap();
    assert!(waited.ended_at.is_none(), "{waited:?}");
    client.cancel(&holders[0]).await;
    assert_eq!(client.wait(&task.id).await.status(), TaskStatus::Succeeded);
}

#[tokio::test]
async fn two_thousand_tasks_are_in_flight_at_once() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = pushed(&home, &registry, "sleep-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    client.run(spec(&sleep, &["1"])).await;
    let mut ids = Vec::new();
    for _ in 0..2000 {
        ids.push(client.submit(spec(&sleep, &["600000"])).await.id);
    }
    while client.0.get_node(GetNodeRequest {}).await.unwrap().into_inner().node.unwrap().memory_bytes < 2000 * 1_100_000
    {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let at = client.0.get_node(GetNodeRequest {}).await.unwrap().into_inner().node.unwrap();
    assert_eq!(at.running, 2000);
    for id in &ids {
        let request = CancelTaskRequest { id: id.clone(), wait: None };
        client.0.cancel_task(request).await.unwrap();
    }
    for id in &ids {
        assert_eq!(client.wait(id).await.status(), TaskStatus::Cancelled);
    }
    let at = client.0.get_node(GetNodeRequest {}).await.unwrap().into_inner().node.unwrap();
    assert_eq!((at.running, at.memory_bytes), (0, 0));
}

#[tokio::test]
async fn a_machine_with_few_addresses_runs_fewer_guests_at_once() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello-p1");
    // 39 bits of them, less what else is there: as on many small devices.
    let mut command = home.command("sh");
    command.args(["-c", "ulimit -v 450000000 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_vyr"), "serve"]);
    let node = Node::start_by(&home, command, &[]);
    let mut client = node.connect().await;
    let at = client.0.get_node(GetNodeRequest {}).await.unwrap().into_inner().node.unwrap();
    assert!((4..128).contains(&at.max_running), "{}", at.max_running);
    let said = format!("don't do for 2048 guests at once; at most {} run at a time", at.max_running);
    assert!(node.said().contains(&said), "{}", node.said());
    for task in [spec(&hello, &[]), TaskSpec { deterministic: Some(Deterministic::default()), ..spec(&hello, &[]) }] {
        assert_eq!(client.run(task).await.status(), TaskStatus::Succeeded);
    }
    // All at once, and some that have to wait.
    let mut tasks = Vec::new();
    for _ in 0..200 {
        tasks.push(client.submit(spec(&hello, &[])).await.id);
    }
    for id in tasks {
        assert_eq!(client.wait(&id).await.status(), TaskStatus::Succeeded);
    }
}
