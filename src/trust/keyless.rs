//! Owns signatures that come with a certificate instead of a key: identity, issuer, chain, transparency log and
//! timestamps, against a trusted root from a file. The checks are `sigstore-verify`'s; none of them is ever skipped
//! but one: certificate transparency, where the trusted root names no such log (a private Fulcio may have none).

use serde::Deserialize;
use sigstore_crypto::parse_certificate_info;
use sigstore_trust_root::TrustedRoot;
use sigstore_types::bundle::{
    InclusionPromise, LogId, MessageSignature, TransparencyLogEntry, VerificationMaterial, VerificationMaterialContent,
    X509Certificate,
};
use sigstore_types::{
    Artifact, ArtifactDigest, Bundle, CanonicalizedBody, DerCertificate, HashAlgorithm, KindVersion, LogIndex,
    LogKeyId, MediaType, Sha256Hash, SignatureBytes, SignatureContent, SignedTimestamp,
};
use sigstore_verify::{CertificateError, Error, TransparencyLogError, VerificationPolicy, Verifier};

use super::material::SimpleSignature;
use super::policy::Identity;
use super::refusal::Refusal;
use super::verified::Signer;
use super::verify::Case;

/// Verifies a keyless bundle against the rule's identities.
pub(super) fn bundle(case: &Case<'_>, bundle: &Bundle) -> Result<Signer, Refusal> {
    let digest = case.digest.to_string();
    let artifact = match digest.split_once(':') {
        Some(("sha256", hex)) => Sha256Hash::from_hex(hex).map(Artifact::from).ok(),
        Some(("sha512", hex)) => hex::decode(hex)
            .ok()
            .and_then(|sum| ArtifactDigest::new(HashAlgorithm::Sha2512, sum).ok())
            .map(Artifact::from),
        _ => None,
    };
    let artifact = artifact.ok_or_else(|| Refusal::UnknownAlgorithm {
        digest: digest.clone(),
        algorithm: "the artifact's digest".into(),
    })?;
    check(case, bundle, &artifact)
}

/// Verifies a keyless signature in the simple form (cosign 2): the certificate, its chain and Rekor's promise stand in
/// annotations. It is read as the bundle v0.1 that has the same content.
pub(super) fn simple(case: &Case<'_>, simple: &SimpleSignature, signature: Vec<u8>) -> Result<Signer, Refusal> {
    let bundle = as_bundle(simple, signature).map_err(|why| case.malformed_payload(why))?;
    check(case, &bundle, &Artifact::from_blob(&simple.payload))
}

/// cosign's `pkg/cosign/bundle.RekorBundle`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RekorBundle {
    signed_entry_timestamp: String,
    payload: RekorPayload,
}
#[derive(Deserialize)]
struct RekorPayload {
    body: String,
    #[serde(rename = "integratedTime")]
    integrated_time: i64,
    #[serde(rename = "logIndex")]
    log_index: u64,
    #[serde(rename = "logID")]
    log_id: String,
}
#[derive(Deserialize)]
struct RekorBody {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
}

