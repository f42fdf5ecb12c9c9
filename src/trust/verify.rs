//! Owns the decision: a policy, a digest and the signatures that were found, to an [`Acceptance`] or a [`Refusal`].
//!
//! One signature that meets every condition by itself is enough; conditions met by different signatures don't add up.
//! Key-signed bundles carry no transparency log entry, so their DSSE signature is checked here with the key itself;
//! what comes with a certificate goes to [`super::keyless`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sigstore_types::bundle::VerificationMaterialContent;
use sigstore_types::{Bundle, DsseEnvelope, SignatureContent};

use super::keyless;
use super::keys::{KeyError, VerifyingKey};
use super::material::{
    MAX_BUNDLE_BYTES, MAX_PAYLOAD_BYTES, MAX_SIGNATURES, SIMPLE_TYPE, SignatureMaterial, SimpleSignature, Unusable,
    too_large,
};
use super::policy::{Action, Rule, TrustPolicy, normalise};
use super::refusal::Refusal;
use super::sign::{IN_TOTO, PREDICATE_TYPE, STATEMENT_V1};
use super::verified::{Acceptance, Form, Signer, Verified};
use crate::oci::{self, Digest};

/// What the user says beside the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Override {
    /// The policy decides.
    #[default]
    None,
    /// `--allow-unsigned`: what the policy refuses runs all the same, and that is recorded. A rule that rejects stands.
    AllowUnsigned,
}

/// Decides whether the artifact `digest`, found in `repository` (`host[:port]/repository`; `None` when it came from no
/// registry), may run. `machine_key` is this machine's own key, which counts wherever the policy lets it.
///
/// # Errors
/// A [`Refusal`]: of several signatures that don't count, the reason of the one that came nearest.
#[tracing::instrument(name = "signatures", skip_all, fields(%digest, signatures = material.len()))]
pub fn verify(
    policy: &TrustPolicy,
    machine_key: Option<&VerifyingKey>,
    repository: Option<&str>,
    digest: &Digest,
    material: &[SignatureMaterial],
    overrule: Override,
) -> Result<Acceptance, Refusal> {
    match decide(policy, machine_key, repository, digest, material) {
        Err(refusal) if overrule == Override::AllowUnsigned && !matches!(refusal, Refusal::RejectedByRule { .. }) => {
            Ok(Acceptance::Unverified { overruled: refusal.to_string() })
        }
        decision => decision,
    }
}

/// As [`verify`], with the proof bound to `value`: the content that has `digest`, or that an index with `digest` lists
/// (both of which the caller has checked).
///
/// # Errors
/// As [`verify`].
pub fn verify_value<T>(
    value: T,
    policy: &TrustPolicy,
    machine_key: Option<&VerifyingKey>,
    repository: Option<&str>,
    digest: &Digest,
    material: &[SignatureMaterial],
    overrule: Override,
) -> Result<Verified<T>, Refusal> {
    let acceptance = verify(policy, machine_key, repository, digest, material, overrule)?;
    Ok(Verified::new(value, digest.clone(), acceptance))
}

fn decide(
    policy: &TrustPolicy,
    machine_key: Option<&VerifyingKey>,
    repository: Option<&str>,
    digest: &Digest,
    material: &[SignatureMaterial],
) -> Result<Acceptance, Refusal> {
    decide_under(policy.rule_for(repository), machine_key, repository, digest, material)
}

/// What one rule says.
pub(super) fn decide_under(
    rule: &Rule,
    machine_key: Option<&VerifyingKey>,
    repository: Option<&str>,
    digest: &Digest,
    material: &[SignatureMaterial],
) -> Result<Acceptance, Refusal> {
    if rule.action == Action::Reject {
        return Err(Refusal::RejectedByRule { digest: digest.to_string(), rule: rule.name.clone() });
    }
    let mut failures = Vec::new();
    if !material.is_empty() {
        let keys = trusted_keys(rule, machine_key, digest, &mut failures);
        let case = Case { rule, repository, digest, keys, predicate: PREDICATE_TYPE };
        for one in material.iter().take(MAX_SIGNATURES) {
            match case.check(one) {
                Ok((signer, form)) => return Ok(Acceptance::Signed { signer, form, rule: rule.name.clone() }),
                Err(failure) => failures.push(failure),
            }
        }
        if material.len() > MAX_SIGNATURES {
            failures.push(Refusal::TooMany { digest: digest.to_string(), count: material.len() });
        }
    }
    if rule.action == Action::AcceptUnsigned {
        return Ok(Acceptance::Unsigned { rule: rule.name.clone() });
    }
    Err(nearest(failures).unwrap_or_else(|| Refusal::Unsigned { digest: digest.to_string() }))
}

