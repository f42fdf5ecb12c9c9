//! Who may call, and over what.

use std::os::unix::fs::PermissionsExt as _;

use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use vyr_proto::v0::control_client::ControlClient;
use vyr_proto::v0::*;

use crate::support::{Home, Node, Registry, pushed, run, spec, tool};

pub(crate) struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pub(crate) pem: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    pub(crate) fn issue(&self) -> (String, String) {
        self.issue_for(1975, 4096)
    }

    /// One that is valid from the beginning of a year to that of another.
    pub(crate) fn issue_for(&self, from: i32, until: i32) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(from, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

#[tokio::test]
async fn the_socket_is_for_this_user_and_says_who_submits() {
    let home = Home::new();
    let _node = Node::start(&home, &[]);
    let socket = home.vyr_home().join("node.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let channel = Endpoint::from_static("http://node")
        .connect_with_connector(tower::service_fn(move |_| {
            let socket = socket.clone();
            async move {
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(tokio::net::UnixStream::connect(socket).await?))
            }
        }))
        .await
        .unwrap();
    let node = ControlClient::new(channel).get_node(GetNodeRequest {}).await.unwrap().into_inner().node.unwrap();
    assert_eq!(node.version, env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_socket_of_a_node_in_a_container_answers_who_calls_from_outside() {
    let home = Home::new();
    // There the caller has no process number: the kernel says 0.
    let mut command = home.command(tool("unshare"));
    command.args(["--map-root-user", "--pid", "--fork", "--kill-child", env!("CARGO_BIN_EXE_vyr"), "serve"]);
    let _node = Node::start_by(&home, command, &[]);
    let socket = format!("unix:{}", home.vyr_home().join("node.sock").display());
    assert_eq!(home.vyr(["tasks", "--output", "json", "--node", &socket]).expect(0).stdout.trim(), "[]");
}

#[test]
fn off_loopback_it_refuses_to_start_without_tls_and_a_credential() {
    let home = Home::new();
    let refused = home.vyr(["serve", "--listen", "0.0.0.0:0"]).expect(2);
    refused.says(&["needs TLS and a credential", "--tls-cert"]);
    home.vyr(["token", "add", "ci"]).expect(0);
    let tokens = home.vyr_home().join("tokens");
    let refused = home.vyr(["serve", "--listen", "0.0.0.0:0", "--token-file", tokens.to_str().unwrap()]).expect(2);
    refused.says(&["needs TLS and a credential"]);
}

#[test]
fn a_second_node_on_a_folder_is_told_who_serves_it() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let second = home.vyr(["serve", "--listen", "127.0.0.1:0"]).expect(125);
    second.says(&[&format!("the process {}", node.child.id()), "--home"]);
    let other = Home::new();
    let taken = other.vyr(["serve", "--listen", &node.address]).expect(125);
    taken.says(&["can't be listened on", "--listen"]);
}

#[tokio::test]
async fn a_token_lets_in_until_it_is_taken_out() {
    let home = Home::new();
    let token = home.vyr(["token", "add", "ci"]).expect(0).stdout.trim().to_owned();
    let tokens = home.vyr_home().join("tokens");
    assert_eq!(std::fs::metadata(&tokens).unwrap().permissions().mode() & 0o777, 0o600);
    let node = Node::start(&home, &["--token-file", tokens.to_str().unwrap()]);
    let mut client = node.connect().await;
    let refused = client.0.get_node(GetNodeRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
    let mut with = tonic::Request::new(ListTasksRequest::default());
    with.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let request = || {
        let mut request = tonic::Request::new(GetNodeRequest {});
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    };
    client.0.get_node(request()).await.unwrap();
    let mut open = home.command("curl");
    open.args(["-sf", &format!("http://{}/healthz", node.address)]);
    run(open, b"").expect(0);
    let mut shut = home.command("curl");
    shut.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{}/metrics", node.address)]);
    assert_eq!(run(shut, b"").expect(0).stdout, "401");
    home.vyr(["token", "rm", "ci"]).expect(0);
    let refused = client.0.get_node(request()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated);
}

#[tokio::test]
async fn mutual_tls_lets_in_who_has_a_certificate_of_the_authority() {
    let home = Home::new();
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let (certificate, key) = servers.issue();
    let files = [("node.pem", &certificate), ("node.key", &key), ("clients.pem", &clients.pem)];
    let [cert, key, ca] = files.map(|(name, text)| home.write(name, text).to_str().unwrap().to_owned());
    let arguments = ["--tls-cert", &cert, "--tls-key", &key, "--client-ca", &ca, "--listen", "0.0.0.0:0"];
    let node = Node::start(&home, &arguments);
    let port = node.address.rsplit(':').next().unwrap().to_owned();
    let connect = async |identity: Option<(String, String)>| {
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&servers.pem)).domain_name("localhost");
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls).unwrap();
        let channel = endpoint.connect().await.map_err(|e| format!("{e:?}"))?;
        let answer = ControlClient::new(channel).get_node(GetNodeRequest {}).await;
        answer.map(drop).map_err(|e| format!("{e:?}"))
    };
    connect(Some(clients.issue())).await.unwrap();
    assert!(connect(None).await.is_err(), "without a certificate");
    assert!(connect(Some(strangers.issue())).await.is_err(), "with somebody else's");
}

