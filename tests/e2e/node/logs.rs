//! Outputs: live, in order, bounded, and there after the end.

use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, pushed, spec};

fn limited(reference: &str, args: &[&str], log_bytes: u64) -> TaskSpec {
    TaskSpec { limits: Some(Limits { log_bytes, ..Limits::default() }), ..spec(reference, args) }
}

#[tokio::test]
async fn many_readers_follow_one_guest_and_get_all_of_it() {
    let (registry, home) = (Registry::start(), Home::new());
    let noisy = pushed(&home, &registry, "noisy-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let bytes = 20 << 20;
    let task = client.submit(limited(&noisy, &[&bytes.to_string()], 64 << 20)).await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        let (mut client, id) = (node.connect().await, task.id.clone());
        readers.push(tokio::spawn(async move { client.output(&id, LogStream::Stdout, true).await }));
    }
    let line = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+\n";
    let wanted: Vec<u8> = (0..).map(|at: usize| line[at % (1 << 16) % line.len()]).take(bytes).collect();
    for reader in readers {
        let (got, dropped) = reader.await.unwrap();
        assert!(got == wanted && dropped == 0, "{} of {bytes}, {dropped} dropped", got.len());
    }
    let ended = client.wait(&task.id).await;
    assert_eq!(ended.logs.unwrap().stdout_bytes, bytes as u64);
    assert!(client.output(&task.id, LogStream::Stdout, false).await.0 == wanted, "after the end");
}

#[tokio::test]
async fn what_the_node_writes_may_be_rotated_while_it_runs() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("app", "v1"), &vyr_guests::guest("hello-p1"));
    let unsigned = registry.by_digest("app", &digest);
    let node = Node::start_with(&home, &["--allow-unsigned"], &[("VYR_LOG", "info")]);
    let mut client = node.connect().await;
    let submit = || TaskSpec { allow_unsigned: true, ..spec(&unsigned, &[]) };
    assert_eq!(client.run(submit()).await.status(), TaskStatus::Succeeded);
    // What it does goes to stderr, here a file: cut as logrotate's `copytruncate` cuts it.
    let log = home.work().join("serve.log");
    let said = node.said();
    // What a command would remark to its user.
    assert!(said.contains("WARN") && said.contains("running although "), "{said}");
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(0).unwrap();
    // The record of what was overruled is opened for each line: it may be renamed.
    let (audit, rotated) = (home.vyr_home().join("audit.jsonl"), home.vyr_home().join("audit.jsonl.1"));
    let first = std::fs::read_to_string(&audit).unwrap();
    std::fs::rename(&audit, &rotated).unwrap();
    assert_eq!(client.run(submit()).await.status(), TaskStatus::Succeeded);
    let said = std::fs::read(&log).unwrap();
    assert!(!said.is_empty() && said[0] != 0, "it goes on at the beginning: {:?}", String::from_utf8_lossy(&said));
    assert_eq!(std::fs::read_to_string(&rotated).unwrap(), first);
    assert_eq!(std::fs::read_to_string(&audit).unwrap().lines().count(), 1);
}