/// The failure that came nearest to success, with the hints of all unknown keys gathered in one.
fn nearest(failures: Vec<Refusal>) -> Option<Refusal> {
    let mut all_seen: Vec<String> = Vec::new();
    for failure in &failures {
        if let Refusal::UntrustedKey { seen, .. } = failure {
            all_seen.extend(seen.iter().filter(|hint| !all_seen.contains(hint)).cloned().collect::<Vec<_>>());
        }
    }
    let mut nearest = failures.into_iter().max_by_key(Refusal::nearness)?;
    if let Refusal::UntrustedKey { seen, .. } = &mut nearest {
        *seen = all_seen;
    }
    Some(nearest)
}

struct TrustedKey {
    key: VerifyingKey,
    signer: Signer,
}

fn trusted_keys(
    rule: &Rule,
    machine_key: Option<&VerifyingKey>,
    digest: &Digest,
    failures: &mut Vec<Refusal>,
) -> Vec<TrustedKey> {
    let mut keys = Vec::new();
    if let Some(key) = machine_key.filter(|_| rule.machine_key) {
        keys.push(TrustedKey { key: key.clone(), signer: Signer::MachineKey { id: key.id().to_owned() } });
    }
    for named in &rule.keys {
        let entry = || format!("the key {}", named.listed);
        let unusable = |why: String| Refusal::PolicyUnusable { digest: digest.to_string(), entry: entry(), why };
        let read = named.bytes.as_deref().map_err(|why| unusable(why.clone())).and_then(|bytes| {
            let text = std::str::from_utf8(bytes).map_err(|_| unusable("it is not text".into()))?;
            VerifyingKey::from_pem(text).map_err(|e| match e {
                KeyError::UnknownAlgorithm(algorithm) => Refusal::UnknownAlgorithm {
                    digest: digest.to_string(),
                    algorithm: format!("{} of {} in the trust policy", algorithm, entry()),
                },
                other => unusable(other.to_string()),
            })
        });
        match read {
            Ok(key) => {
                let signer = Signer::Key { id: key.id().to_owned(), listed: named.listed.clone() };
                keys.push(TrustedKey { key, signer });
            }
            Err(failure) => failures.push(failure),
        }
    }
    keys
}

/// One decision's circumstances.
pub(super) struct Case<'a> {
    pub(super) rule: &'a Rule,
    repository: Option<&'a str>,
    pub(super) digest: &'a Digest,
    keys: Vec<TrustedKey>,
    /// What a statement has to be of.
    predicate: &'static str,
}

/// Decides whether `bundle` is a statement of type `predicate` about `digest` by somebody whose signatures count for
/// artifacts of `repository`.
///
/// # Errors
/// A [`Refusal`]. That a rule takes the unsigned makes no statement good.
pub fn verify_statement(
    policy: &TrustPolicy,
    machine_key: Option<&VerifyingKey>,
    repository: Option<&str>,
    digest: &Digest,
    bundle: &[u8],
    predicate: &'static str,
) -> Result<Signer, Refusal> {
    let rule = policy.rule_for(repository);
    if rule.action == Action::Reject {
        return Err(Refusal::RejectedByRule { digest: digest.to_string(), rule: rule.name.clone() });
    }
    let mut failures = Vec::new();
    let keys = trusted_keys(rule, machine_key, digest, &mut failures);
    let case = Case { rule, repository, digest, keys, predicate };
    case.bundle(bundle).map_err(|failure| {
        failures.push(failure);
        nearest(failures).unwrap_or_else(|| Refusal::Unsigned { digest: digest.to_string() })
    })
}

/// As [`verify_statement`], by one key alone; `listed` is what it is called.
///
/// # Errors
/// A [`Refusal`].
pub fn verify_statement_by(
    key: &VerifyingKey,
    listed: &str,
    digest: &Digest,
    bundle: &[u8],
    predicate: &'static str,
) -> Result<Signer, Refusal> {
    let policy = TrustPolicy::default();
    let signer = Signer::Key { id: key.id().to_owned(), listed: listed.to_owned() };
    let keys = vec![TrustedKey { key: key.clone(), signer }];
    Case { rule: policy.rule_for(None), repository: None, digest, keys, predicate }.bundle(bundle)
}

