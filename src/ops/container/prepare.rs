//! Owns the way from a manifest to an image that can be started: which one, fetched where it is missing, verified, unpacked.

use std::io::BufReader;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oci_spec::image::ImageConfiguration;
use vyr_oci_fallback::engine::Choice;
use vyr_oci_fallback::snapshot::{Layer, Rootfs};
use vyr_oci_fallback::unpack::{Limits, UnpackError};

use super::Image;
use crate::artifact::{ArtifactForm, Manifest, Recognised, architecture, recognise};
use crate::error::{Error, ErrorKind, Result};
use crate::fallback::{Fallback, FallbackReason, PathChoice};
use crate::oci::{Descriptor, Digest, ImageManifest, MAX_MANIFEST_BYTES, parse_digest};
use crate::ops::prepare::{Origin, Program, Runnable, Wanted, child_manifest, offered, tier};
use crate::ops::pull::{blocking, pull_child};
use crate::ops::ready::{Command, Conditions, Ready, SealedBlob};
use crate::ops::resolve::{Located, PullMode};
use crate::ops::verify::{Policy, verify, verify_or_overrule};
use crate::ops::{Vyr, resolve};
use crate::store::Layout;
use crate::trust::{Acceptance, Verified};

const KIND: &str = "image";

/// The container in place of a Wasm that could not start.
///
/// # Errors
/// `error`, the Wasm's own, where nothing is beside it; else what keeps the container from starting, with that said too.
pub(in crate::ops) async fn instead(
    vyr: &Vyr,
    policy: &Policy,
    wanted: &Wanted,
    located: &mut Located,
    fallback: Fallback,
    error: Error,
) -> Result<Runnable> {
    if find(vyr, &located.root)?.is_none() {
        return Err(error);
    }
    let span = tracing::info_span!("fallback", reason = %fallback.reason);
    let no_wasm = fallback.reason == FallbackReason::NoWasm;
    let prepared = tracing::Instrument::instrument(prove(vyr, policy, wanted, located, fallback), span).await;
    prepared.map_err(|e| {
        if no_wasm {
            return e;
        }
        let both =
            Error::new(e.kind(), format!("{}; the container is to run since the Wasm can't: {}", e.why(), error.why()));
        match e.next() {
            Some(next) => both.hint(next),
            None => both,
        }
    })
}

/// The short way: everything about the image was proven before. `given` is why it is wanted; without, what was found out
/// before counts, as far as it would be found out again.
pub(in crate::ops) fn proven(
    vyr: &Vyr,
    policy: &Policy,
    wanted: &Wanted,
    digest: &Digest,
    repository: Option<&str>,
    given: Option<&Fallback>,
) -> Result<Option<Runnable>> {
    let Ok(pin) = vyr.layout().pin(digest) else { return Ok(None) };
    let conditions = Conditions { root: digest, policy: policy.hash(), repository, container: true };
    let Some(ready) = Ready::load(vyr, &conditions)? else { return Ok(None) };
    if matches!(ready.acceptance, Acceptance::Unverified { .. }) {
        return Ok(None);
    }
    let Some((found, fingerprint)) = ready.fallback else { return Ok(None) };
    let fallback = match given {
        Some(given) => given.clone(),
        None if wanted.path == PathChoice::Container => requested(),
        None if found.reason == FallbackReason::NoWasm => found,
        // Another engine may be able to do what that one was not.
        None if found.reason.lasts() && fingerprint == vyr.engine()?.abilities() => found,
        None => return Ok(None),
    };
    let layout = vyr.layout();
    let selected = parse_digest(&ready.selected)?;
    let code = parse_digest(&ready.code)?;
    let Ok(config) = layout.read_verified(&code, MAX_MANIFEST_BYTES) else { return Ok(None) };
    let config = config_of(&config)?;
    let Some(rootfs) = vyr.snapshots()?.get(config.rootfs().diff_ids()) else { return Ok(None) };
    Ready::touch(vyr, &conditions);
    let image = Image { rootfs, config, fallback, engine: engine(vyr)? };
    Ok(Some(Runnable {
        program: Program::Container(Box::new(Verified::by_memo(image, parse_digest(&ready.signed)?, ready.acceptance))),
        _pin: pin,
        root: digest.clone(),
        selected,
        form: ready.form,
        code,
        kind: KIND,
        tier: "S2",
        origin: Origin::Cached,
        policy: policy.hash().to_owned(),
    }))
}

