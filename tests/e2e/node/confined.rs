//! What native code in a node's process would reach, had a guest broken out of Wasm: `escape.py` makes the node's own threads
//! try.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use vyr_proto::v0::GetNodeRequest;

use crate::support::{Client, Home, Node, PASSWORD, Registry, USER, pushed, run, spec};

const AT_FDCWD: i64 = -100;
const WRITE_NEW: i64 = 0o101;
const EPERM: i64 = 1;
const EACCES: i64 = 13;
const EXDEV: i64 = 18;
const ENOSYS: i64 = 38;

/// What is tried, and the errno that it has to end with; 0 for what a node needs.
struct Attempt {
    name: &'static str,
    call: i64,
    arguments: Value,
    errno: i64,
    opens: bool,
}

fn attempt(name: &'static str, call: i64, arguments: Value, errno: i64) -> Attempt {
    Attempt { name, call, arguments, errno, opens: false }
}

fn opening(name: &'static str, path: &Path, flags: i64, errno: i64) -> Attempt {
    Attempt { name, call: 257, arguments: json!([AT_FDCWD, path, flags, 0o600]), errno, opens: true }
}

fn socket(name: &'static str, family: i64, kind: i64, errno: i64) -> Attempt {
    Attempt { name, call: 41, arguments: json!([family, kind, 0]), errno, opens: true }
}

