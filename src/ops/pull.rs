//! Owns the way of an artifact from a registry into the store, with its signatures.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::{OnceCell, Semaphore};

use super::resolve::stored_name;
use super::verify::Policy;
use super::{Vyr, compile};
use crate::artifact::{ImageConfig, Manifest, Offer, offer, recognise};
use crate::error::{Error, ErrorKind, Result};
use crate::fallback::FallbackReason;
use crate::oci::{Descriptor, Digest, ImageManifest, Reference, media, parse_digest, repository_of};
use crate::registry::{BlobSink as _, Client, FetchedManifest, MemorySink, ThreadedSink};
use crate::store::{Batch, Lease, StoreError};
use crate::telemetry;
use crate::trust::{self, SignatureMaterial};

/// The largest config that is read into memory, in bytes.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// The most referrers of one digest that are looked at.
const MAX_REFERRERS: usize = 64;
/// What carries signatures may have altogether, in bytes: 128 payloads of 64 KiB, or a bundle.
const MAX_CARRIER_BYTES: u64 = 9 << 20;

/// What the content is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To have it: whatever it is.
    Keep,
    /// To run it: of an index only what is tried first, which is the Wasm where there is one.
    Run,
}

/// What was pulled.
#[derive(Debug)]
pub struct Pulled {
    /// The digest of the manifest or index.
    pub root: Digest,
    /// Signatures that were found but can't be stored.
    pub unusable: Vec<SignatureMaterial>,
}

/// Pulls the artifact: its manifest, for an index those that this machine can run, all their blobs, and the signatures of
/// each. It is listed once everything is there and verified.
///
/// # Errors
/// What the registry and the store fail with.
pub async fn pull(vyr: &Vyr, reference: &Reference, purpose: Purpose) -> Result<Pulled> {
    pull_into(vyr, reference, purpose, None).await
}

/// The same, shown in `repository` of the node's own registry as well, with its tags and signatures.
#[tracing::instrument(name = "pull", skip_all, err(Display), fields(reference = %reference, digest))]
pub(super) async fn pull_into(
    vyr: &Vyr,
    reference: &Reference,
    purpose: Purpose,
    repository: Option<&str>,
) -> Result<Pulled> {
    // A pull is a large future, and inside of others.
    let pulled = Box::pin(whole(vyr, reference, purpose, repository)).await;
    telemetry::count::pulled(pulled.is_ok());
    pulled
}

async fn whole(vyr: &Vyr, reference: &Reference, purpose: Purpose, repository: Option<&str>) -> Result<Pulled> {
    let client = vyr.client(reference)?;
    let fetched = client.manifest(reference).await?;
    tracing::Span::current().record("digest", tracing::field::display(&fetched.digest));
    let store = vyr.store().await?;
    let mover = Mover::new(vyr, client, reference, store.lease()?);
    let mut batch = store.batch()?;
    // On a slow link it counts how many answers are waited for one after the other: what belongs to a digest that is known
    // is asked for at once.
    let root = mover.around(&fetched.digest);
    let mut beside = Vec::new();
    match Manifest::parse(&fetched.bytes, Some(&fetched.media_type))? {
        Manifest::Image(manifest) => {
            let ((), around) = tokio::try_join!(Box::pin(mover.image(&manifest, purpose)), root)?;
            beside.push(around);
        }
        Manifest::Index(index) => {
            let below = async {
                let mut kept = Vec::new();
                // A mirror passes on what others run.
                let is_mirror = repository.is_some();
                let offered = match offer(&index) {
                    Err(_) if is_mirror => Offer::default(),
                    other => other?,
                };
                let offer = mover.offered(&mut kept, offered).await?;
                let (first, second) = match (offer.wasm, offer.image) {
                    (Some(wasm), image) => (wasm, image.filter(|_| purpose == Purpose::Keep)),
                    (None, Some(image)) => (image, None),
                    (None, None) if is_mirror => return Ok((kept, Vec::new())),
                    (None, None) => {
                        return Err(Error::new(
                            ErrorKind::InvalidContent,
                            "neither the index nor those that it lists offer anything for this machine",
                        ));
                    }
                };
                let mut children = Vec::new();
                for child in std::iter::once(first).chain(second) {
                    let (child_itself, around) = (Box::pin(mover.child(&child)), mover.around(child.digest()));
                    children.push(tokio::try_join!(child_itself, around)?);
                }
                Ok((kept, children))
            };
            let ((kept, children), around) = tokio::try_join!(below, root)?;
            for index in &kept {
                mover.keep(&mut batch, index).await?;
            }
            beside.push(around);
            for (child, around) in children {
                mover.keep(&mut batch, &child).await?;
                beside.push(around);
            }
        }
    }
    mover.keep(&mut batch, &fetched).await?;
    if let Some(name) = reference.digest().is_none().then(|| stored_name(reference)).flatten() {
        batch.tag(&name, &fetched.digest)?;
    }
    let mut unusable = Vec::new();
    for around in beside {
        unusable.extend(mover.keep_all(&mut batch, around).await?);
    }
    if let Some(repository) = repository {
        batch.show_in(repository)?;
    }
    batch.commit().await?;
    Ok(Pulled { root: fetched.digest, unusable })
}

