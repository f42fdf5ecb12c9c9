//! Owns signed statements about artifacts other than their signatures: any in-toto statement, in a Sigstore bundle.

use super::keys::SigningKey;
use super::sign::{BundleForm, IN_TOTO, SignError, SignedSubject, bundle_json, referrer};

/// A signature over a statement, apart from it: what a bundle is made of when one is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementSignature {
    /// SHA-256 of the key's SubjectPublicKeyInfo: what the bundle tells the key by.
    pub key: [u8; 32],
    /// The signature over the DSSE pre-authentication encoding of the statement.
    pub signature: Vec<u8>,
}

/// Signs an in-toto statement.
///
/// # Errors
/// The key fails.
pub fn sign_statement(key: &SigningKey, statement: &[u8]) -> Result<StatementSignature, SignError> {
    let signature = key.sign(&sigstore_types::pae(IN_TOTO, statement))?;
    Ok(StatementSignature { key: key.verifying_key().hash(), signature })
}

/// The Sigstore bundle (JSON, v0.3) of a signed statement.
///
/// # Errors
/// JSON can't be written.
pub fn statement_bundle(signed: &StatementSignature, statement: &[u8]) -> Result<Vec<u8>, SignError> {
    use base64::Engine as _;
    let hint = base64::engine::general_purpose::STANDARD.encode(signed.key);
    Ok(bundle_json(&hint, statement, &signed.signature)?)
}

/// Puts a statement's bundle into the referrer manifest under which a registry keeps it, as cosign 3 does with
/// attestations.
///
/// # Errors
/// JSON can't be written.
pub fn statement_referrer(
    bundle: Vec<u8>,
    subject: &SignedSubject,
    predicate_type: &'static str,
) -> Result<BundleForm, SignError> {
    Ok(referrer(bundle, subject, predicate_type)?)
}
