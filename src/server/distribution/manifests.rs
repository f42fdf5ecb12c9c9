//! Owns manifests (distribution spec 1.1, "Pulling manifests", "Pushing Manifests", "Deleting tags", "Deleting
//! Manifests"). Their bytes and media types are kept as they came.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};

use super::blobs::{etag, is_known};
use super::path::{self, Named};
use super::receive;
use super::refusal::{Code, Refusal};
use super::{CONTENT_DIGEST, Distribution, Query, answer, blocking, header_text};
use crate::error::Error;
use crate::oci::{Digest, Hasher, MAX_MANIFEST_BYTES, OWN_HOST, parse_reference, sha256};
use crate::store::{Shown, own_name};
use crate::trust::signed_by_tag;

const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// How many tags one push may set.
const MAX_TAGS: usize = 64;

impl Distribution {
    async fn shown(&self, repository: &str, named: &Named) -> Result<Shown, Refusal> {
        let found = match named {
            Named::Tag(tag) => self.store.shown_tag(repository, tag).await?,
            Named::Digest(digest) => self.store.shown_manifest(repository, digest).await?,
        };
        if let Some(found) = found {
            return Ok(found);
        }
        Err(if self.store.has_repository(repository).await? {
            Refusal::new(Code::ManifestUnknown, format!("{repository} has no such manifest"))
        } else {
            Refusal::new(Code::NameUnknown, format!("there is no repository {repository}"))
        })
    }

    /// `GET` and `HEAD /v2/<name>/manifests/<reference>`.
    pub(super) async fn manifest(
        &self,
        repository: &str,
        named: &Named,
        parts: &Parts,
    ) -> Result<Response<Body>, Refusal> {
        self.mirror(repository, named).await?;
        let found = self.shown(repository, named).await?;
        let tag = etag(&found.digest);
        let mut headers = vec![(CONTENT_DIGEST, found.digest.to_string()), (header::ETAG, tag.clone())];
        if is_known(&parts.headers, &tag) {
            return Ok(answer(StatusCode::NOT_MODIFIED, &headers, Body::empty()));
        }
        headers.push((header::CONTENT_TYPE, found.media_type));
        headers.push((header::CONTENT_LENGTH, found.size.to_string()));
        if parts.method == Method::HEAD {
            return Ok(answer(StatusCode::OK, &headers, Body::empty()));
        }
        let layout = self.layout.clone();
        // It is listed: that it isn't there whole is this node's own fault.
        let read = move || layout.read_verified(&found.digest, MAX_MANIFEST_BYTES).map_err(Error::from);
        let bytes = tokio::task::spawn_blocking(read).await??;
        Ok(answer(StatusCode::OK, &headers, Body::from(bytes)))
    }

    /// `PUT /v2/<name>/manifests/<reference>`, with `tag` parameters where the reference is a digest.
    pub(super) async fn put_manifest(
        &self,
        repository: String,
        named: Named,
        parts: &Parts,
        query: &Query,
        body: &mut Option<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let mut tags = query.all("tag").map(path::tag).collect::<Result<Vec<_>, _>>()?;
        if tags.len() > MAX_TAGS {
            return Err(Refusal::new(Code::ManifestInvalid, format!("at most {MAX_TAGS} tags")).status(414));
        }
        let also: Vec<String> = tags.clone();
        let wanted = match named {
            Named::Digest(digest) => Some(digest),
            Named::Tag(tag) => {
                tags.push(tag);
                query.get("digest").map(path::digest).transpose()?
            }
        };
        let media_type = header_text(&parts.headers, &header::CONTENT_TYPE).map(str::to_owned);
        let bytes = whole(parts, body).await?;
        let digest = match &wanted {
            None => sha256(&bytes),
            Some(wanted) => {
                let mut hasher = Hasher::for_digest(wanted).map_err(|e| Refusal::new(Code::DigestInvalid, e.why()))?;
                hasher.update(&bytes);
                let found = hasher.finish();
                if found != *wanted {
                    return Err(Refusal::new(Code::DigestInvalid, format!("the manifest's digest is {found}")));
                }
                found
            }
        };
        // Once it is being put, it's put: a connection that breaks now leaves no half of it.
        let this = self.clone();
        let host = named_host(parts);
        let put = tokio::spawn(async move {
            let subject = this.keep_manifest(&repository, &digest, &bytes, media_type.as_deref(), &tags).await?;
            // A signature is news about what it signs.
            let about = subject.clone().or_else(|| tags.iter().find_map(|tag| signed_by_tag(tag)));
            this.node.arrived(about.as_ref().unwrap_or(&digest), Some(&format!("{host}/{repository}")));
            Ok::<_, Refusal>((repository, digest, subject))
        });
        let (repository, digest, subject) = put.await??;
        let mut headers = vec![
            (header::LOCATION, format!("/v2/{repository}/manifests/{digest}")),
            (CONTENT_DIGEST, digest.to_string()),
            (header::CONTENT_LENGTH, "0".to_owned()),
        ];
        headers.extend(subject.map(|subject| (SUBJECT, subject.to_string())));
        let mut answer = answer(StatusCode::CREATED, &headers, Body::empty());
        for tag in also {
            if let Ok(value) = HeaderValue::from_str(&tag) {
                answer.headers_mut().append(TAG, value);
            }
        }
        Ok(answer)
    }