/// Pulls an image, or all that an index of images lists, for whatever platform. Signatures are left where they are.
///
/// # Errors
/// What the registry and the store fail with.
#[tracing::instrument(name = "pull", skip_all, err(Display), fields(reference = %reference))]
pub(super) async fn pull_all(vyr: &Vyr, reference: &Reference) -> Result<Digest> {
    let client = vyr.client(reference)?;
    let fetched = client.manifest(reference).await?;
    let store = vyr.store().await?;
    let mover = Mover::new(vyr, client, reference, store.lease()?);
    let mut batch = store.batch()?;
    let root = fetched.digest.clone();
    let mut waiting = vec![(fetched, 0)];
    let mut indexes = Vec::new();
    while let Some((fetched, depth)) = waiting.pop() {
        match Manifest::parse(&fetched.bytes, Some(&fetched.media_type))? {
            Manifest::Image(manifest) => {
                mover.image(&manifest, Purpose::Keep).await?;
                mover.keep(&mut batch, &fetched).await?;
            }
            Manifest::Index(index) => {
                // What describes an image without being one says `unknown/unknown`.
                let linux = |d: &&Descriptor| d.platform().as_ref().is_none_or(|p| p.os().to_string() == "linux");
                for child in index.manifests().iter().filter(linux).take(if depth < 2 { usize::MAX } else { 0 }) {
                    let named = reference.clone_with_digest(child.digest().to_string());
                    waiting.push((client.manifest(&named).await?, depth + 1));
                }
                indexes.push(fetched);
            }
        }
    }
    // What lists comes after what it lists.
    for index in indexes.iter().rev() {
        mover.keep(&mut batch, index).await?;
    }
    batch.commit().await?;
    Ok(root)
}

/// Asks the registry again for the signatures of what the store holds. Returns those that can't be stored.
///
/// # Errors
/// What the registry and the store fail with.
#[tracing::instrument(skip_all, fields(reference = %reference))]
pub async fn refresh_signatures(
    vyr: &Vyr,
    reference: &Reference,
    digests: &[Digest],
) -> Result<Vec<SignatureMaterial>> {
    let client = vyr.client(reference)?;
    let store = vyr.store().await?;
    let mover = Mover::new(vyr, client, reference, store.lease()?);
    let mut batch = store.batch()?;
    let mut unusable = Vec::new();
    for digest in digests {
        let found = Box::pin(mover.signatures(digest)).await?;
        unusable.extend(mover.keep_all(&mut batch, found).await?);
    }
    batch.commit().await?;
    Ok(unusable)
}

