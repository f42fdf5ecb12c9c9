//! What is tried again, how often, after what pause, and what is not.

use std::time::{Duration, Instant};

use vyr_client::v0::*;
use vyr_client::{Blob, Client, Code, ErrorKind, RetryPolicy, Spec};

use crate::double::{Double, Told, failure, script, task};

const CONTEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn unavailable<T>() -> Result<T, tonic::Status> {
    Err(failure(Code::Unavailable, None))
}

#[tokio::test]
async fn a_submit_is_sent_again_with_the_same_key() {
    let answers = [unavailable(), unavailable(), Ok(task(TaskStatus::Queued))];
    let node = Double::start(Told { submit: script(answers), ..Told::default() }).await;
    let client = node.connect().token("s3cret").traceparent(CONTEXT).await.unwrap();
    client.submit("localhost:5000/app:v1").await.unwrap();
    let keys = node.with(|told| {
        assert_eq!(told.authorization.as_deref(), Some("Bearer s3cret"));
        assert_eq!(told.traceparent.as_deref(), Some(CONTEXT));
        told.submits.drain(..).map(|submit| submit.idempotency_key).collect::<Vec<_>>()
    });
    assert!(keys.len() == 3 && keys[0].len() == 36 && keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    client.submit(Spec::new("a")).await.unwrap();
    client.submit(TaskSpec::default()).key("mine").wait(Duration::from_secs(1)).await.unwrap();
    node.with(|told| {
        assert_ne!(told.submits[0].idempotency_key, keys[0], "another submit is another task");
        assert_eq!(told.submits[1].idempotency_key, "mine");
        assert_eq!(told.submits[1].wait.map(|wait| wait.seconds), Some(1));
    });
}

#[tokio::test]
async fn the_tries_are_bounded_and_can_be_turned_off() {
    let node = Double::start(Told { submit: script([unavailable()]), ..Told::default() }).await;
    let client = node.connect().await.unwrap();
    let error = client.submit("a").await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, Some(Code::Unavailable)));
    assert_eq!(node.with(|told| told.submits.drain(..).count()), 5);
    client.with_retry(RetryPolicy::none()).submit("a").await.unwrap_err();
    node.with(|told| {
        assert_eq!(told.submits.len(), 1);
        assert_eq!(told.submits[0].idempotency_key, "", "what is sent once needs no key");
    });
}

#[tokio::test]
async fn a_full_node_is_asked_again_when_it_says() {
    let full = failure(Code::ResourceExhausted, Some(Duration::from_millis(300)));
    let answers = [Err(full), Ok(task(TaskStatus::Queued))];
    let node = Double::start(Told { submit: script(answers), ..Told::default() }).await;
    let (client, began) = (node.connect().await.unwrap(), Instant::now());
    client.submit("a").await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(300), "{:?}", began.elapsed());

    let long = failure(Code::ResourceExhausted, Some(Duration::from_secs(3600)));
    node.with(|told| told.submit = script([Err(long)]));
    let error = client.submit("a").await.unwrap_err();
    assert_eq!((error.kind(), error.retry_after()), (ErrorKind::Exhausted, Some(Duration::from_secs(3600))));
    assert!(began.elapsed() < Duration::from_secs(30), "beyond the deadline it isn't waited for");
}

#[tokio::test]
async fn what_will_not_pass_is_said_at_once() {
    for code in [Code::InvalidArgument, Code::NotFound, Code::Internal, Code::Unauthenticated, Code::DeadlineExceeded] {
        let node = Double::start(Told { submit: script([Err(failure(code, None))]), ..Told::default() }).await;
        let error = node.connect().await.unwrap().submit("a").await.unwrap_err();
        assert_eq!((error.kind(), node.with(|told| told.submits.len())), (ErrorKind::of_code(code), 1));
    }
}

#[tokio::test]
async fn a_node_that_hangs_does_not_answer() {
    let told =
        Told { get: script([Ok(task(TaskStatus::Running))]), get_takes: Duration::from_secs(60), ..Told::default() };
    let node = Double::start(told).await;
    let client = node.connect().answer_timeout(Duration::from_millis(50)).await.unwrap();
    let error = client.get_task("t", None).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, None));
    assert_eq!(error.next(), Some("start one with `vyr serve`, or name another"));
    assert_eq!(node.with(|told| told.gets.len()), 5);
}

