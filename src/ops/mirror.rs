//! Owns the pull-through mirror: repositories of the node's own registry that show what another registry has. The first
//! who asks has it pulled, whole and verified; from then on it is here, whether the other registry can be reached or not.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::{Vyr, pull};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Reference, parse_digest};

/// Beyond so many entries, those of pulls that have ended are thrown away.
const MANY: usize = 256;

/// How long an upstream that didn't answer isn't asked again where something can be shown without it.
const DOWN: Duration = Duration::from_secs(30);
/// How long it's waited for, where something can be shown without it.
const PATIENCE: Duration = Duration::from_secs(5);

/// The pulls under way, so that many who ask for the same have it pulled once; and which upstreams didn't answer lately.
#[derive(Debug, Default)]
pub struct Flights {
    flights: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
    down: Mutex<HashMap<String, Instant>>,
}

impl Flights {
    /// Asks an upstream something that isn't worth a long wait: once it didn't answer, it isn't asked for a while.
    async fn ask<T>(&self, registry: &str, question: impl Future<Output = Result<T>>) -> Result<T> {
        let silent = || {
            Error::new(ErrorKind::Unavailable, format!("{registry} doesn't answer"))
                .hint("it is asked again some seconds later; what was mirrored before is there without it")
        };
        if self.down().get(registry).is_some_and(|since| since.elapsed() < DOWN) {
            return Err(silent());
        }
        let answer = tokio::time::timeout(PATIENCE, question).await.unwrap_or_else(|_| Err(silent()));
        match &answer {
            Err(e) if e.kind() == ErrorKind::Unavailable => self.down().insert(registry.to_owned(), Instant::now()),
            _ => self.down().remove(registry),
        };
        answer
    }

    fn down(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self, key: String) -> tokio::sync::OwnedMutexGuard<()> {
        let flight = {
            let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
            if flights.len() > MANY {
                flights.retain(|_, flight| flight.strong_count() > 0);
            }
            let known = flights.get(&key).and_then(Weak::upgrade);
            known.unwrap_or_else(|| {
                let flight = Arc::new(tokio::sync::Mutex::new(()));
                flights.insert(key, Arc::downgrade(&flight));
                flight
            })
        };
        flight.lock_owned().await
    }
}

/// Where the content of a mirrored repository comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    /// `host[:port]`.
    pub registry: String,
    /// The repository there.
    pub repository: String,
}

impl Upstream {
    /// Of `repository` in the node's own registry; `None` when it is no mirror. The longest prefix decides.
    #[must_use]
    pub fn of(config: &Config, repository: &str) -> Option<Self> {
        let below = |prefix: &str| repository.strip_prefix(prefix)?.strip_prefix('/').filter(|rest| !rest.is_empty());
        let (mirror, rest) = config
            .mirrors
            .iter()
            .filter_map(|mirror| Some((mirror, below(&mirror.prefix)?)))
            .max_by_key(|(mirror, _)| mirror.prefix.len())?;
        Some(match mirror.upstream.split_once('/') {
            Some((registry, path)) => Self { registry: registry.to_owned(), repository: format!("{path}/{rest}") },
            None => Self { registry: mirror.upstream.clone(), repository: rest.to_owned() },
        })
    }

    /// The mirrored repository for a `repository` of `registry`: what container engines ask for with `ns=registry`.
    #[must_use]
    pub fn mirrored(config: &Config, registry: &str, repository: &str) -> Option<String> {
        let mirror = config.mirrors.iter().find(|mirror| mirror.upstream == registry)?;
        Some(format!("{}/{repository}", mirror.prefix))
    }

    fn tagged(&self, tag: &str) -> Reference {
        Reference::with_tag(self.registry.clone(), self.repository.clone(), tag.to_owned())
    }

    fn digested(&self, digest: &Digest) -> Reference {
        Reference::with_digest(self.registry.clone(), self.repository.clone(), digest.to_string())
    }

    /// `reference`, which names the own registry, as the upstream names it.
    #[must_use]
    pub fn reference(&self, reference: &Reference) -> Reference {
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => {
                Reference::with_digest(self.registry.clone(), self.repository.clone(), digest.to_owned())
            }
            (None, tag) => self.tagged(tag.unwrap_or("latest")),
        }
    }
}

