//! Owns data folders for nodes: guests put into the store without a registry and signed with the folder's own key.

use std::sync::Arc;

use anyhow::Result;
use serde_json::json;
use vyr::config::{Config, Flags};
use vyr::oci::{ArtifactRef, media, parse_digest, sha256};
use vyr::ops::put::{Parts, put_artifact};
use vyr::ops::sign::{machine_key, sign};
use vyr::ops::{Silent, Vyr};

use crate::stage::Stage;

/// Puts guests into the data folder `name`, and returns their digests. The folder is made if it isn't there.
pub(crate) async fn fill(stage: &Stage, name: &str, guests: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<String>> {
    let home = stage.folder.path().join(name);
    let vyr = Vyr::new(Config::load(Flags { home: Some(home), ..Flags::default() })?, Arc::new(Silent));
    let key = machine_key(&vyr.config().home)?;
    let mut digests = Vec::new();
    for wasm in guests {
        let config = b"{}".to_vec();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::MANIFEST,
            "config": {"mediaType": media::EMPTY, "digest": sha256(&config).to_string(), "size": config.len()},
            "layers": [{"mediaType": media::WASM_LAYER, "digest": sha256(&wasm).to_string(), "size": wasm.len()}],
        });
        let parts = Parts {
            manifest: manifest.to_string().into(),
            blobs: vec![config.into(), wasm.into()],
            ..Parts::default()
        };
        let put = put_artifact(&vyr, parts).await?;
        sign(&vyr, &ArtifactRef::Stored(parse_digest(&put.digest)?), &key).await?;
        digests.push(put.digest);
    }
    Ok(digests)
}
