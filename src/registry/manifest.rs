//! Owns manifests and existence: resolving a reference, fetching and pushing a manifest by its exact bytes.

use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Response};

use super::Client;
use super::error::{Failure, RegistryError};
use super::transport::{Call, Core, Operation, network_failure};
use crate::error::Result;
use crate::oci::{self, Digest, Reference, media, repository_of};

const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json",
);
const CONTENT_DIGEST: &str = "docker-content-digest";

/// What a reference names at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The manifest's digest, as the registry says it (verified only when the manifest is fetched).
    pub digest: Digest,
    /// The manifest's size in bytes, if the registry said it.
    pub size: Option<u64>,
    /// The manifest's media type, if the registry said it.
    pub media_type: Option<String>,
}

/// A manifest or index whose bytes have the digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedManifest {
    /// The digest of `bytes`, computed here: in the reference's algorithm, else in the one the registry uses.
    pub digest: Digest,
    /// The registry's `Content-Type` without parameters, else the manifest's own `mediaType`; may be empty.
    pub media_type: String,
    /// The exact bytes.
    pub bytes: Bytes,
}

/// How a message names a reference's manifest.
pub(super) fn target_of(reference: &Reference) -> String {
    reference.whole()
}

fn call<'a>(reference: &'a Reference, method: Method, name: &str, target: String) -> Call<'a> {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, ACCEPTED);
    Call {
        reference,
        operation: Operation::Pull,
        method,
        path: format!("/v2/{}/manifests/{name}", reference.repository()),
        headers,
        body: None,
        target,
    }
}

/// What names the manifest in a URL: the digest, which can't move, before the tag.
fn name_of(reference: &Reference) -> &str {
    reference.digest().or(reference.tag()).unwrap_or("latest")
}

fn wanted(reference: &Reference) -> Result<Option<Digest>, RegistryError> {
    let digest = reference.digest().map(oci::parse_digest).transpose();
    digest.map_err(|source| RegistryError::Digest { target: target_of(reference), source })
}

/// The digest in the answer's header, if there is one of an accepted algorithm.
fn said_digest(response: &Response) -> Option<Digest> {
    oci::parse_digest(response.headers().get(CONTENT_DIGEST)?.to_str().ok()?).ok()
}

