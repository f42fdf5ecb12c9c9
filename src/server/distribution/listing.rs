//! Owns what a client can look up (distribution spec 1.1, "Content Discovery"): tags, referrers, and the catalog that
//! Docker's registry has.

use axum::body::Body;
use axum::http::{HeaderName, Response, StatusCode, header};
use serde_json::json;

use super::refusal::{Code, Refusal};
use super::{Distribution, Query, answer};
use crate::oci::{Descriptor, Digest, media};
use crate::server::access::Rights;

const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// How many a page has, where the client doesn't say, and at most.
const PAGE: u32 = 10_000;

/// Which part of a list is wanted.
#[derive(Debug, PartialEq, Eq)]
struct Page<'a> {
    number: u32,
    last: Option<&'a str>,
}

impl<'a> Page<'a> {
    fn read(query: &'a Query) -> Result<Self, Refusal> {
        let number = match query.get("n") {
            None => PAGE,
            // More than fits a number is more than there is.
            Some(n) if !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()) => n.parse().unwrap_or(PAGE).min(PAGE),
            Some(_) => return Err(Refusal::new(Code::Unsupported, "n has to be a number").status(400)),
        };
        Ok(Self { number, last: query.get("last") })
    }

    /// One more than is wanted, to know whether there are more.
    fn limit(&self) -> u32 {
        if self.number == 0 { 0 } else { self.number + 1 }
    }

    /// Cuts `found` to the page, and says where the next one is.
    fn cut(&self, found: &mut Vec<String>, path: &str) -> Option<String> {
        let number = self.number as usize;
        if number == 0 || found.len() <= number {
            return None;
        }
        found.truncate(number);
        let last = found.last()?;
        Some(format!("<{path}?n={number}&last={last}>; rel=\"next\""))
    }
}

fn listed(body: &serde_json::Value, link: Option<String>) -> Response<Body> {
    let mut headers = vec![(header::CONTENT_TYPE, "application/json".to_owned())];
    headers.extend(link.map(|link| (header::LINK, link)));
    answer(StatusCode::OK, &headers, Body::from(body.to_string()))
}

impl Distribution {
    /// `GET /v2/<name>/tags/list`.
    pub(super) async fn tags(&self, repository: &str, query: &Query) -> Result<Response<Body>, Refusal> {
        let page = Page::read(query)?;
        if !self.store.has_repository(repository).await? {
            return Err(Refusal::new(Code::NameUnknown, format!("there is no repository {repository}")));
        }
        let mut tags = self.store.shown_tags(repository, page.last, page.limit()).await?;
        let link = page.cut(&mut tags, &format!("/v2/{repository}/tags/list"));
        Ok(listed(&json!({ "name": repository, "tags": tags }), link))
    }

    /// `GET /v2/_catalog`: what the caller may read.
    pub(super) async fn catalog(&self, query: &Query, rights: &Rights) -> Result<Response<Body>, Refusal> {
        let page = Page::read(query)?;
        let wanted = page.limit() as usize;
        let (mut names, mut last) = (Vec::new(), page.last.unwrap_or_default().to_owned());
        while names.len() < wanted {
            let found = self.store.repositories(&last, page.limit()).await?;
            let more = found.len() == wanted;
            last = found.last().cloned().unwrap_or_default();
            names.extend(found.into_iter().filter(|name| rights.listed(name)).take(wanted - names.len()));
            if !more {
                break;
            }
        }
        let link = page.cut(&mut names, "/v2/_catalog");
        Ok(listed(&json!({ "repositories": names }), link))
    }

    /// `GET /v2/<name>/referrers/<digest>`.
    pub(super) async fn referrers(
        &self,
        repository: &str,
        subject: &Digest,
        query: &Query,
    ) -> Result<Response<Body>, Refusal> {
        let filter = query.get("artifactType").filter(|t| !t.is_empty());
        let found = match self.mirrored_referrers(repository, subject, filter).await? {
            Some(found) => found,
            None => self.store.shown_referrers(repository, subject, filter).await?,
        };
        let (found, last) = referrers_page(found, query.get("last"));
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": found });
        let mut headers = vec![(header::CONTENT_TYPE, media::INDEX.to_owned())];
        if let Some(last) = last {
            let mut query = url::form_urlencoded::Serializer::new(String::new());
            query.extend_pairs(filter.map(|filter| ("artifactType", filter))).append_pair("last", last.as_ref());
            let link = format!("</v2/{repository}/referrers/{subject}?{}>; rel=\"next\"", query.finish());
            headers.push((header::LINK, link));
        }
        headers.extend(filter.map(|_| (FILTERS, "artifactType".to_owned())));
        Ok(answer(StatusCode::OK, &headers, Body::from(index.to_string())))
    }
}

/// One page of referrers, and its last one where there are more. Clients read 4 MiB of a listing, and what is listed is written
/// by whoever may push: what is longer is cut, and annotations that would fill a page by themselves are left out.
fn referrers_page(mut found: Vec<Descriptor>, last: Option<&str>) -> (Vec<Descriptor>, Option<Digest>) {
    const PAGE_BYTES: usize = 2 << 20;
    const ONE_BYTES: usize = 256 << 10;
    let size = |of: &Descriptor| serde_json::to_string(of).map_or(0, |text| text.len());
    let mut all = 0;
    for one in &mut found {
        if size(one) > ONE_BYTES {
            one.set_annotations(None);
        }
        all += size(one);
    }
    if all <= PAGE_BYTES && last.is_none() {
        return (found, None);
    }
    found.sort_by(|a, b| a.digest().as_ref().cmp(b.digest().as_ref()));
    found.retain(|one| last.is_none_or(|last| one.digest().as_ref() > last));
    let mut bytes = 0;
    let fits = found.iter().take_while(|one| {
        bytes += size(one);
        bytes <= PAGE_BYTES
    });
    let fits = fits.count().max(1);
    let more = found.len() > fits;
    found.truncate(fits);
    let end = found.last().filter(|_| more).map(|one| one.digest().clone());
    (found, end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| (*n).to_owned()).collect()
    }

    #[test]
    fn a_page_says_where_the_next_one_is_and_the_last_one_does_not() {
        let query = Query::read(Some("n=2&last=a"));
        let page = Page::read(&query).unwrap();
        assert_eq!((page.number, page.last, page.limit()), (2, Some("a"), 3));
        let mut found = names(&["b", "c", "d"]);
        let link = page.cut(&mut found, "/v2/x/tags/list");
        assert_eq!(link.as_deref(), Some("</v2/x/tags/list?n=2&last=c>; rel=\"next\""));
        assert_eq!(found, names(&["b", "c"]));
        assert_eq!(page.cut(&mut found, "/"), None);
    }

    #[test]
    fn numbers_of_all_kinds() {
        for (query, number) in [("", PAGE), ("n=0", 0), ("n=99999999999999999999", PAGE), ("n=20000", PAGE)] {
            assert_eq!(Page::read(&Query::read(Some(query))).unwrap().number, number, "{query}");
        }
        let none = Query::read(Some("n=0"));
        let page = Page::read(&none).unwrap();
        assert_eq!((page.limit(), page.cut(&mut Vec::new(), "/")), (0, None));
        for bad in ["n=-1", "n=", "n=x", "n=1.5"] {
            assert_eq!(Page::read(&Query::read(Some(bad))).unwrap_err().code(), Code::Unsupported, "{bad}");
        }
    }
}