#[tokio::test]
async fn what_a_node_lets_be_reached_bounds_every_submit() {
    let (registry, home) = (Registry::start(), Home::new());
    let reference = pushed(&home, &registry, "hello-p1");
    let reaching = |rules: &[&str]| TaskSpec {
        allow_net: rules.iter().map(|rule| (*rule).to_owned()).collect(),
        ..spec(&reference, &[])
    };
    let flags = ["--allow-net-at-most", "127.0.0.1:9", "--allow-net-at-most", "example.org:*"];
    let settings = (&flags[..], &[][..]);
    let variable = (&[][..], &[("VYR_ALLOW_NET_AT_MOST", "127.0.0.1:9, example.org:*")][..]);
    for (flags, variables) in [settings, variable] {
        let node = Node::start_with(&home, flags, variables);
        let mut client = node.connect().await;
        for beyond in ["*:*", "127.0.0.1:*", "127.0.0.1:10", "169.254.169.254:80", "localhost:9"] {
            let refused = client.try_submit(reaching(&["127.0.0.1:9", beyond])).await.unwrap_err();
            assert_eq!(refused.code(), Code::PermissionDenied, "{beyond}: {refused:?}");
            assert!(refused.message().contains(&format!("`{beyond}`")), "{refused:?}");
        }
        for within in [&[][..], &["127.0.0.1:9"]] {
            let task = client.run(reaching(within)).await;
            assert_eq!(task.status(), TaskStatus::Succeeded, "{within:?}: {task:?}");
        }
    }
    // No network at all, by the settings file.
    std::fs::write(home.vyr_home().join("config.toml"), "[serve]\nallow-net-at-most = []\n").unwrap();
    let node = Node::start(&home, &[]);
    let refused = node.connect().await.try_submit(reaching(&["127.0.0.1:9"])).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    drop(node);
    // What a node took that was started otherwise is not run by this one.
    std::fs::remove_file(home.vyr_home().join("config.toml")).unwrap();
    let sleep = pushed(&home, &registry, "sleep-p1");
    let node = Node::start(&home, &["--max-running", "1"]);
    let mut client = node.connect().await;
    let holder = client.submit(spec(&sleep, &[])).await;
    client.until(&holder.id, TaskStatus::Running).await;
    let queued = client.submit(reaching(&["127.0.0.1:9"])).await;
    assert_eq!(queued.status(), TaskStatus::Queued);
    node.kill();
    let node = Node::start(&home, &["--allow-net-at-most", "none"]);
    let task = node.connect().await.wait(&queued.id).await;
    assert_eq!(task.status(), TaskStatus::Refused, "{task:?}");
    assert!(task.end.unwrap().message.contains("lets no task reach"));
}

