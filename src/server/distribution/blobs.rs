//! Owns pulling blobs and taking them out (distribution spec 1.1, "Pulling blobs", "Deleting Blobs"), straight from the
//! store's files. The open file holds the bytes, whatever a collection does meanwhile.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, Response, StatusCode, header};
use bytes::BytesMut;
use rustix::io::{ReadWriteFlags, preadv2};

use super::range::{Wanted, wanted};
use super::refusal::{Code, Refusal};
use super::{CONTENT_DIGEST, Distribution, answer, blocking, header_text};
use crate::oci::Digest;
use crate::store::StoreError;

/// How much is read at once, in bytes: what one download has in memory.
const CHUNK: u64 = 128 << 10;

impl Distribution {
    /// `GET` and `HEAD /v2/<name>/blobs/<digest>`.
    pub(super) async fn blob(
        &self,
        repository: &str,
        digest: Digest,
        parts: &Parts,
    ) -> Result<Response<Body>, Refusal> {
        // Who asks whether it is there goes by the answer; who reads it has it open.
        let is_there = match parts.method == Method::HEAD {
            true => self.store.promises_blob(repository, &digest).await?,
            false => self.store.shows_blob(repository, &digest).await?,
        };
        if !is_there {
            return Err(Refusal::new(Code::BlobUnknown, format!("{repository} has no blob {digest}")));
        }
        let (layout, wanted_digest) = (self.layout.clone(), digest.clone());
        let (file, size) = blocking(move || {
            let file = layout.open_blob(&wanted_digest)?;
            let size = file.metadata().map_err(|e| StoreError::from_write(e, layout.root()))?.len();
            Ok((file, size))
        })
        .await?;
        let tag = etag(&digest);
        let mut headers = vec![
            (CONTENT_DIGEST, digest.to_string()),
            (header::ETAG, tag.clone()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::CACHE_CONTROL, "max-age=31536000, immutable".to_owned()),
        ];
        if is_known(&parts.headers, &tag) {
            return Ok(answer(StatusCode::NOT_MODIFIED, &headers, Body::empty()));
        }
        headers.push((header::CONTENT_TYPE, "application/octet-stream".to_owned()));
        // It is for GET alone (RFC 9110, section 14.2).
        let asked = header_text(&parts.headers, &header::RANGE).filter(|_| parts.method == Method::GET);
        let asked = asked.filter(|_| header_text(&parts.headers, &header::IF_RANGE).is_none_or(|known| known == tag));
        let (status, from, to) = match wanted(asked, size) {
            Wanted::All => (StatusCode::OK, 0, size),
            Wanted::Part(from, to) => {
                headers.push((header::CONTENT_RANGE, format!("bytes {from}-{to}/{size}")));
                (StatusCode::PARTIAL_CONTENT, from, to + 1)
            }
            Wanted::Nothing => {
                return Err(Refusal::new(Code::SizeInvalid, format!("the blob has {size} bytes"))
                    .status(416)
                    .header(header::CONTENT_RANGE, &format!("bytes */{size}")));
            }
        };
        headers.push((header::CONTENT_LENGTH, (to - from).to_string()));
        let body = if parts.method == Method::HEAD { Body::empty() } else { stream(file, from, to) };
        Ok(answer(status, &headers, body))
    }

    /// `DELETE /v2/<name>/blobs/<digest>`. The bytes go at the next collection, unless something needs them.
    pub(super) async fn remove_blob(&self, repository: &str, digest: &Digest) -> Result<Response<Body>, Refusal> {
        if self.store.hide_blob(repository, digest).await? {
            return Ok(answer(StatusCode::ACCEPTED, &[(header::CONTENT_LENGTH, "0".to_owned())], Body::empty()));
        }
        Err(Refusal::new(Code::BlobUnknown, format!("{repository} has no blob {digest}")))
    }
}

/// The entity tag of content that never changes.
pub(super) fn etag(digest: &Digest) -> String {
    format!("\"{digest}\"")
}

/// Whether the client says that it has what has this tag.
pub(super) fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    header_text(headers, &header::IF_NONE_MATCH).is_some_and(|list| list.split(',').any(|known| known.trim() == tag))
}

/// The bytes of a file as a body. What the system has in memory is taken at once; for what it doesn't, a thread waits.
fn stream(file: File, from: u64, to: u64) -> Body {
    let file = Arc::new(file);
    Body::from_stream(futures_util::stream::try_unfold((file, from), move |(file, at)| async move {
        if at >= to {
            return Ok::<_, std::io::Error>(None);
        }
        let most = usize::try_from((to - at).min(CHUNK)).map_err(std::io::Error::other)?;
        let mut buffer = BytesMut::zeroed(most);
        let at_once = preadv2(&*file, &mut [IoSliceMut::new(&mut buffer)], at, ReadWriteFlags::NOWAIT);
        let (mut buffer, read) = match at_once {
            Ok(read) if read > 0 => (buffer, read),
            _ => {
                let file = Arc::clone(&file);
                tokio::task::spawn_blocking(move || file.read_at(&mut buffer, at).map(|read| (buffer, read))).await??
            }
        };
        if read == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        buffer.truncate(read);
        Ok(Some((Bytes::from(buffer), (file, at + read as u64))))
    }))
}