#[tokio::test]
async fn a_wait_asks_in_pieces_and_not_in_a_tight_loop() {
    let node = Double::start(Told { get: script([Ok(task(TaskStatus::Running))]), ..Told::default() }).await;
    let client = node.connect().await.unwrap();
    let error = client.wait("t", Some(Duration::from_millis(700))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let asked = node.with(|told| told.gets.drain(..).collect::<Vec<_>>());
    assert!((2..=5).contains(&asked.len()), "{asked:?}");

    node.with(|told| told.get = script([unavailable(), Ok(task(TaskStatus::Running)), Ok(task(TaskStatus::Lost))]));
    assert_eq!(client.wait("t", None).await.unwrap().status(), TaskStatus::Lost);
    let asked = node.with(|told| told.gets.drain(..).collect::<Vec<_>>());
    assert!(asked.len() == 3 && asked.iter().all(|get| get.wait.unwrap().seconds == 60), "{asked:?}");

    node.with(|told| told.get = script([Ok(task(TaskStatus::Running)), Ok(task(TaskStatus::Lost))]));
    client.wait("t", Some(Duration::from_secs(600))).await.unwrap();
    let asked = node.with(|told| told.gets.drain(..).collect::<Vec<_>>());
    assert!(asked.len() == 2 && asked.iter().all(|get| get.wait.unwrap().seconds == 60), "{asked:?}");

    // What has ended is told with no time at all.
    assert_eq!(client.wait("t", Some(Duration::ZERO)).await.unwrap().status(), TaskStatus::Lost);
    // A node that is gone doesn't make it last longer.
    node.with(|told| told.get = script([unavailable()]));
    let (patient, began) = (RetryPolicy::default().tries(1000), Instant::now());
    let error = client.with_retry(patient).wait("t", Some(Duration::from_millis(100))).await.unwrap_err();
    assert!(error.kind() == ErrorKind::TimedOut && began.elapsed() < Duration::from_secs(3), "{error}");
}

#[tokio::test]
async fn a_state_that_was_made_or_removed_by_a_lost_answer_is() {
    let made = |quota_bytes| State {
        name: "s".into(),
        class: StateClass::Node.into(),
        kind: StateKind::Files.into(),
        quota_bytes,
        ..State::default()
    };
    let told = Told {
        create: script([unavailable(), Err(failure(Code::AlreadyExists, None))]),
        get_state: script([Ok(made(64 << 20)), Ok(made(1))]),
        delete: script([unavailable(), Err(failure(Code::NotFound, None))]),
        ..Told::default()
    };
    let node = Double::start(told).await;
    let client = node.connect().await.unwrap();
    assert_eq!(client.create_state("s", StateClass::Node).await.unwrap(), made(64 << 20));
    let first = client.create_state("s", StateClass::Node).await.unwrap_err();
    assert_eq!(first.kind(), ErrorKind::Conflict, "it was there before");
    node.with(|told| told.create = script([unavailable(), Err(failure(Code::AlreadyExists, None))]));
    let other = client.create_state("s", StateClass::Node).quota_bytes(2).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Conflict, "somebody else's");
    assert_eq!(node.with(|told| told.creates), 5);

    client.delete_state("s").await.unwrap();
    assert_eq!(client.delete_state("s").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(node.with(|told| told.deletes), 3);
}

#[tokio::test]
async fn an_artifact_is_sent_again_only_if_it_can_be_read_again() {
    let artifact = || Ok(Artifact { digest: "sha256:0".into(), ..Artifact::default() });
    let node = Double::start(Told { put: script([unavailable(), artifact()]), ..Told::default() }).await;
    let client = node.connect().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("blob");
    std::fs::write(&file, "from a file").unwrap();
    let put = |client: &Client| client.put_artifact("sha256:0", "{}").blob("sha256:1", Vec::from("from memory "));
    put(&client).blob("sha256:2", file).await.unwrap();
    assert_eq!(node.with(|told| std::mem::take(&mut told.puts)), [b"from memory from a file"; 2]);

    node.with(|told| told.put = script([unavailable(), artifact()]));
    let reader = || Blob::reader(std::io::Cursor::new("from a reader"));
    let error = put(&client).blob("sha256:2", reader()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(node.with(|told| std::mem::take(&mut told.puts)), [b"from memory from a reader"]);
    put(&client).blob("sha256:2", reader()).await.unwrap();

    let missing = put(&client).blob("sha256:2", folder.path().join("none")).await.unwrap_err();
    assert!(missing.kind() == ErrorKind::Usage && missing.message().contains("none"), "{missing}");
}

#[tokio::test]
async fn a_node_that_comes_later_is_waited_for() {
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let address = format!("http://127.0.0.1:{port}");
    let policy = RetryPolicy::default().initial_backoff(Duration::from_millis(50)).tries(100);
    let connecting =
        tokio::spawn(std::future::IntoFuture::into_future(Client::connect().address(&address).retry(policy)));
    tokio::time::sleep(Duration::from_millis(120)).await;
    assert!(!connecting.is_finished());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    let service = vyr_proto::v0::control_server::ControlServer::new(Double::start(Told::default()).await);
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    assert_eq!(connecting.await.unwrap().unwrap().address(), address);
}
