//! Owns what a caller may do: everything, or some of the registry's repositories, and of those what a short-lived token
//! was made for.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// How many scopes one request may name. Clients ask for one or two.
const MAX_SCOPES: usize = 32;

/// What is done to a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Action {
    Pull,
    Push,
    Delete,
}

impl Action {
    const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// As scopes have it.
    pub(in crate::server) fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }

    fn writes(self) -> bool {
        self != Self::Pull
    }
}

/// A repository and what is below it, or all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Prefix {
    All,
    Below(String),
}

impl Prefix {
    fn read(text: &str) -> Result<Self> {
        if text == "*" {
            return Ok(Self::All);
        }
        let path = text.strip_suffix('/').unwrap_or(text);
        if crate::server::distribution::is_name(path) {
            Ok(Self::Below(path.to_owned()))
        } else {
            Err(Error::new(ErrorKind::Usage, format!("`{text}` can't be the beginning of a repository's name"))
                .hint("write it as team or team/app, which hold for what is below them too, or `*` for all"))
        }
    }

    fn holds(&self, repository: &str) -> bool {
        match self {
            Self::All => true,
            Self::Below(path) => {
                repository.strip_prefix(path.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    fn as_str(&self) -> &str {
        match self {
            Self::All => "*",
            Self::Below(path) => path,
        }
    }
}

/// Which repositories may be read, and which written to. Who may write to one may read it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    read: Vec<Prefix>,
    write: Vec<Prefix>,
}

impl Limits {
    /// From prefixes: `team` is `team` and what is below it, `*` is all.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for what no repository's name begins with.
    pub fn new(read: &[String], write: &[String]) -> Result<Self> {
        let prefixes = |texts: &[String]| texts.iter().map(|text| Prefix::read(text)).collect::<Result<Vec<_>>>();
        Ok(Self { read: prefixes(read)?, write: prefixes(write)? })
    }

    /// From the words that [`Display`](fmt::Display) writes, each after a space.
    pub(super) fn read(words: &str) -> Result<Self> {
        let mut limits = Self::default();
        for word in words.split_whitespace() {
            match word.split_once(':') {
                Some(("read", prefix)) => limits.read.push(Prefix::read(prefix)?),
                Some(("write", prefix)) => limits.write.push(Prefix::read(prefix)?),
                _ => return Err(Error::new(ErrorKind::Usage, format!("`{word}` is no right"))),
            }
        }
        Ok(limits)
    }

    /// The prefixes that may be read, and those that may be written to.
    #[must_use]
    pub fn prefixes(&self) -> (Vec<String>, Vec<String>) {
        let texts = |prefixes: &[Prefix]| prefixes.iter().map(|prefix| prefix.as_str().to_owned()).collect();
        (texts(&self.read), texts(&self.write))
    }

    /// Whether nothing at all may be done.
    pub(super) fn is_empty(&self) -> bool {
        self.read.is_empty() && self.write.is_empty()
    }

    fn may(&self, action: Action, repository: &str) -> bool {
        let held = |prefixes: &[Prefix]| prefixes.iter().any(|prefix| prefix.holds(repository));
        held(&self.write) || (!action.writes() && held(&self.read))
    }
}

/// Each with a space before it: `<space>read:team<space>write:team/app`.
impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (word, prefixes) in [("read", &self.read), ("write", &self.write)] {
            for prefix in prefixes {
                write!(f, " {word}:{}", prefix.as_str())?;
            }
        }
        Ok(())
    }
}

/// What a short-lived token is for, in the words of Docker's token specification: `repository:NAME:pull,push` or
/// `registry:catalog:*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) enum Scope {
    Repository(String, Vec<Action>),
    Catalog,
}

impl FromStr for Scope {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        if text == "registry:catalog:*" {
            return Ok(Self::Catalog);
        }
        let (name, actions) = text.strip_prefix("repository:").and_then(|rest| rest.rsplit_once(':')).ok_or(())?;
        if !crate::server::distribution::is_name(name) {
            return Err(());
        }
        let wanted = |action: &Action| actions.split(',').any(|word| word == action.as_str() || word == "*");
        Ok(Self::Repository(name.to_owned(), Action::ALL.into_iter().filter(wanted).collect()))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog => f.write_str("registry:catalog:*"),
            Self::Repository(name, actions) => {
                let actions: Vec<&str> = actions.iter().map(|action| action.as_str()).collect();
                write!(f, "repository:{name}:{}", actions.join(","))
            }
        }
    }
}

/// What a caller may do.
#[derive(Debug, Clone)]
pub(in crate::server) struct Rights {
    /// The registry's repositories, where not all.
    limits: Option<Arc<Limits>>,
    /// What the short-lived token was made for, where it is one.
    scopes: Option<Arc<[Scope]>>,
}

/// Whether something may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Verdict {
    Yes,
    /// Its holder may, and the short-lived token was made for something else.
    NotWithThisToken,
    No,
}

impl Rights {
    /// Everything.
    pub(super) const ALL: Self = Self { limits: None, scopes: None };

    /// What a token's line in the file says.
    pub(super) fn of(limits: Option<Arc<Limits>>) -> Self {
        Self { limits, scopes: None }
    }

    /// These, as far as a short-lived token was made for them.
    pub(super) fn within(self, scopes: Arc<[Scope]>) -> Self {
        Self { scopes: Some(scopes), ..self }
    }

    /// Whether more than the registry is meant: the API, metrics. Who can submit can run, and so read, whatever is in the
    /// store, so nobody with limits may.
    pub(in crate::server) fn whole(&self) -> bool {
        self.limits.is_none() && self.scopes.is_none()
    }