fn said_type(response: &Response) -> Option<String> {
    let text = response.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let text = text.split(';').next().unwrap_or_default().trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// The `Content-Length` header itself: an answer to HEAD has no body whose length could be asked for.
pub(super) fn said_length(response: &Response) -> Option<u64> {
    response.headers().get(CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

impl Core {
    /// Reads a body of at most [`oci::MAX_MANIFEST_BYTES`].
    pub(super) async fn read_manifest(&self, target: &str, mut response: Response) -> Result<Bytes, Failure> {
        let limit = oci::MAX_MANIFEST_BYTES;
        let too_large = || RegistryError::ManifestTooLarge { target: target.to_owned(), limit };
        if said_length(&response).is_some_and(|length| length > limit) {
            return Err(too_large().into());
        }
        let url = response.url().clone();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| network_failure(target, &url, &e))? {
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                return Err(too_large().into());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// Fetches the manifest called `name` (a tag or digest) and checks it against `digest`, if there is one.
    pub(super) async fn fetch(
        &self,
        reference: &Reference,
        name: &str,
        digest: Option<&Digest>,
    ) -> Result<FetchedManifest, Failure> {
        let target = format!("{}{}{name}", repository_of(reference), if name.contains(':') { '@' } else { ':' });
        let call = call(reference, Method::GET, name, target);
        // The body is part of the try: a connection may break in it.
        self.retrying(|| async {
            let response = self.send_once(&call).await?;
            let (said, media_type) = (said_digest(&response), said_type(&response));
            let bytes = self.read_manifest(&call.target, response).await?;
            let mut found = None;
            for expected in [digest, said.as_ref()].into_iter().flatten() {
                oci::check_digest(expected, &bytes)
                    .map_err(|source| RegistryError::Digest { target: call.target.clone(), source })?;
                found.get_or_insert_with(|| expected.clone());
            }
            Ok(FetchedManifest {
                digest: found.unwrap_or_else(|| oci::sha256(&bytes)),
                media_type: media_type.filter(|t| !is_generic(t)).or_else(|| own_type(&bytes)).unwrap_or_default(),
                bytes,
            })
        })
        .await
    }

    /// Pushes `bytes` under `name`; also gives the answer, for its headers.
    pub(super) async fn put_manifest(
        &self,
        reference: &Reference,
        name: &str,
        media_type: &str,
        bytes: Bytes,
    ) -> Result<(Digest, Response), RegistryError> {
        let target = format!("{}{}{name}", repository_of(reference), if name.contains(':') { '@' } else { ':' });
        if bytes.len() as u64 > oci::MAX_MANIFEST_BYTES {
            return Err(RegistryError::ManifestTooLarge { target, limit: oci::MAX_MANIFEST_BYTES });
        }
        let digest = match wanted(reference)? {
            Some(digest) => {
                oci::check_digest(&digest, &bytes)
                    .map_err(|source| RegistryError::Digest { target: target.clone(), source })?;
                digest
            }
            None => oci::sha256(&bytes),
        };
        let content_type = HeaderValue::from_str(media_type).map_err(|_| RegistryError::Usage {
            target: target.clone(),
            why: format!("`{media_type}` is not a media type"),
        })?;
        let mut call = call(reference, Method::PUT, name, target);
        call.operation = Operation::Push;
        call.headers.insert(CONTENT_TYPE, content_type);
        call.body = Some(bytes.clone());
        let response = self.send(&call).await.map_err(|f| f.error)?;
        if let Some(said) = said_digest(&response) {
            oci::check_digest(&said, &bytes).map_err(|_| RegistryError::Lie {
                target: call.target,
                why: format!("the registry says that it keeps this manifest as {said}, but its digest is {digest}"),
            })?;
        }
        Ok((digest, response))
    }
}

/// Types that say nothing about a manifest; some static file servers send them.
fn is_generic(media_type: &str) -> bool {
    matches!(media_type, "application/json" | "application/octet-stream" | "text/plain" | "text/html")
}

fn own_type(bytes: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    serde_json::from_slice::<Typed>(bytes).ok()?.media_type
}

impl Client {
    /// The digest that `reference` names now: by HEAD, or by GET where the registry's HEAD says no digest.
    ///
    /// # Errors
    /// NotFound, Unauthorized or Unavailable as the registry answers; Refused when it names another digest than the
    /// reference does.
    #[tracing::instrument(skip_all, fields(reference = %reference))]
    pub async fn resolve(&self, reference: &Reference) -> Result<Resolved> {
        let wanted = wanted(reference)?;
        let call = call(reference, Method::HEAD, name_of(reference), target_of(reference));
        match self.core.send(&call).await {
            Ok(response) => {
                if let Some(digest) = said_digest(&response) {
                    if let Some(wanted) = wanted.filter(|w| w.algorithm() == digest.algorithm() && *w != digest) {
                        return Err(RegistryError::Digest {
                            target: call.target,
                            source: oci::digest_mismatch(&wanted, &digest),
                        }
                        .into());
                    }
                    let digest = match reference.digest() {
                        Some(own) => oci::parse_digest(own)?,
                        None => digest,
                    };
                    return Ok(Resolved { digest, size: said_length(&response), media_type: said_type(&response) });
                }
            }
            Err(failure) if matches!(failure.status, Some(405 | 501)) => {}
            Err(failure) => return Err(failure.error.into()),
        }
        let manifest = self.manifest(reference).await?;
        Ok(Resolved {
            size: Some(manifest.bytes.len() as u64),
            media_type: Some(manifest.media_type),
            digest: manifest.digest,
        })
    }

    /// Fetches the manifest of `reference` and verifies it against the reference's digest, and against the one that the
    /// registry names.
    ///
    /// # Errors
    /// As for [`Self::resolve`]; Refused for other bytes than the digest's and for more than
    /// [`oci::MAX_MANIFEST_BYTES`], which are never buffered.
    #[tracing::instrument(skip_all, fields(reference = %reference, bytes))]
    pub async fn manifest(&self, reference: &Reference) -> Result<FetchedManifest> {
        let wanted = wanted(reference)?;
        let manifest = self.core.fetch(reference, name_of(reference), wanted.as_ref()).await.map_err(|f| f.error)?;
        tracing::Span::current().record("bytes", manifest.bytes.len());
        Ok(manifest)
    }

    /// Pushes a manifest by its exact bytes, under the reference's tag, else by digest.
    ///
    /// # Errors
    /// Refused when the reference has another digest than the bytes, or the registry claims another one; else as the
    /// registry answers.
    #[tracing::instrument(skip_all, fields(reference = %reference, bytes = bytes.len()))]
    pub async fn push_manifest(&self, reference: &Reference, media_type: &str, bytes: &[u8]) -> Result<Digest> {
        let own = oci::sha256(bytes).to_string();
        let name = reference.tag().or(reference.digest()).unwrap_or(&own);
        let (digest, _) = self.core.put_manifest(reference, name, media_type, Bytes::copy_from_slice(bytes)).await?;
        Ok(digest)
    }

    /// Whether the repository of `reference` has the blob.
    ///
    /// # Errors
    /// Unauthorized or Unavailable.
    #[tracing::instrument(skip_all, fields(repository = %repository_of(reference), digest = %digest))]
    pub async fn blob_exists(&self, reference: &Reference, digest: &Digest) -> Result<bool> {
        Ok(self.core.has_blob(reference, digest, Operation::Pull).await?)
    }
}

impl Core {
    pub(super) async fn has_blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        operation: Operation,
    ) -> Result<bool, RegistryError> {
        let call = super::pull::blob_call(reference, digest, Method::HEAD, operation);
        match self.send(&call).await {
            Ok(_) => Ok(true),
            Err(Failure { error: RegistryError::NotFound { .. }, .. }) => Ok(false),
            Err(failure) => Err(failure.error),
        }
    }
}

/// Whether `media_type` is one of an index.
pub(super) fn is_index(media_type: &str) -> bool {
    matches!(media_type, media::INDEX | media::DOCKER_LIST)
}
