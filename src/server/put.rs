//! Owns artifacts as the API sees them: put from their parts as they stream in, got, listed.

use bytes::Bytes;
use tonic::{Status, Streaming};
use vyr_proto::v0::put_artifact_request::Part;
use vyr_proto::v0::{Artifact, PutArtifactHeader, PutArtifactRequest, Trust};

use super::status::{invalid, status};
use crate::artifact::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, MAX_MANIFEST_BYTES, parse_digest, parse_reference, repository_of};
use crate::ops::blocking;
use crate::ops::prepare::{form_of, selected};
use crate::ops::put::{Parts, put_artifact};
use crate::ops::resolve::{PullMode, locate, stored_name};
use crate::ops::verify::{Policy, verify};
use crate::ops::{Vyr, pull::Purpose};
use crate::registry::{BlobSink as _, ThreadedSink};
use crate::store::{Entry, StoreError};
use crate::task::{micros, timestamp};

const MAX_CHUNK_BYTES: usize = 1 << 20;
const MAX_SIGNATURES: usize = 64;
const MAX_SIGNATURE_BYTES: usize = 64 << 10;

fn too_large() -> Status {
    wrong("chunk.data", format!("at most {MAX_CHUNK_BYTES} bytes in one message"))
}

fn wrong(field: &str, why: impl ToString) -> Status {
    invalid(vec![(field.to_owned(), why.to_string())])
}

/// Takes an artifact's parts as they come, each blob written and hashed on the way.
pub(super) async fn put(vyr: &Vyr, mut parts: Streaming<PutArtifactRequest>) -> Result<Artifact, Status> {
    let Some(PutArtifactRequest { part: Some(Part::Header(header)) }) = parts.message().await? else {
        return Err(wrong("part", "the first message must carry the header"));
    };
    let (header, sizes) = checked(header)?;
    let lease = vyr.store().await.and_then(|store| Ok(store.lease()?)).map_err(|e| status(&e))?;
    let mut next = parts.message().await?;
    while let Some(PutArtifactRequest { part }) = next {
        let Some(Part::Chunk(first)) = part else {
            return Err(wrong("part", "only chunks may follow the header"));
        };
        if first.data.len() > MAX_CHUNK_BYTES {
            return Err(too_large());
        }
        let digest = parse_digest(&first.digest).map_err(|e| wrong("chunk.digest", e.why()))?;
        let size = sizes
            .iter()
            .find(|(listed, _)| *listed == digest)
            .map(|(_, size)| *size)
            .ok_or_else(|| wrong("chunk.digest", format!("the manifest does not name {digest}")))?;
        let (layout, wanted) = (vyr.layout().clone(), digest.clone());
        let writer = blocking(move || Ok(layout.writer(Some(&wanted), Some(size))?)).await.map_err(|e| status(&e))?;
        let mut sink = ThreadedSink::new(writer, 0);
        let written = |e: std::io::Error| status(&StoreError::from_write(e, vyr.layout().home()).into());
        sink.write(first.data).await.map_err(written)?;
        loop {
            next = parts.message().await?;
            match &mut next {
                Some(PutArtifactRequest { part: Some(Part::Chunk(chunk)) }) if chunk.digest == first.digest => {
                    if chunk.data.len() > MAX_CHUNK_BYTES {
                        return Err(too_large());
                    }
                    sink.write(std::mem::take(&mut chunk.data)).await.map_err(written)?;
                }
                _ => break,
            }
        }
        let writer = sink.finish().await.map_err(written)?;
        let lease = lease.clone();
        blocking(move || {
            writer.commit(&lease)?;
            Ok(())
        })
        .await
        .map_err(|e| status(&e))?;
    }
    let digest = header.digest.clone().ok_or_else(|| Status::internal("the digest was checked"))?;
    put_artifact(vyr, header).await.map_err(|e| status(&e))?;
    let (artifact, _) = get(vyr, &ArtifactRef::Stored(digest)).await.map_err(|e| status(&e))?;
    Ok(artifact)
}

