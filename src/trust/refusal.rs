//! Owns the reasons for which an artifact is refused, each in words of its own, and their order: of several failed
//! signatures the one that came nearest to success is reported.

use super::material::Unusable;
use super::policy::DEFAULT_RULE;
use crate::error::{Error, ErrorKind};

/// Why an artifact may not run. All are [`ErrorKind::Refused`], exit code 126.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No signature at all.
    #[error("{digest} has no signature")]
    Unsigned {
        /// The digest to run.
        digest: String,
    },
    /// A rule lets in what is from a repository without a signature, and nothing proves that this is from there.
    #[error(
        "{digest} has no signature that counts, and nothing but the word of who brought it says that it is from {repository}, whose content needs none"
    )]
    OnlySaid {
        /// The digest to run.
        digest: String,
        /// Where it is said to be from.
        repository: String,
    },
    /// A rule says no, whoever signed.
    #[error("{rule} of the trust policy rejects {digest}")]
    RejectedByRule {
        /// The digest to run.
        digest: String,
        /// The rule.
        rule: String,
    },
    /// Signed, but by no key that counts here.
    #[error("{digest} is signed, but by no key that {} trusts{}", whole(rule), seen_list(seen))]
    UntrustedKey {
        /// The digest to run.
        digest: String,
        /// The rule.
        rule: String,
        /// Hints at the keys that did sign, as the signatures give them.
        seen: Vec<String>,
    },
    /// Compiled code that an ordinary signer vouches for.
    #[error(
        "{digest} is compiled code, {signer}, whom the trust policy trusts with artifacts but not with compiled code"
    )]
    NotForCompiled {
        /// The compiled code's digest.
        digest: String,
        /// Who signed it: `signed by …`.
        signer: String,
    },
    /// Compiled code that nobody with the right to it vouches for.
    #[error("{digest} is compiled code, and nobody whom the trust policy trusts with compiled code signed it: {why}")]
    CompiledUntrusted {
        /// The compiled code's digest.
        digest: String,
        /// What was found instead.
        why: String,
    },
    /// A certificate's identity or issuer isn't one that the rule names.
    #[error("{digest} is signed by identity `{identity}` of issuer `{issuer}`, which {} does not trust", whole(rule))]
    UntrustedIdentity {
        /// The digest to run.
        digest: String,
        /// The rule.
        rule: String,
        /// The certificate's identity.
        identity: String,
        /// The certificate's issuer.
        issuer: String,
    },
    /// A trusted signature that is for something else.
    #[error("the signature is valid but for another digest: it signs {signed}, not {digest}")]
    OtherDigest {
        /// The digest to run.
        digest: String,
        /// What is signed.
        signed: String,
    },
    /// A trusted signature made for another repository.
    #[error("the signature of {digest} is for the repository `{signed}`, but it was found in `{repository}`")]
    RepositoryMismatch {
        /// The digest to run.
        digest: String,
        /// Where it was found.
        repository: String,
        /// What the signature says.
        signed: String,
    },
    /// The signature doesn't fit what it is said to sign.
    #[error("a signature of {digest} does not verify: {why}")]
    BadSignature {
        /// The digest to run.
        digest: String,
        /// What is wrong.
        why: String,
    },
    /// The certificate wasn't valid when it signed.
    #[error("the signing certificate of {digest} was not valid when it signed: {why}")]
    ExpiredCertificate {
        /// The digest to run.
        digest: String,
        /// The times.
        why: String,
    },
    /// The certificate, its log entry or its timestamp isn't proven by the trusted root.
    #[error("the signing certificate of {digest} is not proven by the trusted root: {why}")]
    Unproven {
        /// The digest to run.
        digest: String,
        /// What is missing.
        why: String,
    },
    /// A key or digest algorithm that isn't accepted.
    #[error("{digest} can't be verified: unknown algorithm: {algorithm}")]
    UnknownAlgorithm {
        /// The digest to run.
        digest: String,
        /// Which, and where.
        algorithm: String,
    },
    /// The bundle can't be read.
    #[error("a signature bundle of {digest} is malformed: {why}")]
    MalformedBundle {
        /// The digest to run.
        digest: String,
        /// What is wrong.
        why: String,
    },
    /// The simple-signing payload can't be read.
    #[error("a signature payload of {digest} is malformed: {why}")]
    MalformedPayload {
        /// The digest to run.
        digest: String,
        /// What is wrong.
        why: String,
    },
    /// Over the cap, so never read.
    #[error("a signature {what} of {digest} is too large: {size} bytes, at most {limit} are read")]
    TooLarge {
        /// The digest to run.
        digest: String,
        /// Payload, bundle or manifest.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The cap in bytes.
        limit: u64,
    },
    /// More signatures than are looked at.
    #[error("{digest} has {count} signatures, of which only the first are looked at, and none of those counts")]
    TooMany {
        /// The digest to run.
        digest: String,
        /// How many there are.
        count: usize,
    },
    /// Something that the policy names can't be used.
    #[error("the trust policy names {entry}, which can't be used: {why}")]
    PolicyUnusable {
        /// The digest to run.
        digest: String,
        /// The key file or trusted root.
        entry: String,
        /// What is wrong.
        why: String,
    },
}

