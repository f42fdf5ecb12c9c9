//! Owns what a sync repository holds, seen from here: tags, manifests, signatures, and the other writers in it.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, EMPTY_JSON, MAX_MANIFEST_BYTES, Reference, media, parse_reference, repository_of, sha256};
use crate::registry::{Client, MemorySink};
use crate::state::{Base, Fork, Segment, SyncTag, WriterId};
use crate::trust::{self, SignatureMaterial, SignedSubject, SigningKey};

/// The largest payload of a signature that is read, in bytes.
const MAX_PAYLOAD: u64 = trust::MAX_PAYLOAD_BYTES;

/// A sync repository.
#[derive(Debug, Clone)]
pub(super) struct Remote {
    pub(super) client: Client,
    repository: Reference,
}

/// A segment with the digest of its manifest.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) digest: Digest,
    pub(super) segment: Segment,
}

/// Which tags a repository has.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The places that each writer has a segment at.
    pub(super) segments: BTreeMap<WriterId, Vec<u64>>,
    pub(super) bases: Vec<WriterId>,
}

fn refused(what: &SyncTag, why: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("{what}: {why}"))
}

impl Remote {
    /// The repository `target`, `host[:port]/repository`.
    pub(super) fn new(client: &Client, target: &str) -> Result<Self> {
        Ok(Self { client: client.clone(), repository: parse_reference(target)? })
    }

    pub(super) fn reference(&self) -> &Reference {
        &self.repository
    }

    /// `host[:port]/repository`.
    pub(super) fn name(&self) -> String {
        repository_of(&self.repository)
    }

    pub(super) fn tagged(&self, tag: impl ToString) -> Reference {
        let (registry, repository) = (self.repository.registry(), self.repository.repository());
        Reference::with_tag(registry.to_owned(), repository.to_owned(), tag.to_string())
    }

