//! What is malformed or too much is refused by name, and hurts nobody else.

use std::time::Duration;

use tonic::Code;
use tonic_types::StatusExt as _;
use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, pushed, run, spec};

fn fields(status: &tonic::Status) -> Vec<String> {
    let details = status.get_error_details();
    let request = details.bad_request().unwrap_or_else(|| panic!("{status:?}"));
    request.field_violations.iter().map(|v| v.field.clone()).collect()
}

#[tokio::test]
async fn each_mistake_is_named() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;

    let refused = client.try_submit(spec("not a reference", &[])).await.unwrap_err();
    assert_eq!((refused.code(), fields(&refused)), (Code::InvalidArgument, vec!["spec.reference".to_owned()]));
    assert_eq!(refused.get_error_details().error_info().unwrap().domain, "vyr.control.v0");

    let mut many = spec(&hello, &[]);
    many.env = (0..100_000).map(|i| (format!("VARIABLE_{i}"), "x".to_owned())).collect();
    let refused = client.try_submit(many).await.unwrap_err();
    assert_eq!(
        (refused.code(), fields(&refused)),
        (Code::InvalidArgument, vec!["spec.env".into(), "spec.args".into()])
    );

    let rule =
        client.try_submit(TaskSpec { allow_net: vec!["nonsense".into()], ..spec(&hello, &[]) }).await.unwrap_err();
    assert_eq!(fields(&rule), ["spec.allow_net"]);

    let digest = format!("sha256:{}", "0".repeat(64));
    let unknown = client.try_submit(spec(&digest, &[])).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let unsigned = client.try_submit(TaskSpec { allow_unsigned: true, ..spec(&hello, &[]) }).await.unwrap_err();
    assert_eq!(unsigned.code(), Code::PermissionDenied);

    let bad_id = client.0.get_task(GetTaskRequest { id: "x".into(), wait: None }).await.unwrap_err();
    assert_eq!((bad_id.code(), fields(&bad_id)), (Code::InvalidArgument, vec!["id".to_owned()]));
    let negative = SubmitTaskRequest {
        spec: Some(spec(&hello, &[])),
        wait: Some(prost_types::Duration { seconds: -1, nanos: 0 }),
        ..SubmitTaskRequest::default()
    };
    assert_eq!(fields(&client.0.submit_task(negative).await.unwrap_err()), ["wait"]);
    let token = ListTasksRequest { page_token: "x".into(), ..ListTasksRequest::default() };
    assert_eq!(fields(&client.0.list_tasks(token).await.unwrap_err()), ["page_token"]);
    let state = CreateStateRequest { name: "Not a name".into(), class: 9, kind: 9, ..CreateStateRequest::default() };
    assert_eq!(fields(&client.0.create_state(state).await.unwrap_err()), ["name", "class", "kind"]);
    let state =
        CreateStateRequest { name: "a".into(), class: StateClass::Synced.into(), ..CreateStateRequest::default() };
    assert_eq!(fields(&client.0.create_state(state).await.unwrap_err()), ["sync_target"]);
    let unknown = GetStateRequest { state: "nobody".into() };
    assert_eq!(client.0.get_state(unknown).await.unwrap_err().code(), Code::NotFound);
    let twice = StateBinding { state: "a".into(), alias: "same".into(), ..StateBinding::default() };
    let twice = TaskSpec { states: vec![twice.clone(), twice], ..spec(&hello, &[]) };
    assert_eq!(fields(&client.try_submit(twice).await.unwrap_err()), ["spec.states"]);

    assert_eq!(client.run(spec(&hello, &[])).await.status(), TaskStatus::Succeeded, "it is none the worse");
}

