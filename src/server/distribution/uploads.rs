//! Owns pushing blobs (distribution spec 1.1, "Pushing Blobs"): at once, in chunks, or by mounting them from another
//! repository. A push goes on to its end in a task of its own, so that what arrived before a connection broke is kept.

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, Response, StatusCode, header};
use uuid::Uuid;

use super::receive::{End, Open, Received, receive};
use super::refusal::{Code, Refusal};
use super::sessions::Turn;
use super::{Distribution, Query, answer, blocking, header_text, path, range};
use crate::oci::{Digest, DigestAlgorithm};
use crate::server::access::{Action, Rights, Verdict};
use crate::store::Progress;

const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// What a chunk says of itself.
#[derive(Debug, Clone, Copy)]
struct Said {
    /// Where it begins and how long it is.
    range: Option<(u64, u64)>,
    length: Option<u64>,
}

impl Said {
    fn read(parts: &Parts) -> Result<Self, Refusal> {
        let length = header_text(&parts.headers, &header::CONTENT_LENGTH).and_then(|l| l.parse().ok());
        let range = match header_text(&parts.headers, &header::CONTENT_RANGE) {
            None => None,
            Some(text) => Some(range::chunk(text).ok_or_else(|| {
                Refusal::new(Code::BlobUploadInvalid, "Content-Range has to be <first>-<last>").status(416)
            })?),
        };
        if let (Some((_, long)), Some(length)) = (range, length)
            && long != length
        {
            let why = format!("Content-Range is {long} bytes long, and Content-Length {length}");
            return Err(Refusal::new(Code::SizeInvalid, why));
        }
        Ok(Self { range, length })
    }

    fn bytes(&self) -> Option<u64> {
        self.range.map(|(_, long)| long).or(self.length)
    }
}

impl Distribution {
    /// `POST /v2/<name>/blobs/uploads/`: mounts, takes a whole blob, or begins an upload.
    pub(super) async fn begin_upload(
        &self,
        repository: String,
        query: &Query,
        rights: &Rights,
        body: &mut Option<Body>,
    ) -> Result<Response<Body>, Refusal> {
        if let Some(digest) = query.get("mount") {
            let (digest, from) = (path::digest(digest)?, query.get("from").map(path::name).transpose()?);
            // Only from what the caller may read. Elsewhere it isn't told whether the blob is there: it sends it.
            let readable = |name: &str| rights.may(Action::Pull, name) == Verdict::Yes;
            let shown = match from {
                Some(from) => readable(&from) && self.store.promises_blob(&from, &digest).await?,
                None => self.store.repositories_of_blob(&digest).await?.iter().any(|name| readable(name)),
            };
            if shown {
                let (layout, wanted) = (self.layout.clone(), digest.clone());
                // The lease holds it until the repository says that it has it.
                let lease = blocking(move || {
                    let lease = layout.lease()?;
                    Ok(lease.hold(&wanted)?.map(|_| lease))
                })
                .await?;
                if let Some(_lease) = lease {
                    self.store.show_blob(&repository, &digest).await?;
                    return Ok(created(&repository, &digest));
                }
            }
        } else if let Some(digest) = query.get("digest") {
            let digest = path::digest(digest)?;
            let body = body.take().unwrap_or_default();
            let this = self.clone();
            return tokio::spawn(async move { this.whole(repository, digest, body).await }).await?;
        }
        let algorithm = match query.get("digest-algorithm") {
            None | Some("sha256") => DigestAlgorithm::Sha256,
            Some("sha512") => DigestAlgorithm::Sha512,
            Some(other) => {
                return Err(Refusal::new(Code::DigestInvalid, format!("the digest algorithm {other} is not accepted")));
            }
        };
        let id = self.sessions.begin(&repository, Progress::start(algorithm)).await?;
        Ok(progress(StatusCode::ACCEPTED, &repository, id, 0))
    }

