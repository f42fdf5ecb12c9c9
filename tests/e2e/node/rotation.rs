//! Certificates and time: one that is renewed while the node runs, and those that a clock is outside of.

use std::time::{Duration, Instant};

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use vyr_proto::v0::control_client::ControlClient;
use vyr_proto::v0::*;

use super::access::Authority;
use crate::support::{Home, Node};

async fn connect(address: &str, authority: &Authority) -> Result<ControlClient<Channel>, String> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.pem)).domain_name("localhost");
    let port = address.rsplit(':').next().unwrap();
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls).unwrap();
    let channel = endpoint.connect().await.map_err(|e| format!("{e:?}"))?;
    Ok(ControlClient::new(channel))
}

/// Until connections are accepted under `authority`.
async fn until(address: &str, authority: &Authority) -> ControlClient<Channel> {
    let began = Instant::now();
    loop {
        match connect(address, authority).await {
            Ok(client) => return client,
            Err(e) => assert!(began.elapsed() < Duration::from_secs(30), "{e}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_in_force_without_a_restart() {
    let home = Home::new();
    let (old, new) = (Authority::new(), Authority::new());
    let put = |name: &str, text: &str| home.write(name, text).to_str().unwrap().to_owned();
    let (certificate, key) = old.issue();
    let (certificate, key) = (put("node.pem", &certificate), put("node.key", &key));
    let tls = ["--tls-cert", &certificate, "--tls-key", &key];
    let node = Node::start_with(&home, &tls, &[("VYR_LOG", "warn")]);
    let mut before = connect(&node.address, &old).await.unwrap();
    before.get_node(GetNodeRequest {}).await.unwrap();

    // A certificate whose key isn't there yet, and half of one: the old pair stays in force.
    let (renewed, renewed_key) = new.issue();
    put("node.pem", &renewed);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    connect(&node.address, &old).await.unwrap();
    put("node.pem", &renewed[..renewed.len() / 2]);
    tokio::time::sleep(Duration::from_millis(1200)).await;
    connect(&node.address, &old).await.unwrap();
    assert!(node.said().contains("the new certificate is not used"), "{}", node.said());

    put("node.pem", &renewed);
    put("node.key", &renewed_key);
    let mut after = until(&node.address, &new).await;
    after.get_node(GetNodeRequest {}).await.unwrap();
    assert!(connect(&node.address, &old).await.is_err(), "the old one is no longer shown");
    // Who was connected stays so.
    before.get_node(GetNodeRequest {}).await.unwrap();
}

#[test]
fn a_certificate_out_of_its_time_is_refused_in_words_that_name_the_clock() {
    // To a data folder its own node's registry isn't one beyond a network.
    let (home, far) = (Home::new(), Home::new());
    let authority = Authority::new();
    let put = |name: &str, text: &str| home.write(name, text).to_str().unwrap().to_owned();
    let ca = put("ca.pem", &authority.pem);
    for (from, until, why) in [
        (2020, 2021, "has expired: it is valid until 2021-01-01T00:00:00Z, and this machine's clock says 2"),
        (2400, 2401, "is not valid yet: it is valid from 2400-01-01T00:00:00Z, and this machine's clock says 2"),
    ] {
        // The node's own: it says so itself, and so does whoever calls it or pulls from it.
        let (certificate, key) = authority.issue_for(from, until);
        let (certificate, key) = (put("node.pem", &certificate), put("node.key", &key));
        let node = Node::start(&home, &["--tls-cert", &certificate, "--tls-key", &key]);
        says(&node, &format!("clients will not take this node's certificate: the certificate {why}"));
        let host = node.host();
        let called = home.vyr(["tasks", "--node", &format!("https://{host}"), "--node-ca", &ca]);
        called.expect(125).says(&["no node answers at", why, "set the clock that is wrong, or renew the certificate"]);
        let pulled = far.vyr(["pull", &format!("{host}/a:v1"), "--ca-file", &ca]);
        pulled.expect(125).says(&[why, "set this machine's clock if it is wrong"]);
        drop(node);

        // A client's: the node's log has it, and the client hears that the node's clock decided.
        let (certificate, key) = authority.issue();
        let (certificate, key) = (put("node.pem", &certificate), put("node.key", &key));
        let flags = ["--tls-cert", &certificate, "--tls-key", &key, "--client-ca", &ca];
        let node = Node::start_with(&home, &flags, &[("VYR_LOG", "warn")]);
        let (shown, shown_key) = authority.issue_for(from, until);
        let (shown, shown_key) = (put("client.pem", &shown), put("client.key", &shown_key));
        let url = format!("https://{}", node.host());
        let shown = ["--node-ca", &ca, "--node-cert", &shown, "--node-key", &shown_key];
        let called = home.vyr(["tasks", "--node", &url].into_iter().chain(shown));
        // The reason may come after the connection's end: then the log is named.
        let heard = called.expect(125).stderr;
        let told =
            ["by its clock the certificate that is shown to it has expired, or is not valid yet", "its log says why"];
        assert!(told.iter().any(|words| heard.contains(words)), "{heard}");
        says(&node, "a client's certificate is not taken");
        says(&node, why);
    }
}

/// Waits until the node has said so: its log is read by another thread.
#[track_caller]
fn says(node: &Node, words: &str) {
    let end = Instant::now() + Duration::from_secs(10);
    while !node.said().contains(words) {
        assert!(Instant::now() < end, "it doesn't say `{words}`: {}", node.said());
        std::thread::sleep(Duration::from_millis(10));
    }
}
