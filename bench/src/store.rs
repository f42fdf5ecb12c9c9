//! What 100,000 artifacts in the store cost the run of one of them.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use vyr::oci::{media, sha256};

use super::samples::Sample;
use super::stage::{Registry, Stage, said, sample, timed, version};

pub(crate) fn measure(stage: &Stage) -> Result<()> {
    let count = if stage.quick { 1000 } else { 100_000 };
    let wasm = vyr_guests::guest("hello-p1");
    let folder = stage.folder.path();
    fill(&folder.join("full"), count)?;
    let began = std::time::Instant::now();
    let mut open = stage.vyr("full");
    open.args(["artifacts", "--output", "json"]);
    let listed: serde_json::Value = serde_json::from_str(&said(open)?)?;
    ensure!(listed.as_array().is_some_and(|l| l.len() == count), "the store doesn't list all artifacts");
    println!("{count} artifacts read in from a layout in {:.1} s", began.elapsed().as_secs_f64());
    let registry = Registry::start(folder)?;
    let mut references = Vec::new();
    for home in ["empty", "full"] {
        let mut push = stage.vyr(home);
        push.args(["push", &format!("{}/{home}:v1", registry.host)]).arg(&wasm);
        let pushed = said(push)?;
        let (name, digest) = pushed.split_once('@').context("no digest")?;
        references.push(format!("{}@{digest}", name.rsplit_once(':').context("no tag")?.0));
    }
    drop(registry);
    let run = |home: &str| {
        let mut command = stage.vyr(home);
        command.args(["run", &references[usize::from(home == "full")]]);
        command
    };
    for _ in 0..5 {
        timed(run("empty"))?;
        timed(run("full"))?;
    }
    let mut samples: Vec<Sample> = Vec::new();
    for round in 0..stage.rounds(300) {
        samples.push(sample("run, 1 artifact", round, run("empty"))?);
        samples.push(sample(&format!("run, {count} artifacts"), round, run("full"))?);
    }
    for round in 0..3 {
        let mut list = stage.vyr("full");
        list.args(["artifacts", "--output", "json"]);
        samples.push(sample(&format!("artifacts, {count} artifacts"), round, list)?);
        let mut gc = stage.vyr("full");
        gc.args(["gc", "--dry-run"]);
        samples.push(sample(&format!("gc --dry-run, {count} artifacts"), round, gc)?);
    }
    stage.keep(
        "store-size",
        vec![version(&stage.vyr, "--version")?],
        "whole process; the same signed hello module in a store of its own and in a full one",
        &samples,
    )
}

/// A layout of distinct, tagged artifacts that share their config and layer, written as another tool would write it and not
/// synced: the store reads it in at its first opening.
fn fill(folder: &Path, count: usize) -> Result<()> {
    let blobs = folder.join("store/blobs/sha256");
    std::fs::create_dir_all(&blobs)?;
    let put = |bytes: &[u8]| -> Result<String> {
        let digest = sha256(bytes);
        std::fs::write(blobs.join(digest.digest()), bytes)?;
        Ok(digest.to_string())
    };
    let (config, layer) = (put(b"{}")?, put(b"\0asm\x01\0\0\0")?);
    let mut entries = Vec::with_capacity(count);
    for number in 0..count {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST,
            "config": {"mediaType": media::EMPTY, "digest": config, "size": 2},
            "layers": [{"mediaType": media::WASM_LAYER, "digest": layer, "size": 8}],
            "annotations": {"number": number.to_string()},
        })
        .to_string();
        entries.push(json!({
            "mediaType": media::MANIFEST, "digest": put(manifest.as_bytes())?, "size": manifest.len(),
            "annotations": {"org.opencontainers.image.ref.name": format!("localhost:5000/many/app-{number}:v1")},
        }));
    }
    std::fs::write(folder.join("store/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    std::fs::write(
        folder.join("store/index.json"),
        json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries}).to_string(),
    )?;
    Ok(())
}
