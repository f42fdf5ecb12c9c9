//! Owns the download of a blob: streamed, resumed where it broke, never past its size.
//!
//! Not by `oci-client`'s `pull_blob_stream`: that hashes each byte in software on the reading thread, and the sink hashes
//! it again (it has to: it also hashes what a resumed download already had). Its partial form checks no `Content-Range`.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode};

use super::error::{Failure, RegistryError, quote};
use super::manifest::said_length;
use super::transport::{Call, Core, Operation, network_failure};
use super::{BlobSink, Client, Progress};
use crate::error::Result;
use crate::oci::{Digest, Reference, repository_of};

/// A broken download begins to count its tries afresh only after this much progress, in bytes: a server that gives one byte
/// a connection doesn't hold the client for ever.
const PROGRESS: u64 = 1 << 20;

/// A request for a blob.
pub(super) fn blob_call<'a>(
    reference: &'a Reference,
    digest: &Digest,
    method: Method,
    operation: Operation,
) -> Call<'a> {
    Call {
        reference,
        operation,
        method,
        path: format!("/v2/{}/blobs/{digest}", reference.repository()),
        headers: HeaderMap::new(),
        body: None,
        target: format!("blob {digest} of {}", repository_of(reference)),
    }
}

impl Client {
    /// Downloads a blob of exactly `size` bytes into `sink`, from where the sink stands. A stream that breaks is resumed by
    /// a Range request; transient failures are tried again. The digest is the sink's to check, at its commit.
    ///
    /// # Errors
    /// Refused when the registry has more or fewer bytes than `size`, or answers with another range than was asked for; Storage
    /// when the sink fails; else as the registry answers.
    #[tracing::instrument(skip_all, fields(repository = %repository_of(reference), digest = %digest, size, from = sink.position()))]
    pub async fn blob(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        sink: &mut dyn BlobSink,
        progress: &dyn Progress,
    ) -> Result<()> {
        let core = &*self.core;
        let call = blob_call(reference, digest, Method::GET, Operation::Pull);
        // The semaphore is never closed, so an error can't be; if it were, there would just be no limit.
        let _permit = core.transfers.acquire().await.ok();
        let mut delays = core.delays();
        let mut counted_from = sink.position();
        while sink.position() != size {
            let Err(failure) = core.download(&call, size, sink, progress).await else { continue };
            if sink.position() >= counted_from + PROGRESS {
                counted_from = sink.position();
                delays = core.delays();
            }
            let planned: Option<Duration> = delays.next();
            let Some(delay) = core.wait_for(&failure, planned) else { return Err(failure.error.into()) };
            tracing::debug!(error = %failure.error, position = sink.position(), ?delay, "resuming");
            tokio::time::sleep(delay).await;
        }
        Ok(())
    }
}

impl Core {
    /// One request; `Ok` means that the sink stands at `size`.
    async fn download(
        &self,
        call: &Call<'_>,
        size: u64,
        sink: &mut dyn BlobSink,
        progress: &dyn Progress,
    ) -> Result<(), Failure> {
        let lie = |why: String| Failure::from(RegistryError::Lie { target: call.target.clone(), why });
        let start = sink.position();
        if start > size {
            return Err(lie(format!("{start} bytes of it are there already, and its descriptor says {size}")));
        }
        let mut call = call.clone();
        if start > 0 {
            // With its end, though that is clear: registries are met that know no open range.
            let range = if start < size { format!("bytes={start}-{}", size - 1) } else { format!("bytes={start}-") };
            let range = HeaderValue::from_str(&range);
            call.headers.insert(RANGE, range.map_err(|e| lie(e.to_string()))?);
        }
        let response = match self.send_once(&call).await {
            Err(failure) if failure.status == Some(416) && start > 0 => {
                return Err(lie(format!("the registry has no bytes after {start}, and its descriptor says {size}")));
            }
            other => other?,
        };
        let mut skip = check_start(&response, start, size).map_err(&lie)?;
        // Fewer bytes than announced are a broken connection; another announcement than the descriptor's is a lie.
        if let Some(length) = said_length(&response) {
            let expected = size - start + skip;
            if length != expected {
                return Err(lie(format!("the registry sends {length} bytes where its descriptor leaves {expected}")));
            }
        }
        let url = response.url().clone();
        let mut stream = response.bytes_stream();
        while let Some(chunk) = stream.next().await {
            let mut chunk = chunk.map_err(|e| network_failure(&call.target, &url, &e))?;
            if skip > 0 {
                let skipped = chunk.split_to(usize::try_from(skip).unwrap_or(usize::MAX).min(chunk.len()));
                skip -= skipped.len() as u64;
                if chunk.is_empty() {
                    continue;
                }
            }
            if chunk.len() as u64 > size - sink.position() {
                return Err(lie(format!("the registry sends more than the {size} bytes of its descriptor")));
            }
            sink.write(chunk).await.map_err(|source| RegistryError::Sink { target: call.target.clone(), source })?;
            progress.at(sink.position());
        }
        if sink.position() == size {
            Ok(())
        } else {
            Err(lie(format!("the registry ends it after {} bytes, and its descriptor says {size}", sink.position())))
        }
    }
}

/// Checks that an answer begins where it was asked to, and says how many bytes of it are known already.
fn check_start(response: &Response, start: u64, size: u64) -> Result<u64, String> {
    match response.status() {
        // RFC 9110, section 14.2: a server may ignore Range, and then sends all of it.
        StatusCode::OK => Ok(start),
        StatusCode::PARTIAL_CONTENT => {
            let text = response.headers().get(CONTENT_RANGE).and_then(|v| v.to_str().ok()).unwrap_or_default();
            match parse_range(text) {
                Some((first, last, total))
                    if first == start && last.checked_add(1) == Some(size) && total.is_none_or(|t| t == size) =>
                {
                    Ok(0)
                }
                _ => Err(format!(
                    "the registry answered the range `{}` to a request for bytes {start} to {size}",
                    quote(text)
                )),
            }
        }
        status => Err(format!("the registry answered {status} to a download")),
    }
}

/// `bytes FIRST-LAST/TOTAL` or `…/*` (RFC 9110, section 14.4).
fn parse_range(text: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let total = if total.trim() == "*" { None } else { Some(total.trim().parse().ok()?) };
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_parse() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, 9, None)));
        for bad in [
            "",
            "bytes */10",
            "bytes 5-/10",
            "items 5-9/10",
            "bytes 5-9",
            "bytes -1-9/10",
            "bytes 5-99999999999999999999/*",
        ] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