    /// The digest under a tag; `None` when there is no such tag.
    pub(super) async fn digest(&self, tag: &SyncTag) -> Result<Option<Digest>> {
        match self.client.resolve(&self.tagged(tag)).await {
            Ok(found) => Ok(Some(found.digest)),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The segment under a tag, which has to be the one that the tag says; `None` when there is no such tag.
    pub(super) async fn segment(&self, tag: &SyncTag) -> Result<Option<Found>> {
        let fetched = match self.client.manifest(&self.tagged(tag)).await {
            Ok(fetched) => fetched,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let segment = Segment::parse(&fetched.bytes).map_err(|why| refused(tag, &why))?;
        let fits = match tag {
            SyncTag::Segment(writer, seq) => segment.writer == *writer && segment.seq == *seq,
            SyncTag::Head(writer) | SyncTag::Base(writer) => segment.writer == *writer,
        };
        if !fits {
            let why = format!("the manifest is that of segment {} of {}", segment.seq, segment.writer);
            return Err(refused(tag, &why));
        }
        // By the chain's own algorithm, whatever the registry names it by.
        Ok(Some(Found { digest: sha256(&fetched.bytes), segment }))
    }

    /// What a writer says is gone of its chain.
    pub(super) async fn base(&self, writer: &WriterId) -> Result<Option<(Base, Digest)>> {
        let tag = SyncTag::Base(writer.clone());
        let fetched = match self.client.manifest(&self.tagged(&tag)).await {
            Ok(fetched) => fetched,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let base = Base::parse(&fetched.bytes).map_err(|why| refused(&tag, &why))?;
        if base.writer != *writer {
            return Err(refused(&tag, &format!("it is what {} says", base.writer)));
        }
        Ok(Some((base, sha256(&fetched.bytes))))
    }

    /// Every tag of a state in it.
    pub(super) async fn listing(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        let read = |tags: Vec<String>| {
            for tag in tags.iter().filter_map(|tag| SyncTag::parse(tag)) {
                match tag {
                    SyncTag::Segment(writer, seq) => listing.segments.entry(writer).or_default().push(seq),
                    SyncTag::Base(writer) => listing.bases.push(writer),
                    SyncTag::Head(_) => {}
                }
            }
            false
        };
        self.client.tags(&self.repository, None, read).await?;
        for places in listing.segments.values_mut() {
            places.sort_unstable();
            places.dedup();
        }
        Ok(listing)
    }

    /// Who has a head in it. Their tags sort before those of segments, so that a registry that sorts has them in the first
    /// page.
    pub(super) async fn heads(&self) -> Result<Vec<WriterId>> {
        let mut heads = Vec::new();
        let read = |tags: Vec<String>| {
            for tag in tags.iter().filter_map(|tag| SyncTag::parse(tag)) {
                if let SyncTag::Head(writer) = tag {
                    heads.push(writer);
                }
            }
            tags.is_sorted() && tags.last().is_some_and(|last| last.as_str() > "head.")
        };
        self.client.tags(&self.repository, Some("head-"), read).await?;
        Ok(heads)
    }

    /// The first place of a writer's that there is.
    async fn first(&self, writer: &WriterId) -> Result<Option<u64>> {
        let prefix = format!("segment-{writer}-");
        let mut first: Option<u64> = None;
        let read = |tags: Vec<String>| {
            for tag in tags.iter().filter(|tag| tag.starts_with(&prefix)) {
                if let Some(SyncTag::Segment(_, seq)) = SyncTag::parse(tag) {
                    first = Some(first.map_or(seq, |known| known.min(seq)));
                }
            }
            tags.is_sorted() && tags.last().is_some_and(|last| *last > prefix)
        };
        self.client.tags(&self.repository, Some(&prefix), read).await?;
        Ok(first)
    }

    /// The other writers that went on from a place from which this one, `writer`, went on too: its own segments follow
    /// `base` and end at `last`.
    pub(super) async fn forks(&self, writer: &WriterId, base: (u64, Option<&Digest>), last: u64) -> Result<Vec<Fork>> {
        let mut forks = Vec::new();
        for other in self.heads().await?.into_iter().filter(|other| other != writer) {
            let Some(first) = self.first(&other).await? else { continue };
            let Some(begins) = self.segment(&SyncTag::Segment(other.clone(), first)).await? else { continue };
            let (after, follows) = (first - 1, begins.segment.previous);
            let forked = if (after, follows.as_ref()) == base {
                // Both follow the same one, or neither follows any.
                Some(after)
            } else if after > base.0 && after < last && follows.is_some() {
                // It follows one of ours, and we went on.
                (self.digest(&SyncTag::Segment(writer.clone(), after)).await? == follows).then_some(after)
            } else if base.0 >= first && base.1.is_some() {
                // We follow one of its, and it went on.
                let ours = self.digest(&SyncTag::Segment(other.clone(), base.0)).await?;
                let on = self.digest(&SyncTag::Segment(other.clone(), base.0 + 1)).await?.is_some();
                (ours.as_ref() == base.1 && on).then_some(base.0)
            } else {
                None
            };
            forks.extend(forked.map(|after| Fork { writer: other, after }));
        }
        Ok(forks)
    }

    /// Puts the empty blob there, which is the config of everything.
    pub(super) async fn push_empty(&self) -> Result<()> {
        self.client.push_small_blob(&self.repository, &sha256(EMPTY_JSON), Bytes::from_static(EMPTY_JSON)).await
    }

    pub(super) async fn push_manifest(&self, tag: &SyncTag, bytes: &[u8]) -> Result<Digest> {
        self.client.push_manifest(&self.tagged(tag), media::MANIFEST, bytes).await
    }

    /// Signs a manifest, and puts the signature beside it.
    pub(super) async fn sign(&self, key: &SigningKey, digest: &Digest, size: u64) -> Result<()> {
        let subject = SignedSubject { digest: digest.clone(), media_type: media::MANIFEST.to_owned(), size };
        let form = trust::sign_briefly(key, &subject)?;
        for blob in form.blobs.into_iter().filter(|blob| blob.media_type != media::EMPTY) {
            self.client.push_small_blob(&self.repository, &blob.digest, blob.bytes.into()).await?;
        }
        self.client.push_manifest(&self.tagged(form.tag), media::MANIFEST, &form.manifest).await?;
        Ok(())
    }

    /// The signatures of a manifest, in both forms.
    pub(super) async fn signatures(&self, digest: &Digest) -> Result<Vec<SignatureMaterial>> {
        let mut material = Vec::new();
        match self.client.manifest(&self.tagged(trust::sig_tag(digest))).await {
            Ok(fetched) => {
                let (layers, unusable) = trust::sig_layers(&fetched.bytes);
                material.extend(unusable);
                for layer in layers {
                    let payload = self.small(layer.descriptor.digest(), layer.descriptor.size(), MAX_PAYLOAD).await?;
                    material.push(layer.material(payload));
                }
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        for referrer in self.client.referrers(&self.repository, digest, Some(media::SIGSTORE_BUNDLE)).await? {
            let named = self.repository.clone_with_digest(referrer.digest().to_string());
            let fetched = self.client.manifest(&named).await?;
            if let Ok(Some(layer)) = trust::bundle_descriptor(&fetched.bytes) {
                let bundle = self.small(layer.digest(), layer.size(), trust::MAX_BUNDLE_BYTES).await?;
                material.extend(trust::material_from_referrer(&fetched.bytes, bundle));
            }
        }
        Ok(material)
    }

    async fn small(&self, digest: &Digest, size: u64, most: u64) -> Result<Vec<u8>> {
        if size > most.min(MAX_MANIFEST_BYTES) {
            return Err(Error::new(ErrorKind::Refused, format!("a signature of {size} bytes is too large")));
        }
        let mut sink = MemorySink::default();
        self.client.blob(&self.repository, digest, size, &mut sink, &()).await?;
        crate::oci::check_digest(digest, &sink.0)?;
        Ok(sink.0)
    }
}
