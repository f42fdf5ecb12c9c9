//! Owns what is pushed and pulled: the six artifact forms and two larger artifacts, each an OCI layout that real clients made.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::kit::{Home, Kit};

const WASM: &str = "application/wasm";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The name under which each layout has its artifact.
pub(crate) const MADE: &str = "made";

/// An artifact to publish.
#[derive(Debug, Clone)]
pub(crate) struct Form {
    /// As in the list of forms; 0 for the larger artifacts.
    pub(crate) number: usize,
    /// The layout.
    pub(crate) layout: PathBuf,
    pub(crate) digest: String,
    /// The digest of the layer that has to arrive.
    pub(crate) layer: String,
    /// The digest of the file in that layer, which is what a client that unpacks leaves.
    pub(crate) inside: String,
    /// The file that is the layer, for clients that make the manifest themselves, and its media type.
    pub(crate) file: PathBuf,
    pub(crate) layer_type: &'static str,
    /// The config, unless it's the client's own affair.
    pub(crate) config: Option<(PathBuf, &'static str)>,
    pub(crate) bytes: u64,
}

impl Form {
    /// Frees the disk of a fresh one.
    pub(crate) fn remove(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(self.file.parent().context("it is in a folder of its own")?)?)
    }
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Forms {
    forms: Vec<Form>,
    /// For a connection that is cut, and for mounts.
    pub(crate) large: Form,
    /// 1 GiB, in a full run.
    pub(crate) huge: Option<Form>,
}

impl Forms {
    pub(crate) fn number(&self, number: usize) -> Result<&Form> {
        self.forms.iter().find(|form| form.number == number).with_context(|| format!("there is no form {number}"))
    }

    /// A new artifact of that size, which no registry has seen.
    pub(crate) fn fresh(kit: &Kit, bytes: u64) -> Result<Form> {
        let folder = tempfile::Builder::new().prefix("fresh").tempdir_in(kit.root.path())?.keep();
        Maker { kit, home: kit.home()?, folder }.padded("fresh.wasm", bytes)
    }

    pub(crate) fn make(kit: &Kit, large: u64, huge: Option<u64>) -> Result<Self> {
        let folder = kit.root.path().join("forms");
        std::fs::create_dir(&folder)?;
        let maker = Maker { kit, home: kit.home()?, folder };
        let file = maker.folder.join("app.wasm");
        std::fs::copy(vyr_guests::build("hello-p1")?, &file)?;
        let linux = maker.linux(5, &[("busybox", kit.path("busybox")?)], "linux", architecture(), "/busybox")?;
        let mut forms = vec![
            maker.cncf(1, &file)?,
            maker.file(2, &file, WASM, None)?,
            maker.file(
                3,
                &file,
                "application/vnd.wasm.content.layer.v1+wasm",
                Some((&json!({}), "application/vnd.wasm.config.v1+json")),
            )?,
            maker.linux(4, &[("app.wasm", &file)], "wasip1", "wasm", "/app.wasm")?,
        ];
        forms.push(maker.index(6, &forms[0], &linux)?);
        forms.push(linux);
        let huge = huge.map(|bytes| maker.padded("huge.wasm", bytes)).transpose()?;
        Ok(Self { large: maker.padded("large.wasm", large)?, huge, forms })
    }
}

struct Maker<'a> {
    kit: &'a Kit,
    home: Home,
    folder: PathBuf,
}