fn as_bundle(simple: &SimpleSignature, signature: Vec<u8>) -> Result<Bundle, String> {
    let pem =
        [simple.certificate.as_deref(), simple.chain.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("\n");
    let certificates: Vec<X509Certificate> = pem::parse_many(pem)
        .map_err(|e| format!("its certificates: {e}"))?
        .into_iter()
        .map(|block| X509Certificate::new(DerCertificate::new(block.into_contents())))
        .collect();
    let rekor = simple
        .rekor
        .as_deref()
        .ok_or("it has a certificate but no transparency log entry, so nothing says when it was made")?;
    let rekor: RekorBundle = serde_json::from_str(rekor).map_err(|e| format!("its transparency log entry: {e}"))?;
    let bad = |e: sigstore_types::Error| format!("its transparency log entry: {e}");
    let body = CanonicalizedBody::from_base64(&rekor.payload.body).map_err(bad)?;
    let kind: RekorBody =
        serde_json::from_slice(body.as_bytes()).map_err(|e| format!("its transparency log entry: {e}"))?;
    let kind = match (kind.kind.as_str(), kind.api_version.as_str()) {
        ("hashedrekord", "0.0.1") => KindVersion::HashedRekordV001,
        (kind, version) => {
            return Err(format!("its transparency log entry is a {kind:.50} {version:.50}, not a hashedrekord 0.0.1"));
        }
    };
    let log_id = hex::decode(&rekor.payload.log_id).map_err(|e| format!("its transparency log's id: {e}"))?;
    let time =
        jiff::Timestamp::from_second(rekor.payload.integrated_time).map_err(|e| format!("its integrated time: {e}"))?;
    let promise = SignedTimestamp::from_base64(&rekor.signed_entry_timestamp).map_err(bad)?;
    let entry = TransparencyLogEntry::new(
        LogIndex::new(rekor.payload.log_index).map_err(bad)?,
        LogId::new(LogKeyId::new(log_id)),
        kind,
        body,
    )
    .with_integrated_time(time)
    .with_inclusion_promise(InclusionPromise::new(promise));
    Ok(Bundle::new(
        MediaType::Bundle0_1,
        VerificationMaterial::new(VerificationMaterialContent::X509CertificateChain { certificates })
            .with_tlog_entries(vec![entry]),
        SignatureContent::MessageSignature(MessageSignature::new(SignatureBytes::new(signature))),
    ))
}

fn check(case: &Case<'_>, bundle: &Bundle, artifact: &Artifact<'_>) -> Result<Signer, Refusal> {
    let certificate =
        bundle.signing_certificate().ok_or_else(|| case.malformed_bundle("it has neither a key nor a certificate"))?;
    let claims = parse_certificate_info(certificate).map_err(|e| match e {
        sigstore_crypto::Error::InvalidKey(why) => Refusal::UnknownAlgorithm {
            digest: case.digest.to_string(),
            algorithm: format!("the certificate's key: {why}"),
        },
        other => case.malformed_bundle(format!("its certificate: {other}")),
    })?;
    let identity = claims.identity.as_ref().map(|name| name.as_str().to_owned()).unwrap_or_default();
    let issuer = claims.issuer.clone().unwrap_or_default();
    let untrusted = || Refusal::UntrustedIdentity {
        digest: case.digest.to_string(),
        rule: case.rule.name.clone(),
        identity: identity.clone(),
        issuer: issuer.clone(),
    };
    let mut failure: Option<Refusal> = None;
    // Claims are compared first because it's cheap; what they are worth is shown below.
    for entry in case.rule.identities.iter().filter(|entry| entry.issuer == issuer && entry.matches.accepts(&identity))
    {
        match prove(case, entry, &identity, bundle, artifact) {
            Ok(()) => return Ok(Signer::Identity { identity, issuer }),
            Err(refusal) => {
                if failure.as_ref().is_none_or(|known| known.nearness() < refusal.nearness()) {
                    failure = Some(refusal);
                }
            }
        }
    }
    Err(failure.unwrap_or_else(untrusted))
}

fn prove(
    case: &Case<'_>,
    entry: &Identity,
    identity: &str,
    bundle: &Bundle,
    artifact: &Artifact<'_>,
) -> Result<(), Refusal> {
    let digest = || case.digest.to_string();
    let unusable = |why: String| Refusal::PolicyUnusable {
        digest: digest(),
        entry: format!("the trusted root {}", entry.root.listed),
        why,
    };
    let bytes = entry.root.bytes.as_deref().map_err(|why| unusable(why.clone()))?;
    let root = std::str::from_utf8(bytes).map_err(|_| unusable("it is not text".into()))?;
    let root = TrustedRoot::from_json(root).map_err(|e| unusable(e.to_string()))?;
    let verifier = Verifier::new(&root).map_err(|e| unusable(e.to_string()))?;
    if bundle.verification_material.tlog_entries.is_empty() {
        return Err(Refusal::Unproven { digest: digest(), why: "it has no transparency log entry".into() });
    }
    let mut policy = VerificationPolicy::new(identity, &entry.issuer);
    if root.ctlogs.is_empty() {
        policy = policy.skip_sct();
    }
    let proof = verifier.verify(artifact.clone(), bundle, &policy).map_err(|e| refusal(case, bundle, &e))?;
    // The library says what it proved: a change of its defaults must not turn into acceptance here.
    if proof.certificate_verified()
        && proof.tlog_verified()
        && proof.identity_policy_checked()
        && !proof.verified_timestamps().is_empty()
    {
        Ok(())
    } else {
        Err(Refusal::Unproven { digest: digest(), why: "the verification left a part unchecked".into() })
    }
}

fn refusal(case: &Case<'_>, bundle: &Bundle, error: &Error) -> Refusal {
    let digest = case.digest.to_string();
    let why = error.to_string();
    match error {
        Error::Certificate(
            CertificateError::Expired { .. }
            | CertificateError::NotYetValid { .. }
            | CertificateError::NoValidAuthority { .. },
        )
        | Error::TransparencyLog(TransparencyLogError::IntegratedTime(_)) => {
            Refusal::ExpiredCertificate { digest, why }
        }
        // The chain is checked before the leaf's dates, so an expired leaf shows up as a broken chain.
        Error::Certificate(CertificateError::ChainInvalid(_)) => match outside_validity(bundle) {
            Some(why) => Refusal::ExpiredCertificate { digest, why },
            None => Refusal::Unproven { digest, why },
        },
        Error::ArtifactMismatch(_) => {
            Refusal::OtherDigest { digest, signed: signed_digest(bundle).unwrap_or_else(|| "something else".into()) }
        }
        Error::SignatureInvalid(_) => Refusal::BadSignature { digest, why },
        Error::InvalidBundle(_)
        | Error::Bundle(_)
        | Error::Types(_)
        | Error::Certificate(CertificateError::Malformed(_)) => Refusal::MalformedBundle { digest, why },
        Error::UnsupportedBundle(_) | Error::Crypto(_) => Refusal::UnknownAlgorithm { digest, algorithm: why },
        _ => Refusal::Unproven { digest, why },
    }
}

fn outside_validity(bundle: &Bundle) -> Option<String> {
    let claims = parse_certificate_info(bundle.signing_certificate()?).ok()?;
    let times = bundle.verification_material.tlog_entries.iter().filter_map(|entry| entry.integrated_time);
    times
        .filter(|time| *time < claims.not_before || *time > claims.not_after)
        .map(|time| format!("it signed at {time}, but is valid from {} to {}", claims.not_before, claims.not_after))
        .next()
}

fn signed_digest(bundle: &Bundle) -> Option<String> {
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else { return None };
    let statement: sigstore_types::Statement = serde_json::from_slice(envelope.payload.as_bytes()).ok()?;
    statement.subject.first()?.digest.sha256.as_ref().map(|sum| format!("sha256:{}", sum.to_hex()))
}
