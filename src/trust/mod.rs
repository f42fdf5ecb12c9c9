//! Owns the question whether an artifact may run: the trust policy, keys, and signatures in cosign's two forms, made
//! and verified offline over bytes. It is the only place that makes a [`Verified`] or a
//! [`Native`].

mod attest;
mod grants;
mod keyless;
mod keys;
mod material;
mod native;
mod policy;
mod policy_edit;
mod refusal;
mod sign;
mod verified;
mod verify;

#[cfg(test)]
mod tests;

pub use attest::{StatementSignature, sign_statement, statement_bundle, statement_referrer};
pub use grants::{Grant, Granted};
pub use keys::{Algorithm, KeyError, MAX_KEY_BYTES, SigningKey, VerifyingKey};
pub use material::{
    MAX_BUNDLE_BYTES, MAX_PAYLOAD_BYTES, MAX_SIGNATURES, SigLayer, SignatureMaterial, SimpleSignature, Unusable,
    bundle_descriptor, material_from_referrer, material_from_sig_manifest, sig_layers, sig_tag, signed_by_tag,
    states_something_else,
};
pub use native::{Native, verify_native};
pub use policy::{Action, DefaultAction, PolicyError, TrustPolicy};
pub use policy_edit::{IdentityEntry, RuleView};
pub use refusal::Refusal;
pub use sign::{
    Blob, BundleForm, PREDICATE_TYPE, SignError, SignedForms, SignedSubject, SimpleForm, sign, sign_briefly,
    wrap_bundle,
};
pub use verified::{Acceptance, Form, Signer, Verified};
pub use verify::{Override, verify, verify_statement, verify_statement_by, verify_value};
