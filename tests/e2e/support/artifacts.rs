//! Pushes each of the six artifact forms of the contract to a registry, with the clients that people use.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::{Home, Registry, sha256, tool};

/// The forms, numbered as in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// 1: the CNCF Wasm OCI artifact.
    Cncf = 1,
    /// 2: what a plain `oras push` writes.
    Oras,
    /// 3: the older media types.
    Older,
    /// 4: an image with a `.wasm` entrypoint.
    CompatImage,
    /// 5: a Linux image.
    LinuxImage,
    /// 6: an index of a Wasm manifest and a Linux image.
    Dual,
}

/// All six.
pub(crate) const FORMS: [Form; 6] =
    [Form::Cncf, Form::Oras, Form::Older, Form::CompatImage, Form::LinuxImage, Form::Dual];

/// This machine's architecture as the image spec calls it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

const WASM: &str = "application/wasm";
const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn wasi_of(wasm: &[u8]) -> &'static str {
    // The fourth byte of the version says whether it is a core module or a component.
    if wasm.get(6) == Some(&1) { "wasip2" } else { "wasip1" }
}

/// A pushed Linux image.
#[derive(Debug)]
pub(crate) struct LinuxImage {
    /// Its manifest's digest.
    pub(crate) digest: String,
    /// Its manifest's size in bytes.
    pub(crate) size: usize,
}

impl Home {
    /// Pushes `wasm` as `form` and tags it; the digest that the tag names.
    #[track_caller]
    pub(crate) fn push_form(
        &self,
        registry: &Registry,
        form: Form,
        repository: &str,
        tag: &str,
        wasm: &Path,
    ) -> String {
        let reference = registry.reference(repository, tag);
        match form {
            Form::Cncf => self.push_cncf(&reference, wasm),
            Form::Oras => self.oras_push(&reference, wasm),
            Form::Older => self.push_older(&reference, wasm),
            Form::CompatImage => self.push_compat_image(&reference, wasm, "wasip1"),
            Form::LinuxImage => self.push_linux_image(&reference).digest,
            Form::Dual => self.push_dual(registry, repository, tag, wasm),
        }
    }

    fn push_with_config(
        &self,
        reference: &str,
        wasm: &Path,
        config: &Value,
        config_type: &str,
        layer_type: &str,
    ) -> String {
        fs::copy(wasm, self.work().join("app.wasm")).unwrap_or_else(|e| panic!("{}: {e}", wasm.display()));
        self.write("config.json", config.to_string());
        let config = format!("config.json:{config_type}");
        let layer = format!("app.wasm:{layer_type}");
        let pushed = self
            .tool("oras", ["push", "--format", "go-template={{.digest}}", "--config", &config, reference, &layer])
            .expect(0);
        pushed.stdout.trim().to_owned()
    }

