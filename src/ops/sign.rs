//! Owns signing what a registry or the store holds, in both forms that cosign reads, and this machine's own key.

use serde::Serialize;

use super::Vyr;
use super::pull::{Purpose, blocking};
use super::resolve::{PullMode, locate, stored_name};
use crate::artifact::Manifest;
use crate::config::{Home, write_new_private};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, MAX_MANIFEST_BYTES, Reference, media, repository_of};
use crate::trust::{self, Algorithm, Blob, SignedForms, SignedSubject, SigningKey};

/// This machine's signing key, made at first use and kept so that only this user reads it.
///
/// # Errors
/// When it can't be read or made.
pub fn machine_key(home: &Home) -> Result<SigningKey> {
    let path = home.machine_key();
    let read = || match std::fs::read_to_string(&path) {
        Ok(text) => SigningKey::from_pem(&text, None).map(Some).map_err(Error::from),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => {
            Err(Error::new(ErrorKind::Storage, format!("this machine's key {} can't be read: {e}", path.display())))
        }
    };
    let key = match read()? {
        Some(key) => key,
        None => {
            let made = SigningKey::generate(Algorithm::EcdsaP256)?;
            write_new_private(&path, made.to_pem().as_bytes())?;
            // Another process may have been first: what stands in the file counts.
            read()?.ok_or_else(|| Error::new(ErrorKind::Storage, "this machine's key vanished after it was written"))?
        }
    };
    if !home.machine_public_key().exists() {
        write_new_private(&home.machine_public_key(), key.public_pem().as_bytes())?;
    }
    Ok(key)
}

/// What was signed.
#[derive(Debug, Clone, Serialize)]
pub struct Signed {
    /// The REF with its digest.
    pub reference: String,
    /// The digest that is signed.
    pub digest: String,
    /// `sha256:<hex>` of the public key.
    pub key: String,
    /// The tag of the simple form.
    pub tag: String,
    /// The digest of the bundle's referrer.
    pub bundle: String,
}

/// Signs the digest that `reference` names, and puts both forms beside it: into the registry for a registry reference,
/// into the store for what is there, into the layout for `oci:`.
///
/// # Errors
/// What the key, the registry and the store fail with.
pub async fn sign(vyr: &Vyr, reference: &ArtifactRef, key: &SigningKey) -> Result<Signed> {
    match reference {
        ArtifactRef::Registry(reference) => {
            let fetched = vyr.client(reference)?.manifest(reference).await?;
            let media_type = Manifest::parse(&fetched.bytes, Some(&fetched.media_type))?.media_type();
            let subject =
                SignedSubject { digest: fetched.digest.clone(), media_type, size: fetched.bytes.len() as u64 };
            let forms = sign_in_registry(vyr, reference, &subject, key).await?;
            if vyr.layout().blob_size(&fetched.digest)?.is_some() {
                keep(vyr, Some(reference), &forms).await?;
            }
            Ok(signed(&reference.whole(), &fetched.digest, key, &forms))
        }
        other => {
            let located = locate(vyr, other, PullMode::Never, Purpose::Keep).await?;
            let bytes = vyr.layout().read_verified(&located.root, MAX_MANIFEST_BYTES)?;
            let media_type = Manifest::parse(&bytes, None)?.media_type();
            let subject = SignedSubject { digest: located.root.clone(), media_type, size: bytes.len() as u64 };
            let forms = trust::sign(key, located.repository.as_deref(), &subject, None)?;
            keep(vyr, None, &forms).await?;
            if let ArtifactRef::Layout { path, .. } = other {
                vyr.store().await?.export(&[(located.root.clone(), None)], path).await?;
            }
            Ok(signed(&other.to_string(), &located.root, key, &forms))
        }
    }
}

fn signed(reference: &str, digest: &Digest, key: &SigningKey, forms: &SignedForms) -> Signed {
    let reference = if reference.contains('@') || reference.starts_with("sha") {
        reference.to_owned()
    } else {
        format!("{reference}@{digest}")
    };
    Signed {
        reference,
        digest: digest.to_string(),
        key: key.key_id().to_owned(),
        tag: forms.simple.tag.clone(),
        bundle: forms.bundle.digest.to_string(),
    }
}

/// Makes both forms and pushes them.
pub(super) async fn sign_in_registry(
    vyr: &Vyr,
    reference: &Reference,
    subject: &SignedSubject,
    key: &SigningKey,
) -> Result<SignedForms> {
    let client = vyr.client(reference)?;
    let tagged = Reference::with_tag(
        reference.registry().to_owned(),
        reference.repository().to_owned(),
        trust::sig_tag(&subject.digest),
    );
    let existing = match client.manifest(&tagged).await {
        Ok(fetched) => Some(fetched.bytes),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    let forms = trust::sign(key, Some(&repository_of(reference)), subject, existing.as_deref())?;
    let push = async |blobs: &[Blob]| -> Result<()> {
        for blob in blobs {
            client.push_blob_bytes(reference, &blob.digest, blob.bytes.clone().into(), None, &()).await?;
        }
        Ok(())
    };
    push(&forms.simple.blobs).await?;
    client.push_manifest(&tagged, media::MANIFEST, &forms.simple.manifest).await?;
    push(&forms.bundle.blobs).await?;
    client
        .push_referrer(
            reference,
            media::MANIFEST,
            &forms.bundle.manifest,
            &subject.digest,
            Some(media::SIGSTORE_BUNDLE),
        )
        .await?;
    Ok(forms)
}

/// The name in the store of a signature's tag that no registry has.
pub(super) fn signature_name(tag: &str) -> String {
    format!("local.invalid/signatures:{tag}")
}

/// Puts both forms into the store.
pub(super) async fn keep(vyr: &Vyr, reference: Option<&Reference>, forms: &SignedForms) -> Result<()> {
    let store = vyr.store().await?;
    let lease = store.lease()?;
    let mut batch = store.batch()?;
    let origin = reference.map(repository_of);
    let blobs: Vec<Blob> = forms.simple.blobs.iter().chain(&forms.bundle.blobs).cloned().collect();
    let (layout, held) = (vyr.layout().clone(), lease.clone());
    blocking(move || {
        for blob in blobs {
            let mut writer = layout.writer(Some(&blob.digest), None)?;
            writer.add(&blob.bytes)?;
            writer.commit(&held)?;
        }
        Ok(())
    })
    .await?;
    // A .sig manifest that already stood in the registry may name payloads of others, which the store may lack.
    let simple = batch
        .put_manifest(
            &lease,
            Some(&forms.simple.digest),
            &forms.simple.manifest,
            Some(media::MANIFEST),
            origin.as_deref(),
        )
        .await;
    if simple.is_ok() {
        let name = match reference {
            Some(reference) => stored_name(&Reference::with_tag(
                reference.registry().to_owned(),
                reference.repository().to_owned(),
                forms.simple.tag.clone(),
            )),
            None => Some(signature_name(&forms.simple.tag)),
        };
        if let Some(name) = name {
            batch.tag(&name, &forms.simple.digest)?;
        }
    }
    batch
        .put_manifest(
            &lease,
            Some(&forms.bundle.digest),
            &forms.bundle.manifest,
            Some(media::MANIFEST),
            origin.as_deref(),
        )
        .await?;
    Ok(batch.commit().await?)
}
