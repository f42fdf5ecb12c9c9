//! The store's contract: what it promises to callers, to other tools and after a crash.

mod collecting;
mod crashing;
mod mending;
mod model;
mod moving;
mod power;
mod putting;
mod showing;
mod uploads;

use std::path::Path;

use super::{Layout, Lease, Result, Store};
use crate::oci::{Digest, media, sha256};

/// A store in a folder of its own.
struct Home {
    folder: tempfile::TempDir,
    store: Store,
}

impl Home {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(folder.path()).await.expect("a new store opens");
        Self { folder, store }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn layout(&self) -> &Layout {
        self.store.layout()
    }

    async fn again(&self) -> Store {
        Store::open(self.path()).await.expect("the store opens again")
    }

    /// Puts an artifact whose layer is `content`.
    async fn artifact(&self, content: &[u8]) -> Digest {
        let lease = self.store.lease().expect("a lease");
        let layer = put_blob(self.layout(), &lease, content);
        let config = put_blob(self.layout(), &lease, b"{}");
        let json = manifest_json(&config, 2, &layer, content.len(), None);
        put(&self.store, &lease, &json).await
    }

    /// Puts a referrer of `subject`.
    async fn referrer(&self, subject: &Digest) -> Digest {
        let lease = self.store.lease().expect("a lease");
        let config = put_blob(self.layout(), &lease, b"{}");
        // Other tools read the subject by its size, and refuse the layout when that's wrong.
        let size = self.layout().blob_size(subject).expect("size").unwrap_or(1);
        put(&self.store, &lease, &manifest_json(&config, 2, &config, 2, Some((subject, size)))).await
    }

    fn ingest_is_empty(&self) -> bool {
        std::fs::read_dir(self.path().join("ingest")).expect("the folder").next().is_none()
    }

    fn index_json(&self) -> serde_json::Value {
        serde_json::from_slice(&std::fs::read(self.path().join("store/index.json")).expect("index.json"))
            .expect("is JSON")
    }

    async fn verify_all(&self) -> Result<usize> {
        verify_all(&self.store).await
    }
}

async fn verify_all(store: &Store) -> Result<usize> {
    let list = store.list().await?;
    for entry in &list {
        let bytes = store.layout().read_verified(&entry.digest, 1 << 22)?;
        for blob in super::manifest::Parsed::read(&entry.digest, &bytes, None)?.blobs() {
            assert_eq!(store.layout().verify_blob(&blob.digest)?, blob.size);
        }
    }
    Ok(list.len())
}

fn put_blob(layout: &Layout, lease: &Lease, content: &[u8]) -> Digest {
    let mut writer = layout.writer(None, None).expect("a writer");
    writer.add(content).expect("written");
    writer.commit(lease).expect("committed").0
}

async fn put(store: &Store, lease: &Lease, json: &str) -> Digest {
    let digest = sha256(json.as_bytes());
    let put = store.put_manifest(lease, Some(&digest), json.as_bytes(), None, Some("localhost:5000/app")).await;
    assert_eq!(put.expect("the manifest is put").digest(), &digest);
    digest
}

fn manifest_json(
    config: &Digest,
    config_size: usize,
    layer: &Digest,
    size: usize,
    subject: Option<(&Digest, u64)>,
) -> String {
    let subject = subject.map_or(String::new(), |(s, size)| {
        format!(
            r#","artifactType":"{}","subject":{{"mediaType":"{}","digest":"{s}","size":{size}}}"#,
            media::SIGSTORE_BUNDLE,
            media::MANIFEST
        )
    });
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{{"mediaType":"{}","digest":"{config}","size":{config_size}}},"layers":[{{"mediaType":"{}","digest":"{layer}","size":{size}}}],"annotations":{{"a":"b"}}{subject}}}"#,
        media::MANIFEST,
        media::WASM_CONFIG_V0,
        media::WASM_LAYER
    )
}

fn index_json(children: &[(&Digest, u64)]) -> String {
    let children: Vec<_> = children
        .iter()
        .map(|(d, size)| format!(r#"{{"mediaType":"{}","digest":"{d}","size":{size}}}"#, media::MANIFEST))
        .collect();
    format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{}]}}"#, media::INDEX, children.join(","))
}
