//! A certificate that is renewed while the node runs.

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
