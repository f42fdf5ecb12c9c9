//! What the tests share: signed artifacts, tools and a registry.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::oci::{self, Digest};
use crate::trust::*;

pub(super) const REPOSITORY: &str = "localhost:5000/team/app";

pub(super) fn digest_of(text: &str) -> Digest {
    oci::sha256(text.as_bytes())
}

pub(super) fn subject(digest: &Digest) -> SignedSubject {
    SignedSubject { digest: digest.clone(), media_type: oci::media::MANIFEST.into(), size: 7 }
}

pub(super) fn key() -> SigningKey {
    SigningKey::generate(Algorithm::EcdsaP256).expect("generates")
}

/// Both forms as material, by the way that a caller takes.
pub(super) fn material(forms: &SignedForms) -> [SignatureMaterial; 2] {
    [simple_material(&forms.simple), bundle_material(&forms.bundle)]
}

pub(super) fn simple_material(form: &SimpleForm) -> SignatureMaterial {
    let fetch = |wanted: &oci::Descriptor| {
        form.blobs
            .iter()
            .find(|blob| blob.digest == *wanted.digest())
            .map(|blob| blob.bytes.clone())
            .ok_or("no such blob")
    };
    material_from_sig_manifest(&form.manifest, fetch).expect("fetches").pop().expect("has a signature")
}

pub(super) fn bundle_material(form: &BundleForm) -> SignatureMaterial {
    material_from_referrer(&form.manifest, form.blobs[0].bytes.clone()).expect("is a bundle")
}

/// A policy that trusts `keys` everywhere.
pub(super) fn policy_for(keys: &[String]) -> TrustPolicy {
    let mut policy = TrustPolicy::default();
    for key in keys {
        policy.add_key("", key).expect("adds");
    }
    policy
}

/// cosign as the Debian suite has it.
pub(super) fn cosign(suite: &str) -> PathBuf {
    crate::testing::tool(if suite == "trixie" { "cosign-older" } else { "cosign" })
}

/// Runs a command, giving its outcome and its words.
pub(super) fn run(program: &Path, folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .env("COSIGN_PASSWORD", "pass word")
        .output()
        .expect("the tool starts");
    let words = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.success(), words)
}

pub(super) fn run_ok(program: &Path, folder: &Path, arguments: &[&str]) {
    let (ok, words) = run(program, folder, arguments);
    assert!(ok, "{} {arguments:?}: {words}", program.display());
}

/// A real `docker-registry` on a loopback port, with its own folder. It has no referrers API.
pub(super) struct Registry {
    child: Child,
    pub(super) host: String,
    http: reqwest::Client,
    _folder: tempfile::TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    pub(super) async fn start() -> Self {
        let program = crate::testing::tool("docker-registry");
        let folder = tempfile::tempdir().expect("a folder");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("has an address").port();
        let host = format!("127.0.0.1:{port}");
        let config = folder.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{host}'}}\n",
            folder.path().display()
        );
        std::fs::write(&config, text).expect("writes");
        let child = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the registry starts");
        let registry = Self { child, host, http: reqwest::Client::new(), _folder: folder };
        for _ in 0..200 {
            if registry.http.get(format!("http://{}/v2/", registry.host)).send().await.is_ok() {
                return registry;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the registry does not answer");
    }

    pub(super) async fn put_blob(&self, repository: &str, bytes: &[u8]) {
        let start = self
            .http
            .post(format!("http://{}/v2/{repository}/blobs/uploads/", self.host))
            .send()
            .await
            .expect("starts");
        let location = start.headers()["location"].to_str().expect("text").to_owned();
        let url = format!("{location}&digest={}", oci::sha256(bytes));
        let done = self.http.put(url).body(bytes.to_vec()).send().await.expect("puts");
        assert_eq!(done.status(), 201);
    }

    pub(super) async fn put_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) {
        let url = format!("http://{}/v2/{repository}/manifests/{reference}", self.host);
        let done = self
            .http
            .put(url)
            .header("content-type", media_type.to_owned())
            .body(bytes.to_vec())
            .send()
            .await
            .expect("puts");
        assert_eq!(done.status(), 201, "{}", done.text().await.unwrap_or_default());
    }

