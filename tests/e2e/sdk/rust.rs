//! `vyr-client` against a real node: every call, and what happens when the node or the connection goes away.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::TryStreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use vyr_client::v0::*;
use vyr_client::{Client, Connect, ErrorKind, RetryPolicy, Spec, TaskExt as _, Word as _};

use crate::node::access::Authority;
use crate::support::{Home, Node, Registry, free_port, pushed, sha256};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// A connection to a node by its address; nothing of the environment counts.
fn connect(node: &Node) -> Connect {
    Client::connect().address(format!("http://{}", node.address))
}

#[tokio::test]
async fn every_call_is_answered() {
    let (registry, home) = (Registry::start(), Home::new());
    let [hello, exit, sleep, state] =
        ["hello-p1", "exit-p1", "sleep-p1", "state-p1"].map(|g| pushed(&home, &registry, g));
    let node = Node::start(&home, &[]);
    let client = connect(&node).traceparent(format!("00-{TRACE}-b7ad6b7169203331-01")).await.unwrap();

    let about = client.get_node().await.unwrap();
    assert_eq!(about.version, env!("CARGO_PKG_VERSION"));

    // The short way.
    let spec = Spec::new(&hello).args(["one", "two words"]).env("SECRET", "hidden").label("team", "blue");
    let outcome = client.run(spec).await.unwrap();
    assert_eq!(outcome.check().unwrap().stdout_text(), "hello from wasm\none\ntwo words\n");
    assert_eq!((outcome.exit_code(), outcome.task.trace_id.as_str()), (0, TRACE));
    let failed = client.run(Spec::new(&exit).arg("7")).await.unwrap();
    let failed = failed.check().unwrap_err();
    assert_eq!((failed.exit_code(), failed.task().status()), (7, TaskStatus::Failed));
    assert!(failed.to_string().contains(failed.message()), "{failed}");

    // Its parts.
    let task = client.submit(&*hello).key("job 42").wait(Duration::from_secs(30)).await.unwrap();
    assert!(task.has_ended(), "{task:?}");
    let again = client.submit(&*hello).key("job 42").send().await.unwrap();
    assert!(again.existing && again.task.unwrap().id == task.id);
    let seen: Vec<_> = client.watch(&task.id).try_collect().await.unwrap();
    assert_eq!(seen, [client.get_task(&task.id, None).await.unwrap()], "what has ended changes no more");
    let entries: Vec<_> = client.logs(&task.id).stream(LogStream::Stderr).try_collect().await.unwrap();
    assert!(entries.is_empty(), "{entries:?}");
    let entries = client.logs(&task.id).follow().next_many().await.unwrap().unwrap();
    assert_eq!(entries[0].data, "hello from wasm\n");
    let trace = client.get_trace(&task.id).await.unwrap();
    assert_eq!((trace.trace_id.as_str(), trace.spans[0].name.as_str()), (TRACE, "task"));
    assert_eq!(trace.spans[0].parent_span_id, "b7ad6b7169203331");
    let receipt: serde_json::Value = serde_json::from_slice(&client.get_receipt(&task.id).await.unwrap()).unwrap();
    assert!(receipt["dsseEnvelope"].is_object(), "{receipt}");
    let tasks = client.list_tasks().await.unwrap();
    assert_eq!((tasks.len(), &tasks[0].id), (3, &task.id), "newest first");
    let few = client.list_tasks().label("team", "blue").statuses([TaskStatus::Succeeded]).limit(1).await.unwrap();
    assert_eq!(few, [client.get_task(&outcome.task.id, None).await.unwrap()]);
    assert!(client.list_tasks().submitter("nobody").await.unwrap().is_empty());

    // A task that doesn't end by itself.
    let task = client.submit(Spec::new(&sleep)).await.unwrap();
    let late = client.wait(&task.id, Some(Duration::from_millis(300))).await.unwrap_err();
    assert_eq!((late.kind(), late.next()), (ErrorKind::TimedOut, Some("the task goes on; `cancel` ends it")));
    let mut watch = client.watch(&task.id);
    while watch.next().await.unwrap().unwrap().status() != TaskStatus::Running {}
    let ended = client.cancel(&task.id, Some(Duration::from_secs(30))).await.unwrap();
    assert_eq!((ended.status().word(), ended.exit_code()), ("cancelled", Some(130)));
    assert_eq!(watch.next().await.unwrap().unwrap(), ended);
    assert!(watch.next().await.is_none());
    assert_eq!(client.wait(&task.id, None).await.unwrap(), ended);

    // States.
    let made = client.create_state("notes", StateClass::Node).kind(StateKind::Files).quota_bytes(4096);
    let made = made.time_to_live(Duration::from_secs(3600)).await.unwrap();
    assert_eq!((made.quota_bytes, made.expires_at.is_some()), (4096, true));
    client.bind_state("notes", &state).alias("n").read_only().await.unwrap();
    let listed = client.list_states().await.unwrap();
    assert_eq!((listed.len(), listed[0].bindings[0].alias.as_str()), (1, "n"));
    let user = client.submit(Spec::new(&state).arg("sleep:600000").state("x", "notes")).await.unwrap();
    let mut watch = client.watch(&user.id);
    while watch.next().await.unwrap().unwrap().status() != TaskStatus::Running {}
    let used = client.delete_state("notes").await.unwrap_err();
    assert_eq!(used.kind(), ErrorKind::Conflict, "{used}");
    client.cancel(&user.id, Some(Duration::from_secs(30))).await.unwrap();
    let outcome = client.run(Spec::new(&state).arg("ls:/state/n").arg("text:/state/n/a:b")).await.unwrap();
    assert!(outcome.stdout_text().starts_with("ls ok \ntext denied"), "{}", outcome.stdout_text());
    assert_eq!(client.get_state(&made.id).await.unwrap().name, "notes");
    assert!(client.sync_state("notes").await.is_err(), "it is not a synced one");
    client.create_state("more", StateClass::Node).await.unwrap();
    client.delete_state("more").await.unwrap();
    assert_eq!(client.get_state("more").await.unwrap_err().kind(), ErrorKind::NotFound);

    // Artifacts.
    let (wasm, config) = (std::fs::read(vyr_guests::guest("hello-p1")).unwrap(), b"{}".to_vec());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"{}","size":2}},"layers":[{{"mediaType":"application/wasm","digest":"{}","size":{}}}],"annotations":{{"a":"b"}}}}"#,
        sha256(&config),
        sha256(&wasm),
        wasm.len()
    );
    let digest = sha256(manifest.as_bytes());
    let put = || client.put_artifact(&digest, manifest.clone()).blob(sha256(&config), config.clone());
    let altered = put().blob(sha256(&wasm), vec![0; wasm.len()]).await.unwrap_err();
    assert_eq!(altered.kind(), ErrorKind::Refused, "{altered}");
    let artifact = put().blob(sha256(&wasm), wasm.clone()).tag("registry.example/app:v1").await.unwrap();
    assert_eq!((&artifact.digest, &artifact.tags[..]), (&digest, &["registry.example/app:v1".to_owned()][..]));
    let stored = client.get_artifact("registry.example/app:v1").await.unwrap();
    assert_eq!((stored.artifact, &stored.manifest[..]), (artifact, manifest.as_bytes()));
    assert!(client.list_artifacts().await.unwrap().iter().any(|artifact| artifact.digest == digest));

    // What is wrong is said by its kind, and by the field.
    let wrong = client.submit(Spec::new("UPPER").attempts(1000, [RetryOn::Failure])).await.unwrap_err();
    let fields: Vec<_> = wrong.fields().iter().map(|field| field.path.as_str()).collect();
    assert_eq!((wrong.kind(), &fields[..]), (ErrorKind::Usage, &["spec.reference", "spec.retry.max_attempts"][..]));
    let other = client.submit(&*exit).key("job 42").await.unwrap_err();
    assert_eq!((other.kind(), other.code()), (ErrorKind::Conflict, Some(vyr_client::Code::AlreadyExists)));
    let unknown = "01a213d9-6b35-7763-a12b-196331e176a7";
    for error in [
        client.get_task(unknown, None).await.unwrap_err(),
        client.watch(unknown).next().await.unwrap().unwrap_err(),
        client.logs(unknown).next().await.unwrap().unwrap_err(),
        client.get_artifact("registry.example/other:v1").await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    client.close();
}

