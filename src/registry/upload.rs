//! Owns the uploads that a link with little to give is used for: a small blob in as few requests as the registry takes, and
//! a large one in pieces that are gone on with where the connection broke (distribution spec 1.1, "Pushing a blob
//! monolithically", "Pushing a blob in chunks", "Resuming").

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode};
use url::{Position, Url};

use super::error::{Failure, RegistryError, quote};
use super::pull::blob_call;
use super::transport::{Call, Core, Operation};
use super::{Client, Progress};
use crate::error::Result;
use crate::oci::{Digest, Reference, repository_of};

/// What is small enough to be sent again from its beginning, in bytes.
pub const SMALL: u64 = 256 << 10;
/// The pieces of what is larger, in bytes: this at first, and half of it where one didn't get through, down to the least.
const PIECE: u64 = 1 << 20;
const LEAST: u64 = 16 << 10;

/// Opens a blob's content from its beginning.
pub type OpenBlob = Arc<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// Where an upload stands.
struct Session {
    path: String,
    at: u64,
}

impl Client {
    /// Sends a small blob, whether it is there or not.
    ///
    /// # Errors
    /// As the registry answers.
    #[tracing::instrument(skip_all, fields(repository = %repository_of(reference), digest = %digest, size = bytes.len()))]
    pub async fn push_small_blob(&self, reference: &Reference, digest: &Digest, bytes: Bytes) -> Result<()> {
        let core = &*self.core;
        core.retrying(|| core.small(reference, digest, &bytes)).await.map_err(|failure| failure.error)?;
        Ok(())
    }

    /// Sends a blob of any size unless it is there, in pieces; a connection that breaks costs the piece that it broke in,
    /// or where the registry forgets an upload whose connection broke, the pieces before it, and those get smaller.
    ///
    /// # Errors
    /// Storage when the content can't be read; else as the registry answers.
    #[tracing::instrument(skip_all, fields(repository = %repository_of(reference), digest = %digest, size))]
    pub async fn push_in_pieces(
        &self,
        reference: &Reference,
        digest: &Digest,
        size: u64,
        open: OpenBlob,
        progress: &dyn Progress,
    ) -> Result<()> {
        let core = &*self.core;
        let _permit = core.transfers.acquire().await.ok();
        if core.has_blob(reference, digest, Operation::Push).await? {
            progress.at(size);
            return Ok(());
        }
        Pieces { core, reference, digest, size, open, content: Mutex::new(None), piece: core.piece() }
            .send(progress)
            .await?;
        Ok(())
    }
}

impl Core {
    /// The first size of pieces: one has to get through before the other side's silence counts as its end.
    fn piece(&self) -> u64 {
        let Some(rate) = self.options.bytes_per_second else { return PIECE };
        rate.get().saturating_mul(self.options.read_timeout.as_secs().max(1)).div_euclid(3).clamp(1 << 10, PIECE)
    }

    async fn small(&self, reference: &Reference, digest: &Digest, bytes: &Bytes) -> Result<(), Failure> {
        let registry = reference.resolve_registry();
        let known = self.at_once.lock().unwrap_or_else(PoisonError::into_inner).get(registry).copied();
        let learn = |takes: bool| {
            self.at_once.lock().unwrap_or_else(PoisonError::into_inner).insert(registry.to_owned(), takes);
        };
        let mut call = uploads(reference, digest);
        if known != Some(false) {
            call.path = format!("{}?digest={digest}", call.path);
            call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            call.body = Some(bytes.clone());
            match self.send_once(&call).await {
                Ok(response) if response.status() == StatusCode::CREATED => {
                    learn(true);
                    return Ok(());
                }
                // It began an upload, and wants the bytes by another request.
                Ok(response) => {
                    learn(false);
                    let path = location(&call, &response)?;
                    return self.finish(reference, digest, &path, bytes.clone()).await;
                }
                Err(failure)
                    if known.is_none() && matches!(failure.status, Some(400 | 404 | 405 | 411 | 415 | 501)) =>
                {
                    learn(false);
                }
                Err(failure) => return Err(failure),
            }
        }
        let session = self.begin_session(reference, digest).await?;
        self.finish(reference, digest, &session.path, bytes.clone()).await
    }

    async fn begin_session(&self, reference: &Reference, digest: &Digest) -> Result<Session, Failure> {
        let call = uploads(reference, digest);
        let response = self.send_once(&call).await?;
        Ok(Session { path: location(&call, &response)?, at: 0 })
    }

    /// The upload's last request.
    async fn finish(&self, reference: &Reference, digest: &Digest, path: &str, bytes: Bytes) -> Result<(), Failure> {
        let mut call = blob_call(reference, digest, Method::PUT, Operation::Push);
        let mark = if path.contains('?') { '&' } else { '?' };
        call.path = format!("{path}{mark}digest={digest}");
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        call.body = Some(bytes);
        self.send_once(&call).await.map(drop)
    }
}

/// The call that begins an upload.
fn uploads<'a>(reference: &'a Reference, digest: &Digest) -> Call<'a> {
    let mut call = blob_call(reference, digest, Method::POST, Operation::Push);
    call.path = format!("/v2/{}/blobs/uploads/", reference.repository());
    call.body = Some(Bytes::new());
    call
}

/// Where an upload is gone on with. It has to be the registry itself: credentials go to nobody else.
fn location(call: &Call<'_>, response: &Response) -> Result<String, RegistryError> {
    let lie = |why: String| RegistryError::Lie { target: call.target.clone(), why };
    let text = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
    let text = text.ok_or_else(|| lie("the registry doesn't say where the upload goes on".to_owned()))?;
    let here: &Url = response.url();
    let url = here.join(text).map_err(|e| lie(format!("`{}` is no address: {e}", quote(text))))?;
    // Behind something that ends TLS a registry may name the scheme that it sees itself.
    if (url.host_str(), url.port_or_known_default()) != (here.host_str(), here.port_or_known_default())
        && url.host_str() != here.host_str()
    {
        return Err(lie(format!("the upload goes on at another host, `{}`", quote(text))));
    }
    Ok(url[Position::BeforePath..Position::AfterQuery].to_owned())
}

