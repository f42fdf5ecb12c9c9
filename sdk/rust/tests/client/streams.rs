//! Streams that are cut go on where they were.

use futures_util::TryStreamExt as _;
use vyr_client::v0::*;
use vyr_client::{Code, ErrorKind};

use crate::double::{Double, Told, failure, script, task};

fn cut() -> tonic::Status {
    failure(Code::Unavailable, None)
}

#[tokio::test]
async fn a_watch_is_opened_again_until_the_end_and_tells_each_change_once() {
    use TaskStatus::{Preparing, Queued, Running, Succeeded};
    let watches = [
        (vec![task(Queued), task(Preparing)], Some(cut())),
        // What it begins with is known; and one that ends without the task's end isn't the end.
        (vec![task(Preparing)], None),
        (vec![task(Preparing), task(Running)], Some(cut())),
        (vec![task(Running)], Some(cut())),
        (vec![task(Running)], Some(cut())),
        (vec![task(Running)], Some(cut())),
        (vec![task(Succeeded)], Some(cut())),
    ];
    let node = Double::start(Told { watches: watches.into(), ..Told::default() }).await;
    let client = node.connect().await.unwrap();
    let seen: Vec<_> = client.watch("t").map_ok(|task| task.status()).try_collect().await.unwrap();
    assert_eq!(seen, [Queued, Preparing, Running, Succeeded]);
    assert!(node.with(|told| told.watches.is_empty()));
}

#[tokio::test]
async fn what_is_told_again_and_again_is_no_progress() {
    let watches = std::iter::repeat_n((vec![task(TaskStatus::Running)], Some(cut())), 20).collect();
    let node = Double::start(Told { watches, ..Told::default() }).await;
    let mut watch = node.connect().await.unwrap().watch("t");
    assert_eq!(watch.next().await.unwrap().unwrap().status(), TaskStatus::Running);
    assert_eq!(watch.next().await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(watch.next().await.is_none(), "it is over");
    assert_eq!(node.with(|told| told.watches.len()), 15);
}

fn entry(text: &str, stream: LogStream) -> LogEntry {
    LogEntry { stream: stream.into(), data: text.to_owned().into(), attempt: 1, ..LogEntry::default() }
}

/// Twenty pieces of two writes each.
fn pieces() -> Vec<Vec<LogEntry>> {
    let write = |i, stream| entry(&format!("{i} "), stream);
    (0..20).map(|i| vec![write(i, LogStream::Stdout), write(i, LogStream::Stderr)]).collect()
}

fn text(entries: &[LogEntry]) -> String {
    entries.iter().map(|entry| String::from_utf8_lossy(&entry.data).into_owned()).collect()
}

#[tokio::test]
async fn logs_go_on_where_they_were() {
    let whole = text(&pieces().concat());
    // With an error each time, or as if all had been said.
    for how in [Some(cut()), None] {
        let ended = [task(TaskStatus::Running), task(TaskStatus::Running), task(TaskStatus::Succeeded)];
        let told = Told { pieces: pieces(), pieces_a_stream: 1, cut: how.clone(), ..Told::default() };
        let node = Double::start(Told { get: script(ended.map(Ok)), ..told }).await;
        // Once the task has ended, all is there.
        if how.is_none() {
            node.with(|told| told.pieces_a_stream = 9);
        }
        let client = node.connect().await.unwrap();
        let mut logs = client.logs("t").follow();
        let mut read = Vec::new();
        while let Some(entry) = logs.next().await {
            read.push(entry.unwrap());
        }
        assert_eq!(text(&read), whole);
        assert_eq!((logs.offset(), logs.dropped_bytes()), (20, 3));
        let asked = node.with(|told| told.offsets.clone());
        if how.is_some() {
            assert_eq!(asked[..20], (0..20).collect::<Vec<_>>()[..], "{asked:?}");
        }
    }
}

#[tokio::test]
async fn a_later_reader_misses_nothing() {
    let told = Told { pieces: pieces(), pieces_a_stream: 100, ..Told::default() };
    let node = Double::start(Told { get: script([Ok(task(TaskStatus::Lost))]), ..told }).await;
    let client = node.connect().await.unwrap();
    let mut first = client.logs("t");
    let mut read = Vec::new();
    for _ in 0..5 {
        read.push(first.next().await.unwrap().unwrap());
    }
    assert_eq!(first.offset(), 2, "half of the third piece was not read");
    assert_eq!(first.next_many().await.unwrap().unwrap().len(), 1, "what has come");
    assert_eq!(first.offset(), 3);
    let rest: Vec<_> = client.logs("t").from(first.offset()).try_collect().await.unwrap();
    assert_eq!(text(&rest), text(&pieces()[3..].concat()));
}

#[tokio::test]
async fn an_output_that_can_not_be_read_is_said() {
    let told = Told { pieces: pieces(), pieces_a_stream: 1, ..Told::default() };
    let node = Double::start(Told { cut: Some(failure(Code::Internal, None)), ..told }).await;
    let read: Result<Vec<_>, _> = node.connect().await.unwrap().logs("t").try_collect().await;
    assert_eq!(read.unwrap_err().kind(), ErrorKind::Internal);
}

#[tokio::test]
async fn a_run_gives_what_the_last_attempt_wrote() {
    let mut second = task(TaskStatus::Succeeded);
    second.attempt = 2;
    let write = |text, stream, attempt| LogEntry { attempt, ..entry(text, stream) };
    let pieces = vec![vec![
        write("bad", LogStream::Stdout, 1),
        write("good", LogStream::Stdout, 2),
        write("worse", LogStream::Stderr, 2),
        write("!", LogStream::Stdout, 2),
    ]];
    let told = Told { submit: script([Ok(task(TaskStatus::Running))]), get: script([Ok(second)]), ..Told::default() };
    let node = Double::start(Told { pieces, pieces_a_stream: 9, ..told }).await;
    let outcome = node.connect().await.unwrap().run("a").await.unwrap();
    outcome.check().unwrap();
    assert_eq!((outcome.stdout_text().as_ref(), outcome.stderr_text().as_ref()), ("good!", "worse"));
}
