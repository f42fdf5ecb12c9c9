//! Owns referrers: the API of distribution spec 1.1 ("Listing Referrers"), and the tag that stands in where it's missing
//! ("Referrers Tag Schema").

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, LINK};
use serde_json::{Value, json};

use super::Client;
use super::error::{Failure, RegistryError};
use super::manifest::is_index;
use super::transport::{Call, Core, Operation, lock};
use crate::error::Result;
use crate::oci::{self, Descriptor, Digest, MAX_DESCRIPTORS, Reference, media, repository_of};

/// Pages of one listing; real ones have 100 or more entries each.
const MAX_PAGES: usize = 100;
/// How often the fallback index is written until a concurrent writer no longer undoes it.
const MAX_ROUNDS: usize = 5;

/// What is known about a registry's referrers API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReferrersSupport {
    /// Not asked yet.
    #[default]
    Unknown,
    /// It has the API.
    Supported,
    /// It hasn't; the fallback tag is used.
    Unsupported,
}

/// `sha256:<hex>` → `sha256-<hex>`, cut as the spec says (the algorithm to 32 characters, the hash to 64).
fn fallback_tag(subject: &Digest) -> String {
    let text = subject.to_string();
    let (algorithm, hash) = text.split_once(':').unwrap_or((&text, ""));
    format!("{}-{}", &algorithm[..algorithm.len().min(32)], &hash[..hash.len().min(64)])
}

fn clean_entries(index: &Value) -> Option<Vec<Descriptor>> {
    let entries = index.get("manifests")?.as_array()?;
    // An entry that can't be read can't be used; it doesn't hide the others.
    Some(entries.iter().filter_map(|e| serde_json::from_value(e.clone()).ok()).collect())
}

impl Client {
    /// What is known about the referrers API of the registry of `reference`.
    #[must_use]
    pub fn referrers_support(&self, reference: &Reference) -> ReferrersSupport {
        self.core.support(reference)
    }

    /// The manifests in the repository of `reference` whose subject is `subject`. By the API, all its pages, only those of
    /// `artifact_type` if given. Where the registry has no such API, all of the fallback tag's index: what it says of types
    /// isn't to be relied on (cosign writes the config's type there), so open each one.
    ///
    /// # Errors
    /// Unauthorized or Unavailable; Refused for more than [`MAX_DESCRIPTORS`]. A subject without referrers is no error.
    #[tracing::instrument(skip_all, fields(repository = %repository_of(reference), subject = %subject))]
    pub async fn referrers(
        &self,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        if self.core.support(reference) != ReferrersSupport::Unsupported
            && let Some(found) = self.core.listed(reference, subject, artifact_type).await?
        {
            return Ok(found);
        }
        let index = self.core.fallback_index(reference, subject).await?;
        Ok(index.as_ref().and_then(clean_entries).unwrap_or_default())
    }

    /// Pushes a manifest that refers to `subject`, by its digest, and lists it in the fallback tag where the registry
    /// doesn't list it itself. `artifact_type` is the descriptor's, for that list.
    ///
    /// # Errors
    /// As for [`Self::push_manifest`]; Unavailable when concurrent writers keep undoing the entry.
    #[tracing::instrument(skip_all, fields(repository = %repository_of(reference), subject = %subject, bytes = bytes.len()))]
    pub async fn push_referrer(
        &self,
        reference: &Reference,
        media_type: &str,
        bytes: &[u8],
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Digest> {
        let core = &self.core;
        let digest = oci::sha256(bytes);
        let by_digest = reference.clone_with_digest(digest.to_string());
        let (_, response) =
            core.put_manifest(&by_digest, digest.as_ref(), media_type, Bytes::copy_from_slice(bytes)).await?;
        if response.headers().contains_key("oci-subject") {
            core.set_support(reference, ReferrersSupport::Supported);
            return Ok(digest);
        }
        let mut entry = json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()});
        if let Some(artifact_type) = artifact_type {
            entry["artifactType"] = artifact_type.into();
        }
        let manifest: Value = serde_json::from_slice(bytes).unwrap_or_default();
        if let Some(annotations) = manifest.get("annotations").filter(|a| a.is_object()) {
            entry["annotations"] = annotations.clone();
        }
        core.add_to_fallback(reference, subject, &digest, &entry).await?;
        Ok(digest)
    }
}

impl Core {
    fn support(&self, reference: &Reference) -> ReferrersSupport {
        lock(&self.referrers).get(reference.resolve_registry()).copied().unwrap_or_default()
    }

    fn set_support(&self, reference: &Reference, support: ReferrersSupport) {
        lock(&self.referrers).insert(reference.resolve_registry().to_owned(), support);
    }

