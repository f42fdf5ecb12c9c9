//! Registries that aren't there, aren't registries, have nothing of that name or let nobody in.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use super::{Transcript, push_guest, wat};
use crate::node::Authority;
use crate::support::{Home, Node, Registry, USER, free_port};

#[test]
fn it_is_not_running() {
    let home = Home::new();
    wat(&home, "hello.wasm", r#"(module (func (export "_start")))"#);
    let port = free_port();
    let mut seen = Transcript::new(&home, "The registry isn't running").with(format!(":{port}"), ":5000");
    let reference = format!("localhost:{port}/hello:v1");
    let said = seen.vyr(&["run", &reference]).expect(125);
    assert!(said.took < Duration::from_secs(2), "nobody waits for what is not there: {:?}", said.took);
    seen.vyr(&["push", &reference, "hello.wasm"]).expect(125);
    seen.is("registry-not-running");
}

#[test]
fn something_else_listens_there() {
    let home = Home::new();
    wat(&home, "hello.wasm", r#"(module (func (export "_start")))"#);
    let mut server = home.command("python3");
    server.args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]);
    let mut server = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("python3");
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let port = line.split("port ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_else(|| panic!("{line}"));
    let mut seen = Transcript::new(&home, "Another web server listens there").with(format!(":{port}"), ":8000");
    let reference = format!("localhost:{port}/hello:v1");
    let ran = home.vyr(["run", &reference]);
    seen.add(&format!("vyr run {reference}"), &ran);
    let pushed = seen.vyr(&["push", &reference, "hello.wasm"]);
    server.kill().unwrap();
    server.wait().unwrap();
    ran.expect(125);
    pushed.expect(125);
    seen.is("registry-something-else");
}

#[test]
fn it_has_no_such_repository_tag_or_digest() {
    let (registry, home) = (Registry::start(), Home::new());
    push_guest(&home, &registry, "hello-p1");
    let mut seen = Transcript::new(&home, "No such repository, tag or digest").of(&registry);
    seen.vyr(&["run", &registry.reference("hallo", "v1")]).expect(127);
    seen.vyr(&["run", &registry.reference("hello", "v2")]).expect(127);
    seen.vyr(&["inspect", &registry.reference("hello", "v2")]).expect(127);
    seen.vyr(&["run", &registry.by_digest("hello", &format!("sha256:{}", "a".repeat(64)))]).expect(127);
    seen.is("registry-no-such");
}

#[test]
fn the_node_s_own_has_no_such() {
    let home = Home::new();
    let node = Node::start(&home, &[]);
    let mut seen =
        Transcript::new(&home, "Nothing of that name in this node's registry").with(node.host(), "localhost:7070");
    seen.vyr(&["run", &format!("{}/hello:v1", node.host())]).expect(127);
    seen.is("registry-own-no-such");
}

#[test]
fn it_wants_a_login() {
    let (registry, home) = (Registry::with_password(), Home::new());
    wat(&home, "hello.wasm", r#"(module (func (export "_start")))"#);
    let mut seen = Transcript::new(&home, "The registry wants a login").of(&registry);
    let reference = registry.reference("hello", "v1");
    seen.vyr(&["run", &reference]).expect(125);
    seen.vyr(&["push", &reference, "hello.wasm"]).expect(125);
    home.credentials(&registry.host(), USER, "of yesterday");
    seen.vyr(&["run", &reference]).expect(125);
    seen.is("registry-login");
}

#[test]
fn it_speaks_plain_http_where_tls_is_expected() {
    let (registry, home) = (Registry::start(), Home::new());
    // An address of this machine that isn't known to be one.
    let far = registry.host().replace("localhost", "0.0.0.0");
    let mut seen = Transcript::new(&home, "The registry speaks plain HTTP").with(far.as_str(), "registry.example:5000");
    seen.vyr(&["run", &format!("{far}/hello:v1")]).expect(125);
    seen.is("registry-plain-http");
}

#[test]
fn it_speaks_tls_by_an_authority_that_nobody_knows() {
    let home = Home::new();
    home.vyr(["token", "add", "me"]).expect(0);
    let authority = Authority::new();
    let (certificate, key) = authority.issue();
    let [cert, key] = [("node.pem", &certificate), ("node.key", &key)]
        .map(|(name, text)| home.write(name, text).to_str().unwrap().to_owned());
    let tokens = home.vyr_home().join("tokens");
    let node = Node::start(&home, &["--tls-cert", &cert, "--tls-key", &key, "--token-file", tokens.to_str().unwrap()]);
    let other = Home::new();
    let reference = format!("{}/hello:v1", node.host());
    let mut seen = Transcript::new(&other, "The registry speaks TLS, by an authority of its own")
        .with(node.host(), "localhost:7070");
    seen.vyr(&["run", &reference]).expect(125);
    seen.vyr(&["run", "--plain-http", &reference]).expect(125);
    seen.is("registry-tls");
}

#[test]
fn its_host_has_a_typo() {
    let home = Home::new();
    // RFC 2606: a name that never is.
    let mut seen = Transcript::new(&home, "The host's name has a typo");
    seen.vyr(&["run", "registry.invalid/hello:v1"]).expect(125);
    seen.is("registry-unknown-host");
}

#[test]
fn the_network_is_forbidden() {
    let home = Home::new();
    let mut seen = Transcript::new(&home, "The network is forbidden");
    seen.vyr(&["run", "--offline", "registry.example/hello:v1"]).expect(127);
    seen.vyr(&["run", "oci:artifacts:v1"]).expect(127);
    seen.is("registry-offline");
}
