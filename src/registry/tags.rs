//! Owns listing a repository's tags (distribution spec 1.1, "Listing Tags").

use reqwest::Method;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;

use super::Client;
use super::error::{Failure, RegistryError};
use super::referrers::next_link;
use super::transport::{Call, Operation, network_failure};
use crate::error::Result;
use crate::oci::{Reference, repository_of};

/// How many tags a page is asked for.
const PAGE: usize = 1000;
/// The most pages that are read.
const MAX_PAGES: usize = 100_000;
/// The most bytes of a page: a registry that knows no pages sends all at once.
const MAX_BYTES: usize = 256 << 20;

#[derive(Deserialize)]
struct Listed {
    tags: Option<Vec<String>>,
}

impl Client {
    /// Hands the repository's tags to `each`, page by page in the registry's order, from after `after` on, until it says
    /// that it has enough. A repository that isn't there has none.
    ///
    /// # Errors
    /// As the registry answers.
    #[tracing::instrument(skip_all, fields(repository = %repository_of(reference), after))]
    pub async fn tags(
        &self,
        reference: &Reference,
        after: Option<&str>,
        mut each: impl FnMut(Vec<String>) -> bool + Send,
    ) -> Result<()> {
        let core = &*self.core;
        let mut path = format!("/v2/{}/tags/list?n={PAGE}", reference.repository());
        if let Some(after) = after {
            path = format!("{path}&last={after}");
        }
        let mut call = Call {
            reference,
            operation: Operation::Pull,
            method: Method::GET,
            path,
            headers: HeaderMap::new(),
            body: None,
            target: format!("tags of {}", repository_of(reference)),
        };
        for _ in 0..MAX_PAGES {
            let page = core.retrying(|| async {
                let mut response = core.send_once(&call).await?;
                let url = response.url().clone();
                let link = response.headers().get(LINK).and_then(|v| v.to_str().ok()).and_then(next_link);
                let next = link.and_then(|link| url.join(link).ok()).filter(|next| next.origin() == url.origin());
                let mut body = Vec::new();
                while let Some(piece) = response.chunk().await.map_err(|e| network_failure(&call.target, &url, &e))? {
                    if body.len() + piece.len() > MAX_BYTES {
                        let why = format!("its list of tags has more than {MAX_BYTES} bytes");
                        return Err(RegistryError::Lie { target: call.target.clone(), why }.into());
                    }
                    body.extend_from_slice(&piece);
                }
                let listed: Listed = serde_json::from_slice(&body).map_err(|e| {
                    Failure::from(RegistryError::Lie {
                        target: call.target.clone(),
                        why: format!("no list of tags: {e}"),
                    })
                })?;
                Ok((listed.tags.unwrap_or_default(), next))
            });
            let (tags, next) = match page.await {
                Ok(page) => page,
                Err(Failure { error: RegistryError::NotFound { .. }, .. }) => return Ok(()),
                Err(failure) => return Err(failure.error.into()),
            };
            if each(tags) {
                return Ok(());
            }
            match next {
                None => return Ok(()),
                Some(next) => call.path = next[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
            }
        }
        let why = format!("the list has more than {MAX_PAGES} pages");
        Err(RegistryError::Lie { target: call.target, why }.into())
    }
}