impl Refusal {
    /// A stable word for it, as metrics have it.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Unsigned { .. } => "unsigned",
            Self::OnlySaid { .. } => "only_said",
            Self::RejectedByRule { .. } => "rejected_by_rule",
            Self::UntrustedKey { .. } => "untrusted_key",
            Self::NotForCompiled { .. } => "not_for_compiled",
            Self::CompiledUntrusted { .. } => "compiled_untrusted",
            Self::UntrustedIdentity { .. } => "untrusted_identity",
            Self::OtherDigest { .. } => "other_digest",
            Self::RepositoryMismatch { .. } => "repository_mismatch",
            Self::BadSignature { .. } => "bad_signature",
            Self::ExpiredCertificate { .. } => "expired_certificate",
            Self::Unproven { .. } => "unproven",
            Self::UnknownAlgorithm { .. } => "unknown_algorithm",
            Self::MalformedBundle { .. } => "malformed_bundle",
            Self::MalformedPayload { .. } => "malformed_payload",
            Self::TooLarge { .. } => "too_large",
            Self::TooMany { .. } => "too_many",
            Self::PolicyUnusable { .. } => "policy_unusable",
        }
    }
}

/// A rule's name in a sentence of its own.
fn whole(rule: &str) -> &str {
    if rule == DEFAULT_RULE { "the trust policy" } else { rule }
}

fn seen_list(seen: &[String]) -> String {
    if seen.is_empty() {
        " (signed by a key that the signature doesn't name)".to_owned()
    } else {
        format!(" (signed by {})", seen.join(", "))
    }
}

impl Refusal {
    /// How near to success this failure came; the nearest of several is reported.
    pub(super) fn nearness(&self) -> u8 {
        match self {
            Self::NotForCompiled { .. } => 17,
            Self::CompiledUntrusted { .. } => 16,
            Self::RejectedByRule { .. } => 15,
            Self::RepositoryMismatch { .. } => 14,
            Self::OtherDigest { .. } => 13,
            Self::ExpiredCertificate { .. } => 12,
            Self::BadSignature { .. } => 11,
            Self::Unproven { .. } => 10,
            Self::PolicyUnusable { .. } => 9,
            Self::UntrustedIdentity { .. } => 8,
            Self::UnknownAlgorithm { .. } => 7,
            Self::UntrustedKey { .. } => 6,
            Self::MalformedPayload { .. } | Self::MalformedBundle { .. } => 5,
            Self::TooLarge { .. } => 4,
            Self::TooMany { .. } => 3,
            Self::Unsigned { .. } | Self::OnlySaid { .. } => 0,
        }
    }

    pub(super) fn unusable(digest: String, unusable: &Unusable) -> Self {
        match unusable {
            Unusable::TooLarge { what, size, limit } => Self::TooLarge { digest, what, size: *size, limit: *limit },
            Unusable::TooMany { count } => Self::TooMany { digest, count: *count },
            Unusable::Payload(why) => Self::MalformedPayload { digest, why: why.clone() },
            Unusable::Bundle(why) => Self::MalformedBundle { digest, why: why.clone() },
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Unsigned { .. } => {
                "sign it (`vyr sign REF`, `cosign sign --key KEY REF`), or run it this once with --allow-unsigned"
            }
            Self::OnlySaid { .. } => "pull it from there (`vyr pull REF`), or have it signed",
            Self::RejectedByRule { .. } => "see `vyr trust ls`; only an edit of the trust policy changes this",
            Self::UntrustedKey { .. } => {
                "trust the signer's public key with `vyr trust add --key FILE`, or run it this once with --allow-unsigned"
            }
            Self::NotForCompiled { .. } | Self::CompiledUntrusted { .. } => {
                "running it is running native code: give its signer that right with `vyr trust add --key FILE --compiled`, or \
                 have it compiled here"
            }
            Self::UntrustedIdentity { .. } => {
                "trust it with `vyr trust add --identity … --issuer … --trusted-root FILE`, or run it this once with --allow-unsigned"
            }
            Self::OtherDigest { .. } => "ask the publisher to sign this very digest",
            Self::RepositoryMismatch { .. } => {
                "pull it from the repository that it was signed for, or sign it for this one with `vyr sign REF`"
            }
            Self::BadSignature { .. } => "the signature was altered or damaged; do not run it, ask the publisher",
            Self::ExpiredCertificate { .. } => "ask the publisher to sign it again",
            Self::Unproven { .. } => {
                "check that the trusted root is that of the signer's Sigstore instance, and is current"
            }
            Self::UnknownAlgorithm { .. } => {
                "accepted are ECDSA P-256 and P-384, Ed25519 and RSA of 2048 to 8192 bits, and the digests sha256 and sha512"
            }
            Self::MalformedBundle { .. } | Self::MalformedPayload { .. } => {
                "ask the publisher to sign it again with cosign or `vyr sign`"
            }
            Self::TooLarge { .. } | Self::TooMany { .. } => "no honest signature looks like this; ask the publisher",
            Self::PolicyUnusable { .. } => "put it right in the trust policy; see `vyr trust ls`",
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::new(ErrorKind::Refused, &refusal).hint(refusal.hint())
    }
}
