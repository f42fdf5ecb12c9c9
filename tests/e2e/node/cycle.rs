//! Submit, observe, end: each end by its exact reason.

use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, pushed, seconds, spec};

#[tokio::test]
async fn what_many_want_at_the_same_time_is_made_ready_once() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let mut ids = Vec::new();
    for _ in 0..8 {
        ids.push(client.submit(spec(&hello, &[])).await.id);
    }
    let mut tiers = std::collections::BTreeMap::<i32, usize>::new();
    for id in &ids {
        let ended = client.wait(id).await;
        assert_eq!(ended.status(), TaskStatus::Succeeded, "{ended:?}");
        *tiers.entry(ended.execution.unwrap().tier).or_default() += 1;
    }
    // All others waited for the one that compiled it.
    assert_eq!(tiers, [(StartTier::S1.into(), 1), (StartTier::S3.into(), 7)].into(), "{tiers:?}");
}

#[tokio::test]
async fn a_task_goes_from_submit_to_its_end_and_is_told_all_the_way() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;

    let mut first = spec(&hello, &["one", "two words"]);
    first.labels.insert("team".into(), "blue".into());
    first.env.insert("SECRET".into(), "hidden".into());
    let task = client.submit(first).await;
    let mut changes = client.0.watch_task(WatchTaskRequest { id: task.id.clone() }).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(change) = changes.message().await.unwrap() {
        seen.push(change.task.unwrap().status());
    }
    assert!(seen.is_sorted_by_key(|s| i32::from(*s)), "{seen:?}");
    assert_eq!(seen.last(), Some(&TaskStatus::Succeeded));

    let ended = client.wait(&task.id).await;
    let execution = ended.execution.clone().unwrap();
    assert_eq!(
        (execution.path(), execution.tier()),
        (ExecutionPath::Wasm, StartTier::S1),
        "the push left it in the store"
    );
    assert!(hello.ends_with(&execution.digest), "{execution:?}");
    assert!(execution.acceptance.contains("machine's key"), "{execution:?}");
    assert_eq!(ended.end.clone().unwrap().exit_code, Some(0));
    assert_eq!(ended.submitter, "anonymous");
    assert_eq!(ended.spec.clone().unwrap().env["SECRET"], "", "values are never told");
    assert_eq!(client.stdout(&task.id).await, "hello from wasm\none\ntwo words\n");

    // Everything is there now: the next one starts at once.
    let again = client.run(spec(&hello, &[])).await;
    assert_eq!(again.execution.clone().unwrap().tier(), StartTier::S3);
    assert_ne!(again.id, task.id);

    let list = |statuses: &[TaskStatus], labels: &[(&str, &str)], page_size, page_token: &str| ListTasksRequest {
        statuses: statuses.iter().map(|s| i32::from(*s)).collect(),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        page_size,
        page_token: page_token.to_owned(),
        submitter: String::new(),
    };
    let page = client.0.list_tasks(list(&[], &[], 1, "")).await.unwrap().into_inner();
    assert_eq!(page.tasks[0].id, again.id, "newest first");
    let page = client.0.list_tasks(list(&[], &[], 1, &page.next_page_token)).await.unwrap().into_inner();
    assert_eq!(page.tasks[0].id, task.id);
    let blue = client.0.list_tasks(list(&[], &[("team", "blue")], 0, "")).await.unwrap().into_inner();
    assert_eq!(blue.tasks.len(), 1);
    let failed = client.0.list_tasks(list(&[TaskStatus::Failed], &[], 0, "")).await.unwrap().into_inner();
    assert!(failed.tasks.is_empty() && failed.next_page_token.is_empty());

    // The record outlives the node.
    drop(client);
    node.terminate();
    assert_eq!(node.wait(), 0);
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    assert_eq!(client.get(&task.id).await, ended);
    assert_eq!(client.stdout(&task.id).await, "hello from wasm\none\ntwo words\n");
    let restarted = client.run(spec(&hello, &[])).await;
    assert_eq!(restarted.execution.unwrap().tier(), StartTier::S2, "compiled code was on disk");
}

