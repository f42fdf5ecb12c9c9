//! Owns the dual artifact: container images beside the Wasm, from wherever they are, in one index.

use serde_json::{Value, json};

use super::encode;
use crate::artifact::{ImageConfig, Manifest, Recognised, recognise};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Descriptor, Digest, ImageIndex, MAX_MANIFEST_BYTES, Reference, media};
use crate::ops::Vyr;
use crate::ops::pull::{Purpose, pull_all};
use crate::ops::resolve::{PullMode, locate};
use crate::registry::Client;
use crate::store::Layout;

/// A container image in the store.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) digest: Digest,
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
    /// As the index is to say it: `{"os": "linux", "architecture": "amd64"}`.
    platform: Value,
    /// The repository that it came from, where that is a registry's.
    from: Option<Reference>,
    blobs: Vec<Descriptor>,
}

/// Gets every Linux image that `source` names into the store: itself, or all that an index of it lists.
pub(super) async fn images(vyr: &Vyr, source: &ArtifactRef) -> Result<Vec<Image>> {
    let root = match source {
        ArtifactRef::Registry(reference) if !crate::ops::own::is_own(&vyr.config().home, reference) => {
            pull_all(vyr, reference).await?
        }
        _ => locate(vyr, source, PullMode::Missing, Purpose::Keep).await?.root,
    };
    let from = match source {
        ArtifactRef::Registry(reference) => Some(reference.clone()),
        _ => None,
    };
    let mut found = Vec::new();
    gather(vyr.layout(), &root, None, 0, from.as_ref(), &mut found)?;
    if found.is_empty() {
        return Err(Error::new(ErrorKind::InvalidContent, format!("{source} holds no image for Linux"))
            .hint("give an image that a container engine runs, or an index of such"));
    }
    Ok(found)
}

/// How deep indexes may lie in each other.
const DEPTH: usize = 2;

fn gather(
    layout: &Layout,
    digest: &Digest,
    listed: Option<&Descriptor>,
    depth: usize,
    from: Option<&Reference>,
    found: &mut Vec<Image>,
) -> Result<()> {
    let bytes = layout.read_verified(digest, MAX_MANIFEST_BYTES)?;
    let parsed = Manifest::parse(&bytes, listed.map(|d| d.media_type().as_ref()))?;
    let media_type = parsed.media_type();
    let manifest = match parsed {
        Manifest::Image(manifest) => manifest,
        Manifest::Index(index) if depth < DEPTH => return gather_index(layout, &index, depth, from, found),
        Manifest::Index(_) => return Ok(()),
    };
    let Recognised::Image { config, layers } = recognise(&manifest)? else { return Ok(()) };
    let parsed = layout.read_verified(config.digest(), MAX_MANIFEST_BYTES)?;
    if ImageConfig::parse(&parsed)?.os != "linux" || found.iter().any(|image| image.digest == *digest) {
        return Ok(());
    }
    let said = listed.and_then(|d| d.platform().as_ref()).map(serde_json::to_value).transpose().map_err(encode)?;
    let platform = match said {
        Some(platform) => platform,
        None => platform_of(&parsed)?,
    };
    let blobs = std::iter::once(*config).chain(layers).collect();
    found.push(Image { digest: digest.clone(), media_type, bytes, platform, from: from.cloned(), blobs });
    Ok(())
}

fn gather_index(
    layout: &Layout,
    index: &ImageIndex,
    depth: usize,
    from: Option<&Reference>,
    found: &mut Vec<Image>,
) -> Result<()> {
    for child in index.manifests() {
        // What describes an image without being one says `unknown/unknown`.
        let linux = child.platform().as_ref().is_none_or(|platform| platform.os().to_string() == "linux");
        if linux && layout.blob_size(child.digest())?.is_some() {
            gather(layout, child.digest(), Some(child), depth + 1, from, found)?;
        }
    }
    Ok(())
}

/// The platform that an image's config says it is for.
fn platform_of(config: &[u8]) -> Result<Value> {
    let config: Value = serde_json::from_slice(config)
        .map_err(|e| Error::new(ErrorKind::InvalidContent, format!("the image config is malformed: {e}")))?;
    let mut platform = json!({});
    for field in ["architecture", "os", "os.version", "variant"] {
        if let Some(value) = config.get(field).filter(|value| value.as_str().is_some_and(|text| !text.is_empty())) {
            platform[field] = value.clone();
        }
    }
    Ok(platform)
}

/// The index that lists the Wasm first, then the images.
pub(super) fn index(
    wasm: (&Digest, usize, &str),
    images: &[Image],
    annotations: &std::collections::BTreeMap<String, String>,
) -> Result<Vec<u8>> {
    let (digest, size, os) = wasm;
    let mut manifests = vec![json!({
        "mediaType": media::MANIFEST, "digest": digest.to_string(), "size": size,
        "platform": {"architecture": "wasm", "os": os},
    })];
    manifests.extend(images.iter().map(|image| {
        json!({
            "mediaType": image.media_type, "digest": image.digest.to_string(), "size": image.bytes.len(),
            "platform": image.platform,
        })
    }));
    let mut index = json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": manifests});
    if !annotations.is_empty() {
        index["annotations"] = json!(annotations);
    }
    serde_json::to_vec(&index).map_err(encode)
}

/// Sends an image's blobs and its manifest to the repository of `reference`.
pub(super) async fn send(vyr: &Vyr, client: &Client, reference: &Reference, image: &Image) -> Result<()> {
    let elsewhere =
        image.from.as_ref().filter(|from| from.registry() == reference.registry()).map(Reference::repository);
    let elsewhere = elsewhere.filter(|from| *from != reference.repository());
    for blob in &image.blobs {
        let short: String = blob.digest().digest().chars().take(12).collect();
        let progress = vyr.reporter().begin(&format!("push {short}"), blob.size());
        let path = vyr.layout().blob_path(blob.digest());
        client.push_blob(reference, blob.digest(), blob.size(), &path, elsewhere, &*progress).await?;
    }
    let by_digest = reference.clone_with_digest(image.digest.to_string());
    client.push_manifest(&by_digest, &image.media_type, &image.bytes).await?;
    Ok(())
}