impl Case<'_> {
    fn check(&self, material: &SignatureMaterial) -> Result<(Signer, Form), Refusal> {
        match material {
            SignatureMaterial::Simple(simple) => self.simple(simple).map(|signer| (signer, Form::Simple)),
            SignatureMaterial::Bundle(json) => self.bundle(json).map(|signer| (signer, Form::Bundle)),
            SignatureMaterial::Unusable(unusable) => Err(self.unusable(unusable)),
        }
    }

    fn unusable(&self, unusable: &Unusable) -> Refusal {
        Refusal::unusable(self.digest.to_string(), unusable)
    }

    pub(super) fn bad(&self, why: impl Into<String>) -> Refusal {
        Refusal::BadSignature { digest: self.digest.to_string(), why: why.into() }
    }

    pub(super) fn malformed_payload(&self, why: impl Into<String>) -> Refusal {
        Refusal::MalformedPayload { digest: self.digest.to_string(), why: why.into() }
    }

    pub(super) fn malformed_bundle(&self, why: impl Into<String>) -> Refusal {
        Refusal::MalformedBundle { digest: self.digest.to_string(), why: why.into() }
    }

    fn untrusted(&self, seen: Vec<String>) -> Refusal {
        Refusal::UntrustedKey { digest: self.digest.to_string(), rule: self.rule.name.clone(), seen }
    }

    fn simple(&self, simple: &SimpleSignature) -> Result<Signer, Refusal> {
        if let Some(large) = too_large("payload", simple.payload.len() as u64, MAX_PAYLOAD_BYTES) {
            return Err(self.unusable(&large));
        }
        if simple.payload_digest.as_ref().is_some_and(|digest| oci::check_digest(digest, &simple.payload).is_err()) {
            return Err(self.bad("its payload is not the one that its manifest names"));
        }
        let signature = decode(&simple.signature).filter(|bytes| !bytes.is_empty());
        let signature = signature.ok_or_else(|| self.malformed_payload("its signature is missing or not base64"))?;
        if simple.certificate.is_some() {
            let signer = keyless::simple(self, simple, signature)?;
            self.payload(&simple.payload)?;
            return Ok(signer);
        }
        match self.keys.iter().find(|trusted| trusted.key.verify(&simple.payload, &signature)) {
            // Only what a trusted key signed is interpreted.
            Some(trusted) => self.payload(&simple.payload).map(|()| trusted.signer.clone()),
            None if serde_json::from_slice::<Payload>(&simple.payload).is_err() => {
                Err(self.malformed_payload("it is not a simple-signing payload, and no trusted key signed it"))
            }
            // This form doesn't say by which.
            None => Err(self.untrusted(Vec::new())),
        }
    }

    /// What a simple-signing payload has to say, once its signature is known to be good.
    fn payload(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let payload: Payload = serde_json::from_slice(bytes).map_err(|e| self.malformed_payload(e.to_string()))?;
        let critical = payload.critical;
        if critical.kind != SIMPLE_TYPE {
            return Err(self.malformed_payload(format!("its type is `{}`, not `{SIMPLE_TYPE}`", critical.kind)));
        }
        let signed = critical.image.digest;
        if signed != self.digest.to_string() {
            return Err(match oci::parse_digest(&signed) {
                Ok(_) => Refusal::OtherDigest { digest: self.digest.to_string(), signed },
                Err(_) => Refusal::UnknownAlgorithm {
                    digest: self.digest.to_string(),
                    algorithm: format!("the payload signs `{signed:.100}`"),
                },
            });
        }
        match self.repository {
            // An empty identity binds no repository, as a bundle doesn't.
            Some(repository) if !critical.identity.docker_reference.is_empty() => {
                let signed = critical.identity.docker_reference;
                if signed_repository(&signed) == full(repository) {
                    Ok(())
                } else {
                    Err(Refusal::RepositoryMismatch {
                        digest: self.digest.to_string(),
                        repository: repository.to_owned(),
                        signed,
                    })
                }
            }
            _ => Ok(()),
        }
    }

    fn bundle(&self, json: &[u8]) -> Result<Signer, Refusal> {
        if let Some(large) = too_large("bundle", json.len() as u64, MAX_BUNDLE_BYTES) {
            return Err(self.unusable(&large));
        }
        let bundle: Bundle = serde_json::from_slice(json).map_err(|e| self.malformed_bundle(e.to_string()))?;
        let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
            return Err(self.malformed_bundle("it signs bare bytes, not a DSSE envelope that names the digest"));
        };
        if envelope.payload_type != IN_TOTO {
            return Err(
                self.malformed_bundle(format!("its payload type is `{:.100}`, not `{IN_TOTO}`", envelope.payload_type))
            );
        }
        match &bundle.verification_material.content {
            VerificationMaterialContent::PublicKey(key) => {
                let signer = self.dsse_key(envelope, &key.hint)?;
                self.statement(envelope).map(|()| signer)
            }
            _ => {
                let signer = keyless::bundle(self, &bundle)?;
                self.statement(envelope).map(|()| signer)
            }
        }
    }

    fn dsse_key(&self, envelope: &DsseEnvelope, hint: &str) -> Result<Signer, Refusal> {
        let message = envelope.pae();
        let signature = envelope.signature.sig.as_bytes();
        if let Some(trusted) = self.keys.iter().find(|trusted| trusted.key.verify(&message, signature)) {
            return Ok(trusted.signer.clone());
        }
        match self.keys.iter().find(|trusted| trusted.key.hint() == hint) {
            Some(trusted) => Err(self.bad(format!(
                "it names the trusted {} key {}, which did not make it over this content",
                trusted.key.algorithm(),
                trusted.key.id()
            ))),
            None => Err(self.untrusted(vec![readable_hint(hint)])),
        }
    }

    /// What an in-toto statement has to say, once its signature is known to be good: a good signature over another
    /// kind of statement (a test report, a provenance) is no signature of the artifact.
    fn statement(&self, envelope: &DsseEnvelope) -> Result<(), Refusal> {
        let statement: Statement = serde_json::from_slice(envelope.payload.as_bytes())
            .map_err(|e| self.malformed_bundle(format!("its statement: {e}")))?;
        if statement.kind != STATEMENT_V1 {
            return Err(self
                .malformed_bundle(format!("its statement's type is `{:.100}`, not `{STATEMENT_V1}`", statement.kind)));
        }
        if statement.predicate_type != self.predicate {
            let wanted = if self.predicate == PREDICATE_TYPE { "a signature of it" } else { "a receipt of it" };
            return Err(self.malformed_bundle(format!(
                "it is a statement of type `{:.100}` about the artifact, not {wanted} (`{}`)",
                statement.predicate_type, self.predicate
            )));
        }
        let wanted = self.digest.to_string();
        let mut other: Option<String> = None;
        let mut unknown: Option<String> = None;
        for (algorithm, hex) in statement.subject.iter().flat_map(|subject| &subject.digest) {
            let signed = format!("{algorithm}:{hex}");
            if signed == wanted {
                return Ok(());
            }
            let slot = if oci::parse_digest(&signed).is_ok() { &mut other } else { &mut unknown };
            slot.get_or_insert(signed);
        }
        Err(match (other, unknown) {
            (Some(signed), _) => Refusal::OtherDigest { digest: wanted, signed },
            (None, Some(signed)) => {
                Refusal::UnknownAlgorithm { digest: wanted, algorithm: format!("the statement signs `{signed:.100}`") }
            }
            (None, None) => self.malformed_bundle("its statement has no subject"),
        })
    }
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}
#[derive(Deserialize)]
struct Critical {
    identity: PayloadIdentity,
    image: PayloadImage,
    #[serde(rename = "type")]
    kind: String,
}
#[derive(Deserialize)]
struct PayloadIdentity {
    #[serde(rename = "docker-reference")]
    docker_reference: String,
}
#[derive(Deserialize)]
struct PayloadImage {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

#[derive(Deserialize)]
struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    subject: Vec<Subject>,
}
#[derive(Deserialize)]
struct Subject {
    #[serde(default)]
    digest: std::collections::BTreeMap<String, String>,
}