/// `sockaddr_in` of a port on loopback.
fn loopback(port: u16) -> Value {
    let mut bytes = 2u16.to_ne_bytes().to_vec();
    bytes.extend(port.to_be_bytes());
    bytes.extend([127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    json!({ "hex": hex::encode(bytes) })
}

/// Files alone: these do no harm to a node that isn't confined.
fn files(home: &Home, outside: &Path) -> Vec<Attempt> {
    let own = home.vyr_home();
    let secret = outside.join("secret");
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    vec![
        opening("read a secret outside", &secret, 0, EACCES),
        opening("read /etc/shadow", Path::new("/etc/shadow"), 0, EACCES),
        opening("list the root folder", Path::new("/"), 0o200_000, EACCES),
        opening("list the folder outside", outside, 0o200_000, EACCES),
        opening("write a new file outside", &outside.join("new"), WRITE_NEW, EACCES),
        opening("write the secret", &secret, 1, EACCES),
        opening("through a link out of the data folder", &own.join("way-out/secret"), 0, EACCES),
        opening("through a file that is a link out", &own.join("secret-link"), 0, EACCES),
        opening("through /proc/self/root", Path::new(&format!("/proc/self/root{}", secret.display())), 0, EACCES),
        opening("through /proc/1/root", Path::new("/proc/1/root/etc/passwd"), 0, EACCES),
        opening("another process's memory", Path::new("/proc/1/mem"), 2, EACCES),
        opening("another process's environment", Path::new("/proc/1/environ"), 0, EACCES),
        attempt("cut the secret", 76, json!([path(&secret), 0]), EACCES),
        attempt(
            "link the secret into the data folder",
            265,
            json!([AT_FDCWD, path(&secret), AT_FDCWD, path(&own.join("stolen")), 0]),
            EXDEV,
        ),
        attempt(
            "move a file of its own out",
            82,
            json!([path(&own.join("node.lock")), path(&outside.join("x"))]),
            EACCES,
        ),
        attempt("remove the secret", 87, json!([path(&secret)]), EACCES),
        attempt("make a folder outside", 83, json!([path(&outside.join("folder")), 0o700]), EACCES),
        opening("write a file of the data folder", &own.join("escape-wrote"), WRITE_NEW, 0),
        opening("read the name server's address", Path::new("/etc/resolv.conf"), 0, 0),
    ]
}

/// The rest.
fn others(home: &Home, registry: &str, abstract_socket: &str) -> Vec<Attempt> {
    let own = home.vyr_home();
    let path = |name: &str| own.join(name).to_str().unwrap().to_owned();
    let mut address = 1u16.to_ne_bytes().to_vec();
    address.push(0);
    address.extend(abstract_socket.as_bytes());
    let length = address.len();
    let port: u16 = registry.rsplit(':').next().unwrap().parse().unwrap();
    let mut all = vec![
        attempt("execute /bin/sh", 59, json!(["/bin/sh", 0, 0]), EPERM),
        attempt("execute by descriptor", 322, json!([0, "", 0, 0, 0x1000]), EPERM),
        attempt("fork", 57, json!([]), EPERM),
        attempt("vfork", 58, json!([]), EPERM),
        attempt("clone a process", 56, json!([17, 0, 0, 0, 0]), EPERM),
        attempt("clone into new namespaces", 56, json!([0x1000_0000 | 17, 0, 0, 0, 0]), EPERM),
        attempt("clone3", 435, json!([0, 0]), ENOSYS),
        attempt("ptrace another process", 101, json!([16, 1, 0, 0]), EPERM),
        attempt("read another process's memory", 310, json!([1, 0, 0, 0, 0, 0]), EPERM),
        attempt("write another process's memory", 311, json!([1, 0, 0, 0, 0, 0]), EPERM),
        attempt("signal another process", 62, json!([1, 0]), EPERM),
        attempt("signal a group of processes", 62, json!([0, 0]), EPERM),
        attempt("take another process's descriptor", 438, json!([0, 0, 0]), EPERM),
        attempt("mount", 165, json!(["none", "/tmp", "tmpfs", 0, 0]), EPERM),
        attempt("unmount", 166, json!(["/proc", 2]), EPERM),
        attempt("mount by fsopen", 430, json!(["tmpfs", 0]), EPERM),
        attempt("mount by open_tree", 428, json!([AT_FDCWD, "/", 1]), EPERM),
        attempt("pivot_root", 155, json!(["/", "/"]), EPERM),
        attempt("chroot", 161, json!(["/"]), EPERM),
        attempt("unshare a user namespace", 272, json!([0x1000_0000]), EPERM),
        attempt("enter a namespace", 308, json!([0, 0]), EPERM),
        attempt("bpf", 321, json!([0, 0, 0]), EPERM),
        attempt("perf_event_open", 298, json!([0, 0, -1, -1, 0]), EPERM),
        attempt("keyctl", 250, json!([0, -3, 0]), EPERM),
        attempt("add a key", 248, json!(["user", "vyr", "x", 1, -3]), EPERM),
        attempt("load a module", 175, json!([0, 0, ""]), EPERM),
        attempt("load a module by descriptor", 313, json!([0, "", 0]), EPERM),
        attempt("load a kernel", 246, json!([0, 0, 0, 0]), EPERM),
        attempt("userfaultfd", 323, json!([0]), EPERM),
        attempt("io_uring", 425, json!([1, 0]), EPERM),
        attempt("open a file by handle", 304, json!([AT_FDCWD, 0, 0]), EPERM),
        attempt("swap on", 167, json!(["/none", 0]), EPERM),
        attempt("set the clock", 227, json!([0, 0]), EPERM),
        attempt("become root", 105, json!([0]), EPERM),
        attempt("take capabilities", 126, json!([0, 0]), EPERM),
        attempt("personality", 135, json!([0x4_0000]), EPERM),
        attempt("reach the ports of the machine", 172, json!([3]), EPERM),
        attempt("make a device", 259, json!([AT_FDCWD, path("device"), 0o20_600, 0x101]), EPERM),
        attempt("make a disk", 259, json!([AT_FDCWD, path("disk"), 0o60_600, 0x800]), EPERM),
        attempt("type into the terminal", 16, json!([0, 0x5412, "x"]), EPERM),
        attempt("listen", 50, json!([0, 1]), EPERM),
        socket("a raw socket", 2, 3, EPERM),
        socket("a packet socket", 17, 3, EPERM),
        socket("the kernel's cryptography", 38, 5, EPERM),
        socket("a socket of the hypervisor", 40, 1, EPERM),
        socket("a stream to a local service", 1, 1, EPERM),
        attempt("netfilter's netlink", 41, json!([16, 3, 12]), EPERM),
        socket("a socket", 2, 1, 0),
        attempt("take a TCP port", 49, json!([{ "of": "a socket" }, loopback(18_999), 16]), EACCES),
        attempt("connect to the registry", 42, json!([{ "of": "a socket" }, loopback(port), 16]), 0),
        socket("a local datagram socket", 1, 2, 0),
        attempt(
            "reach an abstract socket outside",
            42,
            json!([{ "of": "a local datagram socket" }, { "hex": hex::encode(&address) }, length]),
            EPERM,
        ),
        attempt("its own number", 39, json!([]), 0),
    ];
    // Last: what takes them away from a node that isn't confined by seccomp.
    all.push(attempt("restart the machine", 169, json!([0, 0, 0, 0]), EPERM));
    all
}

/// By thread: what each attempt ended with.
fn tried(home: &Home, node: &Node, attempts: &[Attempt]) -> Vec<(String, BTreeMap<String, i64>)> {
    let plan: Vec<Value> = attempts
        .iter()
        .map(|a| json!({ "name": a.name, "call": a.call, "arguments": a.arguments, "opens": a.opens }))
        .collect();
    let plan = home.write("attempts.json", Value::from(plan).to_string());
    let mut command = Command::new("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/node/escape.py"));
    command.arg(node.child.id().to_string()).arg(plan);
    let out = run(command, b"").expect(0).stdout;
    let lines = out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines
        .map(|line| {
            let results = serde_json::from_value(line["results"].clone()).unwrap();
            (line["thread"].as_str().unwrap().to_owned(), results)
        })
        .collect()
}

fn statuses(node: &Node, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{}/task", node.child.id())).unwrap();
    let read = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("status")).unwrap();
    threads
        .map(|entry| {
            let text = read(entry.unwrap());
            let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        })
        .collect()
}

