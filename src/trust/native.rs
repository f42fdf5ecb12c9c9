//! Owns [`Native`]: the proof that somebody whom the trust policy trusts with compiled code vouches for it.
//!
//! Loading compiled code is running native code with this process's rights, outside of any sandbox. So it is a right of
//! its own: keys that sign artifacts don't have it, nor has this machine's key, nor any certificate's identity.

use super::keys::VerifyingKey;
use super::material::SignatureMaterial;
use super::policy::{Action, Rule, TrustPolicy, covers, normalise};
use super::refusal::Refusal;
use super::verified::{Acceptance, Signer};
use super::verify::decide_under;
use crate::oci::Digest;

/// Compiled code that may be loaded. Only [`verify_native`] makes one, so what takes a `Native` can't be handed code that
/// nobody with the right to it vouches for; a [`super::Verified`] is no such proof.
#[derive(Debug)]
pub struct Native<T> {
    value: T,
    signer: Signer,
}

impl<T> Native<T> {
    /// The code.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The same proof for another view of the same content, such as the code that a manifest names by its digest.
    pub(crate) fn map<U>(self, view: impl FnOnce(T) -> U) -> Native<U> {
        Native { value: view(self.value), signer: self.signer }
    }

    /// Whose word it is.
    #[must_use]
    pub fn signer(&self) -> &Signer {
        &self.signer
    }
}

impl TrustPolicy {
    /// Whether anybody may sign compiled code for `repository`.
    #[must_use]
    pub fn trusts_compiled(&self, repository: Option<&str>) -> bool {
        !self.compiled_rule(repository).keys.is_empty()
    }

    /// All whose right covers the repository, as a rule for one decision.
    fn compiled_rule(&self, repository: Option<&str>) -> Rule {
        let repository = repository.map(normalise).unwrap_or_default();
        let rights = self.compiled.iter().filter(|right| covers(&right.repository, &repository));
        Rule {
            name: "the right to compiled code".into(),
            repository: String::new(),
            action: Action::Verify,
            keys: rights.flat_map(|right| right.keys.iter().cloned()).collect(),
            identities: Vec::new(),
            machine_key: false,
        }
    }
}

/// Decides whether `value`, compiled code whose manifest has `digest`, may be loaded for an artifact of `repository`.
/// `machine_key` is only for telling an ordinary signer from a stranger.
///
/// # Errors
/// [`Refusal::NotForCompiled`] for what an ordinary key signed, [`Refusal::CompiledUntrusted`] for everything else.
pub fn verify_native<T>(
    value: T,
    policy: &TrustPolicy,
    machine_key: Option<&VerifyingKey>,
    repository: Option<&str>,
    digest: &Digest,
    material: &[SignatureMaterial],
) -> Result<Native<T>, Refusal> {
    let rule = policy.compiled_rule(repository);
    let refusal = match decide_under(&rule, None, repository, digest, material) {
        Ok(Acceptance::Signed { signer, .. }) => return Ok(Native { value, signer }),
        Ok(_) => Refusal::Unsigned { digest: digest.to_string() },
        Err(refusal) => refusal,
    };
    // A signature that doesn't verify says more than whose it would have been.
    if matches!(refusal, Refusal::UntrustedKey { .. } | Refusal::Unsigned { .. })
        && let Ok(accepted @ Acceptance::Signed { .. }) =
            decide_under(policy.rule_for(repository), machine_key, repository, digest, material)
    {
        return Err(Refusal::NotForCompiled { digest: digest.to_string(), signer: accepted.to_string() });
    }
    Err(Refusal::CompiledUntrusted { digest: digest.to_string(), why: refusal.to_string() })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::oci::{media, sha256};
    use crate::trust::{Algorithm, SignedSubject, SigningKey, material_from_referrer, sign};

    fn signed(key: &SigningKey, digest: &Digest) -> Vec<SignatureMaterial> {
        let subject = SignedSubject { digest: digest.clone(), media_type: media::MANIFEST.into(), size: 1 };
        let forms = sign(key, None, &subject, None).expect("signs");
        material_from_referrer(&forms.bundle.manifest, forms.bundle.blobs[0].bytes.clone()).into_iter().collect()
    }

    #[test]
    fn only_a_key_with_the_right_makes_code_native() {
        let [right, ordinary, stranger, machine] =
            std::array::from_fn(|_| SigningKey::generate(Algorithm::EcdsaP256).expect("generates"));
        let digest = sha256(b"code");
        let mut policy = TrustPolicy::parse("version = 1\n".into(), Path::new("")).expect("parses");
        policy.add_key("", &ordinary.public_pem()).expect("adds");
        let ask = |policy: &TrustPolicy, key: &SigningKey, repository: &str, digest: &Digest| {
            let material = signed(key, &sha256(b"code"));
            let machine = Some(machine.verifying_key());
            verify_native((), policy, machine, Some(repository), digest, &material).map(|n| n.signer().clone())
        };
        assert!(!policy.trusts_compiled(Some("host/app")));
        let before = policy.hash(None);
        policy.add_compiled_key("host/app", &right.public_pem()).expect("adds");
        assert_ne!(policy.hash(None), before, "the right is part of what the memory of verifications is keyed by");
        assert!(policy.trusts_compiled(Some("host/app/deep")) && !policy.trusts_compiled(Some("host/apple")));
        assert!(
            matches!(ask(&policy, &right, "host/app", &digest), Ok(Signer::Key { id, .. }) if id == right.key_id())
        );
        for key in [&ordinary, &machine] {
            let refusal = ask(&policy, key, "host/app", &digest).expect_err("an ordinary key");
            assert!(matches!(&refusal, Refusal::NotForCompiled { .. }), "{refusal}");
        }
        for (key, repository, digest) in [
            (&stranger, "host/app", digest.clone()),
            (&right, "host/other", digest.clone()),
            (&right, "host/app", sha256(b"other code")),
        ] {
            let refusal = ask(&policy, key, repository, &digest).expect_err("not vouched for");
            assert!(matches!(&refusal, Refusal::CompiledUntrusted { .. }), "{refusal}");
        }
        assert!(matches!(
            verify_native((), &policy, None, Some("host/app"), &digest, &[]),
            Err(Refusal::CompiledUntrusted { .. })
        ));
    }
}