pub(in crate::ops) fn requested() -> Fallback {
    Fallback { reason: FallbackReason::Requested, message: "the container was asked for".to_owned() }
}

/// The long way: fetch what is missing, ask the policy, unpack.
pub(in crate::ops) async fn prove(
    vyr: &Vyr,
    policy: &Policy,
    wanted: &Wanted,
    located: &mut Located,
    fallback: Fallback,
) -> Result<Runnable> {
    let pin = vyr.layout().pin(&located.root)?;
    let Some(child) = find(vyr, &located.root)? else {
        return Err(Error::new(
            ErrorKind::CannotStart,
            format!("the artifact has no container image for linux/{}", architecture()),
        )
        .hint("publish one beside it: `vyr push REF FILE --fallback IMAGE`"));
    };
    if let Some(child) = &child {
        fetch(vyr, wanted, located, child).await?;
    }
    let (selected, manifest) = manifest_of(vyr.layout(), &located.root, child.as_ref())?;
    // Asked for this manifest: a signature over the index counts, and one over the image alone.
    let accepted = if wanted.allow_unsigned {
        verify_or_overrule(vyr, policy, located, &selected, wanted.overruling(&wanted.reference.to_string())).await?
    } else {
        verify(vyr, policy, located, &selected).await?
    };
    let (image, code, origin, seal) = unpacked(vyr, &manifest, fallback).await?;
    let fallback = image.fallback.clone();
    let image = accepted.map(|()| image);
    let repository = located.repository.as_deref();
    let conditions = Conditions { root: &located.root, policy: policy.hash(), repository, container: true };
    let fingerprint = match fallback.reason.lasts() && fallback.reason != FallbackReason::NoWasm {
        true => vyr.engine()?.abilities(),
        false => String::new(),
    };
    let ready = Ready::new(
        &conditions,
        &selected,
        ArtifactForm::LinuxImage,
        &code,
        false,
        Command::default(),
        vec![seal],
        image.acceptance().clone(),
        image.digest(),
    )
    .of_container(fallback, fingerprint);
    // One that overruled the policy proves nothing, and must not stand where another's proof is.
    if !matches!(image.acceptance(), Acceptance::Unverified { .. })
        && let Err(e) = ready.save(vyr, &conditions)
    {
        tracing::warn!(error = %e, "what was proven can't be kept; the next run proves it again");
    }
    Ok(Runnable {
        program: Program::Container(Box::new(image)),
        _pin: pin,
        root: located.root.clone(),
        selected,
        form: ArtifactForm::LinuxImage,
        code,
        kind: KIND,
        tier: tier(located, origin),
        origin,
        policy: policy.hash().to_owned(),
    })
}

/// The image at `root`: `Some(None)` where it is the root itself, `Some(Some(_))` one that the index lists, `None` where
/// there is none for this machine.
#[expect(clippy::option_option, reason = "no image, the root, or one that it lists")]
pub(super) fn find(vyr: &Vyr, root: &Digest) -> Result<Option<Option<Descriptor>>> {
    let bytes = vyr.layout().read_verified(root, MAX_MANIFEST_BYTES)?;
    Ok(match Manifest::parse(&bytes, None)? {
        Manifest::Image(manifest) => matches!(recognise(&manifest), Ok(Recognised::Image { .. })).then_some(None),
        Manifest::Index(index) => offered(vyr.layout(), &index)?.image.map(Some),
    })
}

/// Gets the image of an index, where only the Wasm was wanted before.
async fn fetch(vyr: &Vyr, wanted: &Wanted, located: &mut Located, child: &Descriptor) -> Result<()> {
    if is_whole(vyr.layout(), child)? {
        return Ok(());
    }
    let Some(reference) = &located.reference else {
        return Err(Error::new(ErrorKind::NotFound, format!("the image {} is not whole in the store", child.digest()))
            .hint("name the artifact with its registry, as in host/repository@sha256:…, or run `vyr pull` with that"));
    };
    if wanted.pull == PullMode::Never || vyr.config().offline {
        return Err(resolve::missing(vyr, &format!("the image {} is not in the store", child.digest()), reference));
    }
    pull_child(vyr, reference, child).await?;
    located.pulled = true;
    Ok(())
}

