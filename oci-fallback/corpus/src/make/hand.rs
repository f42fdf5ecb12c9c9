//! Images written to the letter of the specification, with everything that other makers don't write.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{Workshop, command};
use crate::case::{Case, Config, Layer, Shape, Types};
use crate::oci::{
    CONFIG, DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, INDEX, Layout, MANIFEST, architecture, copy_compressed,
    layer_type,
};

struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

/// The descriptor of a layer, and its diff id.
fn layer(workshop: &Workshop<'_>, case: &Case, one: &Layer, layout: &Layout) -> Result<(Value, String)> {
    let mut tar = Hashed { inner: workshop.layers.open(one)?, hasher: Sha256::new() };
    let kind = layer_type(case.types, case.compression);
    let descriptor = layout.blob(&kind, |out| copy_compressed(&mut tar, out, case.compression))?;
    Ok((descriptor, format!("sha256:{}", hex::encode(tar.hasher.finalize()))))
}

/// The part of an image's config that says how to run it.
pub(crate) fn run_config(config: &Config) -> Value {
    let set = |list: &[String]| list.iter().map(|one| (one.clone(), json!({}))).collect::<BTreeMap<_, _>>();
    let env: Vec<String> = config.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut out = json!({});
    let mut put = |name: &str, yes: bool, value: Value| {
        if yes {
            out[name] = value;
        }
    };
    let cmd = command(config);
    put("Entrypoint", !config.entrypoint.is_empty(), json!(config.entrypoint));
    put("Cmd", !cmd.is_empty(), json!(cmd));
    put("Env", !env.is_empty(), json!(env));
    put("User", !config.user.is_empty(), json!(config.user));
    put("WorkingDir", !config.workdir.is_empty(), json!(config.workdir));
    put("Volumes", !config.volumes.is_empty(), json!(set(&config.volumes)));
    put("StopSignal", !config.stop_signal.is_empty(), json!(config.stop_signal));
    put("Labels", !config.labels.is_empty(), json!(config.labels));
    put("ExposedPorts", !config.ports.is_empty(), json!(set(&config.ports)));
    out
}

/// A manifest with its config, for one platform.
pub(crate) fn manifest(
    layout: &Layout,
    types: Types,
    architecture: &str,
    run: &Value,
    layers: &[(Value, String)],
) -> Result<Value> {
    let (manifest_type, config_type) = match types {
        Types::Oci | Types::Mixed => (MANIFEST, CONFIG),
        Types::Docker => (DOCKER_MANIFEST, DOCKER_CONFIG),
    };
    let diff_ids: Vec<&String> = layers.iter().map(|(_, id)| id).collect();
    let config = json!({
        "created": "2026-01-01T00:00:00Z", "architecture": architecture, "os": "linux", "config": run,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": layers.iter().map(|_| json!({ "created_by": "by hand" })).collect::<Vec<_>>(),
    });
    let config = layout.json(config_type, &config)?;
    let layers: Vec<&Value> = layers.iter().map(|(descriptor, _)| descriptor).collect();
    let manifest = json!({ "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": layers });
    layout.json(manifest_type, &manifest)
}

pub(super) fn make(workshop: &Workshop<'_>, case: &Case, made: &Path) -> Result<()> {
    let layout = Layout::create(made)?;
    let layers: Vec<(Value, String)> =
        case.layers.iter().map(|one| layer(workshop, case, one, &layout)).collect::<Result<_>>()?;
    let run = run_config(&case.config);
    let mut here = manifest(&layout, case.types, architecture(), &run, &layers)?;
    if case.shape == Shape::Plain {
        return layout.name(here);
    }
    here["platform"] = json!({ "architecture": architecture(), "os": "linux" });
    let list = if case.types == Types::Docker { DOCKER_LIST } else { INDEX };
    let index = |entries: Value| json!({ "schemaVersion": 2, "mediaType": list, "manifests": entries });
    let wrong = run_config(&Config { cmd: vec!["/bin/false".into()], ..Config::default() });
    let foreign = |name: &str, platform: Value| -> Result<Value> {
        let mut other = manifest(&layout, case.types, name, &wrong, &layers)?;
        other["platform"] = platform;
        Ok(other)
    };
    let entries = match case.shape {
        Shape::Plain | Shape::Nested => json!([here]),
        Shape::Variants => {
            let old = json!({ "architecture": "arm", "os": "linux", "variant": "v7" });
            let big = json!({ "architecture": "s390x", "os": "linux" });
            json!([foreign("arm", old)?, foreign("s390x", big)?, here])
        }
        Shape::Attested => {
            let text = json!({ "_type": "https://in-toto.io/Statement/v0.1", "subject": [], "predicate": {} });
            let mut layer = layout.json("application/vnd.in-toto+json", &text)?;
            layer["annotations"] = json!({ "in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2" });
            let id = layer["digest"].as_str().unwrap_or_default().to_owned();
            let mut attestation = manifest(&layout, case.types, "unknown", &json!({}), &[(layer, id)])?;
            attestation["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
            attestation["annotations"] = json!({
                "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": here["digest"],
            });
            json!([attestation, here])
        }
    };
    let mut top = layout.json(list, &index(entries))?;
    if case.shape == Shape::Nested {
        top = layout.json(list, &index(json!([top])))?;
    }
    layout.name(top)
}