    /// A blob in one request.
    async fn whole(self, repository: String, digest: Digest, body: Body) -> Result<Response<Body>, Refusal> {
        let (layout, wanted) = (self.layout.clone(), digest.clone());
        let open: Open = Box::new(move || Ok(layout.writer(Some(&wanted), None)?));
        let received = receive(body, open, None).await?;
        if let End::Cut(why) = received.end {
            return Err(Refusal::new(Code::BlobUploadInvalid, why));
        }
        self.keep(&repository, digest, received).await
    }

    /// Puts what came in its place, and shows it in the repository.
    async fn keep(&self, repository: &str, digest: Digest, received: Received) -> Result<Response<Body>, Refusal> {
        let (layout, wanted) = (self.layout.clone(), digest.clone());
        let lease = received
            .finish(move |writer| {
                let lease = layout.lease()?;
                writer.expecting(&wanted)?.commit(&lease)?;
                Ok(lease)
            })
            .await?;
        self.store.show_blob(repository, &digest).await?;
        drop(lease);
        Ok(created(repository, &digest))
    }

    /// `PATCH /v2/<name>/blobs/uploads/<id>`: a chunk.
    pub(super) async fn chunk(
        &self,
        repository: String,
        id: Uuid,
        parts: &Parts,
        body: &mut Option<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let turn = self.sessions.turn(&repository, id).await?;
        let said = self.fitting(&repository, id, &turn, parts)?;
        let body = body.take().unwrap_or_default();
        let this = self.clone();
        tokio::spawn(async move { this.take_chunk(repository, id, turn, said, body).await }).await?
    }

    /// What a chunk says of itself, where it goes on from what there is.
    fn fitting(&self, repository: &str, id: Uuid, turn: &Turn, parts: &Parts) -> Result<Said, Refusal> {
        let said = Said::read(parts)?;
        match said.range {
            Some((first, _)) if first != turn.length => {
                let why = format!("the chunk begins at {first}, and the upload has {} bytes", turn.length);
                Err(Refusal::new(Code::BlobUploadInvalid, why)
                    .status(416)
                    .header(header::LOCATION, &location(repository, id))
                    .header(header::RANGE, &so_far(turn.length)))
            }
            _ => Ok(said),
        }
    }

    fn opener(&self, repository: &str, id: Uuid, turn: &mut Turn) -> Open {
        let (layout, repository, progress) = (self.layout.clone(), repository.to_owned(), turn.progress.take());
        Box::new(move || {
            let writer = layout.upload_writer(&repository, id, progress)?;
            writer.ok_or_else(|| Refusal::new(Code::BlobUploadUnknown, "no such upload"))
        })
    }

    async fn take_chunk(
        self,
        repository: String,
        id: Uuid,
        mut turn: Turn,
        said: Said,
        body: Body,
    ) -> Result<Response<Body>, Refusal> {
        let before = (turn.progress.clone(), turn.length);
        let open = self.opener(&repository, id, &mut turn);
        let received = receive(body, open, said.bytes()).await.inspect_err(|_| self.sessions.end(id))?;
        match self.pause(&mut turn, received, said, before).await {
            Ok(length) => Ok(progress(StatusCode::ACCEPTED, &repository, id, length)),
            Err(Paused::Kept(refusal)) => Err(refusal),
            Err(Paused::Lost(refusal)) => {
                self.sessions.end(id);
                Err(refusal)
            }
        }
    }

    /// Keeps a chunk for what follows; one that isn't what it said is taken back.
    async fn pause(
        &self,
        turn: &mut Turn,
        received: Received,
        said: Said,
        (before, length): (Option<Progress>, u64),
    ) -> Result<u64, Paused> {
        let wrong = match &received.end {
            End::TooLong => Some(Refusal::new(Code::SizeInvalid, "the chunk is longer than it says")),
            End::Whole if said.bytes().is_some_and(|n| n != received.bytes) => {
                Some(Refusal::new(Code::SizeInvalid, "the chunk is shorter than it says"))
            }
            End::Whole | End::Cut(_) => None,
        };
        let cut = match &received.end {
            End::Cut(why) => Some(Refusal::new(Code::BlobUploadInvalid, why)),
            _ => None,
        };
        if let Some(refusal) = wrong {
            let back = received.finish(move |writer| writer.rewind(before, length)).await.map_err(Paused::Lost)?;
            *turn.progress = back;
            return Err(Paused::Kept(refusal));
        }
        let paused = received.finish(|writer| writer.pause()).await.map_err(Paused::Lost)?;
        turn.length = paused.position();
        *turn.progress = Some(paused);
        match cut {
            Some(refusal) => Err(Paused::Kept(refusal)),
            None => Ok(turn.length),
        }
    }

