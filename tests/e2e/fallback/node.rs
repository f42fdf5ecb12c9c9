//! The same through a node: on record, counted, in the trace and in the receipt.

use vyr_proto::v0::{
    CancelTaskRequest, Container, EndReason, ExecutionPath, LogStream, OnInterrupt, StartTier, TaskStatus,
};

use super::{needs_more, shell};
use crate::support::{Home, Node, spec};

/// A node with the dual artifact in its own registry.
#[track_caller]
fn serving(home: &Home, wasm: &std::path::Path) -> (Node, String) {
    serving_with(home, wasm, &[])
}

#[track_caller]
fn serving_with(home: &Home, wasm: &std::path::Path, arguments: &[&str]) -> (Node, String) {
    let node = Node::start(home, arguments);
    let target = format!("{}/dual:v1", node.host());
    let pushed = home.vyr(["push", &target, wasm.to_str().unwrap(), "--fallback", &shell(home)]).expect(0);
    (node, pushed.stdout.trim().to_owned())
}

#[tokio::test]
async fn a_task_that_fell_back_says_so_wherever_one_looks() {
    let home = Home::new();
    let (node, reference) = serving(&home, &needs_more(&home));
    let mut client = node.connect().await;
    let task = client.run(spec(&reference, &["echo $0 said $GREETING; exit 3"])).await;
    assert_eq!(task.status(), TaskStatus::Failed);
    assert_eq!(task.end.as_ref().unwrap().exit_code, Some(3));
    let execution = task.execution.clone().unwrap();
    assert_eq!((execution.path(), execution.fallback_reason.as_str()), (ExecutionPath::Container, "unknown_import"));
    assert!(execution.fallback_message.contains("of_another_world"), "{execution:?}");
    assert!(!execution.engine.is_empty() && execution.submit_to_start.is_some() && execution.cpu.is_some());
    assert_eq!(execution.tier(), StartTier::S1, "its layers were unpacked for it");
    let task = client.run(spec(&reference, &[])).await;
    assert_eq!(client.stdout(&task.id).await, "hello from linux\n");
    assert_eq!(task.execution.unwrap().tier(), StartTier::S3, "all of it was ready");

    let shown = home.vyr(["status", &task.id, "--node", &format!("http://{}", node.address)]).expect(0);
    assert!(shown.stdout.contains("unknown_import") && shown.stdout.contains("container"), "{}", shown.stdout);
    let trace =
        home.vyr(["trace", &task.id, "--node", &format!("http://{}", node.address), "--output", "json"]).expect(0);
    assert!(trace.stdout.contains("vyr.fallback.reason"), "{}", trace.stdout);
    let receipt =
        home.vyr(["receipt", "show", &task.id, "--node", &format!("http://{}", node.address), "--output", "json"]);
    let receipt = receipt.expect(0).stdout;
    assert!(receipt.contains("unknown_import") && receipt.contains("\"container\""), "{receipt}");
    let metrics = reqwest::get(format!("http://{}/metrics", node.address)).await.unwrap().text().await.unwrap();
    assert!(metrics.contains(r#"vyr_fallbacks_total{reason="unknown_import""#), "{metrics}");
    assert!(metrics.contains(r#"path="container""#), "{metrics}");
}

#[tokio::test]
async fn what_fell_back_at_its_start_has_the_tier_of_its_container() {
    let home = Home::new();
    let text = r#"(module (memory (export "memory") 20000) (func (export "_start")))"#;
    let (node, reference) = serving(&home, &super::wat(&home, "limit.wasm", text));
    let mut client = node.connect().await;
    for tier in [StartTier::S1, StartTier::S2] {
        let execution = client.run(spec(&reference, &[])).await.execution.unwrap();
        assert_eq!((execution.fallback_reason.as_str(), execution.tier()), ("limit", tier));
    }
}

#[tokio::test]
async fn a_submit_says_which_way_and_how() {
    let home = Home::new();
    let (node, reference) = serving(&home, &vyr_guests::guest("hello"));
    let mut client = node.connect().await;
    let task = client.run(spec(&reference, &[])).await;
    assert_eq!(task.execution.unwrap().path(), ExecutionPath::Wasm);
    let mut wanted = spec(&reference, &["id -u; pwd"]);
    wanted.path = ExecutionPath::Container.into();
    wanted.container = Some(Container { user: "worker".into(), working_dir: "/tmp".into(), ..Container::default() });
    let task = client.run(wanted).await;
    assert_eq!(client.stdout(&task.id).await, "1234\n/tmp\n");
    assert_eq!(task.execution.unwrap().fallback_reason, "requested");
    // What was ready for one way isn't taken for the other.
    let task = client.run(spec(&reference, &[])).await;
    assert_eq!(
        (task.execution.unwrap().path(), client.stdout(&task.id).await),
        (ExecutionPath::Wasm, "hello from wasm\n".into())
    );
}

#[tokio::test]
async fn what_was_cancelled_stays_so_when_the_node_is_killed() {
    let home = Home::new();
    let (node, reference) = serving(&home, &needs_more(&home));
    let mut client = node.connect().await;
    let (mut cancelled, mut all) = (Vec::new(), Vec::new());
    for on_interrupt in [OnInterrupt::RunAgain, OnInterrupt::Lose] {
        // It takes no notice of the signal that asks it to end, for longer than the node lives.
        let mut wanted = spec(&reference, &["trap '' TERM; while true; do sleep 1; done"]);
        wanted.container = Some(Container { stop_grace: crate::support::seconds(60), ..Container::default() });
        wanted.on_interrupt = on_interrupt.into();
        for is_cancelled in [true, false] {
            let id = client.submit(wanted.clone()).await.id;
            client.until(&id, TaskStatus::Running).await;
            if is_cancelled {
                let request = CancelTaskRequest { id: id.clone(), wait: None };
                let told = client.0.cancel_task(request).await.unwrap().into_inner().task.unwrap();
                assert_eq!(told.status(), TaskStatus::Running, "it is still there when that is answered");
                cancelled.push(id.clone());
            }
            all.push(id);
        }
    }
    node.kill();
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    for id in &cancelled {
        let task = client.wait(id).await;
        assert_eq!((task.status(), task.attempt), (TaskStatus::Cancelled, 1), "{task:?}");
        assert_eq!(task.end.unwrap().reason(), EndReason::CancelledByClient);
    }
    assert_eq!(client.until(&all[1], TaskStatus::Running).await.attempt, 2, "nobody cancelled this one");
    assert_eq!(client.wait(&all[3]).await.status(), TaskStatus::Lost);
}

#[tokio::test]
async fn a_node_that_stops_gives_its_containers_their_time() {
    let home = Home::new();
    let (node, reference) = serving_with(&home, &needs_more(&home), &["--drain", "0s"]);
    let mut client = node.connect().await;
    // Longer than anything else may take.
    let wanted =
        spec(&reference, &["trap 'sleep 7; echo tidied; exit 0' TERM; echo begun; while true; do sleep 0.1; done"]);
    let id = client.submit(wanted).await.id;
    client.until(&id, TaskStatus::Running).await;
    let begun = std::time::Instant::now();
    while client.output(&id, LogStream::Stdout, false).await.0.is_empty() {
        assert!(begun.elapsed().as_secs() < 60, "it has not begun");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    node.terminate();
    assert_eq!(node.wait(), 0);
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let task = client.get(&id).await;
    assert_eq!((task.status(), task.end.unwrap().reason()), (TaskStatus::Cancelled, EndReason::NodeStopped));
    assert_eq!(client.stdout(&id).await, "begun\ntidied\n");
}

#[tokio::test]
async fn a_container_is_cancelled_stopped_and_killed_by_its_limits() {
    let home = Home::new();
    let (node, reference) = serving(&home, &needs_more(&home));
    let mut client = node.connect().await;
    // It ignores the signal that asks it to end.
    let mut wanted = spec(&reference, &["trap '' TERM; echo begun; while true; do sleep 1; done"]);
    wanted.container = Some(Container { stop_grace: crate::support::seconds(1), ..Container::default() });
    let task = client.submit(wanted).await;
    client.until(&task.id, TaskStatus::Running).await;
    let task = client.cancel(&task.id).await;
    assert_eq!((task.status(), task.end.unwrap().reason()), (TaskStatus::Cancelled, EndReason::CancelledByClient));

    let mut wanted = spec(&reference, &["dd if=/dev/zero of=/dev/null bs=300M count=1"]);
    wanted.limits = Some(vyr_proto::v0::Limits { memory_bytes: 48 << 20, ..Default::default() });
    let task = client.run(wanted).await;
    let end = task.end.unwrap();
    assert_eq!((end.reason(), end.exit_code), (EndReason::MemoryLimit, Some(137)), "{end:?}");

    let mut wanted = spec(&reference, &["sleep 1000"]);
    wanted.limits = Some(vyr_proto::v0::Limits { timeout: crate::support::seconds(1), ..Default::default() });
    let task = client.run(wanted).await;
    assert_eq!(task.end.unwrap().reason(), EndReason::WallClockLimit);
}
