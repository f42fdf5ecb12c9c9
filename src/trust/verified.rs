//! Owns [`Verified`]: the proof, kept by the type system, that the trust policy was asked and said yes.

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

use crate::oci::Digest;

/// Where a signature was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// The `sha256-<hex>.sig` tag.
    Simple,
    /// A Sigstore bundle as a referrer.
    Bundle,
}

/// Whose signature was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Signer {
    /// A key that the policy lists.
    Key {
        /// `sha256:<hex>` of its SubjectPublicKeyInfo.
        id: String,
        /// Its entry in the policy: the file, or `inline`.
        listed: String,
    },
    /// This machine's own key.
    MachineKey {
        /// `sha256:<hex>` of its SubjectPublicKeyInfo.
        id: String,
    },
    /// A certificate's identity that the policy lists.
    Identity {
        /// The subject alternative name.
        identity: String,
        /// The OIDC issuer.
        issuer: String,
    },
}

/// Why an artifact may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "accepted")]
pub enum Acceptance {
    /// One signature is fully valid.
    Signed {
        /// Whose it is.
        signer: Signer,
        /// Where it was found.
        form: Form,
        /// The rule that accepts it.
        rule: String,
    },
    /// No signature counts, and a rule accepts that.
    Unsigned {
        /// The rule that accepts it.
        rule: String,
    },
    /// The policy refused and was overruled for this one run.
    Unverified {
        /// What the policy said.
        overruled: String,
    },
}

impl Acceptance {
    /// A stable word for listings: `simple`, `bundle`, `unsigned-accepted` or `unverified`.
    #[must_use]
    pub fn form(&self) -> &'static str {
        match self {
            Self::Signed { form: Form::Simple, .. } => "simple",
            Self::Signed { form: Form::Bundle, .. } => "bundle",
            Self::Unsigned { .. } => "unsigned-accepted",
            Self::Unverified { .. } => "unverified",
        }
    }
}

impl fmt::Display for Acceptance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The policy gives no name to a key that stands in it.
            Self::Signed { signer: Signer::Key { id, listed }, .. } if listed == "inline" => {
                write!(f, "signed by the key {id}")
            }
            Self::Signed { signer: Signer::Key { id, listed }, .. } => write!(f, "signed by {listed} ({id})"),
            Self::Signed { signer: Signer::MachineKey { id }, .. } => write!(f, "signed by this machine's key ({id})"),
            Self::Signed { signer: Signer::Identity { identity, issuer }, .. } => {
                write!(f, "signed by {identity} ({issuer})")
            }
            Self::Unsigned { rule } => write!(f, "not signed, accepted by {rule}"),
            Self::Unverified { overruled } => write!(f, "NOT verified, the policy was overruled: {overruled}"),
        }
    }
}

/// A value that the trust policy lets run. Only [`super::verify_value`] and the verification memo make one, so code
/// that takes a `Verified` can't be handed anything unverified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified<T> {
    value: T,
    digest: Digest,
    acceptance: Acceptance,
}

impl<T> Verified<T> {
    pub(super) fn new(value: T, digest: Digest, acceptance: Acceptance) -> Self {
        Self { value, digest, acceptance }
    }

    /// Takes the word of an earlier verification: for the memo alone. Its caller must have found `acceptance` under
    /// both this digest and [`super::TrustPolicy::hash`] of the policy in force, in a store that only this user writes;
    /// then running the verification again could only say the same (a certificate is judged at its signing time, so
    /// the passing of time changes nothing).
    pub(crate) fn by_memo(value: T, digest: Digest, acceptance: Acceptance) -> Self {
        Self { value, digest, acceptance }
    }

    /// The same proof for another view of the same content, such as the parsed form of its bytes.
    pub(crate) fn map<U>(self, view: impl FnOnce(T) -> U) -> Verified<U> {
        Verified { value: view(self.value), digest: self.digest, acceptance: self.acceptance }
    }

    /// The digest that was signed: the manifest's own, or that of the index which lists it.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Why it may run.
    #[must_use]
    pub fn acceptance(&self) -> &Acceptance {
        &self.acceptance
    }

    /// The value and the reason.
    #[must_use]
    pub fn into_parts(self) -> (T, Acceptance) {
        (self.value, self.acceptance)
    }
}

impl<T> Deref for Verified<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}