impl Maker<'_> {
    fn tool(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.home.run(self.kit.path(name)?, arguments)
    }

    fn padded(&self, name: &str, bytes: u64) -> Result<Form> {
        let file = self.folder.join(name);
        padded(&file, bytes)?;
        self.cncf(0, &file)
    }

    fn cncf(&self, number: usize, file: &Path) -> Result<Form> {
        let config = json!({ "created": "2026-01-01T00:00:00Z", "architecture": "wasm", "os": "wasip1",
            "layerDigests": [sha256(file)?] });
        self.file(number, file, WASM, Some((&config, "application/vnd.wasm.config.v0+json")))
    }

    /// One layer that is a file, as `oras push` makes it.
    fn file(
        &self,
        number: usize,
        file: &Path,
        layer_type: &'static str,
        config: Option<(&Value, &'static str)>,
    ) -> Result<Form> {
        let name = file.file_name().context("a file")?.to_string_lossy().into_owned();
        let target = self.home.work().join(&name);
        if !target.exists() {
            std::fs::hard_link(file, target)?;
        }
        let layout = self.folder.join(format!("{number}-{name}"));
        let (made, layer) = (format!("{}:{MADE}", layout.display()), format!("{name}:{layer_type}"));
        let mut words = vec!["push", "--oci-layout", "--artifact-type", "application/vnd.example.wasm"];
        let mut kept = None;
        let option;
        if let Some((value, media_type)) = config {
            let path = self.folder.join(format!("config-{number}-{name}.json"));
            std::fs::write(&path, value.to_string())?;
            option = format!("{}:{media_type}", path.display());
            words.truncate(2);
            words.extend(["--disable-path-validation", "--config", &option]);
            kept = Some((path, media_type));
        }
        words.extend([made.as_str(), &layer]);
        self.tool("oras", &words)?;
        let mut form = read(number, &layout)?;
        form.file = file.to_owned();
        form.layer_type = layer_type;
        form.config = kept;
        Ok(form)
    }

    /// An image, as umoci makes it.
    fn linux(&self, number: usize, files: &[(&str, &Path)], os: &str, arch: &str, entrypoint: &str) -> Result<Form> {
        let layout = self.folder.join(format!("{number}-image"));
        let image = format!("{}:{MADE}", layout.display());
        self.tool("umoci", &["init", "--layout", &layout.display().to_string()])?;
        self.tool("umoci", &["new", "--image", &image])?;
        for (name, path) in files {
            self.tool("umoci", &["insert", "--image", &image, &path.display().to_string(), &format!("/{name}")])?;
        }
        let words =
            ["config", "--image", &image, "--os", os, "--architecture", arch, "--config.entrypoint", entrypoint];
        self.tool("umoci", &words)?;
        // The steps before the last are in the layout too; a copy has the image alone.
        let clean = self.folder.join(format!("{number}-clean"));
        let copy = format!("{}:{MADE}", clean.display());
        self.tool("oras", &["cp", "--from-oci-layout", &image, "--to-oci-layout", &copy])?;
        let mut form = read(number, &clean)?;
        if let [(_, path)] = files {
            form.inside = sha256(path)?;
        }
        Ok(form)
    }

    /// An index of two artifacts.
    fn index(&self, number: usize, wasm: &Form, linux: &Form) -> Result<Form> {
        let layout = self.folder.join(format!("{number}-index"));
        let mut manifests = Vec::new();
        for (form, os, arch) in [(wasm, "wasip1", "wasm"), (linux, "linux", architecture())] {
            let (from, to) = (format!("{}:{MADE}", form.layout.display()), format!("{}:{os}", layout.display()));
            self.tool("oras", &["cp", "--from-oci-layout", &from, "--to-oci-layout", &to])?;
            let size = std::fs::metadata(blob(&form.layout, &form.digest))?.len();
            manifests.push(
                json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": form.digest, "size": size,
                "platform": { "os": os, "architecture": arch } }),
            );
        }
        let file = self.folder.join("index.json");
        std::fs::write(&file, json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string())?;
        let to = format!("{}:{MADE}", layout.display());
        self.tool(
            "oras",
            &["manifest", "push", "--oci-layout", "--media-type", INDEX, &to, &file.display().to_string()],
        )?;
        // What `crane push` takes is a layout that lists one artifact; oras lists the parts too.
        let path = layout.join("index.json");
        let mut listed: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        let entries = listed["manifests"].as_array_mut().context("an index lists manifests")?;
        entries.retain(|entry| entry["annotations"][REF_NAME] == MADE);
        std::fs::write(&path, listed.to_string())?;
        let mut form = read(number, &layout)?;
        form.layer.clone_from(&wasm.layer);
        form.inside.clone_from(&wasm.layer);
        Ok(form)
    }
}

/// The file of a blob in a layout.
pub(crate) fn blob(layout: &Path, digest: &str) -> PathBuf {
    layout.join("blobs").join(digest.replace(':', "/"))
}

/// What a layout's `index.json` has under a tag.
pub(crate) fn tagged(layout: &Path, tag: &str) -> Result<Option<String>> {
    let path = layout.join("index.json");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let index: Value = serde_json::from_str(&text)?;
    let named = |entry: &&Value| {
        let name = entry["annotations"][REF_NAME].as_str().unwrap_or_default();
        name == tag || name.ends_with(&format!(":{tag}"))
    };
    let entries = index["manifests"].as_array().context("an index has manifests")?;
    Ok(entries.iter().find(named).and_then(|entry| entry["digest"].as_str()).map(str::to_owned))
}

fn read(number: usize, layout: &Path) -> Result<Form> {
    let digest = tagged(layout, MADE)?.context("the artifact was just made")?;
    let manifest: Value = serde_json::from_slice(&std::fs::read(blob(layout, &digest))?)?;
    let last = manifest["layers"].as_array().and_then(|layers| layers.last());
    let layer = last.and_then(|layer| layer["digest"].as_str()).unwrap_or_default().to_owned();
    let bytes = last.and_then(|layer| layer["size"].as_u64()).unwrap_or_default();
    let file = if layer.is_empty() { layout.to_owned() } else { blob(layout, &layer) };
    Ok(Form {
        number,
        layout: layout.to_owned(),
        digest,
        inside: layer.clone(),
        layer,
        file,
        layer_type: "",
        config: None,
        bytes,
    })
}

pub(crate) fn sha256(path: &Path) -> Result<String> {
    let mut file = std::fs::File::open(path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        let length = file.read(&mut piece)?;
        if length == 0 {
            return Ok(format!("sha256:{}", hex::encode(hash.finalize())));
        }
        hash.update(&piece[..length]);
    }
}

/// A valid Wasm module of about `bytes`, nearly all of it a custom section that doesn't compress.
fn padded(path: &Path, bytes: u64) -> Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    out.write_all(b"\0asm\x01\0\0\0\0")?;
    let mut rest = bytes;
    while rest >= 0x80 {
        out.write_all(&[u8::try_from(rest & 0x7f)? | 0x80])?;
        rest >>= 7;
    }
    out.write_all(&[u8::try_from(rest)?])?;
    out.write_all(b"\x03pad")?;
    let written = std::io::copy(&mut std::fs::File::open("/dev/urandom")?.take(bytes - 4), &mut out)?;
    ensure!(written == bytes - 4, "/dev/urandom ended");
    Ok(out.flush()?)
}

/// This machine's, as the image spec calls it.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
