//! Owns what is done with receipts: whether one is genuine, and putting it beside its artifact in a registry.

use serde::Serialize;

use super::Vyr;
use super::verify::Policy;
use crate::artifact::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Reference, media, parse_reference};
use crate::receipt::{self, PREDICATE_TYPE, Receipt};
use crate::trust::{self, SignedSubject, Signer, VerifyingKey};

/// A receipt that is genuine.
#[derive(Debug)]
pub struct Genuine {
    /// What it says.
    pub receipt: Receipt,
    /// Who signed it.
    pub signer: Signer,
}

/// Whether the receipt in `bundle` is signed by `key`, or else by somebody whose signatures the trust policy takes for
/// the artifact that it is about; this machine's own key is one.
///
/// # Errors
/// [`ErrorKind::InvalidContent`]: it is no receipt. [`ErrorKind::Refused`]: it was altered, or signed by somebody else.
pub fn verify(vyr: &Vyr, bundle: &[u8], key: Option<(&VerifyingKey, &str)>) -> Result<Genuine> {
    let receipt = receipt::read(bundle)?;
    let signer = match key {
        Some((key, listed)) => trust::verify_statement_by(key, listed, &receipt.subject, bundle, PREDICATE_TYPE),
        None => {
            let policy = Policy::load(vyr)?;
            let repository = Some(receipt.name.as_str()).filter(|name| name.contains('/'));
            let machine = policy.machine_key();
            trust::verify_statement(policy.rules(), machine, repository, &receipt.subject, bundle, PREDICATE_TYPE)
        }
    };
    let signer = signer.map_err(|refusal| {
        let error = Error::from(refusal);
        Error::new(error.kind(), format!("the receipt is not genuine: {}", error.why()))
            .hint("name the key of the node that made it with --key, or let the trust policy list it")
    })?;
    Ok(Genuine { receipt, signer })
}

/// What was pushed.
#[derive(Debug, Clone, Serialize)]
pub struct PushedReceipt {
    /// The artifact.
    pub subject: String,
    /// The receipt's referrer.
    pub reference: String,
}

/// Pushes a receipt to `to`, or to the repository of the artifact that it is about, as a referrer of that: where
/// `cosign verify-attestation` looks. The same receipt twice is one.
///
/// # Errors
/// [`ErrorKind::NotFound`]: the artifact is not there; what the registry fails with.
pub async fn push(vyr: &Vyr, bundle: Vec<u8>, to: Option<&str>) -> Result<PushedReceipt> {
    let receipt = receipt::read(&bundle)?;
    let repository = to.unwrap_or(&receipt.name);
    if !repository.contains('/') {
        return Err(Error::new(
            ErrorKind::Usage,
            "the receipt names no repository: the task was submitted by digest alone",
        )
        .hint("say where the artifact is with --to host/repository"));
    }
    let reference: Reference = parse_reference(&format!("{repository}@{}", receipt.subject))?;
    let client = vyr.client(&reference)?;
    let fetched = client.manifest(&reference).await?;
    let media_type = Manifest::parse(&fetched.bytes, Some(&fetched.media_type))?.media_type();
    let subject = SignedSubject { digest: receipt.subject.clone(), media_type, size: fetched.bytes.len() as u64 };
    let form = trust::statement_referrer(bundle, &subject, PREDICATE_TYPE)?;
    for blob in &form.blobs {
        client.push_blob_bytes(&reference, &blob.digest, blob.bytes.clone().into(), None, &()).await?;
    }
    let artifact_type = Some(media::SIGSTORE_BUNDLE);
    client.push_referrer(&reference, media::MANIFEST, &form.manifest, &subject.digest, artifact_type).await?;
    Ok(PushedReceipt {
        subject: format!("{repository}@{}", receipt.subject),
        reference: format!("{repository}@{}", form.digest),
    })
}