#[tokio::test]
async fn a_gibibyte_of_arguments_is_refused_before_it_is_read() {
    let (registry, home) = (Registry::start(), Home::new());
    let hello = pushed(&home, &registry, "hello-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let before = node.kib("VmRSS");
    let big = spec(&hello, &[&"x".repeat(1 << 30)]);
    let refused = client.try_submit(big).await.unwrap_err();
    assert!(matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted), "{refused:?}");
    let grown = node.kib("VmHWM").saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB for a request that was refused");
    assert_eq!(client.run(spec(&hello, &[])).await.status(), TaskStatus::Succeeded);
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    // A frame of gRPC whose message is not one.
    let body = [&[0, 0, 0, 0, 5][..], &[0xff; 5]].concat();
    home.write("frame", &body);
    let url = format!("http://{}/vyr.control.v0.Control/SubmitTask", node.address);
    let mut command = home.command("curl");
    command.args(["-s", "-i", "--http2-prior-knowledge", "-H", "content-type: application/grpc", "-H", "te: trailers"]);
    command.args(["--data-binary", "@frame", &url]);
    let answer = run(command, b"").expect(0).stdout.to_lowercase();
    assert!(answer.contains("grpc-status: 13") || answer.contains("grpc-status: 3"), "{answer}");
    let mut command = home.command("curl");
    command.args(["-s", "--data-binary", "@frame", &format!("http://{}/healthz", node.address)]);
    run(command, b"").expect(0);
    let mut command = home.command("curl");
    command.args(["-sf", &format!("http://{}/healthz", node.address)]);
    assert_eq!(run(command, b"").expect(0).stdout, "ok\n");
}

#[tokio::test]
async fn a_deadline_ends_the_call_and_not_the_task() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = pushed(&home, &registry, "sleep-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let task = client.submit(spec(&sleep, &["1500"])).await;
    let mut request = tonic::Request::new(GetTaskRequest { id: task.id.clone(), wait: crate::support::seconds(60) });
    request.set_timeout(Duration::from_millis(200));
    let late = client.0.get_task(request).await.unwrap_err();
    assert!(matches!(late.code(), Code::DeadlineExceeded | Code::Cancelled), "{late:?}");
    assert_eq!(client.wait(&task.id).await.status(), TaskStatus::Succeeded);
}

#[tokio::test]
async fn a_client_that_dies_in_a_submit_takes_no_task_with_it() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = pushed(&home, &registry, "sleep-p1");
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    client.run(spec(&sleep, &["1"])).await;
    let mut dying = node.connect().await;
    let request = SubmitTaskRequest {
        spec: Some(spec(&sleep, &["300"])),
        idempotency_key: "mine".into(),
        wait: crate::support::seconds(60),
    };
    let call = tokio::spawn(async move { dying.0.submit_task(request).await });
    let id = loop {
        let page = client.0.list_tasks(ListTasksRequest::default()).await.unwrap().into_inner();
        if let Some(task) = page.tasks.into_iter().find(|t| t.idempotency_key == "mine") {
            break task.id;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    call.abort();
    assert_eq!(client.wait(&id).await.status(), TaskStatus::Succeeded);
}

#[tokio::test]
async fn a_guest_that_traps_before_its_entry_point_has_failed_and_nobody_else() {
    let (registry, home) = (Registry::start(), Home::new());
    let sleep = pushed(&home, &registry, "sleep-p1");
    let wat =
        r#"(module (func $early unreachable) (start $early) (memory (export "memory") 1) (func (export "_start")))"#;
    let file = home.write("start.wasm", wat::parse_str(wat).unwrap());
    let pushed = home.vyr(["push", &registry.reference("start", "v1"), file.to_str().unwrap()]).expect(0);
    let node = Node::start(&home, &[]);
    let mut client = node.connect().await;
    let other = client.submit(spec(&sleep, &["300"])).await;
    for _ in 0..20 {
        let task = client.run(spec(pushed.stdout.trim(), &[])).await;
        let end = task.end.clone().unwrap();
        assert_eq!((task.status(), end.reason()), (TaskStatus::Failed, EndReason::Trapped), "{task:?}");
        assert_eq!(end.trap.unwrap().kind, "unreachable");
    }
    assert_eq!(client.wait(&other.id).await.status(), TaskStatus::Succeeded);
}