/// Base64 as Go's JSON decoder takes it: line breaks are no part of it.
fn decode(text: &str) -> Option<Vec<u8>> {
    if text.contains(['\r', '\n']) {
        STANDARD.decode(text.replace(['\r', '\n'], "")).ok()
    } else {
        STANDARD.decode(text).ok()
    }
}

fn readable_hint(hint: &str) -> String {
    match STANDARD.decode(hint) {
        Ok(sum) if sum.len() == 32 => format!("key sha256:{}", hex::encode(sum)),
        _ if hint.is_empty() => "a key without a hint".into(),
        _ => format!("key `{:.100}`", hint.escape_default().to_string()),
    }
}

/// The repository in a payload's `docker-reference`, which may carry a tag or a digest.
fn signed_repository(reference: &str) -> String {
    let reference = reference.split_once('@').map_or(reference, |(name, _)| name);
    let name = match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') && name.contains('/') => name,
        _ => reference,
    };
    full(name)
}

/// A repository with Docker Hub's shorthand written out: `docker.io/alpine` is `docker.io/library/alpine`.
fn full(repository: &str) -> String {
    let repository = normalise(repository);
    match repository.strip_prefix("docker.io/") {
        Some(name) if !name.contains('/') => format!("docker.io/library/{name}"),
        _ => repository,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_hub_has_one_name_and_ports_are_not_tags() {
        assert_eq!(signed_repository("index.docker.io/library/alpine"), full("docker.io/alpine"));
        assert_eq!(signed_repository("localhost:5000/app:v1@sha256:00"), "localhost:5000/app");
        assert_eq!(signed_repository("localhost:5000/app"), full("localhost:5000/app"));
        assert_ne!(signed_repository("localhost:5000/apple"), full("localhost:5000/app"));
    }
}