/// Fetches one manifest of an index that the store holds, with its blobs and signatures: the image that is to be run where
/// only the Wasm was fetched before. Says whether anything was missing.
///
/// # Errors
/// What the registry and the store fail with.
#[tracing::instrument(name = "pull", skip_all, err(Display), fields(reference = %reference, digest = %child.digest()))]
pub(super) async fn pull_child(vyr: &Vyr, reference: &Reference, child: &Descriptor) -> Result<()> {
    let client = vyr.client(reference)?;
    let store = vyr.store().await?;
    let mover = Mover::new(vyr, client, reference, store.lease()?);
    let mut batch = store.batch()?;
    let (child_itself, signatures) = (Box::pin(mover.child(child)), Box::pin(mover.signatures(child.digest())));
    let (fetched, found) = tokio::try_join!(child_itself, signatures)?;
    mover.keep(&mut batch, &fetched).await?;
    mover.keep_all(&mut batch, found).await?;
    batch.commit().await?;
    telemetry::count::pulled(true);
    Ok(())
}

struct Mover<'a> {
    vyr: &'a Vyr,
    client: &'a Client,
    reference: &'a Reference,
    lease: Lease,
    origin: String,
    /// The blobs that were asked for: what several manifests name is fetched once.
    blobs: Mutex<HashMap<Digest, Arc<OnceCell<()>>>>,
    /// As many blobs as may be transferred at a time.
    places: Semaphore,
}

/// What was fetched beside an artifact, and is to be listed in the store.
#[derive(Default)]
struct Beside {
    manifests: Vec<FetchedManifest>,
    tags: Vec<(String, Digest)>,
    /// Signatures that can't be stored.
    unusable: Vec<SignatureMaterial>,
}

impl Beside {
    fn absorb(&mut self, other: Self) {
        self.manifests.extend(other.manifests);
        self.tags.extend(other.tags);
        self.unusable.extend(other.unusable);
    }
}

impl<'a> Mover<'a> {
    fn new(vyr: &'a Vyr, client: &'a Client, reference: &'a Reference, lease: Lease) -> Self {
        let places = Semaphore::new(at_once(vyr));
        Self { vyr, client, reference, lease, origin: repository_of(reference), blobs: Mutex::default(), places }
    }

    fn named(&self, digest: &Digest) -> Reference {
        self.reference.clone_with_digest(digest.to_string())
    }

    async fn keep(&self, batch: &mut Batch, fetched: &FetchedManifest) -> Result<()> {
        let media_type = Some(fetched.media_type.as_str()).filter(|t| !t.is_empty());
        batch.put_manifest(&self.lease, Some(&fetched.digest), &fetched.bytes, media_type, Some(&self.origin)).await?;
        Ok(())
    }

    /// Lists what was fetched, and returns the signatures that can't be.
    async fn keep_all(&self, batch: &mut Batch, beside: Beside) -> Result<Vec<SignatureMaterial>> {
        let mut unusable = beside.unusable;
        let mut left = HashSet::new();
        for fetched in &beside.manifests {
            if let Err(e) = self.keep(batch, fetched).await {
                unusable.push(its_own(e)?);
                left.insert(&fetched.digest);
            }
        }
        for (name, digest) in beside.tags.iter().filter(|(_, digest)| !left.contains(digest)) {
            batch.tag(name, digest)?;
        }
        Ok(unusable)
    }

    /// The signatures of `digest`, and its compiled code where anybody has the right to it.
    async fn around(&self, digest: &Digest) -> Result<Beside> {
        let (signatures, compiled) = (Box::pin(self.signatures(digest)), Box::pin(self.compiled(digest)));
        let (mut found, compiled) = tokio::join!(signatures, compiled);
        match (&mut found, compiled) {
            (Ok(found), Ok(compiled)) => found.absorb(compiled),
            (_, Err(e)) => {
                let why = e.why();
                self.vyr.reporter().note(&format!("compiled code of {digest} could not be looked for: {why}"));
            }
            (Err(_), _) => {}
        }
        found
    }

    /// The offer of an index with what the indexes below it offer. Those are to be kept, too: without them the store would
    /// not find the way.
    async fn offered(&self, kept: &mut Vec<FetchedManifest>, mut offered: Offer) -> Result<Offer> {
        for below in offered.unresolved() {
            let fetched = self.client.manifest(&self.named(below.digest())).await?;
            let inner = match Manifest::parse(&fetched.bytes, Some(&fetched.media_type))? {
                Manifest::Index(index) => offer(&index).unwrap_or_default(),
                Manifest::Image(_) => Offer::default(),
            };
            kept.push(fetched);
            offered.absorb(&below, inner);
        }
        Ok(offered)
    }