impl std::fmt::Display for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)
    }
}

/// Has the mirrored `repository` show what `tag` names upstream now; what had to be pulled for that.
///
/// # Errors
/// [`ErrorKind::NotFound`] when upstream has no such tag, `Unavailable` when it can't be asked: what was
/// mirrored before is then still there.
pub async fn tag(vyr: &Vyr, repository: &str, upstream: &Upstream, tag: &str) -> Result<Option<Digest>> {
    let reference = upstream.tagged(tag);
    let _flight = vyr.flights().enter(format!("{repository}:{tag}")).await;
    if let Some(shown) = vyr.store().await?.shown_tag(repository, tag).await? {
        let question = vyr.client(&reference)?.resolve(&reference);
        if vyr.flights().ask(&upstream.registry, question).await?.digest == shown.digest {
            return Ok(None);
        }
    }
    Ok(Some(pull::pull_into(vyr, &reference, pull::Purpose::Keep, Some(repository)).await?.root))
}

/// Has the mirrored `repository` show the manifest `digest`; it, if it had to be pulled. Nothing is asked of upstream when it
/// is shown already.
///
/// # Errors
/// As [`tag`].
pub async fn digest(vyr: &Vyr, repository: &str, upstream: &Upstream, digest: &Digest) -> Result<Option<Digest>> {
    let store = vyr.store().await?;
    if store.shown_manifest(repository, digest).await?.is_some() {
        return Ok(None);
    }
    let _flight = vyr.flights().enter(format!("{repository}@{digest}")).await;
    if store.shown_manifest(repository, digest).await?.is_some() {
        return Ok(None);
    }
    Ok(Some(pull::pull_into(vyr, &upstream.digested(digest), pull::Purpose::Keep, Some(repository)).await?.root))
}

/// What upstream lists as being about `subject`.
///
/// # Errors
/// As [`tag`].
pub async fn referrers(vyr: &Vyr, upstream: &Upstream, subject: &Digest) -> Result<Vec<Descriptor>> {
    let reference = upstream.digested(subject);
    let question = vyr.client(&reference)?.referrers(&reference, subject, None);
    let found = vyr.flights().ask(&upstream.registry, question).await?;
    found.iter().try_for_each(|d| parse_digest(d.digest().as_ref()).map(drop))?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, MirrorFile};

    fn config(mirrors: &[(&str, &str)]) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let flags = Flags { home: Some(folder.path().to_owned()), ..Flags::default() };
        let mut config = Config::load(flags).unwrap();
        let file = |(prefix, upstream): &(&str, &str)| MirrorFile {
            prefix: (*prefix).to_owned(),
            upstream: (*upstream).to_owned(),
        };
        config.mirrors = mirrors.iter().map(file).collect();
        config
    }

    #[test]
    fn the_longest_prefix_says_where_a_repository_comes_from() {
        let config = config(&[("ghcr", "ghcr.io"), ("ghcr/ours", "example.com:5000/team/apps")]);
        let upstream = |name: &str| Upstream::of(&config, name).map(|u| u.to_string());
        assert_eq!(upstream("ghcr/owner/app").as_deref(), Some("ghcr.io/owner/app"));
        assert_eq!(upstream("ghcr/ours/app").as_deref(), Some("example.com:5000/team/apps/app"));
        for none in ["ghcr", "ghcr/", "ghcrx/app", "app"] {
            assert_eq!(upstream(none), None, "{none}");
        }
        assert_eq!(Upstream::mirrored(&config, "ghcr.io", "a/b").as_deref(), Some("ghcr/a/b"));
        assert_eq!(Upstream::mirrored(&config, "quay.io", "a/b"), None);
    }

    #[tokio::test]
    async fn who_asks_for_the_same_waits_for_the_first() {
        let flights = Flights::default();
        let first = flights.enter("a".to_owned()).await;
        let _other = flights.enter("b".to_owned()).await;
        let mut second = std::pin::pin!(flights.enter("a".to_owned()));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        second.await;
    }
}
