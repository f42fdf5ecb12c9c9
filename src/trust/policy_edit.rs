//! Owns the edits of a trust policy's text, which keep its comments and order. The caller writes the file.

use serde::Serialize;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

use super::keys::VerifyingKey;
use super::policy::{Action, CompiledRule, IdentityMatch, Named, PolicyError, Rule, TrustPolicy, normalise};

/// An identity to be trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityEntry {
    /// The certificate's subject alternative name, exactly; or a regular expression for the whole of it.
    pub identity: String,
    /// Whether `identity` is a regular expression.
    pub regexp: bool,
    /// The OIDC issuer, exactly.
    pub issuer: String,
    /// The trusted root's file, relative to the policy's.
    pub trusted_root: String,
}

/// A rule as listings show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RuleView {
    /// The repository prefix; empty for everything.
    pub repository: String,
    /// `verify`, `reject` or `accept-unsigned`; `compiled` for a right to compiled code.
    pub action: &'static str,
    /// Each key: its entry, and its id where it can be read.
    pub keys: Vec<(String, Option<String>)>,
    /// Each identity: `identity (issuer)`.
    pub identities: Vec<String>,
    /// Whether this machine's own key counts.
    pub machine_key: bool,
}

impl TrustPolicy {
    /// Every rule, then the default, then who may sign compiled code, for a listing.
    #[must_use]
    pub fn rules(&self) -> Vec<RuleView> {
        let rules = self.rules.iter().chain([&self.default_rule]).map(view);
        rules.chain(self.compiled.iter().map(view_compiled)).collect()
    }

    /// Whether the rule that applies to a repository accepts what is unsigned.
    #[must_use]
    pub fn accepts_unsigned(&self, repository: &str) -> bool {
        self.rule_for(Some(repository)).action == Action::AcceptUnsigned
    }

    /// Trusts a key (a file relative to the policy's, or PEM) for a repository prefix; empty for everything.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] when the rule there rejects everything, or already lists the key.
    pub fn add_key(&mut self, repository: &str, key: &str) -> Result<(), PolicyError> {
        self.edit(|document| {
            let rule = rule_mut(document, repository)?;
            let keys = rule.entry("keys").or_insert(value(Array::new()));
            let keys = keys.as_array_mut().ok_or_else(|| PolicyError::Invalid("`keys` is not a list".into()))?;
            if keys.iter().any(|listed| listed.as_str() == Some(key)) {
                return Err(PolicyError::Invalid(format!("the rule for {} already lists this key", said(repository))));
            }
            keys.push(key);
            Ok(())
        })
    }

    /// Trusts a key with compiled code for a repository prefix; empty for everything. It gets no other right by that.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`] when it has the right already.
    pub fn add_compiled_key(&mut self, repository: &str, key: &str) -> Result<(), PolicyError> {
        self.edit(|document| {
            let table = table_mut(document, "compiled", repository)?;
            let keys = table.entry("keys").or_insert(value(Array::new()));
            let keys = keys.as_array_mut().ok_or_else(|| PolicyError::Invalid("`keys` is not a list".into()))?;
            if keys.iter().any(|listed| listed.as_str() == Some(key)) {
                let why = format!("this key may sign compiled code for {} already", said(repository));
                return Err(PolicyError::Invalid(why));
            }
            keys.push(key);
            Ok(())
        })
    }

    /// Takes the right to compiled code from a key (its entry or id), or without one from all of a repository prefix.
    ///
    /// # Errors
    /// [`PolicyError::NoSuchEntry`].
    pub fn remove_compiled(&mut self, repository: &str, key: Option<&str>) -> Result<(), PolicyError> {
        let prefix = normalise(repository);
        let missing = || PolicyError::NoSuchEntry(format!("right to compiled code for {}", said(repository)));
        let index = self.compiled.iter().position(|right| right.repository == prefix).ok_or_else(missing)?;
        let keys = self.compiled[index].keys.clone();
        self.edit(|document| {
            let tables = document.get_mut("compiled").and_then(Item::as_array_of_tables_mut).ok_or_else(missing)?;
            if let Some(key) = key {
                let named = |n: &Named| n.listed == key || key_id(&n.bytes).as_deref() == Some(key);
                let at = keys.iter().position(named).ok_or_else(missing)?;
                let table = tables.get_mut(index).ok_or_else(missing)?;
                table.get_mut("keys").and_then(Item::as_array_mut).ok_or_else(missing)?.remove(at);
                if keys.len() > 1 {
                    return Ok(());
                }
            }
            tables.remove(index);
            Ok(())
        })
    }

