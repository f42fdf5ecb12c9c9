//! Owns how a Wasm file becomes an artifact: the CNCF layout, alone or in an index beside container images, pushed and signed.

mod dual;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use super::Vyr;
use super::pull::blocking;
use super::resolve::{meant_file, stored_name};
use super::sign::{keep, sign_in_registry};
use crate::artifact::{ComponentConfig, WasmConfig};
use crate::engine::{Kind, foresee, inspect};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, LayoutName, media, sha256};
use crate::registry::NOT_ACCEPTED;
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
    /// Container images that may run where the Wasm can't.
    pub fallback: Vec<ArtifactRef>,
    /// The key to sign with; unsigned when there is none.
    pub key: Option<SigningKey>,
}

/// What was pushed.
#[derive(Debug, Clone, Serialize)]
pub struct Pushed {
    /// The REF with its digest.
    pub reference: String,
    /// The digest of the manifest, or of the index.
    pub digest: String,
    /// The digests of the container images beside it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
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
        std::fs::read(&path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::Usage, format!("{} can't be read: {e}", path.display()))
            }
            std::io::ErrorKind::IsADirectory => Error::new(ErrorKind::Usage, format!("{} is a folder", path.display()))
                .hint("give the .wasm file that the build made in it"),
            _ => Error::new(ErrorKind::Storage, format!("{} can't be read: {e}", path.display())),
        })
    })
    .await
    .map_err(|e| match &request.reference {
        ArtifactRef::Registry(reference) if meant_file(reference).is_some() => {
            e.hint("the file stands last: `vyr push REF FILE`")
        }
        _ => e.hint("check the path; the build tells where it put the .wasm file"),
    })?;
    let info =
        inspect(&bytes).map_err(|e| Error::from(e).attempted(format_args!("push {}", request.file.display())))?;
    if let (Some(obstacle), true) = (foresee(&info), request.fallback.is_empty()) {
        vyr.reporter().note(&format!("vyr can't run what is pushed: {obstacle}; {}", obstacle.hint()));
    }
    let layer = sha256(&bytes);
    let size = bytes.len() as u64;
    let component = (info.kind == Kind::Component).then_some(ComponentConfig {
        exports: info.exports,
        imports: info.imports,
        target: None,
    });
    let images = beside(vyr, &request.fallback).await?;
    let config = WasmConfig::for_layer(&layer, component);
    let os = config.os.clone();
    let config = serde_json::to_vec(&config).map_err(encode)?;
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
    let wasm = sha256(&manifest);
    let (digest, top, top_type) = if images.is_empty() {
        (wasm.clone(), manifest.clone(), media::MANIFEST)
    } else {
        let index = dual::index((&wasm, manifest.len(), &os), &images, &request.annotations)?;
        (sha256(&index), index, media::INDEX)
    };
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
    if !images.is_empty() {
        batch.put_manifest(&lease, Some(&wasm), &manifest, Some(media::MANIFEST), origin.as_deref()).await?;
        for image in &images {
            let media_type = Some(image.media_type.as_str());
            batch.put_manifest(&lease, Some(&image.digest), &image.bytes, media_type, origin.as_deref()).await?;
        }
    }
    batch.put_manifest(&lease, Some(&digest), &top, Some(top_type), origin.as_deref()).await?;
    let subject = SignedSubject { digest: digest.clone(), media_type: top_type.to_owned(), size: top.len() as u64 };
    let key = request.key.as_ref().map(|k| k.key_id().to_owned());
    let reference = match &request.reference {
        ArtifactRef::Registry(reference) => {
            let client = vyr.client(reference)?;
            // The first that a server hears of it: whether it is a registry shows here.
            if let Err(e) = client.push_blob_bytes(reference, &sha256(&config), config.into(), None, &()).await {
                let unknown = e.kind() == ErrorKind::NotFound || e.cause() == Some(NOT_ACCEPTED);
                return Err(if unknown { client.why_missing(reference, e).await } else { e });
            }
            // Where this very artifact went before, on the same registry, its blob can be mounted instead of sent.
            let here = format!("{}/", reference.registry());
            let origins = store.origins(&wasm).await?;
            let mut places = origins.iter().filter_map(|origin| origin.repository.strip_prefix(&here));
            let elsewhere = places.find(|place| *place != reference.repository());
            let progress = vyr.reporter().begin(&format!("push {}", request.file.display()), size);
            client.push_blob(reference, &layer, size, &vyr.layout().blob_path(&layer), elsewhere, &*progress).await?;
            drop(progress);
            if !images.is_empty() {
                client
                    .push_manifest(&reference.clone_with_digest(wasm.to_string()), media::MANIFEST, &manifest)
                    .await?;
                for image in &images {
                    dual::send(vyr, client, reference, image).await?;
                }
            }
            client.push_manifest(reference, top_type, &top).await?;
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
    Ok(Pushed {
        reference,
        digest: digest.to_string(),
        images: images.iter().map(|image| image.digest.to_string()).collect(),
        layer: layer.to_string(),
        size,
        kind: info.kind.as_str(),
        key,
    })
}

/// The images that are to stand beside the Wasm.
async fn beside(vyr: &Vyr, sources: &[ArtifactRef]) -> Result<Vec<dual::Image>> {
    let mut images: Vec<dual::Image> = Vec::new();
    for source in sources {
        let found =
            dual::images(vyr, source).await.map_err(|e| e.attempted(format_args!("take the image {source}")))?;
        for image in found {
            if !images.iter().any(|other| other.digest == image.digest) {
                images.push(image);
            }
        }
    }
    Ok(images)
}

fn encode(e: serde_json::Error) -> Error {
    Error::new(ErrorKind::Internal, format!("the manifest can't be written: {e}"))
}
