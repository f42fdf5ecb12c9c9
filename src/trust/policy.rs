//! Owns the trust policy: reading it, and finding the rule for a repository.
//!
//! Reading is some file reads and one TOML parse; keys and trusted roots are kept as bytes and parsed only when a
//! signature is really verified, since a run whose verification is remembered needs nothing but [`TrustPolicy::hash`].

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::keys::{MAX_KEY_BYTES, VerifyingKey};
use crate::config::{Unfit, open_guarded};
use crate::error::{Error, ErrorKind};
use crate::oci::{Digest, Hasher};

/// The largest policy file that is read, in bytes.
const MAX_POLICY_BYTES: u64 = 1 << 20;
/// The largest trusted root that is read, in bytes; the public one has 7 KiB.
const MAX_ROOT_BYTES: u64 = 4 << 20;

/// What the rule is called that holds where no other does.
pub(super) const DEFAULT_RULE: &str = "the default";

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// One valid signature by a listed key or identity is needed.
    #[default]
    Verify,
    /// Nothing runs, whoever signed it.
    Reject,
    /// Everything runs, signed or not.
    AcceptUnsigned,
}

/// What happens where no rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DefaultAction {
    /// Only what this machine's own key signed runs, where that counts.
    #[default]
    Reject,
    /// Everything runs, signed or not.
    AcceptUnsigned,
}

/// Why a trust policy can't be read or edited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// The file can't be read.
    #[error("the trust policy {path} can't be read: {why}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Somebody else may change it, and so decide what runs.
    #[error("the trust policy {path} decides what runs, and {why}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Who may.
        why: String,
        /// What to do.
        next: String,
    },
    /// Not the TOML that a policy is: names the line and the field.
    #[error("the trust policy is not valid: {0}")]
    Invalid(String),
    /// Nothing in the policy is what should be removed.
    #[error("the trust policy has no {0}")]
    NoSuchEntry(String),
}