    /// Trusts an identity for a repository prefix; empty for everything.
    ///
    /// # Errors
    /// As [`Self::add_key`].
    pub fn add_identity(&mut self, repository: &str, entry: &IdentityEntry) -> Result<(), PolicyError> {
        self.edit(|document| {
            let rule = rule_mut(document, repository)?;
            let identities = rule.entry("identity").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
            let identities = identities
                .as_array_of_tables_mut()
                .ok_or_else(|| PolicyError::Invalid("`identity` is not written as [[rule.identity]]".into()))?;
            let mut table = Table::new();
            table.insert(if entry.regexp { "identity-regexp" } else { "identity" }, value(&entry.identity));
            table.insert("issuer", value(&entry.issuer));
            table.insert("trusted-root", value(&entry.trusted_root));
            identities.push(table);
            Ok(())
        })
    }

    /// Stops trusting `what` (a key's entry or id, or an identity) for a repository prefix; without `what`, removes the
    /// whole rule. A rule left with nothing to trust goes too, so that nothing narrower than the default stays by accident.
    ///
    /// # Errors
    /// [`PolicyError::NoSuchEntry`].
    pub fn remove(&mut self, repository: &str, what: Option<&str>) -> Result<(), PolicyError> {
        let prefix = normalise(repository);
        let missing =
            || PolicyError::NoSuchEntry(format!("entry {} for {}", what.unwrap_or("at all"), said(repository)));
        let index = self.rules.iter().position(|rule| rule.repository == prefix).ok_or_else(missing)?;
        let rule = self.rules[index].clone();
        self.edit(|document| {
            let tables = document.get_mut("rule").and_then(Item::as_array_of_tables_mut).ok_or_else(missing)?;
            let Some(what) = what else {
                tables.remove(index);
                return Ok(());
            };
            let key = rule
                .keys
                .iter()
                .position(|named| named.listed == what || key_id(&named.bytes).as_deref() == Some(what));
            let identity = rule.identities.iter().position(|identity| match &identity.matches {
                IdentityMatch::Exact(exact) => exact == what,
                IdentityMatch::Regexp(regexp) => regexp.as_str() == format!("^(?:{what})$"),
            });
            let table = tables.get_mut(index).ok_or_else(missing)?;
            if let Some(at) = key {
                table.get_mut("keys").and_then(Item::as_array_mut).ok_or_else(missing)?.remove(at);
            } else if let Some(at) = identity {
                table.get_mut("identity").and_then(Item::as_array_of_tables_mut).ok_or_else(missing)?.remove(at);
            } else {
                return Err(missing());
            }
            if rule.keys.len() + rule.identities.len() == 1 && rule.action == Action::Verify {
                tables.remove(index);
            }
            Ok(())
        })
    }

    fn edit(&mut self, change: impl FnOnce(&mut DocumentMut) -> Result<(), PolicyError>) -> Result<(), PolicyError> {
        let text = if self.text.is_empty() { "version = 1\n" } else { &self.text };
        let mut document: DocumentMut =
            text.parse().map_err(|e: toml_edit::TomlError| PolicyError::Invalid(e.to_string()))?;
        change(&mut document)?;
        // Reading it again means that an edit can't produce what a later run refuses.
        *self = Self::parse(document.to_string(), &self.base)?;
        Ok(())
    }
}

/// A repository prefix in a sentence: the empty one is everything's.
fn said(repository: &str) -> String {
    if normalise(repository).is_empty() { "everything".into() } else { format!("`{repository}`") }
}

fn rule_mut<'a>(document: &'a mut DocumentMut, repository: &str) -> Result<&'a mut Table, PolicyError> {
    table_mut(document, "rule", repository)
}

/// The `[[name]]` of a repository, made where there is none.
fn table_mut<'a>(document: &'a mut DocumentMut, name: &str, repository: &str) -> Result<&'a mut Table, PolicyError> {
    let prefix = normalise(repository);
    let tables = document
        .entry(name)
        .or_insert(Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or_else(|| PolicyError::Invalid(format!("`{name}` is not written as [[{name}]]")))?;
    let found = tables
        .iter()
        .position(|table| normalise(table.get("repository").and_then(Item::as_str).unwrap_or_default()) == prefix);
    let index = found.unwrap_or_else(|| {
        let mut table = Table::new();
        if !prefix.is_empty() {
            table.insert("repository", value(&prefix));
        }
        tables.push(table);
        tables.len() - 1
    });
    tables.get_mut(index).ok_or_else(|| PolicyError::Invalid("the rules can't be edited".into()))
}

pub(super) fn key_id(bytes: &Result<Vec<u8>, String>) -> Option<String> {
    let text = std::str::from_utf8(bytes.as_ref().ok()?).ok()?;
    VerifyingKey::from_pem(text).ok().map(|key| key.id().to_owned())
}