#[tokio::test]
async fn a_node_that_was_away_for_a_moment_makes_one_task_of_one_key() {
    let (registry, home) = (Registry::start(), Home::new());
    let (sleep, hello) = (pushed(&home, &registry, "sleep-p1"), pushed(&home, &registry, "hello-p1"));
    let listen = format!("127.0.0.1:{}", free_port());
    let node = Node::start(&home, &["--listen", &listen]);
    let patience = RetryPolicy::default().tries(100).initial_backoff(Duration::from_millis(20));
    let client = connect(&node).retry(patience).await.unwrap();
    let spec = || Spec::new(&sleep).arg("1500").on_interrupt(OnInterrupt::RunAgain);
    let first = client.submit(spec()).key("once").await.unwrap();
    let mut watch = client.watch(&first.id);
    while watch.next().await.unwrap().unwrap().status() != TaskStatus::Running {}
    let (waiting, id) = (client.clone(), first.id.clone());
    let waiting = tokio::spawn(async move { waiting.wait(id, None).await });

    // It dies while the wait goes on; what is sent meanwhile arrives when it is back.
    node.kill();
    let (sending, spec_again) = (client.clone(), spec());
    let sending = tokio::spawn(async move { sending.submit(spec_again).key("once").send().await });
    let (other, hello) = (client.clone(), Spec::new(hello));
    let other = tokio::spawn(async move { other.run(hello).await });
    let error = client.with_retry(RetryPolicy::none()).get_task(&first.id, None).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (ErrorKind::Unavailable, None), "{error}");
    assert_eq!(error.next(), Some("start one with `vyr serve`, or name another"));
    let node = Node::start(&home, &["--listen", &listen]);

    let again = sending.await.unwrap().unwrap();
    assert!(again.existing && again.task.unwrap().id == first.id);
    let ended = waiting.await.unwrap().unwrap();
    assert_eq!((ended.id.as_str(), ended.status(), ended.interruptions), (&*first.id, TaskStatus::Succeeded, 1));
    let mut seen = Vec::new();
    while let Some(change) = watch.next().await {
        seen.push(change.unwrap());
    }
    assert_eq!(seen.last(), Some(&ended), "the watch went on");
    assert_eq!(other.await.unwrap().unwrap().exit_code(), 0);
    let tasks = client.list_tasks().await.unwrap();
    assert_eq!(tasks.len(), 2, "a key that was made counts as one that was given: {tasks:?}");
    drop(node);
}

