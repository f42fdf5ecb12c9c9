//! Owns what one trust policy can hand to another: the signers that it trusts, each with all that is needed to trust it
//! elsewhere. What narrows (rules that reject) and what opens for everybody (`accept-unsigned`) stays where it is.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::keys::VerifyingKey;
use super::policy::{Action, IdentityMatch, Named, PolicyError, TrustPolicy, normalise, whole};
use super::policy_edit::{IdentityEntry, key_id};

/// One signer, trusted for a repository and what is below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Grant {
    /// The repository prefix; empty for everything.
    pub repository: String,
    /// Who.
    pub signer: Granted,
}

/// Who is trusted, and with what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", tag = "kind")]
pub enum Granted {
    /// A key, with artifacts.
    Key {
        /// The public key.
        pem: String,
    },
    /// A key, with compiled code.
    CompiledKey {
        /// The public key.
        pem: String,
    },
    /// A certificate's identity, with artifacts.
    Identity {
        /// The identity, or a regular expression for the whole of it.
        identity: String,
        /// Whether it is one.
        regexp: bool,
        /// The OIDC issuer.
        issuer: String,
        /// The trusted root's JSON.
        trusted_root: String,
    },
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.repository.is_empty() { "everything" } else { &self.repository };
        let id = |pem: &str| VerifyingKey::from_pem(pem).map_or_else(|e| format!("({e})"), |key| key.id().to_owned());
        match &self.signer {
            Granted::Key { pem } => write!(f, "the key {} for artifacts of {place}", id(pem)),
            Granted::CompiledKey { pem } => write!(f, "the key {} for COMPILED CODE of {place}", id(pem)),
            Granted::Identity { identity, issuer, .. } => {
                write!(f, "the identity {identity} of {issuer} for artifacts of {place}")
            }
        }
    }
}

fn text(named: &Named) -> Result<String, PolicyError> {
    let unusable = |why: String| PolicyError::Invalid(format!("it names {}, which can't be used: {why}", named.listed));
    let bytes = named.bytes.clone().map_err(&unusable)?;
    String::from_utf8(bytes).map_err(|_| unusable("it is not text".into()))
}

impl TrustPolicy {
    /// All signers that this policy trusts, `machine_key` among them where it counts.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`], naming a key or trusted root that can't be read.
    pub fn grants(&self, machine_key: Option<&VerifyingKey>) -> Result<Vec<Grant>, PolicyError> {
        let mut grants = Vec::new();
        for rule in self.rules.iter().chain([&self.default_rule]).filter(|rule| rule.action != Action::Reject) {
            let grant = |signer| Grant { repository: rule.repository.clone(), signer };
            for key in &rule.keys {
                grants.push(grant(Granted::Key { pem: text(key)? }));
            }
            if let Some(key) = machine_key.filter(|_| rule.machine_key) {
                grants.push(grant(Granted::Key { pem: key.to_pem() }));
            }
            for identity in &rule.identities {
                let (text_of, regexp) = match &identity.matches {
                    IdentityMatch::Exact(exact) => (exact.clone(), false),
                    IdentityMatch::Regexp(pattern) => {
                        let whole = pattern.as_str();
                        let inner = whole.strip_prefix("^(?:").and_then(|p| p.strip_suffix(")$")).unwrap_or(whole);
                        (inner.to_owned(), true)
                    }
                };
                grants.push(grant(Granted::Identity {
                    identity: text_of,
                    regexp,
                    issuer: identity.issuer.clone(),
                    trusted_root: text(&identity.root)?,
                }));
            }
        }
        for right in &self.compiled {
            for key in &right.keys {
                grants.push(Grant {
                    repository: right.repository.clone(),
                    signer: Granted::CompiledKey { pem: text(key)? },
                });
            }
        }
        grants.dedup();
        Ok(grants)
    }