#[tokio::test]
async fn the_cut_is_stated_and_others_do_not_feel_the_flood() {
    let (registry, home) = (Registry::start(), Home::new());
    let (noisy, hello) = (pushed(&home, &registry, "noisy-p1"), pushed(&home, &registry, "hello-p1"));
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    client.run(spec(&hello, &[])).await;
    let before = node.kib("VmRSS");
    let written = 3_u64 << 30;
    let flood = client.submit(limited(&noisy, &[&written.to_string()], 100_000)).await;
    for _ in 0..20 {
        assert_eq!(client.run(spec(&hello, &[])).await.status(), TaskStatus::Succeeded);
    }
    let ended = client.wait(&flood.id).await;
    assert_eq!(ended.status(), TaskStatus::Succeeded, "{ended:?}");
    let logs = ended.logs.unwrap();
    assert_eq!((logs.stdout_bytes, logs.dropped_bytes), (100_000, written - 100_000));
    let (kept, dropped) = client.output(&flood.id, LogStream::Unspecified, false).await;
    assert_eq!((kept.len() as u64, dropped), (100_000, written - 100_000));
    let grown = node.kib("VmRSS").saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB more for output that was dropped");
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_nobody_up() {
    let (registry, home) = (Registry::start(), Home::new());
    let noisy = pushed(&home, &registry, "noisy-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let task = client.submit(limited(&noisy, &["30000000"], 32 << 20)).await;
    let request = StreamLogsRequest { id: task.id.clone(), follow: true, ..StreamLogsRequest::default() };
    let mut lazy = node.connect().await;
    let unread = lazy.0.stream_logs(request).await.unwrap();
    let watched = lazy.0.watch_task(WatchTaskRequest { id: task.id.clone() }).await.unwrap();
    assert_eq!(client.wait(&task.id).await.status(), TaskStatus::Succeeded);
    // One that dies in the middle of a stream leaves nothing behind either.
    drop((unread, watched, lazy));
    assert_eq!(client.run(limited(&noisy, &["1000"], 0)).await.status(), TaskStatus::Succeeded);
}

#[tokio::test]
async fn what_a_guest_wrote_before_the_node_died_is_there_after() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = pushed(&home, &registry, "sleep-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let task = client.submit(spec(&sleep, &[])).await;
    client.until(&task.id, TaskStatus::Running).await;
    let shard = &task.id[task.id.len() - 2..];
    let log = home.vyr_home().join("logs").join(shard).join(format!("{}.log", task.id));
    // It is on disk within a quarter of a second, as a file of the task's own. The file is there before what is in it.
    while std::fs::metadata(&log).map_or(0, |found| found.len()) == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(client);
    node.kill();
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let lost = client.wait(&task.id).await;
    assert_eq!((lost.status(), lost.end.unwrap().reason()), (TaskStatus::Lost, EndReason::NodeDied));
    assert_eq!(client.stdout(&task.id).await, "sleeping\n");
}

#[tokio::test]
async fn a_follower_over_a_node_s_death_misses_nothing_of_what_comes_after() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    // Each step prints a line; it dies during the last.
    let steps: Vec<&str> = std::iter::repeat_n("sleep:1", 20).chain(["sleep:1500"]).collect();
    let again = TaskSpec { on_interrupt: OnInterrupt::RunAgain.into(), ..spec(&guest, &steps) };
    let task = client.submit(again).await;
    let ask = |offset| StreamLogsRequest { id: task.id.clone(), follow: true, stream: 0, offset };
    let mut pieces = client.0.stream_logs(ask(0)).await.unwrap().into_inner();
    let (mut lines, mut offset) = (0, 0);
    while lines < 20 {
        let piece = pieces.message().await.unwrap().expect("it prints 20 lines at once");
        lines += piece.entries.iter().flat_map(|entry| &*entry.data).filter(|byte| **byte == b'\n').count();
        offset = piece.next_offset;
    }
    node.kill();

    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let second = |entries: Vec<LogEntry>| -> Vec<u8> {
        entries.into_iter().filter(|entry| entry.attempt == 2).flat_map(|entry| entry.data).collect()
    };
    // Asked when as much stands there again, so that the offset alone tells nothing.
    let mut pieces = client.0.stream_logs(ask(0)).await.unwrap().into_inner();
    let mut again = 0;
    while again < 20 {
        let piece = pieces.message().await.unwrap().expect("it prints 20 lines again");
        again += second(piece.entries).iter().filter(|byte| **byte == b'\n').count();
    }
    let mut followed = Vec::new();
    let mut pieces = client.0.stream_logs(ask(offset)).await.unwrap().into_inner();
    while let Some(piece) = pieces.message().await.unwrap() {
        followed.extend(piece.entries);
    }
    let followed = second(followed);
    assert_eq!(String::from_utf8_lossy(&followed), "sleep ok \n".repeat(21));
    // And who comes only after the end.
    let mut pieces = client.0.stream_logs(ask(offset)).await.unwrap().into_inner();
    let mut after = Vec::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        after.extend(piece.entries);
    }
    assert_eq!(second(after), followed);
}

#[tokio::test]
async fn what_an_attempt_writes_is_its_own_also_when_the_node_died_before_it_began() {
    let (registry, home) = (Registry::start(), Home::new());
    let guest = pushed(&home, &registry, "state-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let wait = prost_types::Duration { seconds: 3600, nanos: 0 };
    let retry = RetryPolicy {
        max_attempts: 2,
        on: vec![RetryOn::Failure.into()],
        initial_backoff: Some(wait),
        max_backoff: Some(wait),
    };
    let task = TaskSpec { retry: Some(retry), ..spec(&guest, &["sleep:1", "exit:7"]) };
    let task = client.submit(task).await;
    while client.get(&task.id).await.attempt < 2 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    drop(client);
    node.kill();

    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let ended = client.wait(&task.id).await;
    assert_eq!((ended.attempt, ended.interruptions, ended.end.unwrap().exit_code), (2, 0, Some(7)));
    let ask = StreamLogsRequest { id: task.id, follow: false, stream: LogStream::Stdout.into(), offset: 0 };
    let mut pieces = client.0.stream_logs(ask).await.unwrap().into_inner();
    let mut written = std::collections::BTreeMap::<u32, Vec<u8>>::new();
    while let Some(piece) = pieces.message().await.unwrap() {
        for entry in piece.entries {
            written.entry(entry.attempt).or_default().extend(&*entry.data);
        }
    }
    let line = b"sleep ok \n".to_vec();
    assert_eq!(written, [(1, line.clone()), (2, line)].into());
}
