//! Owns the repositories that mirror another registry's: before an answer, what is asked for is brought here.

use super::path::{Named, Route};
use super::refusal::{Code, Refusal};
use super::{Distribution, Query};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest};
use crate::ops::mirror::{self, Upstream};

impl Distribution {
    fn upstream(&self, repository: &str) -> Option<Upstream> {
        Upstream::of(self.node.vyr().config(), repository)
    }

    /// The route with the mirrored repository, where a container engine names the registry that it means by `ns`, as
    /// containerd does of a mirror.
    pub(super) fn unmirrored(&self, route: Route, query: &Query) -> Result<Route, Refusal> {
        let (Some(meant), Some(repository)) = (query.get("ns").filter(|ns| !ns.is_empty()), route.repository()) else {
            return Ok(route);
        };
        match Upstream::mirrored(self.node.vyr().config(), meant, repository) {
            Some(mirrored) => Ok(route.of(mirrored)),
            None => Err(Refusal::new(Code::NameUnknown, format!("this node mirrors nothing of {meant}"))),
        }
    }

    /// # Errors
    /// [`Code::Denied`] for a route of a mirrored repository: nothing is written there but by the mirror itself.
    pub(super) fn not_mirrored(&self, route: &Route) -> Result<(), Refusal> {
        match route.repository().and_then(|repository| self.upstream(repository)) {
            None => Ok(()),
            Some(upstream) => Err(Refusal::new(Code::Denied, format!("this is a mirror of {upstream}: push it there"))),
        }
    }

    /// Brings what is named here, where `repository` is a mirror. An upstream that can't be asked is no error as long as
    /// there is something to show.
    pub(super) async fn mirror(&self, repository: &str, named: &Named) -> Result<(), Refusal> {
        let Some(upstream) = self.upstream(repository) else { return Ok(()) };
        let (node, name, wanted, of) = (self.node.clone(), repository.to_owned(), named.clone(), upstream.clone());
        // A client that goes away ends its request, not the pull that others may wait for.
        let pulled = tokio::spawn(async move {
            match &wanted {
                Named::Tag(tag) => mirror::tag(node.vyr(), &name, &of, tag).await,
                Named::Digest(digest) => mirror::digest(node.vyr(), &name, &of, digest).await,
            }
        });
        let error = match pulled.await? {
            Ok(pulled) => {
                if let Some(digest) = pulled {
                    self.node.arrived(&digest, Some(&upstream.to_string()));
                }
                return Ok(());
            }
            Err(error) => error,
        };
        if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Unauthorized) {
            let here = match named {
                Named::Tag(tag) => self.store.shown_tag(repository, tag).await?,
                Named::Digest(digest) => self.store.shown_manifest(repository, digest).await?,
            };
            if here.is_some() {
                tracing::warn!(%upstream, error = %error, "answered from what was mirrored before");
                return Ok(());
            }
        }
        Err(refusal(&upstream, &error))
    }

    /// What upstream lists as referrers; `None` where `repository` is no mirror, or upstream can't say.
    pub(super) async fn mirrored_referrers(
        &self,
        repository: &str,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, Refusal> {
        let Some(upstream) = self.upstream(repository) else { return Ok(None) };
        match mirror::referrers(self.node.vyr(), &upstream, subject).await {
            Ok(mut found) => {
                found.retain(|d| {
                    artifact_type.is_none_or(|t| d.artifact_type().as_ref().is_some_and(|own| own.to_string() == t))
                });
                Ok(Some(found))
            }
            Err(error) => {
                tracing::warn!(%upstream, error = %error, "listed what was mirrored before");
                Ok(None)
            }
        }
    }
}

/// What upstream, or the way there, says no with.
fn refusal(upstream: &Upstream, error: &Error) -> Refusal {
    let why = format!("{upstream}, which this mirrors: {}", error.why());
    match error.kind() {
        ErrorKind::NotFound => Refusal::new(Code::ManifestUnknown, why),
        ErrorKind::Unauthorized => Refusal::new(Code::Denied, why),
        ErrorKind::Unavailable => Refusal::new(Code::Unknown, why).status(503),
        ErrorKind::Refused | ErrorKind::InvalidContent => Refusal::new(Code::Unknown, why).status(502),
        _ => {
            tracing::error!(%upstream, error = %error, "a mirror's pull failed");
            Refusal::new(Code::Unknown, "the node could not do it; its log says why")
        }
    }
}