/// Stands before a node and ends each connection after so many bytes of what the node says.
async fn cutter(node: &Node, after: usize) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (upstream, cuts) = (node.address.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&cuts);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (upstream, counted) = (upstream.clone(), Arc::clone(&counted));
            tokio::spawn(async move {
                let node = TcpStream::connect(upstream).await.unwrap();
                let (mut from_client, mut to_client) = client.into_split();
                let (mut from_node, mut to_node) = node.into_split();
                let back = async {
                    let (mut left, mut piece) = (after, vec![0; 16 << 10]);
                    while left > 0 {
                        let most = piece.len().min(left);
                        let read = from_node.read(&mut piece[..most]).await?;
                        if read == 0 {
                            return Ok(());
                        }
                        to_client.write_all(&piece[..read]).await?;
                        left -= read;
                    }
                    counted.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, std::io::Error>(())
                };
                tokio::select! {
                    _ = back => {}
                    _ = tokio::io::copy(&mut from_client, &mut to_node) => {}
                }
            });
        }
    });
    (address, cuts)
}

#[tokio::test]
async fn logs_go_on_where_a_cut_connection_left_them() {
    let (registry, home) = (Registry::start(), Home::new());
    let noisy = pushed(&home, &registry, "noisy-p1");
    let node = Node::start(&home, &[]);
    let (address, cuts) = cutter(&node, 300_000).await;
    let quick = RetryPolicy::default().initial_backoff(Duration::from_millis(5));
    let client = Client::connect().address(address).retry(quick).await.unwrap();
    let bytes = 3 << 20;
    let task = client.submit(Spec::new(&noisy).arg((bytes + 1000).to_string()).log_bytes(bytes as u64)).await.unwrap();
    let mut logs = client.logs(&task.id).follow();
    let mut got = Vec::new();
    while let Some(entry) = logs.next().await {
        got.extend_from_slice(&entry.unwrap().data);
    }
    let line = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+\n";
    let wanted: Vec<u8> = (0..bytes).map(|at: usize| line[at % (1 << 16) % line.len()]).collect();
    assert!(got == wanted, "{} bytes of {bytes}", got.len());
    assert_eq!(logs.dropped_bytes(), 1000);
    let cuts = cuts.load(Ordering::SeqCst);
    assert!(cuts >= 9, "{cuts} cuts");

    // Without another try it says so.
    let once = client.with_retry(RetryPolicy::none());
    let cut: Result<Vec<_>, _> = once.logs(&task.id).try_collect().await;
    assert_eq!(cut.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_token_and_certificates_let_in() {
    let home = Home::new();
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let (certificate, key) = servers.issue();
    let (own, own_key) = clients.issue();
    let token = home.vyr(["token", "add", "ci"]).expect(0).stdout;
    let files = [
        ("node.pem", &certificate),
        ("node.key", &key),
        ("ca.pem", &servers.pem),
        ("clients.pem", &clients.pem),
        ("strangers.pem", &strangers.pem),
        ("own.pem", &own),
        ("own.key", &own_key),
        ("token", &token),
    ];
    let paths = files.map(|(name, text)| home.write(name, text));
    let [cert, key, ca, clients, strangers, own, own_key, token_file] = &paths;
    let tokens = home.vyr_home().join("tokens");
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let node =
        Node::start(&home, &["--tls-cert", &text(cert), "--tls-key", &text(key), "--token-file", &text(&tokens)]);
    let port = node.address.rsplit(':').next().unwrap().to_owned();
    let at = || Client::connect().address(format!("https://localhost:{port}"));

    let client = at().ca_file(ca).token_file(token_file).await.unwrap();
    client.get_node().await.unwrap();
    assert!(!format!("{client:?}").contains(token.trim()));
    at().ca_file(ca).token(&token).await.unwrap().get_node().await.unwrap();
    let nobody = at().ca_file(ca).token("wrong").await.unwrap().get_node().await.unwrap_err();
    assert_eq!(nobody.kind(), ErrorKind::Unauthorized);
    assert!(nobody.next().is_some_and(|next| next.contains("vyr token add")), "{nobody}");
    // Whom it doesn't believe it doesn't ask five times.
    let patient = RetryPolicy::default().initial_backoff(Duration::from_secs(20)).max_backoff(Duration::from_secs(20));
    let began = Instant::now();
    let unknown = at().ca_file(strangers).token_file(token_file).retry(patient).await.unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::Unavailable, "{unknown}");
    assert!(unknown.next().is_some_and(|next| next.contains("`ca_file`")), "{unknown}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    let clear = Client::connect().address("http://node.example:7070").token_file(token_file).await.unwrap_err();
    assert_eq!(clear.kind(), ErrorKind::Usage);
    drop(node);

    let arguments = ["--tls-cert", &text(cert), "--tls-key", &text(key), "--client-ca", &text(clients)];
    let node = Node::start(&home, &arguments);
    let port = node.address.rsplit(':').next().unwrap().to_owned();
    let at = || Client::connect().address(format!("https://localhost:{port}")).ca_file(ca);
    at().cert_file(own).key_file(own_key).await.unwrap().get_node().await.unwrap();
    let shut = async { at().retry(RetryPolicy::none()).await?.get_node().await };
    assert_eq!(shut.await.unwrap_err().kind(), ErrorKind::Unavailable, "without a certificate");
}