    /// The API's answer; `None` when the registry hasn't got it.
    async fn listed(
        &self,
        reference: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let mut path = format!("/v2/{}/referrers/{subject}", reference.repository());
        if let Some(artifact_type) = artifact_type {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("artifactType", artifact_type)
                .finish();
            path = format!("{path}?{query}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(media::INDEX));
        let target = format!("referrers of {}@{subject}", repository_of(reference));
        let mut call =
            Call { reference, operation: Operation::Pull, method: Method::GET, path, headers, body: None, target };
        let mut found = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.retrying(|| async {
                let response = self.send_once(&call).await?;
                let media_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
                let is_index = is_index(media_type.split(';').next().unwrap_or_default().trim());
                let url = response.url().clone();
                let next = response
                    .headers()
                    .get_all(LINK)
                    .iter()
                    .filter_map(|v| v.to_str().ok())
                    .find_map(next_link)
                    .map(str::to_owned);
                // A relative link is joined to what answered; one to another origin isn't followed.
                let next = next.and_then(|link| url.join(&link).ok()).filter(|n| n.origin() == url.origin());
                let body = self.read_manifest(&call.target, response).await?;
                let entries = serde_json::from_slice::<Value>(&body).ok().as_ref().and_then(clean_entries);
                Ok((is_index, entries, next))
            });
            let (entries, next) = match page.await {
                Ok((true, Some(entries), next)) => (entries, next),
                // Pages of other programs (a web front, a proxy) also answer 200.
                Ok(_) if found.is_empty() => return Ok(self.no_api(reference)),
                Ok(_) => {
                    return Err(RegistryError::Lie {
                        target: call.target,
                        why: "a page of the listing is no image index".into(),
                    });
                }
                Err(Failure { status: Some(404), code, .. }) => {
                    // An unknown repository says nothing about the API.
                    if code.as_deref() == Some("NAME_UNKNOWN") || self.support(reference) == ReferrersSupport::Supported
                    {
                        return Ok(Some(found));
                    }
                    return Ok(self.no_api(reference));
                }
                Err(Failure { status: Some(400 | 405 | 406 | 415 | 501), .. }) => return Ok(self.no_api(reference)),
                Err(failure) => return Err(failure.error),
            };
            self.set_support(reference, ReferrersSupport::Supported);
            // A registry may ignore the filter (spec: then it doesn't say OCI-Filters-Applied).
            found.extend(entries.into_iter().filter(|d| {
                artifact_type.is_none_or(|wanted| d.artifact_type().as_ref().is_some_and(|t| t.to_string() == wanted))
            }));
            // Anybody who may push can make it long, which must keep nobody from what is in it.
            if found.len() > MAX_DESCRIPTORS {
                tracing::warn!(target = call.target, "more than {MAX_DESCRIPTORS} are listed: the first are looked at");
                found.truncate(MAX_DESCRIPTORS);
                return Ok(Some(found));
            }
            match next {
                None => return Ok(Some(found)),
                Some(next) => call.path = next[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
            }
        }
        Err(RegistryError::Lie { target: call.target, why: format!("the listing has more than {MAX_PAGES} pages") })
    }

    fn no_api(&self, reference: &Reference) -> Option<Vec<Descriptor>> {
        self.set_support(reference, ReferrersSupport::Unsupported);
        None
    }

    /// The index under the fallback tag; `None` when there is none, or something else stands there.
    async fn fallback_index(&self, reference: &Reference, subject: &Digest) -> Result<Option<Value>, RegistryError> {
        match self.fetch(reference, &fallback_tag(subject), None).await {
            Ok(manifest) => {
                let index =
                    serde_json::from_slice::<Value>(&manifest.bytes).ok().filter(|v| clean_entries(v).is_some());
                if index.is_none() {
                    tracing::warn!(subject = %subject, "the referrers tag holds no image index; it is taken as empty");
                }
                Ok(index)
            }
            Err(Failure { error: RegistryError::NotFound { .. }, .. }) => Ok(None),
            Err(failure) => Err(failure.error),
        }
    }

    /// Adds `entry` to the index under the fallback tag, unless it's there. The spec has no compare-and-swap, so it is
    /// read again after the write, and written again if another writer won.
    async fn add_to_fallback(
        &self,
        reference: &Reference,
        subject: &Digest,
        digest: &Digest,
        entry: &Value,
    ) -> Result<(), RegistryError> {
        let name = fallback_tag(subject);
        let tagged =
            Reference::with_tag(reference.registry().to_owned(), reference.repository().to_owned(), name.clone());
        for _ in 0..=MAX_ROUNDS {
            let mut index = self
                .fallback_index(reference, subject)
                .await?
                .unwrap_or_else(|| json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": []}));
            let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) else { break };
            let own = digest.to_string();
            if entries.iter().any(|e| e["digest"].as_str() == Some(&own)) {
                return Ok(());
            }
            entries.push(entry.clone());
            let media_type = index["mediaType"].as_str().unwrap_or(media::INDEX).to_owned();
            let bytes = Bytes::from(index.to_string());
            self.put_manifest(&tagged, &name, &media_type, bytes).await?;
        }
        Err(RegistryError::Unavailable {
            target: format!("{}:{name}", repository_of(reference)),
            why: "other writers keep undoing the entry in the referrers tag".into(),
        })
    }
}

/// The target of a `Link` header's `rel="next"` (RFC 8288).
pub(super) fn next_link(header: &str) -> Option<&str> {
    header.split(',').find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|p| {
            p.trim()
                .split_once('=')
                .is_some_and(|(k, v)| k.trim().eq_ignore_ascii_case("rel") && v.trim().trim_matches('"') == "next")
        });
        is_next.then_some(target)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_parse() {
        assert_eq!(next_link(r#"</v2/a/referrers/x?last=1>; rel="next""#), Some("/v2/a/referrers/x?last=1"));
        assert_eq!(next_link(r#"<a>; rel="prev", <b>; REL=next"#), Some("b"));
        for none in ["", "<a>", "a; rel=next", "<a; rel=next", r#"<a>; rel="prev""#] {
            assert_eq!(next_link(none), None, "{none}");
        }
    }

    #[test]
    fn the_fallback_tag_of_a_sha512_subject_is_a_legal_tag() {
        let digest = oci::parse_digest(&format!("sha512:{}", "ab".repeat(64))).unwrap();
        assert_eq!(fallback_tag(&digest), format!("sha512-{}", "ab".repeat(32)));
    }
}