    /// Those of `grants` that this policy, with `machine_key`, doesn't have already.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] for a grant that isn't usable: not a key, not a pattern.
    pub fn lacking(&self, grants: &[Grant], machine_key: Option<&VerifyingKey>) -> Result<Vec<Grant>, PolicyError> {
        let mut lacking: Vec<Grant> = Vec::new();
        for grant in grants {
            let prefix = normalise(&grant.repository);
            let has = match &grant.signer {
                Granted::Key { pem } => {
                    let id = checked(pem)?;
                    let rule = self.rules.iter().find(|rule| rule.repository == prefix);
                    let rule = rule.or(Some(&self.default_rule).filter(|_| prefix.is_empty()));
                    rule.is_some_and(|rule| {
                        rule.keys.iter().any(|key| key_id(&key.bytes).as_deref() == Some(&id))
                            || rule.machine_key && machine_key.is_some_and(|key| key.id() == id)
                    })
                }
                Granted::CompiledKey { pem } => {
                    let id = checked(pem)?;
                    let right = self.compiled.iter().find(|right| right.repository == prefix);
                    right.is_some_and(|r| r.keys.iter().any(|key| key_id(&key.bytes).as_deref() == Some(&id)))
                }
                Granted::Identity { identity, regexp, issuer, trusted_root } => {
                    if *regexp && whole(identity).is_err() {
                        return Err(PolicyError::Invalid(format!("`{identity:.100}` is no pattern")));
                    }
                    let pattern = format!("^(?:{identity})$");
                    self.rules.iter().filter(|rule| rule.repository == prefix).any(|rule| {
                        rule.identities.iter().any(|own| {
                            own.issuer == *issuer
                                && own.root.bytes.as_deref() == Ok(trusted_root.as_bytes())
                                && match &own.matches {
                                    IdentityMatch::Exact(exact) => !regexp && exact == identity,
                                    IdentityMatch::Regexp(own) => *regexp && own.as_str() == pattern,
                                }
                        })
                    })
                }
            };
            if !has && !lacking.contains(grant) {
                lacking.push(grant.clone());
            }
        }
        Ok(lacking)
    }

    /// Adds a grant. `root_file` is where an identity's trusted root stands.
    ///
    /// # Errors
    /// As the adding of it by hand: see [`Self::add_key`].
    pub fn take(&mut self, grant: &Grant, root_file: &str) -> Result<(), PolicyError> {
        match &grant.signer {
            Granted::Key { pem } => self.add_key(&grant.repository, pem),
            Granted::CompiledKey { pem } => self.add_compiled_key(&grant.repository, pem),
            Granted::Identity { identity, regexp, issuer, .. } => {
                let entry = IdentityEntry {
                    identity: identity.clone(),
                    regexp: *regexp,
                    issuer: issuer.clone(),
                    trusted_root: root_file.to_owned(),
                };
                self.add_identity(&grant.repository, &entry)
            }
        }
    }
}

/// The id of a key that somebody else's policy names.
fn checked(pem: &str) -> Result<String, PolicyError> {
    let key = VerifyingKey::from_pem(pem).map_err(|e| PolicyError::Invalid(e.to_string()))?;
    Ok(key.id().to_owned())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::trust::{Algorithm, SigningKey};

    #[test]
    fn what_one_policy_grants_another_can_take_once() {
        let [one, two, three, machine] =
            std::array::from_fn(|_| SigningKey::generate(Algorithm::EcdsaP256).expect("generates"));
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("root.json"), "{}").expect("writes");
        std::fs::write(folder.path().join("a.pub"), one.public_pem()).expect("writes");
        let text = "version = 1\ndefault = 'accept-unsigned'\n[[rule]]\nrepository = 'host/a'\nkeys = ['a.pub']\n\
                    [[rule.identity]]\nidentity-regexp = 'a|b'\nissuer = 'i'\ntrusted-root = 'root.json'\n\
                    [[rule]]\nrepository = 'host/no'\naction = 'reject'\n";
        let mut policy = TrustPolicy::parse(text.into(), folder.path()).expect("parses");
        policy.add_key("host/b", &two.public_pem()).expect("adds");
        policy.add_compiled_key("host/a", &three.public_pem()).expect("adds");
        let grants = policy.grants(Some(machine.verifying_key())).expect("all can be read");
        // The keys and the identity, the machine's key in three rules, and the right to compiled code.
        assert_eq!(grants.len(), 7, "{grants:#?}");

        let mut other = TrustPolicy::default();
        let root = folder.path().join("root.json");
        for grant in other.lacking(&grants, None).expect("usable") {
            other.take(&grant, &root.to_string_lossy()).expect("takes");
        }
        assert_eq!(other.lacking(&grants, None).expect("usable"), []);
        assert!(!other.to_toml().contains("accept-unsigned") && !other.to_toml().contains("reject"));
        assert!(other.trusts_compiled(Some("host/a")) && !other.trusts_compiled(Some("host/b")));
        assert_eq!(other.rule_for(Some("host/a")).keys.len(), 2);

        let bad = Grant { repository: String::new(), signer: Granted::Key { pem: "/etc/passwd".into() } };
        assert!(matches!(other.lacking(&[bad], None), Err(PolicyError::Invalid(_))));
        assert!(TrustPolicy::parse(other.to_toml().to_owned(), Path::new("/")).is_ok());
    }
}