    pub(super) async fn get(&self, repository: &str, path: &str) -> Option<Vec<u8>> {
        let url = format!("http://{}/v2/{repository}/{path}", self.host);
        let accept = format!("{}, {}", oci::media::MANIFEST, oci::media::INDEX);
        let answer = self.http.get(url).header("accept", accept).send().await.expect("answers");
        if !answer.status().is_success() {
            return None;
        }
        Some(answer.bytes().await.expect("has a body").to_vec())
    }

    /// A small artifact; its content makes its digest differ.
    pub(super) async fn push_artifact(&self, repository: &str, content: &str) -> SignedSubject {
        self.put_blob(repository, oci::EMPTY_JSON).await;
        self.put_blob(repository, content.as_bytes()).await;
        let manifest = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": oci::media::MANIFEST,
            "config": { "mediaType": oci::media::EMPTY, "size": 2, "digest": oci::sha256(oci::EMPTY_JSON).to_string() },
            "layers": [{ "mediaType": oci::media::WASM_LAYER, "size": content.len(), "digest": digest_of(content).to_string() }],
        }))
        .expect("encodes");
        let digest = oci::sha256(&manifest);
        self.put_manifest(repository, digest.as_ref(), oci::media::MANIFEST, &manifest).await;
        SignedSubject { digest, media_type: oci::media::MANIFEST.into(), size: manifest.len() as u64 }
    }

    pub(super) async fn push_simple(&self, repository: &str, form: &SimpleForm) {
        for blob in &form.blobs {
            self.put_blob(repository, &blob.bytes).await;
        }
        self.put_manifest(repository, &form.tag, oci::media::MANIFEST, &form.manifest).await;
    }

    /// The referrer and the fallback index that names it (distribution spec 1.1, "Referrers Tag Schema").
    pub(super) async fn push_bundle(&self, repository: &str, subject: &Digest, form: &BundleForm) {
        for blob in &form.blobs {
            self.put_blob(repository, &blob.bytes).await;
        }
        self.put_manifest(repository, form.digest.as_ref(), oci::media::MANIFEST, &form.manifest).await;
        let index = serde_json::to_vec(&serde_json::json!({
            "schemaVersion": 2, "mediaType": oci::media::INDEX,
            "manifests": [{
                "mediaType": oci::media::MANIFEST, "size": form.manifest.len(), "digest": form.digest.to_string(),
                "artifactType": oci::media::SIGSTORE_BUNDLE, "annotations": form.annotations,
            }],
        }))
        .expect("encodes");
        self.put_manifest(repository, &subject.to_string().replacen(':', "-", 1), oci::media::INDEX, &index).await;
    }

    /// The signatures at the `.sig` tag.
    pub(super) async fn simple(&self, repository: &str, digest: &Digest) -> Vec<SignatureMaterial> {
        let Some(manifest) = self.get(repository, &format!("manifests/{}", sig_tag(digest))).await else {
            return Vec::new();
        };
        let (layers, mut material) = sig_layers(&manifest);
        for layer in layers {
            let payload =
                self.get(repository, &format!("blobs/{}", layer.descriptor.digest())).await.expect("has the payload");
            material.push(layer.material(payload));
        }
        material
    }

    /// The bundles in the fallback index.
    pub(super) async fn bundles(&self, repository: &str, digest: &Digest) -> Vec<SignatureMaterial> {
        let tag = digest.to_string().replacen(':', "-", 1);
        let Some(index) = self.get(repository, &format!("manifests/{tag}")).await else { return Vec::new() };
        let index: oci::ImageIndex = serde_json::from_slice(&index).expect("is an index");
        let mut material = Vec::new();
        for entry in index.manifests() {
            let manifest =
                self.get(repository, &format!("manifests/{}", entry.digest())).await.expect("has the referrer");
            let Ok(Some(layer)) = bundle_descriptor(&manifest) else { continue };
            let bytes = self.get(repository, &format!("blobs/{}", layer.digest())).await.expect("has the bundle");
            material.extend(material_from_referrer(&manifest, bytes));
        }
        material
    }
}
