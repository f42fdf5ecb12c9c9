//! Owns how a Wasm file becomes an artifact: the CNCF layout, pushed and signed.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::Vyr;
use super::pull::blocking;
use super::resolve::stored_name;
use super::sign::{keep, sign_in_registry};
use crate::artifact::{ComponentConfig, WasmConfig};
use crate::engine::{Kind, inspect};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, LayoutName, media, sha256};
use crate::trust::{self, SignedSubject, SigningKey};

/// What to push.
#[derive(Debug)]
pub struct PushRequest {
    /// Where to.
    pub reference: ArtifactRef,
    /// The Wasm file.
    pub file: PathBuf,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The key to sign with; unsigned when there is none.
    pub key: Option<SigningKey>,
}

/// What was pushed.
#[derive(Debug, Clone, Serialize)]
pub struct Pushed {
    /// The REF with its digest.
    pub reference: String,
    /// The manifest's digest.
    pub digest: String,
    /// The Wasm's digest.
    pub layer: String,
    /// The Wasm's size in bytes.
    pub size: u64,
    /// `module` or `component`.
    pub kind: &'static str,
    /// `sha256:<hex>` of the key that signed, if one did.
    pub key: Option<String>,
}

/// Makes the artifact, keeps it in the store, pushes it and signs it. The manifest is a function of the file, its name
/// and the annotations: the same push twice is the same digest.
///
/// # Errors
/// [`ErrorKind::InvalidContent`] when the file isn't Wasm; what the registry and the store fail with.
#[tracing::instrument(skip_all, fields(reference = %request.reference, digest))]
pub async fn push(vyr: &Vyr, request: PushRequest) -> Result<Pushed> {
    if request.reference.digest()?.is_some() {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("`{}` names a digest, which only the content decides", request.reference),
        )
        .hint("push to a tag, as in host/repository:v1"));
    }
    let path = request.file.clone();
    let bytes = blocking(move || {
        std::fs::read(&path).map_err(|e| {
            let kind = if e.kind() == std::io::ErrorKind::NotFound { ErrorKind::Usage } else { ErrorKind::Storage };
            Error::new(kind, format!("{} can't be read: {e}", path.display()))
        })
    })
    .await?;
    let info =
        inspect(&bytes).map_err(|e| Error::from(e).attempted(format_args!("push {}", request.file.display())))?;
    let layer = sha256(&bytes);
    let size = bytes.len() as u64;
    let component = (info.kind == Kind::Component).then_some(ComponentConfig {
        exports: info.exports,
        imports: info.imports,
        target: None,
    });
    let config = serde_json::to_vec(&WasmConfig::for_layer(&layer, component)).map_err(encode)?;
    let title = request.file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": {"mediaType": media::WASM_CONFIG_V0, "digest": sha256(&config).to_string(), "size": config.len()},
        "layers": [{"mediaType": media::WASM_LAYER, "digest": layer.to_string(), "size": size,
            "annotations": {"org.opencontainers.image.title": title}}],
    });
    if !request.annotations.is_empty() {
        manifest["annotations"] = json!(request.annotations);
    }
    let manifest = serde_json::to_vec(&manifest).map_err(encode)?;
    let digest = sha256(&manifest);
    tracing::Span::current().record("digest", tracing::field::display(&digest));

    let store = vyr.store().await?;
    let lease = store.lease()?;
    let (layout, held, contents) = (vyr.layout().clone(), lease.clone(), [config.clone(), bytes]);
    blocking(move || {
        for content in contents {
            let mut writer = layout.writer(None, None)?;
            writer.add(&content)?;
            writer.commit(&held)?;
        }
        Ok(())
    })
    .await?;
    let mut batch = store.batch()?;
    let origin = request.reference.repository();
    batch.put_manifest(&lease, Some(&digest), &manifest, Some(media::MANIFEST), origin.as_deref()).await?;
    let subject =
        SignedSubject { digest: digest.clone(), media_type: media::MANIFEST.to_owned(), size: manifest.len() as u64 };
    let key = request.key.as_ref().map(|k| k.key_id().to_owned());
    let reference = match &request.reference {
        ArtifactRef::Registry(reference) => {
            let client = vyr.client(reference)?;
            client.push_blob_bytes(reference, &sha256(&config), config.into(), None, &()).await?;
            // Where this very artifact went before, on the same registry, its blob can be mounted instead of sent.
            let here = format!("{}/", reference.registry());
            let origins = store.origins(&digest).await?;
            let elsewhere = origins.iter().filter_map(|o| o.strip_prefix(&here)).find(|o| *o != reference.repository());
            let progress = vyr.reporter().begin(&format!("push {}", request.file.display()), size);
            client.push_blob(reference, &layer, size, &vyr.layout().blob_path(&layer), elsewhere, &*progress).await?;
            drop(progress);
            client.push_manifest(reference, media::MANIFEST, &manifest).await?;
            if let Some(name) = stored_name(reference) {
                batch.tag(&name, &digest)?;
            }
            batch.commit().await?;
            if let Some(key) = &request.key {
                let forms = sign_in_registry(vyr, reference, &subject, key).await?;
                keep(vyr, Some(reference), &forms).await?;
            }
            format!("{}@{digest}", reference.whole())
        }
        ArtifactRef::Layout { path, name } => {
            batch.commit().await?;
            if let Some(key) = &request.key {
                keep(vyr, None, &trust::sign(key, None, &subject, None)?).await?;
            }
            let tag = match name {
                Some(LayoutName::Tag(tag)) => Some(tag.clone()),
                _ => None,
            };
            store.export(&[(digest.clone(), tag)], path).await?;
            format!("oci:{}@{digest}", path.display())
        }
        ArtifactRef::Stored(_) => unreachable!("refused above"),
    };
    Ok(Pushed { reference, digest: digest.to_string(), layer: layer.to_string(), size, kind: info.kind.as_str(), key })
}

fn encode(e: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("the manifest can't be written: {e}"))
}
