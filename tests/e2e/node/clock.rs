//! The wall clock jumps while tasks run: what is measured and what ends a task goes by the monotonic one.

use std::time::{Duration, Instant};

use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, pushed, seconds, spec, tool};

#[tokio::test]
async fn a_clock_that_jumps_ends_no_task_early_or_late_and_loses_none() {
    let (registry, home) = (Registry::start(), Home::new());
    let [sleep, spin, hello] = ["sleep-p1", "spin-p1", "hello-p1"].map(|g| pushed(&home, &registry, g));
    // libfaketime reads the offset from this file, each time that somebody asks for the time.
    let offset = home.write("clock", "+0");
    let library = tool("faketime");
    let variables = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let node = Node::start_with(&home, &["--keep-for", "1h"], &variables);
    let mut client = node.connect().await;
    let before = client.run(spec(&hello, &[])).await;
    let limited = |reference: &str, arguments: &[&str], limit: i64| {
        let limits = Some(Limits { timeout: seconds(limit), ..Limits::default() });
        TaskSpec { limits, ..spec(reference, arguments) }
    };
    for jump in ["-2h", "+3d", "-1d"] {
        let began = Instant::now();
        let woken = client.submit(limited(&sleep, &["1500"], 30)).await;
        let stopped = client.submit(limited(&spin, &[], 2)).await;
        client.until(&woken.id, TaskStatus::Running).await;
        std::fs::write(&offset, jump).unwrap();
        let woken = client.wait(&woken.id).await;
        assert_eq!(woken.status(), TaskStatus::Succeeded, "{jump}: {woken:?}");
        let stopped = client.wait(&stopped.id).await;
        assert_eq!(stopped.status(), TaskStatus::TimedOut, "{jump}: {stopped:?}");
        let took = began.elapsed();
        assert!((Duration::from_secs(2)..Duration::from_secs(20)).contains(&took), "{jump}: {took:?}");
        let ran = Duration::try_from(woken.execution.unwrap().run.unwrap()).unwrap();
        assert!((Duration::from_millis(1400)..Duration::from_secs(15)).contains(&ran), "{jump}: {ran:?}");
        // The order of tasks is that of their submits, whatever their times say.
        let newest = client.run(spec(&hello, &[])).await;
        let listed = client.0.list_tasks(ListTasksRequest::default()).await.unwrap().into_inner().tasks;
        assert_eq!(listed[0].id, newest.id, "{jump}");
    }
    // And it's all there after a restart in yet another time, but for what is too old by then.
    let all = client.0.list_tasks(ListTasksRequest::default()).await.unwrap().into_inner().tasks.len();
    drop(client);
    node.kill();
    std::fs::write(&offset, "+0").unwrap();
    let node = Node::start_with(&home, &["--keep-for", "100d"], &variables);
    let mut client = node.connect().await;
    assert_eq!(client.0.list_tasks(ListTasksRequest::default()).await.unwrap().into_inner().tasks.len(), all);
    assert_eq!(client.run(spec(&hello, &[])).await.status(), TaskStatus::Succeeded);
    assert_eq!(before.status(), TaskStatus::Succeeded);
}