    /// One manifest of an index, with its blobs.
    async fn child(&self, child: &Descriptor) -> Result<FetchedManifest> {
        let fetched = self.client.manifest(&self.named(child.digest())).await?;
        let Manifest::Image(manifest) = Manifest::parse(&fetched.bytes, Some(&fetched.media_type))? else {
            return Err(Error::new(
                ErrorKind::InvalidContent,
                format!("the index says that {} is a manifest, and it is another index", fetched.digest),
            ));
        };
        // Whether it can be run is asked when it is: something else beside it may be.
        self.image(&manifest, Purpose::Keep).await?;
        Ok(fetched)
    }

    /// The config and layers of one manifest.
    async fn image(&self, manifest: &ImageManifest, purpose: Purpose) -> Result<()> {
        match recognise(manifest) {
            Ok(_) => {}
            // What can't be run can still be kept: a receipt, a chart, somebody's data.
            Err(_) if purpose == Purpose::Keep => {}
            Err(e) => return Err(e),
        }
        let mut seen = HashSet::new();
        let blobs: Vec<Descriptor> = std::iter::once(manifest.config())
            .chain(manifest.layers())
            .filter(|d| seen.insert(d.digest().clone()))
            .cloned()
            .collect();
        stream::iter(blobs)
            .map(|d| async move { Box::pin(self.blob(&d)).await })
            .buffer_unordered(at_once(self.vyr))
            .try_collect::<Vec<()>>()
            .await?;
        Ok(())
    }

    /// The blobs of what carries a signature. Whoever may push put it there, and nobody vouches for it yet: what is wrong with
    /// it is said of it, and keeps nobody from using another signature.
    async fn carried(&self, manifest: &ImageManifest) -> Result<Option<SignatureMaterial>> {
        let blobs = std::iter::once(manifest.config()).chain(manifest.layers());
        let size = blobs.map(Descriptor::size).fold(0, u64::saturating_add);
        if size > MAX_CARRIER_BYTES {
            let large = trust::Unusable::TooLarge { what: "manifest's content", size, limit: MAX_CARRIER_BYTES };
            return Ok(Some(large.into()));
        }
        match self.image(manifest, Purpose::Keep).await {
            Ok(()) => Ok(None),
            Err(e) => its_own(e).map(Some),
        }
    }

    /// One blob, once.
    async fn blob(&self, descriptor: &Descriptor) -> Result<()> {
        let asked = {
            let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(blobs.entry(descriptor.digest().clone()).or_default())
        };
        asked.get_or_try_init(|| self.missing_blob(descriptor)).await.copied()
    }

    /// One blob, unless the store has it whole.
    async fn missing_blob(&self, descriptor: &Descriptor) -> Result<()> {
        let (digest, size) = (descriptor.digest(), descriptor.size());
        parse_digest(digest.as_ref())?;
        if self.present(digest, size).await? {
            return Ok(());
        }
        let _place = self.places.acquire().await;
        let layout = self.vyr.layout().clone();
        let (wanted, lease) = (digest.clone(), self.lease.clone());
        let writer = blocking(move || Ok(layout.resume_writer(&wanted, size)?)).await?;
        let position = writer.position();
        let progress = self.vyr.reporter().begin(&format!("pull {}", short(digest)), size);
        let mut sink = ThreadedSink::new(writer, position);
        let moved = self.client.blob(self.reference, digest, size, &mut sink, &*progress).await;
        let finished = sink.finish().await;
        if let Err(e) = moved {
            // A writer that itself failed is no use for going on; then the transfer's error says why.
            if let Ok(writer) = finished {
                blocking(move || {
                    writer.keep_partial();
                    Ok(())
                })
                .await?;
            }
            return Err(e);
        }
        let writer = finished.map_err(|e| Error::from(StoreError::from_write(e, self.vyr.layout().home())))?;
        blocking(move || {
            writer.commit_anew(&lease)?;
            Ok(())
        })
        .await
    }