pub(super) fn is_whole(layout: &Layout, child: &Descriptor) -> Result<bool> {
    if layout.blob_size(child.digest())?.is_none() {
        return Ok(false);
    }
    let manifest = child_manifest(layout, child)?;
    for blob in std::iter::once(manifest.config()).chain(manifest.layers()) {
        if layout.blob_size(blob.digest())? != Some(blob.size()) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn manifest_of(
    layout: &Layout,
    root: &Digest,
    child: Option<&Descriptor>,
) -> Result<(Digest, Box<ImageManifest>)> {
    if let Some(child) = child {
        return Ok((child.digest().clone(), child_manifest(layout, child)?));
    }
    match Manifest::parse(&layout.read_verified(root, MAX_MANIFEST_BYTES)?, None)? {
        Manifest::Image(manifest) => Ok((root.clone(), manifest)),
        Manifest::Index(_) => Err(Error::new(ErrorKind::InvalidContent, format!("{root} is an index, not an image"))),
    }
}

pub(super) fn config_of(bytes: &[u8]) -> Result<ImageConfiguration> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::new(ErrorKind::InvalidContent, format!("the image config is malformed: {e}")))
}

fn engine(vyr: &Vyr) -> Result<Arc<Choice>> {
    let machine = vyr.machine();
    machine.engines.first().cloned().map(Arc::new).ok_or_else(|| {
        if let Some(named) = &vyr.config().container_engine {
            let why = format!("the container engine `{}` that is set can't be used here", named.display());
            return Error::new(ErrorKind::CannotStart, why)
                .hint("`vyr doctor` says what works; without the setting, the built-in one is taken");
        }
        Error::new(ErrorKind::CannotStart, "no container engine works on this machine")
            .hint("`vyr doctor` says what each lacks")
    })
}

/// The image with its layers unpacked, the digest of its config, whether they had to be, and the look of the config.
async fn unpacked(
    vyr: &Vyr,
    manifest: &ImageManifest,
    fallback: Fallback,
) -> Result<(Image, Digest, Origin, SealedBlob)> {
    let layout = vyr.layout();
    let code = manifest.config().digest().clone();
    let looked = |e: std::io::Error| Error::new(ErrorKind::Storage, format!("the config {code} can't be read: {e}"));
    let seal = SealedBlob::before_hashing(&code, &layout.open_blob(&code)?).map_err(looked)?;
    let config = config_of(&layout.read_verified(&code, MAX_MANIFEST_BYTES)?)?;
    let (os, machine) = (config.os().to_string(), config.architecture().to_string());
    if os != "linux" || machine != architecture() {
        return Err(Error::new(
            ErrorKind::CannotStart,
            format!("the image is for {os}/{machine}, and this machine is linux/{}", architecture()),
        )
        .hint("publish an index that holds an image for this machine, too"));
    }
    let diff_ids = config.rootfs().diff_ids().clone();
    let layers: Vec<&Descriptor> = manifest.layers().iter().collect();
    if layers.len() != diff_ids.len() {
        return Err(Error::new(
            ErrorKind::InvalidContent,
            format!("the image has {} layers, and its config speaks of {}", layers.len(), diff_ids.len()),
        ));
    }
    let engine = engine(vyr)?;
    let snapshots = vyr.snapshots()?.clone();
    let (rootfs, origin) = match snapshots.get(&diff_ids) {
        Some(rootfs) => (rootfs, Origin::Cached),
        None => (unpack(vyr, snapshots, &layers, &diff_ids).await?, Origin::Unpacked),
    };
    Ok((Image { rootfs, config, fallback, engine }, code, origin, seal))
}