    /// Form 1.
    #[track_caller]
    pub(crate) fn push_cncf(&self, reference: &str, wasm: &Path) -> String {
        let bytes = fs::read(wasm).unwrap_or_else(|e| panic!("{}: {e}", wasm.display()));
        let config = json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": wasi_of(&bytes),
            "layerDigests": [sha256(&bytes)],
        });
        self.push_with_config(reference, wasm, &config, "application/vnd.wasm.config.v0+json", WASM)
    }

    /// Form 3.
    #[track_caller]
    pub(crate) fn push_older(&self, reference: &str, wasm: &Path) -> String {
        let (config, layer) = ("application/vnd.wasm.config.v1+json", "application/vnd.wasm.content.layer.v1+wasm");
        self.push_with_config(reference, wasm, &json!({}), config, layer)
    }

    /// Form 4, with `os` as its platform's system: `wasi`, `wasip1` or `wasip2`.
    #[track_caller]
    pub(crate) fn push_compat_image(&self, reference: &str, wasm: &Path, os: &str) -> String {
        let bytes = fs::read(wasm).unwrap_or_else(|e| panic!("{}: {e}", wasm.display()));
        let tar = tar_of(&[("app.wasm", &bytes)]);
        let layer = gzip(&tar);
        let config = json!({
            "created": "2026-01-01T00:00:00Z",
            "architecture": "wasm",
            "os": os,
            "config": { "Entrypoint": ["/app.wasm"], "Env": ["FROM_IMAGE=yes"] },
            "rootfs": { "type": "layers", "diff_ids": [sha256(&tar)] },
            "history": [{ "created": "2026-01-01T00:00:00Z", "created_by": "COPY app.wasm /" }],
        });
        let config = config.to_string().into_bytes();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(IMAGE_CONFIG, &config),
            "layers": [descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &layer)],
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = sha256(&manifest);
        let mut entry = descriptor(MANIFEST, &manifest);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": "made" });
        self.write("compat/oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        self.write(
            "compat/index.json",
            json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string(),
        );
        for blob in [&config, &layer, &manifest] {
            self.write(&format!("compat/blobs/{}", sha256(blob).replace(':', "/")), blob);
        }
        self.tool("oras", ["cp", "--from-oci-layout", "compat:made", reference]).expect(0);
        digest
    }

    /// Form 5: busybox, by umoci and skopeo.
    #[track_caller]
    pub(crate) fn push_linux_image(&self, reference: &str) -> LinuxImage {
        let busybox = fs::read(tool("busybox")).expect("busybox can be read");
        self.write("linux.tar", tar_of(&[("bin/busybox", &busybox)]));
        self.tool("umoci", ["init", "--layout", "linux"]).expect(0);
        self.tool("umoci", ["new", "--image", "linux:made"]).expect(0);
        self.tool("umoci", ["raw", "add-layer", "--image", "linux:made", "linux.tar"]).expect(0);
        let platform = ["--os", "linux", "--architecture", architecture()];
        let entrypoint =
            ["--config.entrypoint", "/bin/busybox", "--config.cmd", "echo", "--config.cmd", "hello from linux"];
        self.tool("umoci", [&["config", "--image", "linux:made"], &platform[..], &entrypoint[..]].concat()).expect(0);
        let target = format!("docker://{reference}");
        // Without --preserve-digests an older registry might be given Docker's media types.
        let copy =
            ["copy", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false", "oci:linux:made", &target];
        self.tool("skopeo", copy).expect(0);
        let manifest = self.tool("crane", ["manifest", reference]).expect(0).stdout;
        // `crane manifest` prints the manifest's bytes and a newline more in some versions.
        let digest = self.crane_digest(reference);
        let bytes = [manifest.as_bytes(), manifest.trim_end().as_bytes()].into_iter().find(|b| sha256(b) == digest);
        LinuxImage { digest, size: bytes.expect("crane prints the manifest").len() }
    }

    /// Form 6: the Wasm manifest of form 1 and the image of form 5 under one index.
    #[track_caller]
    pub(crate) fn push_dual(&self, registry: &Registry, repository: &str, tag: &str, wasm: &Path) -> String {
        let bytes = fs::read(wasm).unwrap_or_else(|e| panic!("{}: {e}", wasm.display()));
        let wasm_digest = self.push_cncf(&registry.reference(repository, &format!("{tag}-wasm")), wasm);
        let wasm_size = fs::metadata(registry.blob(&wasm_digest)).expect("it was pushed").len();
        let linux = self.push_linux_image(&registry.reference(repository, &format!("{tag}-linux")));
        let index = json!({
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                { "mediaType": MANIFEST, "digest": wasm_digest, "size": wasm_size,
                  "platform": { "os": wasi_of(&bytes), "architecture": "wasm" } },
                { "mediaType": MANIFEST, "digest": linux.digest, "size": linux.size,
                  "platform": { "os": "linux", "architecture": architecture() } },
            ],
        });
        let index = index.to_string();
        self.write("index.json", &index);
        self.tool(
            "oras",
            ["manifest", "push", "--media-type", INDEX, &registry.reference(repository, tag), "index.json"],
        )
        .expect(0);
        sha256(index.as_bytes())
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(bytes), "size": bytes.len() })
}

/// A tar of executable files, their folders before them.
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = |path: &str, kind: tar::EntryType, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).expect("a tar in memory");
    };
    for (path, content) in files {
        if let Some((folder, _)) = path.rsplit_once('/') {
            header(&format!("{folder}/"), tar::EntryType::Directory, b"");
        }
        header(path, tar::EntryType::Regular, content);
    }
    builder.into_inner().expect("a tar in memory")
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}