impl From<PolicyError> for Error {
    fn from(error: PolicyError) -> Self {
        let (kind, hint) = match &error {
            PolicyError::Open { next, .. } => (ErrorKind::Refused, next.as_str()),
            // A policy that can't be understood lets nothing run.
            PolicyError::Unreadable { .. } => {
                (ErrorKind::Refused, "make it readable, or name another with --trust-policy")
            }
            PolicyError::Invalid(_) => {
                (ErrorKind::Refused, "put the policy right; nothing runs under one that can't be understood")
            }
            PolicyError::NoSuchEntry(_) => (ErrorKind::NotFound, "see `vyr trust ls`"),
        };
        Self::new(kind, &error).hint(hint)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct PolicyFile {
    version: u32,
    #[serde(default)]
    default: DefaultAction,
    #[serde(default = "yes")]
    trust_machine_key: bool,
    #[serde(default, rename = "rule")]
    rules: Vec<RuleFile>,
    #[serde(default)]
    compiled: Vec<CompiledFile>,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RuleFile {
    #[serde(default)]
    repository: String,
    #[serde(default)]
    action: Action,
    #[serde(default)]
    keys: Vec<String>,
    #[serde(default, rename = "identity")]
    identities: Vec<IdentityFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct CompiledFile {
    #[serde(default)]
    repository: String,
    keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct IdentityFile {
    identity: Option<String>,
    identity_regexp: Option<String>,
    issuer: String,
    trusted_root: String,
}

/// How PEM in the policy itself is listed.
const INLINE: &str = "inline";

/// Something that the policy names: its bytes, or why they can't be had.
#[derive(Debug, Clone)]
pub(super) struct Named {
    /// As the policy writes it; `inline` for PEM in the policy itself.
    pub(super) listed: String,
    pub(super) bytes: Result<Vec<u8>, String>,
}

/// Which identities an entry accepts.
#[derive(Debug, Clone)]
pub(super) enum IdentityMatch {
    Exact(String),
    /// Matches the whole identity, never a part of it. Boxed, as a compiled program is large.
    Regexp(Box<regex::Regex>),
}

impl IdentityMatch {
    pub(super) fn accepts(&self, identity: &str) -> bool {
        match self {
            Self::Exact(exact) => exact == identity,
            Self::Regexp(regexp) => regexp.is_match(identity),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) matches: IdentityMatch,
    pub(super) issuer: String,
    pub(super) root: Named,
}

#[derive(Debug, Clone)]
pub(super) struct Rule {
    /// For people: `the rule for localhost:5000/team`.
    pub(super) name: String,
    pub(super) repository: String,
    pub(super) action: Action,
    pub(super) keys: Vec<Named>,
    pub(super) identities: Vec<Identity>,
    pub(super) machine_key: bool,
}

/// Whose compiled code is accepted for a repository and what is below it.
#[derive(Debug, Clone)]
pub(super) struct CompiledRule {
    pub(super) repository: String,
    pub(super) keys: Vec<Named>,
}

/// Whose signatures are accepted for which repositories.
#[derive(Debug, Clone)]
pub struct TrustPolicy {
    pub(super) text: String,
    pub(super) base: PathBuf,
    pub(super) default_rule: Rule,
    pub(super) rules: Vec<Rule>,
    pub(super) compiled: Vec<CompiledRule>,
}

impl Default for TrustPolicy {
    /// What holds without a policy file: only what this machine's own key signed runs.
    fn default() -> Self {
        Self {
            text: String::new(),
            base: PathBuf::new(),
            default_rule: default_rule(DefaultAction::Reject, true),
            rules: Vec::new(),
            compiled: Vec::new(),
        }
    }
}

impl TrustPolicy {
    /// Reads a policy file and every file that it names. One of those that can't be read is no error here: it is one
    /// for whoever needs it.
    ///
    /// # Errors
    /// [`PolicyError::Unreadable`] and [`PolicyError::Invalid`].
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let unreadable = |why: String| PolicyError::Unreadable { path: path.to_owned(), why };
        let file = open_guarded(path).map_err(|unfit| match unfit {
            Unfit::Open { why, next } => PolicyError::Open { path: path.to_owned(), why, next },
            Unfit::Io(e) => unreadable(e.to_string()),
        })?;
        let bytes = capped(file, MAX_POLICY_BYTES).map_err(unreadable)?;
        let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8 text".into()))?;
        Self::parse(text, path.parent().unwrap_or(Path::new("")))
    }

    /// As [`Self::load`]; [`Self::default`] where there is no such file.
    ///
    /// # Errors
    /// As [`Self::load`], for a file that is there.
    pub fn load_or_default(path: &Path) -> Result<Self, PolicyError> {
        match std::fs::symlink_metadata(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                Ok(Self { base: path.parent().unwrap_or(Path::new("")).to_owned(), ..Self::default() })
            }
            _ => Self::load(path),
        }
    }

    /// The files of keys and trusted roots that it names.
    #[must_use]
    pub fn files(&self) -> Vec<PathBuf> {
        let rules = self.rules.iter().flat_map(|rule| rule.keys.iter().chain(rule.identities.iter().map(|i| &i.root)));
        let all = rules.chain(self.compiled.iter().flat_map(|right| &right.keys));
        all.filter(|named| named.listed != INLINE).map(|named| self.base.join(&named.listed)).collect()
    }

    /// Takes a policy's text; the files that it names are relative to `base`.
    ///
    /// # Errors
    /// [`PolicyError::Invalid`].
    pub fn parse(text: String, base: &Path) -> Result<Self, PolicyError> {
        let file: PolicyFile =
            toml::from_str(&text).map_err(|e| PolicyError::Invalid(e.to_string().trim_end().to_owned()))?;
        if file.version != 1 {
            return Err(PolicyError::Invalid(format!(
                "version = {} is not known; this VYR reads version 1",
                file.version
            )));
        }
        let mut rules: Vec<Rule> = Vec::with_capacity(file.rules.len());
        for (index, rule) in file.rules.into_iter().enumerate() {
            let rule = read_rule(rule, index + 1, base, file.trust_machine_key)?;
            if rules.iter().any(|other| other.repository == rule.repository) {
                return Err(PolicyError::Invalid(format!(
                    "there are two rules for the repository `{}`; make them one",
                    rule.repository
                )));
            }
            rules.push(rule);
        }
        let compiled = file.compiled.into_iter().map(|right| CompiledRule {
            repository: normalise(&right.repository),
            keys: right.keys.iter().map(|key| read_named(key, base, MAX_KEY_BYTES as u64)).collect(),
        });
        Ok(Self {
            compiled: compiled.collect(),
            text,
            base: base.to_owned(),
            default_rule: default_rule(file.default, file.trust_machine_key),
            rules,
        })
    }

    /// The policy's text, with the edits made to it.
    #[must_use]
    pub fn to_toml(&self) -> &str {
        &self.text
    }

    /// The rule for a repository: the longest prefix that ends at a path component. Content that came from no
    /// repository (a layout, a bare digest) falls under the rule for everything, or the default.
    pub(super) fn rule_for(&self, repository: Option<&str>) -> &Rule {
        let repository = repository.map(normalise).unwrap_or_default();
        self.rules
            .iter()
            .filter(|rule| covers(&rule.repository, &repository))
            .max_by_key(|rule| rule.repository.len())
            .unwrap_or(&self.default_rule)
    }

    /// SHA-256 over everything that a verification depends on besides the artifact: the policy's text, the bytes of
    /// each key and trusted root that it names, and this machine's key. Two equal hashes decide alike, so it keys the
    /// memory of earlier verifications.
    #[must_use]
    pub fn hash(&self, machine_key: Option<&VerifyingKey>) -> Digest {
        let mut hasher = Hasher::sha256();
        let mut add = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        add(b"vyr trust policy 1");
        add(self.text.as_bytes());
        add(machine_key.map_or("", VerifyingKey::id).as_bytes());
        let rules = self.rules.iter().flat_map(|rule| rule.keys.iter().chain(rule.identities.iter().map(|i| &i.root)));
        for named in rules.chain(self.compiled.iter().flat_map(|right| &right.keys)) {
            match &named.bytes {
                Ok(bytes) => {
                    add(b"read");
                    add(bytes);
                }
                Err(_) => add(b"unreadable"),
            }
        }
        hasher.finish()
    }
}

fn default_rule(action: DefaultAction, machine_key: bool) -> Rule {
    Rule {
        name: DEFAULT_RULE.into(),
        repository: String::new(),
        action: match action {
            DefaultAction::Reject => Action::Verify,
            DefaultAction::AcceptUnsigned => Action::AcceptUnsigned,
        },
        keys: Vec::new(),
        identities: Vec::new(),
        machine_key,
    }
}

fn read_rule(rule: RuleFile, number: usize, base: &Path, machine_key: bool) -> Result<Rule, PolicyError> {
    let repository = normalise(&rule.repository);
    let name = if repository.is_empty() {
        "the rule for every repository".to_owned()
    } else {
        format!("the rule for {repository}")
    };
    if rule.action == Action::Reject && !(rule.keys.is_empty() && rule.identities.is_empty()) {
        return Err(PolicyError::Invalid(format!(
            "rule {number} rejects everything, so it can't list keys or identities"
        )));
    }
    let mut identities = Vec::with_capacity(rule.identities.len());
    for identity in rule.identities {
        let wrong =
            |why: &str| PolicyError::Invalid(format!("rule {number}, identity {}: {why}", identities.len() + 1));
        let matches = match (identity.identity, identity.identity_regexp) {
            (Some(exact), None) if !exact.is_empty() => IdentityMatch::Exact(exact),
            (None, Some(pattern)) if !pattern.is_empty() => {
                IdentityMatch::Regexp(Box::new(whole(&pattern).map_err(|e| wrong(&format!("identity-regexp: {e}")))?))
            }
            _ => return Err(wrong("give either `identity` or `identity-regexp`")),
        };
        if identity.issuer.is_empty() {
            return Err(wrong("`issuer` is empty"));
        }
        let root = read_named(&identity.trusted_root, base, MAX_ROOT_BYTES);
        identities.push(Identity { matches, issuer: identity.issuer, root });
    }
    let keys = rule.keys.iter().map(|key| read_named(key, base, MAX_KEY_BYTES as u64)).collect();
    Ok(Rule {
        name,
        repository,
        action: rule.action,
        keys,
        identities,
        machine_key: machine_key && rule.action != Action::Reject,
    })
}

/// The pattern, for a whole text and never a part of it.
pub(super) fn whole(pattern: &str) -> Result<regex::Regex, regex::Error> {
    // By itself first: `a)|(?:b` is a pattern only between the brackets, and would match parts there.
    regex::Regex::new(pattern)?;
    regex::Regex::new(&format!("^(?:{pattern})$"))
}

fn read_named(entry: &str, base: &Path, limit: u64) -> Named {
    if entry.contains("-----BEGIN ") {
        return Named { listed: INLINE.into(), bytes: Ok(entry.as_bytes().to_vec()) };
    }
    Named { listed: entry.to_owned(), bytes: read_capped(&base.join(entry), limit) }
}

fn read_capped(path: &Path, limit: u64) -> Result<Vec<u8>, String> {
    // Who may change it decides what runs, as with the policy itself.
    let file = open_guarded(path).map_err(|unfit| match unfit {
        Unfit::Open { why, next } => format!("{why}: {next}"),
        Unfit::Io(e) => e.to_string(),
    })?;
    capped(file, limit)
}

fn capped(file: std::fs::File, limit: u64) -> Result<Vec<u8>, String> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > limit { Err(format!("it is larger than {limit} bytes")) } else { Ok(bytes) }
}

/// One spelling for one repository: Docker Hub's names for itself are one host, hosts ignore case, slashes at the end
/// mean nothing.
pub(super) fn normalise(repository: &str) -> String {
    let repository = repository.trim_end_matches('/');
    let (host, path) = repository.split_once('/').map_or((repository, None), |(host, path)| (host, Some(path)));
    let host = host.to_ascii_lowercase();
    let host = if matches!(host.as_str(), "index.docker.io" | "registry-1.docker.io") { "docker.io" } else { &host };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

pub(super) fn covers(prefix: &str, repository: &str) -> bool {
    prefix.is_empty() || repository.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<TrustPolicy, PolicyError> {
        TrustPolicy::parse(text.to_owned(), Path::new("/nonexistent"))
    }

    #[test]
    fn the_longest_prefix_at_a_component_wins() {
        let policy = parse(
            "version = 1\n[[rule]]\nrepository = 'host/app'\n[[rule]]\nrepository = 'host/app/deep/'\naction = 'reject'\n[[rule]]\nrepository = 'index.docker.io/library'\n",
        )
        .expect("parses");
        let name = |repository: &str| policy.rule_for(Some(repository)).name.clone();
        assert_eq!(name("host/app"), "the rule for host/app");
        assert_eq!(name("HOST/app/x"), "the rule for host/app");
        assert_eq!(name("host/apple"), "the default");
        assert_eq!(name("host/app/deep"), "the rule for host/app/deep");
        assert_eq!(name("host/app/deeper"), "the rule for host/app");
        assert_eq!(name("docker.io/library/alpine"), "the rule for docker.io/library");
        assert_eq!(policy.rule_for(None).name, "the default");
    }

    #[test]
    fn errors_name_the_line_and_the_field() {
        for (text, words) in [
            ("version = 1\n[[rule]]\nrepositry = 'x'\n", ["line 3", "repositry"]),
            ("version = 1\ndefault = 'accept'\n", ["line 2", "accept"]),
            ("version = 2\n", ["version = 2", "version 1"]),
            ("default = 'reject'\n", ["missing field", "version"]),
            ("version = 1\n[[rule]]\n[[rule]]\n", ["two rules", "``"]),
            ("version = 1\n[[rule]]\naction = 'reject'\nkeys = ['k']\n", ["rule 1", "keys"]),
            (
                "version = 1\n[[rule]]\n[[rule.identity]]\nissuer = 'i'\ntrusted-root = 'r'\n",
                ["identity 1", "identity-regexp"],
            ),
            (
                "version = 1\n[[rule]]\n[[rule.identity]]\nidentity-regexp = '('\nissuer = 'i'\ntrusted-root = 'r'\n",
                ["identity 1", "regexp"],
            ),
            (
                "version = 1\n[[rule]]\n[[rule.identity]]\nidentity = ''\nissuer = 'i'\ntrusted-root = 'r'\n",
                ["identity 1", "either"],
            ),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(words.iter().all(|word| error.contains(word)), "{text}: {error}");
        }
    }

    #[test]
    fn a_regexp_matches_whole_identities_only() {
        let policy = parse("version = 1\n[[rule]]\n[[rule.identity]]\nidentity-regexp = 'https://a/.*|b'\nissuer = 'i'\ntrusted-root = 'r'\n")
            .expect("parses");
        let matches = &policy.rules[0].identities[0].matches;
        assert!(matches.accepts("https://a/x") && matches.accepts("b"));
        assert!(!matches.accepts("evil https://a/x") && !matches.accepts("bb"));
        // Not a pattern by itself, and one that matches parts once it is put between brackets.
        for open in ["a)|(?:b", "a)|(b", "a)(?:"] {
            let text = format!(
                "version = 1\n[[rule]]\n[[rule.identity]]\nidentity-regexp = '{open}'\nissuer = 'i'\ntrusted-root = 'r'\n"
            );
            assert!(parse(&text).is_err_and(|e| e.to_string().contains("identity-regexp")), "{open}");
        }
    }

    #[test]
    fn the_hash_covers_all_that_decides() {
        for text in ["version = 1\n[[rule]]\nkeys = ['a.pub']\n", "version = 1\n[[compiled]]\nkeys = ['a.pub']\n"] {
            covers_all(text);
        }
    }

    fn covers_all(text: &str) {
        let folder = tempfile::tempdir().expect("a folder");
        let load = |text: &str| TrustPolicy::parse(text.to_owned(), folder.path()).expect("parses");
        let unreadable = load(text).hash(None);
        std::fs::write(folder.path().join("a.pub"), "one").expect("writes");
        let one = load(text).hash(None);
        std::fs::write(folder.path().join("a.pub"), "two").expect("writes");
        let two = load(text).hash(None);
        let key = crate::trust::SigningKey::generate(crate::trust::Algorithm::EcdsaP256).expect("generates");
        let with_machine = load(text).hash(Some(key.verifying_key()));
        let other_text = load(&format!("{text}#\n")).hash(None);
        let all = [unreadable, one, two.clone(), with_machine, other_text];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "{i}");
        }
        assert_eq!(load(text).hash(None), two);
    }

    #[test]
    fn no_file_is_the_default_and_an_unreadable_one_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(TrustPolicy::load_or_default(&folder.path().join("none.toml")).expect("default").rules.is_empty());
        assert!(matches!(TrustPolicy::load(&folder.path().join("none.toml")), Err(PolicyError::Unreadable { .. })));
        assert!(matches!(TrustPolicy::load_or_default(folder.path()), Err(PolicyError::Unreadable { .. })));
    }
}