fn view(rule: &Rule) -> RuleView {
    RuleView {
        repository: rule.repository.clone(),
        action: match rule.action {
            Action::Verify => "verify",
            Action::Reject => "reject",
            Action::AcceptUnsigned => "accept-unsigned",
        },
        keys: rule.keys.iter().map(|named| (named.listed.clone(), key_id(&named.bytes))).collect(),
        identities: rule
            .identities
            .iter()
            .map(|identity| match &identity.matches {
                IdentityMatch::Exact(exact) => format!("{exact} ({})", identity.issuer),
                IdentityMatch::Regexp(regexp) => format!("{} ({})", regexp.as_str(), identity.issuer),
            })
            .collect(),
        machine_key: rule.machine_key,
    }
}

fn view_compiled(right: &CompiledRule) -> RuleView {
    RuleView {
        repository: right.repository.clone(),
        action: "compiled",
        keys: right.keys.iter().map(|named| (named.listed.clone(), key_id(&named.bytes))).collect(),
        identities: Vec::new(),
        machine_key: false,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn edits_keep_comments_and_undo_each_other() {
        let text = "# ours\nversion = 1\n\n[[rule]] # the team\nrepository = \"host/team\"\nkeys = [\"a.pub\"]\n";
        let mut policy = TrustPolicy::parse(text.into(), Path::new("")).expect("parses");
        policy.add_key("host/team/", "b.pub").expect("adds");
        policy.add_key("", "c.pub").expect("adds");
        let entry =
            IdentityEntry { identity: "me".into(), regexp: false, issuer: "i".into(), trusted_root: "r.json".into() };
        policy.add_identity("host/team", &entry).expect("adds");
        assert!(policy.to_toml().contains("# ours") && policy.to_toml().contains("# the team"), "{}", policy.to_toml());
        let rules = policy.rules();
        assert_eq!(rules[0].keys.len(), 2);
        assert_eq!(rules[0].identities, ["me (i)"]);
        assert_eq!(rules[1].keys[0].0, "c.pub");
        assert!(policy.add_key("host/team", "b.pub").is_err());
        policy.remove("host/team", Some("me")).expect("removes");
        policy.remove("host/team", Some("b.pub")).expect("removes");
        policy.remove("", Some("c.pub")).expect("removes");
        let error = policy.remove("", Some("c.pub")).unwrap_err().to_string();
        assert_eq!(error, "the trust policy has no entry c.pub for everything");
        assert_eq!(policy.rules().len(), 2);
        assert!(matches!(policy.remove("host/team", Some("b.pub")), Err(PolicyError::NoSuchEntry(_))));
        policy.remove("host/team", None).expect("removes");
        assert!(matches!(policy.remove("host/team", None), Err(PolicyError::NoSuchEntry(_))));
    }

    #[test]
    fn adding_to_nothing_makes_a_policy_and_a_key_is_removed_by_its_id() {
        let key = crate::trust::SigningKey::generate(crate::trust::Algorithm::EcdsaP256).expect("generates");
        let mut policy = TrustPolicy::default();
        policy.add_key("host", &key.public_pem()).expect("adds");
        assert_eq!(policy.rules()[0].keys[0].1.as_deref(), Some(key.key_id()));
        policy.remove("host", Some(key.key_id())).expect("removes");
        assert_eq!(policy.rules().len(), 1);
    }

    #[test]
    fn the_right_to_compiled_code_is_its_own_and_narrows_nothing() {
        let key = crate::trust::SigningKey::generate(crate::trust::Algorithm::EcdsaP256).expect("generates");
        let mut policy =
            TrustPolicy::parse("version = 1\n[[rule]]\nkeys = ['a.pub']\n".into(), Path::new("")).expect("parses");
        policy.add_compiled_key("host/app", &key.public_pem()).expect("adds");
        assert!(policy.add_compiled_key("host/app", &key.public_pem()).is_err());
        assert_eq!(policy.rule_for(Some("host/app")).keys[0].listed, "a.pub", "the rule for artifacts stays as it was");
        let right = policy.rules().pop().expect("it is listed");
        assert_eq!((right.action, right.keys[0].1.as_deref()), ("compiled", Some(key.key_id())));
        assert!(matches!(policy.remove_compiled("host", None), Err(PolicyError::NoSuchEntry(_))));
        policy.remove_compiled("host/app", Some(key.key_id())).expect("removes");
        assert!(policy.compiled.is_empty() && !policy.to_toml().contains("compiled"), "{}", policy.to_toml());
    }

    #[test]
    fn a_rejecting_rule_takes_no_key() {
        let text = "version = 1\n[[rule]]\nrepository = 'x'\naction = 'reject'\n";
        let mut policy = TrustPolicy::parse(text.into(), Path::new("")).expect("parses");
        assert!(matches!(policy.add_key("x", "a.pub"), Err(PolicyError::Invalid(_))));
        assert_eq!(policy.to_toml(), text);
    }
}