/// The header as the store takes it, and the sizes of the blobs that its manifest names.
fn checked(header: PutArtifactHeader) -> Result<(Parts, Vec<(Digest, u64)>), Status> {
    let digest = parse_digest(&header.digest).map_err(|e| wrong("header.digest", e.why()))?;
    if header.manifest.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(wrong("header.manifest", format!("at most {MAX_MANIFEST_BYTES} bytes")));
    }
    if header.signatures.len() > MAX_SIGNATURES || header.signatures.iter().any(|s| s.len() > MAX_SIGNATURE_BYTES) {
        return Err(wrong("header.signatures", format!("at most {MAX_SIGNATURES} of {MAX_SIGNATURE_BYTES} bytes")));
    }
    let media_type = Some(header.media_type.as_str()).filter(|t| !t.is_empty());
    let parsed = Manifest::parse(&header.manifest, media_type).map_err(|e| wrong("header.manifest", e.why()))?;
    let sizes = match &parsed {
        Manifest::Image(m) => {
            std::iter::once(m.config()).chain(m.layers()).map(|d| (d.digest().clone(), d.size())).collect()
        }
        Manifest::Index(i) => i.manifests().iter().map(|d| (d.digest().clone(), d.size())).collect(),
    };
    let (name, repository) = match header.tag.as_str() {
        "" => (None, None),
        tag => {
            let reference = parse_reference(tag).map_err(|e| wrong("header.tag", e.why()))?;
            let name = stored_name(&reference).ok_or_else(|| wrong("header.tag", "it has no tag"))?;
            (Some(name), Some(repository_of(&reference)))
        }
    };
    let parts = Parts {
        digest: Some(digest),
        media_type: media_type.map(str::to_owned),
        manifest: header.manifest,
        blobs: Vec::<Bytes>::new(),
        signatures: header.signatures,
        name,
        repository,
    };
    Ok((parts, sizes))
}

fn artifact(vyr: &Vyr, entry: Entry) -> Artifact {
    Artifact {
        form: form_of(vyr, &entry.digest).map(|form| form.as_str().to_owned()).unwrap_or_default(),
        digest: entry.digest.to_string(),
        media_type: entry.media_type,
        total_bytes: entry.total_size,
        tags: entry.tags,
        created_at: Some(timestamp(micros(entry.created))),
        trust: None,
        artifact_type: entry.artifact_type.unwrap_or_default(),
    }
}

/// One artifact of the store with its manifest, and what the trust policy says.
pub(super) async fn get(vyr: &Vyr, reference: &ArtifactRef) -> Result<(Artifact, Vec<u8>)> {
    if matches!(reference, ArtifactRef::Layout { .. }) {
        return Err(Error::new(ErrorKind::Usage, "a path of this machine is no name in the store"));
    }
    let mut located = locate(vyr, reference, PullMode::Never, Purpose::Keep).await?;
    // Nothing is asked of the network here, newer signatures neither.
    located.reference = None;
    let entry = vyr.store().await?.get(&located.root).await?;
    let entry = entry.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{} is not listed", located.root)))?;
    let manifest = vyr.layout().read_verified(&located.root, MAX_MANIFEST_BYTES)?;
    let selected = selected(vyr, &located.root)?;
    let trust = match verify(vyr, &Policy::load(vyr)?, &mut located, &selected).await {
        Ok(accepted) => Trust { accepted: true, reason: accepted.acceptance().to_string() },
        Err(e) if e.kind() == ErrorKind::Refused => Trust { accepted: false, reason: e.why().to_owned() },
        Err(e) => return Err(e),
    };
    Ok((Artifact { trust: Some(trust), ..artifact(vyr, entry) }, manifest))
}

/// Up to `most` artifacts after a digest, in the order of their digests, and where the next page begins.
pub(super) async fn list(vyr: &Vyr, after: Option<&Digest>, most: usize) -> Result<(Vec<Artifact>, Option<String>)> {
    let mut entries = vyr.store().await?.list().await?;
    entries.sort_by(|a, b| a.digest.as_ref().cmp(b.digest.as_ref()));
    let from = after.map_or(0, |after| entries.partition_point(|e| e.digest.as_ref() <= after.as_ref()));
    let more = entries.len() > from + most;
    let page: Vec<Artifact> = entries.into_iter().skip(from).take(most).map(|entry| artifact(vyr, entry)).collect();
    let next = page.last().filter(|_| more).map(|last| last.digest.clone());
    Ok((page, next))
}