#[tokio::test]
async fn who_overrules_the_policy_is_on_record_by_name() {
    let (registry, home) = (Registry::start(), Home::new());
    let digest = home.oras_push(&registry.reference("app", "v1"), &vyr_guests::guest("hello-p1"));
    let token = home.vyr(["token", "add", "ci"]).expect(0).stdout.trim().to_owned();
    let tokens = home.vyr_home().join("tokens");
    let node = Node::start(&home, &["--token-file", tokens.to_str().unwrap(), "--allow-unsigned"]);
    let mut client = node.connect().await;
    let spec = TaskSpec { allow_unsigned: true, ..spec(&registry.by_digest("app", &digest), &[]) };
    let wait = Some(prost_types::Duration { seconds: 60, nanos: 0 });
    let mut request = tonic::Request::new(SubmitTaskRequest { spec: Some(spec), wait, ..SubmitTaskRequest::default() });
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    let task = client.0.submit_task(request).await.unwrap().into_inner().task.unwrap();
    assert_eq!(task.status(), TaskStatus::Succeeded, "{task:?}");
    let audit = std::fs::read_to_string(home.vyr_home().join("audit.jsonl")).unwrap();
    let line: serde_json::Value = serde_json::from_str(audit.trim()).unwrap();
    assert_eq!((line["submitter"].as_str(), line["task"].as_str()), (Some("ci"), Some(&*task.id)), "{audit}");
    // What this user does by the command is theirs.
    home.vyr(["run", "--allow-unsigned", &registry.by_digest("app", &digest)]).expect(0);
    let audit = std::fs::read_to_string(home.vyr_home().join("audit.jsonl")).unwrap();
    assert!(!audit.lines().last().unwrap().contains("submitter"), "{audit}");
}

#[tokio::test]
async fn connections_beyond_the_most_are_closed_and_the_socket_stays_open() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let home = Home::new();
    let node = Node::start_with(&home, &["--max-connections", "3"], &[("VYR_LOG", "warn")]);
    let connect = || async { tokio::net::TcpStream::connect(&node.address).await.unwrap() };
    let mut idle = vec![connect().await, connect().await, connect().await];
    let mut answer = [0; 12];
    // The three are there when the first of them is answered, and hold their places by saying nothing more.
    idle[2].write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    idle[2].read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    let mut beyond = connect().await;
    let _ = beyond.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert!(!matches!(beyond.read(&mut answer).await, Ok(count) if count > 0), "it was answered: {answer:?}");
    assert!(node.said().contains("as many as may be are open"), "{}", node.said());
    home.vyr(["tasks"]).expect(0);
    // Whoever goes makes room.
    idle.clear();
    let began = std::time::Instant::now();
    loop {
        let mut again = connect().await;
        let _ = again.write_all(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        if matches!(again.read(&mut answer).await, Ok(count) if count > 0) {
            break;
        }
        assert!(began.elapsed().as_secs() < 10, "no place became free");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_would_take_too_much_memory_to_compile_is_not_compiled() {
    let (registry, home) = (Registry::start(), Home::new());
    let reference = pushed(&home, &registry, "hello-p1");
    for (memory, status) in [(1 << 20, TaskStatus::Failed), (64 << 20, TaskStatus::Succeeded)] {
        let settings = format!("[serve]\ncompile-memory-bytes = {memory}\n");
        std::fs::write(home.vyr_home().join("config.toml"), settings).unwrap();
        let node = Node::start(&home, &[]);
        let task = node.connect().await.run(spec(&reference, &[])).await;
        assert_eq!(task.status(), status, "{task:?}");
        let error = task.end.unwrap().message;
        assert_eq!(error.contains("this node compiles at most"), status == TaskStatus::Failed, "{error}");
    }
}