fn secret() -> tempfile::TempDir {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "42").unwrap();
    outside
}

#[tokio::test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "escape.py knows the registers of x86-64")]
async fn what_breaks_out_of_wasm_gets_no_further_than_the_data_folder() {
    let (registry, home, outside) = (Registry::start(), Home::new(), secret());
    let hello = pushed(&home, &registry, "hello-p1");
    symlink(outside.path(), home.vyr_home().join("way-out")).unwrap();
    symlink(outside.path().join("secret"), home.vyr_home().join("secret-link")).unwrap();
    let name = format!("vyr-e2e-{}", std::process::id());
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name).unwrap();
    let _abstract = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();

    let node = Node::start(&home, &["--confine", "required"]);
    assert!(node.said().contains("note: confined by Landlock and seccomp"), "{}", node.said());
    let mut client = node.connect().await;
    assert_eq!(ran(&mut client, &hello).await, "hello from wasm\n");
    assert_eq!(told(&mut client).await, ["landlock", "seccomp"]);

    // Those that run guests among them, and those that were started meanwhile.
    let threads = statuses(&node, "Seccomp");
    assert!(threads.len() > 5 && threads.iter().all(|mode| mode == "2"), "{threads:?}");
    assert!(statuses(&node, "NoNewPrivs").iter().all(|set| set == "1"));

    let mut attempts = files(&home, outside.path());
    attempts.extend(others(&home, &registry.host(), &name));
    let results = tried(&home, &node, &attempts);
    assert!(results.len() > 5 && results.iter().any(|(thread, _)| thread.starts_with("vyr-guest")), "{results:?}");
    let mut wrong = Vec::new();
    for attempt in &attempts {
        let (first, errno) = (&results[0].1[attempt.name], attempt.errno);
        eprintln!("{:40} {first}", attempt.name);
        for (thread, of) in results.iter().filter(|(_, of)| of[attempt.name] != errno) {
            wrong.push(format!("{thread}: {}: {} in place of {errno}", attempt.name, of[attempt.name]));
        }
    }
    eprintln!("the same in each of {} threads", results.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(fs::read_to_string(outside.path().join("secret")).unwrap(), "42");
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
    // It serves as before.
    assert_eq!(ran(&mut client, &hello).await, "hello from wasm\n");
}

async fn ran(client: &mut Client, reference: &str) -> String {
    let task = client.run(spec(reference, &[])).await;
    client.stdout(&task.id).await
}

async fn told(client: &mut Client) -> Vec<String> {
    client.0.get_node(GetNodeRequest {}).await.unwrap().into_inner().node.unwrap().confined_by
}

#[tokio::test]
#[cfg_attr(not(target_arch = "x86_64"), ignore = "escape.py knows the registers of x86-64")]
async fn the_same_attempts_succeed_where_a_node_is_not_confined() {
    let (home, outside) = (Home::new(), secret());
    let node = Node::start(&home, &["--confine", "off"]);
    assert!(!node.said().contains("confined"), "{}", node.said());
    assert!(told(&mut node.connect().await).await.is_empty());
    assert!(statuses(&node, "Seccomp").iter().all(|mode| mode == "0"));
    let attempts = [
        opening("read a secret outside", &outside.path().join("secret"), 0, 0),
        opening("write a new file outside", &outside.path().join("new"), WRITE_NEW, 0),
        // EBADF: the call itself is let through.
        attempt("enter a namespace", 308, json!([-1, 0]), 9),
    ];
    for (thread, results) in tried(&home, &node, &attempts) {
        for attempt in &attempts {
            assert_eq!(results[attempt.name], attempt.errno, "{thread}: {}", attempt.name);
        }
    }
}