    /// Whether the store has the blob whole. One that was damaged on disk is fetched again.
    async fn present(&self, digest: &Digest, size: u64) -> Result<bool> {
        let (layout, lease, digest) = (self.vyr.layout().clone(), self.lease.clone(), digest.clone());
        let damaged = blocking(move || {
            if lease.hold(&digest)?.is_none() {
                return Ok(None);
            }
            match layout.verify_blob(&digest) {
                Ok(found) if found == size => Ok(Some(None)),
                Ok(found) => Err(Error::new(
                    ErrorKind::Refused,
                    format!("the manifest says that blob {digest} has {size} bytes, but it has {found}"),
                )),
                // It stays until what is fetched takes its place in one step: another process may be at the same.
                Err(StoreError::Mismatch { .. }) => Ok(Some(Some(digest))),
                Err(e) => Err(e.into()),
            }
        })
        .await?;
        match damaged {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(digest)) => {
                self.vyr.reporter().warning(&format!("{digest} in the store was damaged; it is fetched again"));
                Ok(false)
            }
        }
    }

    /// A small blob, in memory and verified.
    async fn small(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.size() > MAX_CONFIG_BYTES {
            return Err(Error::new(
                ErrorKind::InvalidContent,
                format!("{} has {} bytes; at most {MAX_CONFIG_BYTES} are read", descriptor.digest(), descriptor.size()),
            ));
        }
        let mut sink = MemorySink::default();
        self.client.blob(self.reference, descriptor.digest(), descriptor.size(), &mut sink, &()).await?;
        debug_assert_eq!(sink.position(), descriptor.size());
        crate::oci::check_digest(descriptor.digest(), &sink.0)?;
        Ok(sink.0)
    }

    /// Compiled code of `digest` for machines like this one, with its signatures, where anybody has the right to it.
    async fn compiled(&self, digest: &Digest) -> Result<Beside> {
        let mut all = Beside::default();
        if !Policy::load(self.vyr)?.rules().trusts_compiled(Some(&self.origin)) {
            return Ok(all);
        }
        let fingerprint = self.vyr.engine()?.fingerprint();
        let found = self.client.referrers(self.reference, digest, Some(media::VYR_COMPILED)).await?;
        for referrer in found.iter().take(MAX_REFERRERS) {
            let said = referrer.annotations().as_ref().and_then(|a| a.get(compile::FINGERPRINT));
            if said.is_some_and(|said| said != fingerprint) {
                continue;
            }
            let fetched = self.client.manifest(&self.named(referrer.digest())).await?;
            let Some(manifest) = compile::is_for(&fetched.bytes, fingerprint) else { continue };
            let ((), mut signatures) =
                tokio::try_join!(self.image(&manifest, Purpose::Keep), Box::pin(self.signatures(&fetched.digest)))?;
            // What can't be stored of them doesn't count: that is asked where the code is wanted.
            signatures.unusable.clear();
            all.manifests.push(fetched);
            all.absorb(signatures);
        }
        Ok(all)
    }

    /// The signatures of `digest` in both forms.
    async fn signatures(&self, digest: &Digest) -> Result<Beside> {
        let (tagged, referring) = (Box::pin(self.tagged(digest)), Box::pin(self.referring(digest)));
        let (mut all, referring) = tokio::try_join!(tagged, referring)?;
        all.absorb(referring);
        Ok(all)
    }

    /// The signatures under the tag that belongs to `digest`.
    async fn tagged(&self, digest: &Digest) -> Result<Beside> {
        let mut all = Beside::default();
        let (registry, repository) = (self.reference.registry().to_owned(), self.reference.repository().to_owned());
        let tagged = Reference::with_tag(registry, repository, trust::sig_tag(digest));
        let fetched = match self.client.manifest(&tagged).await {
            Ok(fetched) => fetched,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(all),
            Err(e) => return Err(e),
        };
        let (layers, bad) = trust::sig_layers(&fetched.bytes);
        let all_usable = bad.is_empty();
        all.unusable.extend(bad);
        let parsed = Manifest::parse(&fetched.bytes, Some(&fetched.media_type));
        if let (true, Ok(Manifest::Image(manifest))) = (all_usable, parsed) {
            if let Some(unusable) = self.carried(&manifest).await? {
                all.unusable.push(unusable);
                return Ok(all);
            }
            all.tags.extend(stored_name(&tagged).map(|name| (name, fetched.digest.clone())));
            all.manifests.push(fetched);
        } else {
            for layer in layers {
                match self.small(&layer.descriptor).await {
                    Ok(payload) => all.unusable.push(layer.material(payload)),
                    Err(e) => all.unusable.push(its_own(e)?),
                }
            }
        }
        Ok(all)
    }

    /// The signatures that name `digest` as their subject.
    async fn referring(&self, digest: &Digest) -> Result<Beside> {
        let referrers = self.client.referrers(self.reference, digest, Some(media::SIGSTORE_BUNDLE)).await?;
        let is_signature = |r: &&Descriptor| !trust::states_something_else(r.annotations().as_ref());
        let referrers: Vec<Descriptor> = referrers.iter().filter(is_signature).cloned().collect();
        if referrers.len() > MAX_REFERRERS {
            self.vyr.reporter().warning(&format!(
                "{digest} has {} referrers; the first {MAX_REFERRERS} are looked at",
                referrers.len()
            ));
        }
        // In the order of the listing, whichever comes first.
        let found: Vec<Beside> = stream::iter(referrers.into_iter().take(MAX_REFERRERS))
            .map(|referrer| async move { self.bundle(&referrer).await })
            .buffered(at_once(self.vyr))
            .try_collect()
            .await?;
        Ok(found.into_iter().fold(Beside::default(), |mut all, one| {
            all.absorb(one);
            all
        }))
    }

    /// One that names another manifest as its subject, if it is a signature.
    async fn bundle(&self, referrer: &Descriptor) -> Result<Beside> {
        let mut all = Beside::default();
        let fetched = match self.client.manifest(&self.named(referrer.digest())).await {
            Ok(fetched) => fetched,
            // Listed and gone: a deleted signature is no signature.
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(all),
            Err(e) => return Err(e),
        };
        match trust::bundle_descriptor(&fetched.bytes) {
            Ok(None) => {}
            Err(bad) => all.unusable.push(bad.into()),
            Ok(Some(_)) => match Manifest::parse(&fetched.bytes, Some(&fetched.media_type)) {
                Ok(Manifest::Image(manifest)) => match self.carried(&manifest).await? {
                    Some(unusable) => all.unusable.push(unusable),
                    None => all.manifests.push(fetched),
                },
                _ => all
                    .unusable
                    .push(trust::Unusable::Bundle("its manifest is not an image manifest".to_owned()).into()),
            },
        }
        Ok(all)
    }
}

/// What is wrong with a signature itself; what is wrong with the way to it, or with this machine, stays an error.
fn its_own(error: Error) -> Result<SignatureMaterial> {
    match error.kind() {
        ErrorKind::Refused | ErrorKind::InvalidContent | ErrorKind::NotFound | ErrorKind::Usage => {
            Ok(trust::Unusable::Bundle(error.why().to_owned()).into())
        }
        _ => Err(error),
    }
}

/// How many transfers may go on at a time.
fn at_once(vyr: &Vyr) -> usize {
    vyr.config().registry.concurrency.unwrap_or(4).max(1)
}

/// The message for form 5.
pub(super) fn needs_fallback(config: &ImageConfig) -> Error {
    Error::new(
        ErrorKind::CannotStart,
        format!("this is a container image for {}/{}, not Wasm", config.os, config.architecture),
    )
    .because(FallbackReason::NoWasm.as_str())
    .hint("let it run as a container (--path auto), or publish a Wasm build of it, with `vyr push REF FILE`")
}

pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::new(ErrorKind::Internal, format!("a worker thread failed: {e}")))?
}

fn short(digest: &Digest) -> &str {
    digest.digest().get(..12).unwrap_or(digest.digest())
}