    async fn keep_manifest(
        &self,
        repository: &str,
        digest: &Digest,
        bytes: &[u8],
        media_type: Option<&str>,
        tags: &[String],
    ) -> Result<Option<Digest>, Refusal> {
        let store = self.store.clone();
        let lease = blocking(move || store.lease()).await?;
        let checked = self.store.check_manifest(repository, digest, bytes, media_type).await?;
        if let Some(absent) = checked.absent.first() {
            let why = format!("{repository} has no {absent}, which the manifest names");
            return Err(Refusal::new(Code::ManifestBlobUnknown, why));
        }
        let mut batch = self.store.batch()?;
        // No origin: that would be a name which the pusher didn't write, and signatures by tag are for what they wrote.
        batch.put_manifest(&lease, Some(digest), bytes, media_type, None).await?;
        batch.place(repository, digest);
        for tag in tags {
            batch.tag(&own_name(repository, tag), digest)?;
        }
        batch.commit_soon().await?;
        Ok(checked.subject)
    }

    /// `DELETE /v2/<name>/manifests/<reference>`: a tag alone, or a manifest with its tags.
    pub(super) async fn remove_manifest(&self, repository: &str, named: &Named) -> Result<Response<Body>, Refusal> {
        let found = self.shown(repository, named).await?;
        match named {
            Named::Tag(tag) => self.store.untag(&own_name(repository, tag)).await?,
            Named::Digest(_) => self.store.hide_manifest(repository, &found.digest).await?,
        };
        Ok(answer(StatusCode::ACCEPTED, &[(header::CONTENT_LENGTH, "0".to_owned())], Body::empty()))
    }
}

/// The host by which the client knows this registry, as its signatures and the trust policy's rules may name it.
fn named_host(parts: &Parts) -> String {
    let said = header_text(&parts.headers, &header::HOST).or_else(|| parts.uri.authority().map(|a| a.as_str()));
    let known = said.filter(|host| parse_reference(&format!("{host}/x")).is_ok_and(|r| r.registry() == *host));
    known.unwrap_or(OWN_HOST).to_owned()
}

/// A manifest's bytes.
async fn whole(parts: &Parts, body: &mut Option<Body>) -> Result<Vec<u8>, Refusal> {
    let too_large =
        || Refusal::new(Code::SizeInvalid, format!("a manifest has at most {MAX_MANIFEST_BYTES} bytes")).status(413);
    let said: Option<u64> = header_text(&parts.headers, &header::CONTENT_LENGTH).and_then(|l| l.parse().ok());
    if said.is_some_and(|said| said > MAX_MANIFEST_BYTES) {
        return Err(too_large());
    }
    let mut pieces = receive::Pieces::of(body.take().unwrap_or_default());
    let mut bytes = Vec::new();
    loop {
        match pieces.next().await {
            Ok(Some(piece)) => bytes.extend_from_slice(&piece),
            Ok(None) => return Ok(bytes),
            Err(why) => return Err(Refusal::new(Code::ManifestInvalid, why)),
        }
        if bytes.len() as u64 > MAX_MANIFEST_BYTES {
            return Err(too_large());
        }
    }
}