#[tokio::test]
async fn each_end_has_its_own_reason() {
    let (registry, home) = (Registry::start(), Home::new());
    let refs = ["exit-p1", "trap", "sleep-p1", "spin-p1", "memory-p1", "echo-env"].map(|g| pushed(&home, &registry, g));
    let [exit, trap, sleep, spin, memory, echo] = refs;
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let end = |task: &Task| task.end.clone().unwrap();

    let task = client.run(spec(&exit, &["7"])).await;
    assert_eq!(
        (task.status(), end(&task).reason(), end(&task).exit_code),
        (TaskStatus::Failed, EndReason::Exited, Some(7))
    );

    let task = client.run(spec(&trap, &[])).await;
    assert_eq!((task.status(), end(&task).reason()), (TaskStatus::Failed, EndReason::Trapped));
    let trapped = end(&task).trap.unwrap();
    assert_eq!(trapped.kind, "unreachable");
    assert!(!trapped.backtrace.is_empty());

    for guest in [&sleep, &spin] {
        let limits =
            Limits { timeout: Some(prost_types::Duration { seconds: 0, nanos: 200_000_000 }), ..Limits::default() };
        let task = client.run(TaskSpec { limits: Some(limits), ..spec(guest, &[]) }).await;
        assert_eq!((task.status(), end(&task).reason()), (TaskStatus::TimedOut, EndReason::WallClockLimit));
    }
    let limits = Limits { cpu: Some(prost_types::Duration { seconds: 0, nanos: 100_000_000 }), ..Limits::default() };
    let task = client.run(TaskSpec { limits: Some(limits), ..spec(&spin, &[]) }).await;
    assert_eq!((task.status(), end(&task).reason()), (TaskStatus::TimedOut, EndReason::CpuLimit));

    let limits = Limits { memory_bytes: 32 << 20, ..Limits::default() };
    let task = client.run(TaskSpec { limits: Some(limits), ..spec(&memory, &["1000000000"]) }).await;
    assert_eq!(end(&task).exit_code, Some(3), "denied, and the guest says so");
    assert!(task.execution.unwrap().peak_memory_bytes <= 32 << 20);

    // Nothing but what was given reaches the guest.
    let mut given = spec(&echo, &["--ls", "/"]);
    given.env.insert("A".into(), "b".into());
    given.stdin = b"from stdin\n"[..].into();
    let task = client.run(given).await;
    let out = client.stdout(&task.id).await;
    assert!(out.contains("env A=b\n") && out.contains("from stdin\n"), "{out}");
    assert_eq!(out.matches("env ").count(), 1, "{out}");

    let unsigned = home.oras_push(&registry.reference("unsigned", "v1"), &vyr_guests::guest("hello-p1"));
    let task = client.run(spec(&format!("{}@{unsigned}", registry.reference("unsigned", "v1")), &[])).await;
    assert_eq!((task.status(), end(&task).reason()), (TaskStatus::Refused, EndReason::Refused));
    assert!(task.started_at.is_none() && end(&task).message.contains("no signature"), "{task:?}");

    let task = client.run(spec(&registry.reference("nothing", "v1"), &[])).await;
    assert_eq!((task.status(), end(&task).reason()), (TaskStatus::Failed, EndReason::CouldNotStart));
    assert_eq!(end(&task).error_kind, "not_found");
}

#[tokio::test]
async fn a_key_makes_repeated_submits_one_task_over_a_restart_too() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello-p1");
    let node = Node::start(&home, &[]);
    let request = |args: &[&str]| SubmitTaskRequest {
        spec: Some(spec(&hello, args)),
        idempotency_key: "job 42".into(),
        wait: seconds(30),
    };
    let mut client = node.connect().await;
    let first = client.0.submit_task(request(&["a"])).await.unwrap().into_inner();
    assert!(!first.existing);
    let id = first.task.unwrap().id;
    let second = client.0.submit_task(request(&["a"])).await.unwrap().into_inner();
    assert!(second.existing && second.task.unwrap().id == id);
    let other = client.0.submit_task(request(&["b"])).await.unwrap_err();
    assert_eq!(other.code(), tonic::Code::AlreadyExists);
    assert!(other.message().contains(&id), "{other:?}");
    // At once from many connections.
    let mut at_once = Vec::new();
    for _ in 0..16 {
        let mut client = node.connect().await;
        let request = SubmitTaskRequest { idempotency_key: "job 43".into(), ..request(&[]) };
        at_once.push(tokio::spawn(async move { client.0.submit_task(request).await.unwrap().into_inner() }));
    }
    let (mut ids, mut new) = (std::collections::BTreeSet::new(), 0);
    for answer in at_once {
        let answer = answer.await.unwrap();
        new += i32::from(!answer.existing);
        ids.insert(answer.task.unwrap().id);
    }
    assert_eq!((ids.len(), new), (1, 1));
    drop(client);
    node.kill();
    let node = Node::start(&home, &[]);
    let answer = node.connect().await.0.submit_task(request(&["a"])).await.unwrap().into_inner();
    assert!(answer.existing && answer.task.unwrap().id == id);
}

#[tokio::test]
async fn another_attempt_is_made_only_where_the_submit_asks() {
    let (registry, home) = (Registry::start(), Home::new());
    let exit = pushed(&home, &registry, "exit-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let once = client.run(spec(&exit, &["1"])).await;
    assert_eq!(once.attempt, 1);
    let retry = RetryPolicy {
        max_attempts: 3,
        on: vec![RetryOn::Failure.into()],
        initial_backoff: Some(prost_types::Duration { seconds: 0, nanos: 10_000_000 }),
        max_backoff: None,
    };
    let task = client.run(TaskSpec { retry: Some(retry.clone()), ..spec(&exit, &["1"]) }).await;
    assert_eq!((task.attempt, task.status()), (3, TaskStatus::Failed));
    let task = client.run(TaskSpec { retry: Some(retry), ..spec(&exit, &["0"]) }).await;
    assert_eq!((task.attempt, task.status()), (1, TaskStatus::Succeeded));
}

#[tokio::test]
async fn a_change_of_the_trust_policy_counts_for_what_is_ready_already() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    for _ in 0..2 {
        assert_eq!(client.run(spec(&hello, &[])).await.status(), TaskStatus::Succeeded);
    }
    let policy = "version = 1\ndefault = \"reject\"\ntrust-machine-key = false\n";
    std::fs::write(home.vyr_home().join("trust.toml"), policy).unwrap();
    let task = client.run(spec(&hello, &[])).await;
    assert_eq!(task.status(), TaskStatus::Refused, "{task:?}");
    std::fs::write(home.vyr_home().join("trust.toml"), "this is no policy").unwrap();
    let task = client.run(spec(&hello, &[])).await;
    assert_eq!(task.status(), TaskStatus::Refused, "a policy that can't be read lets nothing run: {task:?}");
}