    /// `PUT /v2/<name>/blobs/uploads/<id>?digest=…`: the last chunk, if there is one left, and the end.
    pub(super) async fn end_upload(
        &self,
        repository: String,
        id: Uuid,
        parts: &Parts,
        query: &Query,
        body: &mut Option<Body>,
    ) -> Result<Response<Body>, Refusal> {
        let digest = query.get("digest").ok_or_else(|| Refusal::new(Code::DigestInvalid, "the digest is missing"))?;
        let digest = path::digest(digest)?;
        let mut turn = self.sessions.turn(&repository, id).await?;
        let said = self.fitting(&repository, id, &turn, parts)?;
        let body = body.take().unwrap_or_default();
        let this = self.clone();
        let ended = tokio::spawn(async move {
            let before = (turn.progress.clone(), turn.length);
            let open = this.opener(&repository, id, &mut turn);
            let received = receive(body, open, said.bytes()).await.inspect_err(|_| this.sessions.end(id))?;
            let whole = received.end == End::Whole && said.bytes().is_none_or(|n| n == received.bytes);
            if !whole {
                return match this.pause(&mut turn, received, said, before).await {
                    Err(Paused::Kept(refusal)) => Err(refusal),
                    Err(Paused::Lost(refusal)) => {
                        this.sessions.end(id);
                        Err(refusal)
                    }
                    Ok(_) => Err(Refusal::new(Code::SizeInvalid, "the chunk is not as long as it says")),
                };
            }
            let kept = this.keep(&repository, digest, received).await;
            this.sessions.end(id);
            kept
        });
        ended.await?
    }

    /// `GET /v2/<name>/blobs/uploads/<id>`: how far it is.
    pub(super) async fn upload_status(&self, repository: &str, id: Uuid) -> Result<Response<Body>, Refusal> {
        let turn = self.sessions.turn(repository, id).await?;
        Ok(progress(StatusCode::NO_CONTENT, repository, id, turn.length))
    }

    /// `DELETE /v2/<name>/blobs/uploads/<id>`: it won't be gone on with.
    pub(super) async fn cancel_upload(&self, repository: String, id: Uuid) -> Result<Response<Body>, Refusal> {
        let _turn = self.sessions.turn(&repository, id).await?;
        let layout = self.layout.clone();
        blocking(move || layout.abandon_upload(&repository, id)).await?;
        self.sessions.end(id);
        Ok(answer(StatusCode::NO_CONTENT, &[], Body::empty()))
    }
}

/// A chunk that wasn't taken as it came.
enum Paused {
    /// The upload is as before, or has what arrived.
    Kept(Refusal),
    /// The upload is gone.
    Lost(Refusal),
}

fn location(repository: &str, id: Uuid) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}

/// `0-<last byte>`. Nothing at all has no such form, and reads as its first byte, as everywhere.
fn so_far(length: u64) -> String {
    format!("0-{}", length.saturating_sub(1))
}

fn progress(status: StatusCode, repository: &str, id: Uuid, length: u64) -> Response<Body> {
    let headers = [
        (header::LOCATION, location(repository, id)),
        (header::RANGE, so_far(length)),
        (UPLOAD_ID, id.to_string()),
        (header::CONTENT_LENGTH, "0".to_owned()),
    ];
    let headers = if status == StatusCode::NO_CONTENT { &headers[..3] } else { &headers };
    answer(status, headers, Body::empty())
}

fn created(repository: &str, digest: &Digest) -> Response<Body> {
    let headers = [
        (header::LOCATION, format!("/v2/{repository}/blobs/{digest}")),
        (super::CONTENT_DIGEST, digest.to_string()),
        (header::CONTENT_LENGTH, "0".to_owned()),
    ];
    answer(StatusCode::CREATED, &headers, Body::empty())
}
