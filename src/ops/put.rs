//! Owns `put_artifact`: an artifact enters the store from its parts, with no registry.

use bytes::Bytes;
use serde::Serialize;

use super::Vyr;
use super::own::is_own;
use super::pull::blocking;
use crate::artifact::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, check_digest, media, parse_reference, sha256};
use crate::store::own_name;
use crate::trust::{self, SignedSubject};

/// The parts.
#[derive(Debug, Default)]
pub struct Parts {
    /// The digest that the manifest must have, if the caller knows it.
    pub digest: Option<Digest>,
    /// The manifest's exact bytes.
    pub manifest: Bytes,
    /// Its media type, where the caller says.
    pub media_type: Option<String>,
    /// The blobs it names, those that the store lacks.
    pub blobs: Vec<Bytes>,
    /// Signatures: Sigstore bundles (JSON, v0.3) over the manifest's digest.
    pub signatures: Vec<Bytes>,
    /// A name for it, `host/repository:tag`.
    pub name: Option<String>,
    /// The repository that it is said to come from.
    pub repository: Option<String>,
}

/// What was put.
#[derive(Debug, Clone, Serialize)]
pub struct Put {
    /// The manifest's digest.
    pub digest: String,
    /// How many blobs were given.
    pub blobs: usize,
    /// How many signatures were attached.
    pub signatures: usize,
}

/// Puts an artifact into the store: every digest is computed here, and the manifest is listed only when all that it
/// names is there. The signatures are kept with it; whether they count is asked when it runs.
///
/// # Errors
/// [`ErrorKind::Refused`] for a digest that doesn't match; [`ErrorKind::InvalidContent`] for a malformed manifest or
/// bundle; [`ErrorKind::NotFound`] for a blob that is missing; the store's own.
#[tracing::instrument(skip_all, fields(digest))]
pub async fn put_artifact(vyr: &Vyr, parts: Parts) -> Result<Put> {
    let digest = match &parts.digest {
        Some(digest) => {
            check_digest(digest, &parts.manifest)?;
            digest.clone()
        }
        None => sha256(&parts.manifest),
    };
    tracing::Span::current().record("digest", tracing::field::display(&digest));
    let parsed = Manifest::parse(&parts.manifest, parts.media_type.as_deref())?;
    let media_type = parts.media_type.clone().unwrap_or_else(|| parsed.media_type());
    let wanted: Vec<Digest> = match &parsed {
        Manifest::Image(m) => std::iter::once(m.config()).chain(m.layers()).map(|d| d.digest().clone()).collect(),
        Manifest::Index(i) => i.manifests().iter().map(|d| d.digest().clone()).collect(),
    };
    let subject =
        SignedSubject { digest: digest.clone(), media_type: media_type.clone(), size: parts.manifest.len() as u64 };
    let bundles = parts
        .signatures
        .iter()
        .map(|b| trust::wrap_bundle(b, &subject).map_err(|e| unusable(&e)))
        .collect::<Result<Vec<_>>>()?;
    let store = vyr.store().await?;
    let lease = store.lease()?;
    let count = parts.blobs.len();
    let (layout, held) = (vyr.layout().clone(), lease.clone());
    let mut contents: Vec<(Option<Digest>, Bytes)> = Vec::new();
    for blob in parts.blobs {
        // In the algorithm that the manifest names it by: that may be sha512.
        let named = wanted.iter().find(|d| check_digest(d, &blob).is_ok()).cloned();
        let named = named.ok_or_else(|| {
            Error::new(
                ErrorKind::Refused,
                format!(
                    "a blob of {} bytes has the digest {}, which the manifest does not name",
                    blob.len(),
                    sha256(&blob)
                ),
            )
            .hint("give the blobs that belong to this manifest, unaltered")
        })?;
        contents.push((Some(named), blob));
    }
    for bundle in &bundles {
        contents.extend(bundle.blobs.iter().map(|b| (Some(b.digest.clone()), Bytes::copy_from_slice(&b.bytes))));
    }
    blocking(move || {
        for (digest, content) in contents {
            let mut writer = layout.writer(digest.as_ref(), None)?;
            writer.add(&content)?;
            writer.commit(&held)?;
        }
        Ok(())
    })
    .await?;
    // Under a name of the node's own registry it is what a push there leaves. Any other is the word of who puts it.
    let own = parts.name.as_deref().and_then(|name| parse_reference(name).ok());
    let own = own.filter(|reference| is_own(&vyr.config().home, reference));
    let (pushed, claimed) = if own.is_some() { (parts.repository, None) } else { (None, parts.repository) };
    let mut batch = store.batch()?;
    batch.put_manifest(&lease, Some(&digest), &parts.manifest, Some(&media_type), pushed.as_deref()).await?;
    if let Some(repository) = claimed {
        batch.claim(&digest, &repository);
    }
    for bundle in &bundles {
        batch.put_manifest(&lease, Some(&bundle.digest), &bundle.manifest, Some(media::MANIFEST), None).await?;
    }
    if let Some(name) = &parts.name {
        match own.as_ref().and_then(|own| Some((own.repository(), own.tag()?))) {
            Some((repository, tag)) => {
                batch.tag(&own_name(repository, tag), &digest)?;
                batch.show_in(repository)?;
            }
            None => batch.tag(name, &digest)?,
        }
    }
    batch.commit().await?;
    Ok(Put { digest: digest.to_string(), blobs: count, signatures: bundles.len() })
}

fn unusable(why: &trust::Unusable) -> Error {
    let why = match why {
        trust::Unusable::TooLarge { what, size, limit } => {
            format!("the signature {what} has {size} bytes; at most {limit} are read")
        }
        trust::Unusable::TooMany { count } => format!("{count} signatures are too many"),
        trust::Unusable::Payload(why) | trust::Unusable::Bundle(why) => {
            format!("the signature is not a Sigstore bundle: {why}")
        }
    };
    Error::new(ErrorKind::InvalidContent, why).hint("give the JSON that `cosign sign --bundle` or `vyr sign` writes")
}
