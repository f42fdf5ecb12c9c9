//! Puts an artifact from an OCI layout folder into the node's store, with no registry, and shows what the node has then.
//!
//! `cargo run -p vyr-client --example artifact -- LAYOUT registry.example/app:v1`

#![allow(clippy::print_stdout, reason = "an example speaks to whoever runs it")]

use std::error::Error;
use std::path::{Path, PathBuf};

use serde_json::Value;
use vyr_client::Client;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [layout, tag] = &words[..] else { return Err("say what and its name: artifact LAYOUT NAME:TAG".into()) };
    let layout = Path::new(layout);
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let digest = text(&index["manifests"][0]["digest"])?;
    let manifest = std::fs::read(blob(layout, digest)?)?;
    let parts: Value = serde_json::from_slice(&manifest)?;

    let client = Client::connect().await?;
    let mut put = client.put_artifact(digest, manifest).tag(tag);
    let layers = parts["layers"].as_array().ok_or("the first manifest of the layout is no image's")?;
    for part in std::iter::once(&parts["config"]).chain(layers) {
        let digest = text(&part["digest"])?;
        put = put.blob(digest, blob(layout, digest)?);
    }
    put.await?;

    let stored = client.get_artifact(tag).await?;
    println!("{} {} bytes, {}", stored.artifact.digest, stored.artifact.total_bytes, stored.artifact.form);
    if let Some(trust) = stored.artifact.trust {
        println!("{}: {}", if trust.accepted { "trusted" } else { "not trusted" }, trust.reason);
    }
    Ok(())
}

fn text(value: &Value) -> Result<&str, Box<dyn Error>> {
    value.as_str().ok_or_else(|| "the layout is malformed: a digest is missing".into())
}

/// `blobs/sha256/<hex>` for `sha256:<hex>`.
fn blob(layout: &Path, digest: &str) -> Result<PathBuf, Box<dyn Error>> {
    let (algorithm, hex) = digest.split_once(':').ok_or("the layout is malformed: a digest has no algorithm")?;
    Ok(layout.join("blobs").join(algorithm).join(hex))
}