/// How many bytes the registry has: `Range: 0-<last>`.
fn received(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?;
    let last: u64 = text.trim().trim_start_matches("bytes=").split_once('-')?.1.parse().ok()?;
    // Of nothing and of one byte registries say the same.
    Some(if last == 0 { 0 } else { last + 1 })
}

struct Pieces<'a> {
    core: &'a Core,
    reference: &'a Reference,
    digest: &'a Digest,
    size: u64,
    open: OpenBlob,
    /// The content as far as it is read, and how far that is.
    content: Mutex<Option<(Box<dyn Read + Send>, u64)>>,
    piece: u64,
}

impl Pieces<'_> {
    async fn send(&mut self, progress: &dyn Progress) -> Result<(), RegistryError> {
        let mut delays = self.core.delays();
        let (mut session, mut furthest): (Option<Session>, u64) = (None, 0);
        loop {
            let failure = match self.step(&mut session, progress).await {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    let at = session.as_ref().map_or(0, |s| s.at);
                    if at > furthest {
                        furthest = at;
                        delays = self.core.delays();
                    }
                    continue;
                }
                Err(failure) => failure,
            };
            let smaller = self.piece > LEAST.min(self.core.piece());
            // A registry that has forgotten the upload isn't one that fails: there is a new one.
            let again = failure.transient || (matches!(failure.status, Some(404 | 416)) && session.is_some());
            let planned = delays.next().or_else(|| smaller.then_some(self.core.options.retry_delay));
            let failure = Failure { transient: again, ..failure };
            let Some(delay) = self.core.wait_for(&failure, planned) else { return Err(failure.error) };
            tracing::debug!(error = %failure.error, at = session.as_ref().map(|s| s.at), piece = self.piece, "resuming");
            tokio::time::sleep(delay).await;
            let before = session.as_ref().map_or(0, |open| open.at);
            if let Some(open) = session.take() {
                // Done already, and only the answer was lost?
                if self.core.has_blob(self.reference, self.digest, Operation::Push).await? {
                    progress.at(self.size);
                    return Ok(());
                }
                session = self.look(open).await;
            }
            match session.as_ref().map_or(0, |open| open.at) {
                // A part of the piece is there: that is as good as a smaller one.
                at if at > before => delays = self.core.delays(),
                _ => self.piece = (self.piece / 2).max(LEAST.min(self.core.piece())),
            }
        }
    }

    /// The next request; `true` when it was the last.
    async fn step(&mut self, session: &mut Option<Session>, progress: &dyn Progress) -> Result<bool, Failure> {
        let Some(open) = session else {
            *session = Some(self.core.begin_session(self.reference, self.digest).await?);
            return Ok(false);
        };
        if open.at >= self.size {
            self.core.finish(self.reference, self.digest, &open.path, Bytes::new()).await?;
            progress.at(self.size);
            return Ok(true);
        }
        let bytes = self.read(open.at).await?;
        let end = open.at + bytes.len() as u64;
        let mut call = blob_call(self.reference, self.digest, Method::PATCH, Operation::Push);
        call.path.clone_from(&open.path);
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        for (name, value) in
            [(CONTENT_RANGE, format!("{}-{}", open.at, end - 1)), (CONTENT_LENGTH, bytes.len().to_string())]
        {
            if let Ok(value) = HeaderValue::from_str(&value) {
                call.headers.insert(name, value);
            }
        }
        call.body = Some(bytes);
        let response = self.core.send_once(&call).await?;
        open.at = received(response.headers()).filter(|at| (open.at..=end).contains(at) && *at > 0).unwrap_or(end);
        open.path = location(&call, &response)?;
        progress.at(open.at);
        Ok(false)
    }

    /// Asks how far the registry is; `None` when it has forgotten the upload, or can't say.
    async fn look(&self, session: Session) -> Option<Session> {
        let mut call = blob_call(self.reference, self.digest, Method::GET, Operation::Push);
        call.path.clone_from(&session.path);
        let response = self.core.send_once(&call).await.ok()?;
        let at = received(response.headers())?;
        let path = location(&call, &response).unwrap_or(session.path);
        Some(Session { path, at })
    }

    /// The piece at `at`.
    async fn read(&mut self, at: u64) -> Result<Bytes, RegistryError> {
        let content = self.content.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let (open, piece) = (Arc::clone(&self.open), self.piece.min(self.size - at));
        let bad = |why: String| RegistryError::Source {
            target: format!("blob {} of {}", self.digest, repository_of(self.reference)),
            path: self.digest.to_string().into(),
            why,
        };
        let read = tokio::task::spawn_blocking(move || {
            let mut content = match content {
                Some((content, position)) if position == at => content,
                _ => {
                    let mut content = open()?;
                    io::copy(&mut (&mut content).take(at), &mut io::sink())?;
                    content
                }
            };
            let mut bytes = Vec::with_capacity(usize::try_from(piece).map_err(io::Error::other)?);
            (&mut content).take(piece).read_to_end(&mut bytes)?;
            if bytes.len() as u64 != piece {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok((content, Bytes::from(bytes)))
        });
        let read: io::Result<_> = read.await.map_err(|e| bad(e.to_string()))?;
        let (content, bytes) = read.map_err(|e| bad(e.to_string()))?;
        self.content = Mutex::new(Some((content, at + bytes.len() as u64)));
        Ok(bytes)
    }
}