fn without_landlock(home: &Home, arguments: &[&str]) -> Command {
    let serve = home.vyr_command(["serve"]);
    let mut command = home.command("python3");
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/node/without_landlock.py"));
    command.arg(serve.get_program()).args(serve.get_args()).args(arguments);
    for (name, value) in serve.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

#[test]
fn a_kernel_that_can_not_confine_a_node_is_told_of_and_refused_where_it_is_required() {
    let home = Home::new();
    let out = run(without_landlock(&home, &["--listen", "127.0.0.1:0", "--confine", "required"]), b"").expect(125);
    for words in ["can't be confined in full", "no Landlock", "--confine auto"] {
        assert!(out.stderr.contains(words), "{}", out.stderr);
    }

    // The variable is the same wish; and without it as much is done as can be.
    let mut command = without_landlock(&home, &["--listen", "127.0.0.1:0"]);
    command.env("VYR_CONFINE", "required");
    run(command, b"").expect(125);
    let node = Node::start_by(&home, without_landlock(&home, &[]), &[]);
    let said = node.said();
    for words in ["note: confined by seccomp, not by Landlock", "warning: this node is not wholly confined: files"] {
        assert!(said.contains(words), "{said}");
    }
    assert!(statuses(&node, "Seccomp").iter().all(|mode| mode == "2"));

    let wrong = home.vyr(["serve", "--listen", "127.0.0.1:0", "--confine", "perhaps"]).expect(2);
    assert!(wrong.stderr.contains("required"), "{}", wrong.stderr);
    fs::write(home.vyr_home().join("config.toml"), "[serve]\nconfine = \"perhaps\"\n").unwrap();
    let wrong = home.vyr(["serve", "--listen", "127.0.0.1:0"]).expect(2);
    assert!(wrong.stderr.contains("can't be confined `perhaps`"), "{}", wrong.stderr);
}

/// It starts none itself any more.
#[tokio::test]
async fn a_confined_node_has_docker_s_helpers_asked() {
    let (registry, home) = (Registry::with_password(), Home::new());
    home.log_in(&registry);
    let hello = pushed(&home, &registry, "hello-p1");
    // From now on only a helper knows.
    let folder = home.work().join("bin");
    let asked = home.work().join("asked");
    let script = format!(
        "#!/bin/sh\nread registry\necho \"$1 $registry\" >> {}\nprintf '{{\"ServerURL\":\"%s\",\"Username\":\"{USER}\",\"Secret\":\"{PASSWORD}\"}}' \"$registry\"\n",
        asked.display()
    );
    let helper = home.write("bin/docker-credential-e2e", script);
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let docker = home.work().parent().unwrap().join("docker/config.json");
    fs::write(&docker, json!({ "credHelpers": { (registry.host()): "e2e" } }).to_string()).unwrap();
    fs::remove_dir_all(home.store()).unwrap();
    fs::remove_dir_all(home.vyr_home().join("db")).unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let node = Node::start_with(&home, &["--confine", "required"], &[("PATH", path.as_str())]);
    assert_eq!(ran(&mut node.connect().await, &hello).await, "hello from wasm\n");
    let calls = || fs::read_to_string(&asked).unwrap();
    assert_eq!(calls().lines().next().unwrap(), format!("get {}", registry.host()));

    // Which helpers there are was settled at the start: the settings may lie where the node writes.
    let (before, other) = (calls(), Registry::with_password());
    let script = format!("#!/bin/sh\necho other >> {}\n", asked.display());
    let helper = home.write("bin/docker-credential-other", script);
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(&docker, json!({ "credHelpers": { (other.host()): "other" } }).to_string()).unwrap();
    let task = node.connect().await.run(spec(&other.reference("hello", "v1"), &[])).await;
    assert!(format!("{task:?}").contains("didn't name it when the node was started"), "{task:?}");
    assert_eq!(calls(), before);
}