/// Says, when it is gone, that nobody waits any more.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[tracing::instrument(skip_all, fields(layers = layers.len()))]
async fn unpack(
    vyr: &Vyr,
    snapshots: vyr_oci_fallback::snapshot::Snapshots,
    layers: &[&Descriptor],
    diff_ids: &[String],
) -> Result<Rootfs> {
    let total = layers.iter().map(|layer| layer.size()).fold(0, u64::saturating_add);
    let progress = vyr.reporter().begin("unpack the image", total);
    let layers: Vec<Layer> = layers.iter().zip(diff_ids).map(|(layer, id)| given(vyr.layout(), layer, id)).collect();
    // Who wanted it may go away in the middle: then nobody is left to want it.
    let stop = Arc::new(AtomicBool::new(false));
    let _unwanted = SetOnDrop(Arc::clone(&stop));
    blocking(move || {
        let position = AtomicU64::new(0);
        let read = |bytes| progress.at(position.fetch_add(bytes, Ordering::Relaxed) + bytes);
        let done = snapshots.unpack_unless(&layers, &Limits::default(), &read, &stop);
        if done.is_ok() {
            // Nobody waits for the disk: what isn't marked as being there is made anew after a loss of power.
            std::thread::spawn(move || {
                if let Err(e) = snapshots.settle() {
                    tracing::warn!(error = %e, "unpacked layers may not be on disk");
                }
            });
        }
        done.map_err(|e| {
            let kind = match &e {
                UnpackError::Io(_) => ErrorKind::Storage,
                UnpackError::Stopped => ErrorKind::Cancelled,
                _ => ErrorKind::InvalidContent,
            };
            Error::new(kind, format!("the image can't be unpacked: {e}"))
        })
    })
    .await
}

fn given(layout: &Layout, layer: &Descriptor, diff_id: &str) -> Layer {
    let (layout, digest) = (layout.clone(), layer.digest().clone());
    Layer {
        media_type: layer.media_type().to_string(),
        digest: digest.to_string(),
        diff_id: diff_id.to_owned(),
        size: layer.size(),
        open: Box::new(move || {
            let file = layout.open_blob(&digest).map_err(std::io::Error::other)?;
            Ok(Box::new(BufReader::with_capacity(256 << 10, file)))
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;
    use crate::config::{Config, Flags};
    use crate::oci::{MediaType, sha256};
    use crate::ops::Reporter;
    use crate::registry::Progress;

    /// Gone when the work is over whose progress it hears.
    #[derive(Debug, Clone)]
    struct Heard {
        _counted: Arc<()>,
    }

    impl Progress for Heard {
        fn at(&self, _position: u64) {}
    }

    impl Reporter for Heard {
        fn note(&self, _text: &str) {}
        fn warning(&self, _text: &str) {}
        fn begin(&self, _what: &str, _total: u64) -> Box<dyn Progress> {
            Box::new(self.clone())
        }
    }

    #[tokio::test]
    async fn an_image_that_nobody_wants_any_more_is_not_unpacked() {
        let home = tempfile::tempdir().unwrap();
        let flags = Flags { home: Some(home.path().to_owned()), offline: true, ..Flags::default() };
        let heard = Arc::new(());
        let vyr = Vyr::new(Config::load(flags).unwrap(), Arc::new(Heard { _counted: Arc::clone(&heard) }));
        let snapshots = vyr.snapshots().unwrap().clone();
        let (digest, diff_id) = (sha256(b"compressed"), sha256(b"a tar").to_string());

        // Another is at the same layer, and stays at it for as long as this test likes.
        let ((opened, is_open), (release, stays)) = (channel(), channel::<()>());
        let stays: std::sync::Mutex<Receiver<()>> = stays.into();
        let open = move || {
            opened.send(()).map_err(std::io::Error::other)?;
            let _ = stays.lock().map(|stays| stays.recv());
            Err(std::io::Error::other("it was only held"))
        };
        let layer = Layer {
            media_type: MediaType::ImageLayerGzip.to_string(),
            digest: digest.to_string(),
            diff_id: diff_id.clone(),
            size: 10,
            open: Box::new(open),
        };
        let other = snapshots.clone();
        let other = std::thread::spawn(move || other.unpack(&[layer], &Limits::default(), &|_| {}).is_err());
        is_open.recv().unwrap();

        let before = Arc::strong_count(&heard);
        let descriptor = Descriptor::new(MediaType::ImageLayerGzip, 10_u64, digest);
        let (layers, diff_ids) = ([&descriptor], [diff_id]);
        tokio::select! {
            biased;
            _ = unpack(&vyr, snapshots, &layers, &diff_ids) => panic!("another is at it"),
            () = std::future::ready(()) => {}
        }
        // It went away while it waited, and what it had begun ends before the other does.
        let ends = async {
            while Arc::strong_count(&heard) > before {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ends).await.expect("it ends");
        drop(release);
        assert!(other.join().unwrap(), "the other one had it all the time");
    }
}
