//! Owns what can be told about an artifact without running it.

use serde::Serialize;

use super::Vyr;
use super::container::{self, ImageView};
use super::prepare::examine;
use super::pull::{Purpose, blocking};
use super::resolve::{PullMode, locate};
use super::verify::{Policy, stored, verify};
use crate::artifact::{ArtifactForm, Code, Manifest};
use crate::engine::inspect as inspect_wasm;
use crate::error::{ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, MAX_MANIFEST_BYTES};
use crate::trust::{Acceptance, SignatureMaterial};

/// What `vyr inspect` shows. The field names are stable.
#[derive(Debug, Clone, Serialize)]
pub struct Inspection {
    /// The REF as it was given.
    pub reference: String,
    /// The digest that it names.
    pub digest: String,
    /// Its media type.
    pub media_type: String,
    /// The manifest that would run.
    pub manifest: Option<String>,
    /// What it is: one of the accepted forms, in words, or why it is none.
    pub form: String,
    /// `module` or `component`.
    pub kind: Option<&'static str>,
    /// `wasip1`, `wasip2`, `none` …
    pub wasi: Option<&'static str>,
    /// What the Wasm imports.
    pub imports: Vec<String>,
    /// What the Wasm exports.
    pub exports: Vec<String>,
    /// The Wasm's size in bytes.
    pub wasm_bytes: Option<u64>,
    /// The manifest's annotations.
    pub annotations: std::collections::BTreeMap<String, String>,
    /// How many signatures of each form are known: simple, bundle, malformed.
    pub signatures: Signatures,
    /// Why it may run, if it may.
    pub acceptance: Option<Acceptance>,
    /// Why it may not, if it may not.
    pub refusal: Option<String>,
    /// Whether compiled code for this machine is there.
    pub compiled: bool,
    /// The image that runs where the Wasm can't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageView>,
}

/// Signatures by form.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Signatures {
    /// In the `sha256-….sig` tag.
    pub simple: usize,
    /// Sigstore bundles.
    pub bundle: usize,
    /// Neither, though in the place of one.
    pub malformed: usize,
}

/// What can be told of an artifact in the store from its manifests alone: its form, and whether its compiled code is on
/// disk. `None` where it can't be run, and where only its layers would tell.
#[must_use]
pub fn glance(vyr: &Vyr, root: &Digest) -> (Option<ArtifactForm>, Option<bool>) {
    let found = match examine(vyr, root) {
        Ok(found) => found,
        Err(e) if e.kind() == ErrorKind::CannotStart => return (Some(ArtifactForm::LinuxImage), None),
        Err(_) => return (None, None),
    };
    let compiled = match &found.source {
        Code::Layer(layer) => {
            vyr.engine().and_then(|engine| Ok(vyr.code_cache()?.entry(engine, layer.digest()).is_some())).ok()
        }
        Code::Entrypoint { .. } => None,
    };
    (Some(found.form), compiled)
}

/// Looks at an artifact, pulling it if the store lacks it.
///
/// # Errors
/// As for pulling. That it is refused, or isn't Wasm, is part of the answer.
pub async fn inspect(vyr: &Vyr, reference: &ArtifactRef, mode: PullMode) -> Result<Inspection> {
    let mut located = locate(vyr, reference, mode, Purpose::Keep).await?;
    let bytes = vyr.layout().read_verified(&located.root, MAX_MANIFEST_BYTES)?;
    let manifest = Manifest::parse(&bytes, None)?;
    let found = examine(vyr, &located.root);
    let selected = found.as_ref().map_or_else(|_| located.root.clone(), |f| f.selected.clone());
    let mut inspection = Inspection {
        reference: reference.to_string(),
        digest: located.root.to_string(),
        media_type: manifest.media_type(),
        manifest: found.as_ref().ok().map(|f| f.selected.to_string()),
        form: match &found {
            Ok(found) => found.form.describe().to_owned(),
            Err(e) if e.kind() == ErrorKind::CannotStart => ArtifactForm::LinuxImage.describe().to_owned(),
            Err(e) => format!("not runnable: {}", e.why()),
        },
        kind: None,
        wasi: None,
        imports: Vec::new(),
        exports: Vec::new(),
        wasm_bytes: None,
        annotations: manifest.annotations(),
        signatures: Signatures::default(),
        acceptance: None,
        refusal: None,
        compiled: false,
        image: container::describe(vyr, &located.root)?,
    };
    if let Ok(found) = found {
        let layout = vyr.layout().clone();
        let loaded = blocking(move || found.load(&layout)).await;
        match loaded {
            Ok(loaded) => {
                let engine = vyr.engine()?;
                inspection.compiled = vyr.code_cache()?.entry(engine, &loaded.code).is_some();
                inspection.wasm_bytes = Some(loaded.bytes.len() as u64);
                match inspect_wasm(&loaded.bytes) {
                    Ok(info) => {
                        inspection.kind = Some(info.kind.as_str());
                        inspection.wasi = Some(info.wasi);
                        inspection.imports = info.imports;
                        inspection.exports = info.exports;
                    }
                    Err(e) => inspection.form = format!("not runnable: {e}"),
                }
            }
            Err(e) => inspection.form = format!("not runnable: {}", e.why()),
        }
    }
    match verify(vyr, &Policy::load(vyr)?, &mut located, &selected).await {
        Ok(accepted) => inspection.acceptance = Some(accepted.acceptance().clone()),
        Err(e) => inspection.refusal = Some(e.why().to_owned()),
    }
    let repository = located.repository.clone();
    let mut material = stored(vyr, &located.root, repository.as_deref()).await?;
    if selected != located.root {
        material.extend(stored(vyr, &selected, repository.as_deref()).await?);
    }
    material.extend(located.unusable);
    for one in material {
        match one {
            SignatureMaterial::Simple(_) => inspection.signatures.simple += 1,
            SignatureMaterial::Bundle(_) => inspection.signatures.bundle += 1,
            SignatureMaterial::Unusable(_) => inspection.signatures.malformed += 1,
        }
    }
    Ok(inspection)
}