    /// Whether this may be done to a repository.
    pub(in crate::server) fn may(&self, action: Action, repository: &str) -> Verdict {
        if self.limits.as_ref().is_some_and(|limits| !limits.may(action, repository)) {
            return Verdict::No;
        }
        let made_for = |scope: &Scope| match scope {
            Scope::Repository(name, actions) => name == repository && actions.contains(&action),
            Scope::Catalog => false,
        };
        match &self.scopes {
            Some(scopes) if !scopes.iter().any(made_for) => Verdict::NotWithThisToken,
            _ => Verdict::Yes,
        }
    }

    /// Whether the catalog may be asked for; it lists what [`Self::listed`] says.
    pub(in crate::server) fn may_list(&self) -> Verdict {
        match &self.scopes {
            Some(scopes) if !scopes.contains(&Scope::Catalog) => Verdict::NotWithThisToken,
            _ => Verdict::Yes,
        }
    }

    /// Whether the catalog lists a repository: it's about what the holder may read, whichever a token was made for.
    pub(in crate::server) fn listed(&self, repository: &str) -> bool {
        self.limits.as_ref().is_none_or(|limits| limits.may(Action::Pull, repository))
    }

    /// What of `asked` is granted. What can't be read as a scope isn't.
    pub(super) fn grant<'a>(&self, asked: impl Iterator<Item = &'a str>) -> Vec<Scope> {
        let mut granted = Vec::new();
        for scope in asked.take(MAX_SCOPES).filter_map(|text| text.parse().ok()) {
            let scope = match scope {
                Scope::Catalog => Scope::Catalog,
                Scope::Repository(name, mut actions) => {
                    actions.retain(|action| self.may(*action, &name) == Verdict::Yes);
                    if actions.is_empty() {
                        continue;
                    }
                    Scope::Repository(name, actions)
                }
            };
            if !granted.contains(&scope) {
                granted.push(scope);
            }
        }
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(words: &str) -> Limits {
        Limits::read(words).unwrap()
    }

    #[test]
    fn a_prefix_ends_at_a_slash_and_who_writes_reads() {
        let limits = limits("read:team read:public/ write:team/app");
        assert_eq!(limits.to_string(), " read:team read:public write:team/app");
        for (action, repository, may) in [
            (Action::Pull, "team", true),
            (Action::Pull, "team/other", true),
            (Action::Pull, "teams", false),
            (Action::Pull, "tea", false),
            (Action::Pull, "public/x", true),
            (Action::Push, "team", false),
            (Action::Push, "team/app", true),
            (Action::Delete, "team/app/x", true),
            (Action::Push, "team/apps", false),
            (Action::Pull, "team/app", true),
        ] {
            assert_eq!(limits.may(action, repository), may, "{action:?} {repository}");
        }
        let all = super::Limits::read("write:*").unwrap();
        assert!(all.may(Action::Push, "x") && all.may(Action::Pull, "x"));
        assert!(!Limits::default().may(Action::Pull, "x"), "nothing is the least");
    }

    #[test]
    fn what_is_no_right_or_prefix_is_refused() {
        for bad in ["read", "read:", "admin:x", "read:UPPER", "read:../x", "write:a//b", "read:te*", "x"] {
            assert_eq!(Limits::read(bad).unwrap_err().kind(), ErrorKind::Usage, "{bad}");
        }
        assert!(Limits::new(&["a b".to_owned()], &[]).is_err());
    }

    #[test]
    fn scopes_are_read_as_clients_write_them() {
        let all = Action::ALL.to_vec();
        for (text, scope) in [
            ("repository:a/b:pull", Scope::Repository("a/b".into(), vec![Action::Pull])),
            ("repository:a:push,pull", Scope::Repository("a".into(), vec![Action::Pull, Action::Push])),
            ("repository:a:*", Scope::Repository("a".into(), all)),
            ("repository:a:fly", Scope::Repository("a".into(), vec![])),
            ("registry:catalog:*", Scope::Catalog),
        ] {
            assert_eq!(text.parse(), Ok(scope), "{text}");
        }
        for bad in ["", "repository", "repository:a", "repository:A:pull", "repository::pull", "registry:other:*"] {
            assert_eq!(bad.parse::<Scope>(), Err(()), "{bad}");
        }
    }

    #[test]
    fn a_grant_is_never_more_than_the_rights() {
        let rights = Rights::of(Some(Arc::new(limits("read:team write:team/app"))));
        let asked =
            ["repository:team/app:pull,push", "repository:team/x:*", "repository:other:pull", "registry:catalog:*"];
        let granted = rights.grant(asked.into_iter());
        let texts: Vec<String> = granted.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["repository:team/app:pull,push", "repository:team/x:pull", "registry:catalog:*"]);
        let token = rights.clone().within(granted.into());
        assert_eq!(token.may(Action::Push, "team/app"), Verdict::Yes);
        assert_eq!(token.may(Action::Delete, "team/app"), Verdict::NotWithThisToken);
        assert_eq!(token.may(Action::Pull, "team/y"), Verdict::NotWithThisToken);
        assert_eq!(token.may(Action::Push, "team/x"), Verdict::No);
        assert!(token.listed("team/y") && !token.listed("other") && !token.whole() && !rights.whole());
        // Rights that have become fewer since are fewer for the token, too.
        let fewer = Rights::of(Some(Arc::new(limits("read:team")))).within(token.scopes.unwrap());
        assert_eq!(fewer.may(Action::Push, "team/app"), Verdict::No);
        let many: Vec<String> = (0..1000).map(|i| format!("repository:r{i}:pull")).collect();
        assert_eq!(Rights::ALL.grant(many.iter().map(String::as_str)).len(), MAX_SCOPES);
    }
}
