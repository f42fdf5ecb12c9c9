//! Owns one cell's surroundings: its repository, the client's home, and the judge, another client that looks at the outcome.

use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::form::{Form, Forms, MADE, sha256, tagged};
use crate::keys::Keys;
use crate::kit::{Home, Kit};
use crate::place::{Kind, Place, USER};

/// The tag that cells use.
pub(crate) const TAG: &str = "v1";

#[derive(Debug)]
pub(crate) struct Ctx<'a> {
    pub(crate) kit: &'a Kit,
    pub(crate) forms: &'a Forms,
    pub(crate) keys: &'a Keys,
    pub(crate) place: &'a Place,
    /// A registry for clients that copy to and from a layout folder and can't make one out of nothing.
    pub(crate) aside: Option<&'a Place>,
    pub(crate) repository: String,
    pub(crate) home: Home,
    /// The registry's name as the client sees it: another one than the place's when a proxy stands between.
    pub(crate) host: String,
    judge: Home,
}

impl<'a> Ctx<'a> {
    pub(crate) fn new(
        kit: &'a Kit,
        forms: &'a Forms,
        keys: &'a Keys,
        place: &'a Place,
        aside: Option<&'a Place>,
        repository: String,
    ) -> Result<Self> {
        let (home, judge, host) = (kit.home()?, kit.home()?, place.host.clone());
        if let Some(password) = &place.password {
            judge.run(kit.path("oras")?, &["login", &place.host, "--username", USER, "--password", password])?;
        }
        Ok(Self { kit, forms, keys, place, aside, repository, home, host, judge })
    }

    /// More time, for what moves a large blob.
    pub(crate) fn patient(&mut self) {
        self.home.seconds = 600;
        self.judge.seconds = 600;
    }

    pub(crate) fn is_layout(&self) -> bool {
        self.place.is_layout()
    }

    /// Runs a tool in the client's home.
    pub(crate) fn tool(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.home.run(self.kit.path(name)?, arguments)
    }

    /// The same, in a home that the client doesn't see.
    pub(crate) fn judge(&self, name: &str, arguments: &[&str]) -> Result<String> {
        self.judge.run(self.kit.path(name)?, arguments)
    }

    /// `HOST/REPOSITORY`, or a layout's folder.
    pub(crate) fn repository(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    pub(crate) fn tagged(&self, tag: &str) -> String {
        format!("{}:{tag}", self.repository())
    }

    pub(crate) fn by_digest(&self, digest: &str) -> String {
        format!("{}@{digest}", self.repository())
    }

    /// The same reference past any proxy.
    fn direct(&self, reference: &str) -> String {
        reference.replacen(&self.host, &self.place.host, 1)
    }

    /// A file of the client's folder that is `path`, under its own name.
    pub(crate) fn lay(&self, path: &Path) -> Result<String> {
        let name = path.file_name().context("a file")?.to_string_lossy().into_owned();
        let target = self.home.work().join(&name);
        if !target.exists() {
            std::fs::hard_link(path, &target).or_else(|_| std::fs::copy(path, &target).map(|_| ()))?;
        }
        Ok(name)
    }

    /// Puts a form there without the client.
    pub(crate) fn seed(&self, form: &Form, tag: &str) -> Result<()> {
        self.seed_at(form, &self.direct(&self.tagged(tag)))
    }

    /// The same, of a blob that one request can't bring everywhere.
    pub(crate) fn seed_huge(&self, form: &Form, tag: &str) -> Result<()> {
        if self.place.kind != Kind::Ferro {
            return self.seed(form, tag);
        }
        let (to, file) = (self.tagged(tag), form.file.display().to_string());
        self.judge("wkg", &["oci", "push", "--insecure", &self.place.host, &to, &file])?;
        Ok(())
    }

    pub(crate) fn seed_at(&self, form: &Form, target: &str) -> Result<()> {
        let from = format!("{}:{MADE}", form.layout.display());
        let mut words = vec!["cp", "--from-oci-layout", &from];
        if target.starts_with('/') {
            words.push("--to-oci-layout");
        }
        words.push(target);
        self.judge("oras", &words).context("the artifact could not be put there to begin with")?;
        Ok(())
    }

    /// The digest that a tag or a reference has, seen by crane.
    pub(crate) fn digest_of(&self, reference: &str) -> Result<String> {
        if self.is_layout() {
            let (folder, tag) = reference.rsplit_once(':').context("a reference has a tag")?;
            if let Some(folder) = folder.strip_suffix("@sha256") {
                let kept = std::fs::read_to_string(Path::new(folder).join("index.json"))?;
                ensure!(kept.contains(tag), "the layout doesn't list {tag}");
                return Ok(format!("sha256:{tag}"));
            }
            return tagged(Path::new(folder), tag)?.with_context(|| format!("the layout has no {tag}"));
        }
        Ok(self.judge("crane", &["digest", &self.direct(reference)])?.trim().to_owned())
    }

    pub(crate) fn manifest_of(&self, reference: &str) -> Result<Value> {
        let reference = self.direct(reference);
        let mut words = vec!["manifest", "fetch", &reference];
        if self.is_layout() {
            words.push("--oci-layout");
        }
        Ok(serde_json::from_str(&self.judge("oras", &words)?)?)
    }

    /// Demands that what is there is the form: bit by bit, or, where the client made the manifest, by its types and layer.
    pub(crate) fn expect_form(&self, form: &Form, reference: &str) -> Result<()> {
        if self.digest_of(reference)? == form.digest {
            return Ok(());
        }
        let manifest = self.manifest_of(reference)?;
        let layer = manifest["layers"].as_array().and_then(|layers| layers.last());
        let layer = layer.with_context(|| format!("what arrived has no layer: {manifest}"))?;
        ensure!(layer["digest"] == form.layer.as_str(), "another layer arrived: {manifest}");
        if !form.layer_type.is_empty() {
            ensure!(layer["mediaType"] == form.layer_type, "the layer's media type arrived changed: {manifest}");
        }
        if let Some((_, media_type)) = form.config {
            ensure!(
                manifest["config"]["mediaType"] == media_type,
                "the config's media type arrived changed: {manifest}"
            );
        }
        ensure!(!form.layer_type.is_empty(), "the manifest arrived changed: {manifest}");
        Ok(())
    }

    /// Demands an image, of a client that makes its own.
    pub(crate) fn expect_image(&self, reference: &str) -> Result<()> {
        let manifest = self.manifest_of(reference)?;
        let config = &manifest["config"]["mediaType"];
        ensure!(config == "application/vnd.oci.image.config.v1+json", "this is no image: {manifest}");
        ensure!(manifest["layers"].as_array().is_some_and(|layers| !layers.is_empty()), "it has no layers: {manifest}");
        Ok(())
    }

    /// Demands that the client's home has the layer, or the file that was in it.
    pub(crate) fn expect_pulled(&self, form: &Form) -> Result<()> {
        let mut folders = vec![self.home.work(), self.home.vyr_home()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for entry in entries {
                let (entry, kind) = (entry.as_ref(), entry.as_ref().map(std::fs::DirEntry::file_type));
                let (Ok(entry), Ok(Ok(kind))) = (entry, kind) else { continue };
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    let found = sha256(&entry.path())?;
                    if found == form.layer || found == form.inside {
                        return Ok(());
                    }
                }
            }
        }
        bail!("the command succeeded, and the layer isn't there")
    }
}
