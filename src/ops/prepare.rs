//! Owns the way from a digest in the store to something verified that can be run: which manifest, which bytes, may it,
//! and the compiled code. The short way, by the ready record, does none of it twice.

use std::io::Read;

use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::audit::{AskedBy, Deed};
use super::compiling::{Compiling, Work};
use super::pull::{Purpose, blocking, needs_fallback};
use super::ready::{Command, Conditions, Ready, SealedBlob};
use super::resolve::{Located, PullMode, locate, repository_meant};
use super::verify::{Policy, verify, verify_or_overrule};
use super::{Vyr, compile, container};
use crate::artifact::{
    ArtifactForm, Code, ImageConfig, Manifest, Offer, Recognised, WASM_MAGIC, extract_entrypoint, instead, looks_like,
    offer, recognise,
};
use crate::engine::{CodeCache, Compiled, Engine, Kind, Prepared, Tier};
use crate::error::{Error, ErrorKind, Result};
use crate::fallback::{Fallback, FallbackReason, PathChoice, decided};
use crate::oci::{
    ArtifactRef, Descriptor, Digest, Hasher, ImageIndex, ImageManifest, MAX_MANIFEST_BYTES, digest_mismatch,
    parse_digest,
};
use crate::store::{Layout, Pin, StoreError};
use crate::trust::{Acceptance, Verified};

/// The largest Wasm binary that is compiled, in bytes.
const MAX_WASM_BYTES: u64 = 4 << 30;
const TITLE: &str = "org.opencontainers.image.title";

/// What to make ready.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The artifact.
    pub reference: ArtifactRef,
    /// When to ask the registry.
    pub pull: PullMode,
    /// Go on where the policy refuses, on record.
    pub allow_unsigned: bool,
    /// Compile nothing here: only code that is there, or that comes with the artifact, will do.
    pub compiled_only: bool,
    /// For a run that is to give the same output everywhere: it never falls back.
    pub deterministic: bool,
    /// Which ways of running it will do.
    pub path: PathChoice,
    /// Who asked for it, where that isn't this process's own user.
    pub asked_by: Option<AskedBy>,
}

impl Wanted {
    /// The same as what is recorded of a run that overrules the policy.
    pub(super) fn overruling<'a>(&'a self, reference: &'a str) -> Deed<'a> {
        Deed { verb: "run", reference, asked_by: self.asked_by.as_ref() }
    }
}

/// Where machine code is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// It was compiled for this run.
    Compiled,
    /// This machine compiled it before.
    Cached,
    /// It came with the artifact, signed by somebody with the right to that.
    Adopted,
    /// There is none: it is a container, whose layers were unpacked for this run.
    Unpacked,
}

/// The two ways of running something.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and the hot path reads it")]
pub(super) enum Program {
    Wasm { engine: Engine, guest: Verified<Prepared>, command: Command },
    Container(Box<Verified<container::Image>>),
}

/// A verified guest, ready to be started. It holds the artifact against collection while it lives.
#[derive(Debug)]
pub struct Runnable {
    pub(super) program: Program,
    pub(super) _pin: Pin,
    /// The digest that was asked for.
    pub root: Digest,
    /// The manifest that runs.
    pub selected: Digest,
    /// Its form.
    pub form: ArtifactForm,
    /// The digest of the Wasm bytes; of a container, that of its image's config.
    pub code: Digest,
    /// `module`, `component` or `image`.
    pub kind: &'static str,
    /// `S0` when something was fetched, `S1` when it was compiled or unpacked, `S2` when that was there.
    pub tier: &'static str,
    /// Where the machine code is from.
    pub origin: Origin,
    /// The hash of the trust policy that lets it run.
    pub policy: String,
}

impl Runnable {
    /// The machine code that it keeps mapped, in bytes.
    #[must_use]
    pub fn mapped_bytes(&self) -> usize {
        match &self.program {
            Program::Wasm { guest, .. } => guest.mapped_bytes(),
            Program::Container(_) => 0,
        }
    }

    /// Why it is a container; `None` for Wasm.
    #[must_use]
    pub fn fallback(&self) -> Option<&Fallback> {
        match &self.program {
            Program::Wasm { .. } => None,
            Program::Container(image) => Some(image.fallback()),
        }
    }

    /// Why it may run.
    #[must_use]
    pub fn acceptance(&self) -> &Acceptance {
        match &self.program {
            Program::Wasm { guest, .. } => guest.acceptance(),
            Program::Container(image) => image.acceptance(),
        }
    }

    /// The digest whose signature counts: that of what was asked for, or of the manifest in it that runs.
    #[must_use]
    pub fn signed(&self) -> &Digest {
        match &self.program {
            Program::Wasm { guest, .. } => guest.digest(),
            Program::Container(image) => image.digest(),
        }
    }
}

/// Makes an artifact ready to run: as Wasm, and where that can't be started, as the container beside it.
///
/// # Errors
/// Whatever stands in the way, from the reference to the linker.
pub async fn prepare(vyr: &Vyr, wanted: &Wanted) -> Result<Runnable> {
    let policy = Policy::load(vyr)?;
    // A proof for this repository was made of what is from there, so nothing has to be asked of where it's from. A digest
    // alone is of as many repositories as the store says.
    if let Some(digest) = wanted.reference.digest()?.filter(|_| wanted.pull != PullMode::Always)
        && matches!(wanted.reference, ArtifactRef::Registry(_))
        && let Some(runnable) =
            proven(vyr, &policy, wanted, &digest, repository_meant(vyr, &wanted.reference).as_deref())?
    {
        return Ok(runnable);
    }
    let mut located = locate(vyr, &wanted.reference, wanted.pull, Purpose::Run).await?;
    if !matches!(wanted.reference, ArtifactRef::Layout { .. })
        && !located.pulled
        && let Some(runnable) = proven(vyr, &policy, wanted, &located.root, located.repository.as_deref())?
    {
        return Ok(runnable);
    }
    if wanted.path == PathChoice::Container {
        return container::prove(vyr, &policy, wanted, &mut located, container::requested()).await;
    }
    let error = match prove(vyr, &policy, wanted, &mut located, None).await {
        Ok(runnable) => return Ok(runnable),
        Err(error) => error,
    };
    match fallback(wanted, &error) {
        Some(fallback) => container::instead(vyr, &policy, wanted, &mut located, fallback, error).await,
        None => Err(error),
    }
}

/// Whether the container may run in place of a Wasm that failed to start so, as far as the run itself allows it.
fn fallback(wanted: &Wanted, error: &Error) -> Option<Fallback> {
    if wanted.path != PathChoice::Auto || wanted.deterministic || wanted.compiled_only {
        return None;
    }
    decided(error)
}

/// Makes the container ready that is beside a Wasm which was ready, and then could not be started.
///
/// # Errors
/// `error` itself where it is no reason to fall back, or nothing is there to fall back to.
pub async fn prepare_instead(vyr: &Vyr, wanted: &Wanted, ready: &Runnable, error: Error) -> Result<Runnable> {
    let Some(fallback) = fallback(wanted, &error).filter(|_| ready.fallback().is_none()) else { return Err(error) };
    let policy = Policy::load(vyr)?;
    // It is in the store: nothing is asked of the network for where it's from.
    let mut located = match &wanted.reference {
        ArtifactRef::Registry(reference) => {
            let there = ArtifactRef::Registry(reference.clone_with_digest(ready.root.to_string()));
            locate(vyr, &there, PullMode::Never, Purpose::Run).await?
        }
        ArtifactRef::Stored(_) => locate(vyr, &wanted.reference, PullMode::Never, Purpose::Run).await?,
        ArtifactRef::Layout { .. } => Located {
            root: ready.root.clone(),
            repository: None,
            claimed: false,
            reference: None,
            pulled: false,
            unusable: Vec::new(),
        },
    };
    let repository = located.repository.as_deref();
    if let Some(runnable) = container::proven(vyr, &policy, wanted, &ready.root, repository, Some(&fallback))? {
        return Ok(runnable);
    }
    container::instead(vyr, &policy, wanted, &mut located, fallback, error).await
}

/// The short way: everything about this digest was proven before, as content of `repository`, and nothing changed since.
pub(super) fn proven(
    vyr: &Vyr,
    policy: &Policy,
    wanted: &Wanted,
    digest: &Digest,
    repository: Option<&str>,
) -> Result<Option<Runnable>> {
    if wanted.path != PathChoice::Container
        && let Some(runnable) = proven_wasm(vyr, policy, wanted, digest, repository)?
    {
        return Ok(Some(runnable));
    }
    // Both have to be the code that was asked for, or none.
    let strict = wanted.deterministic || wanted.compiled_only && wanted.path == PathChoice::Auto;
    if wanted.path == PathChoice::Wasm || strict {
        return Ok(None);
    }
    container::proven(vyr, policy, wanted, digest, repository, None)
}

fn proven_wasm(
    vyr: &Vyr,
    policy: &Policy,
    wanted: &Wanted,
    digest: &Digest,
    repository: Option<&str>,
) -> Result<Option<Runnable>> {
    let Ok(pin) = vyr.layout().pin(digest) else { return Ok(None) };
    let conditions = Conditions { root: digest, policy: policy.hash(), repository, container: false };
    let Some(ready) = Ready::load(vyr, &conditions)? else { return Ok(None) };
    // A run that overruled the policy proves nothing for one that doesn't ask for that, and each is on record.
    if matches!(ready.acceptance, Acceptance::Unverified { .. }) {
        return Ok(None);
    }
    let engine = vyr.engine_for(wanted.deterministic)?.clone();
    let code = parse_digest(&ready.code)?;
    let cache = vyr.code_cache()?;
    let Some((compiled, origin)) = kept(&cache, &engine, &code, policy) else { return Ok(None) };
    // The node may give fewer imports now than when this was proven: the long way says what is missing, and what is done then.
    let Ok(prepared) = engine.prepare(&compiled) else { return Ok(None) };
    Ready::touch(vyr, &conditions);
    Ok(Some(Runnable {
        program: Program::Wasm {
            guest: Verified::by_memo(prepared, parse_digest(&ready.signed)?, ready.acceptance),
            engine,
            command: ready.command,
        },
        _pin: pin,
        root: digest.clone(),
        selected: parse_digest(&ready.selected)?,
        form: ready.form,
        code,
        kind: if ready.component { Kind::Component } else { Kind::Module }.as_str(),
        tier: Tier::S2.as_str(),
        origin,
        policy: policy.hash().to_owned(),
    }))
}

/// Where the long work of making something ready is done.
pub(super) type Pool = std::sync::Arc<rayon::ThreadPool>;

/// The code that is kept for this engine: this machine's own, else what the policy in force let in.
fn kept(cache: &CodeCache, engine: &Engine, code: &Digest, policy: &Policy) -> Option<(Compiled, Origin)> {
    let own = cache.get(engine, code).map(|compiled| (compiled, Origin::Cached));
    own.or_else(|| Some((cache.adopted(engine, code, policy.hash())?, Origin::Adopted)))
}

/// The long way: read, hash, ask the policy, find compiled code or compile. With a `pool`, that is done on its threads.
pub(super) async fn prove(
    vyr: &Vyr,
    policy: &Policy,
    wanted: &Wanted,
    located: &mut Located,
    pool: Option<Pool>,
) -> Result<Runnable> {
    let pin = vyr.layout().pin(&located.root)?;
    let found = examine(vyr, &located.root)?;
    let accepted = if wanted.allow_unsigned {
        verify_or_overrule(vyr, policy, located, &found.selected, wanted.overruling(&wanted.reference.to_string()))
            .await?
    } else {
        verify(vyr, policy, located, &found.selected).await?
    };
    let verified = accepted.map(|()| found);
    let engine = vyr.engine_for(wanted.deterministic)?.clone();
    let cache = vyr.code_cache()?;
    let layout = vyr.layout().clone();
    // From the first byte read to the last one compiled, whether anybody still waits for it or not.
    let said = Work::of_size(verified.size());
    let memory = reserve(vyr, said).await?;
    let work_pool = pool.clone();
    // Reading, hashing and compiling take long: not on the runtime's own thread.
    let span = tracing::Span::current();
    let (verified, loaded, work, mut memory) = blocking(move || {
        let _entered = span.entered();
        let loaded = on(work_pool.as_ref(), || verified.load(&layout))?;
        let work = Work::of(&loaded.bytes);
        Ok((verified, loaded, work, memory))
    })
    .await?;
    let cached = kept(&cache, &engine, &loaded.code, policy);
    let (code, component_code, origin, loaded) = match cached {
        Some((compiled, origin)) => (loaded.code.clone(), compiled, origin, loaded),
        None => {
            // What was packed says its size only now, and what has many functions. Nobody waits for more while holding some.
            if work.memory() > said.memory() {
                drop(memory.take());
                memory = reserve(vyr, work).await?;
            }
            compiled(vyr, policy, wanted, located, &verified.selected, (loaded, memory), pool).await?
        }
    };
    let prepared = engine.prepare(&component_code)?;
    let kind = component_code.kind();
    let tier = tier(located, origin);
    let repository = located.repository.as_deref();
    let conditions = Conditions { root: &located.root, policy: policy.hash(), repository, container: false };
    let command = Command { argv0: argv0(&verified, located), ..loaded.command };
    let ready = Ready::new(
        &conditions,
        &verified.selected,
        verified.form,
        &code,
        kind == Kind::Component,
        command.clone(),
        loaded.seals,
        verified.acceptance().clone(),
        verified.digest(),
    );
    if let Err(e) = ready.save(vyr, &conditions) {
        tracing::warn!(error = %e, "what was proven can't be kept; the next run proves it again");
    }
    let (selected, form) = (verified.selected.clone(), verified.form);
    Ok(Runnable {
        program: Program::Wasm { guest: verified.map(|_| prepared), engine, command },
        _pin: pin,
        root: located.root.clone(),
        selected,
        form,
        code,
        kind: kind.as_str(),
        tier,
        origin,
        policy: policy.hash().to_owned(),
    })
}

/// The memory for compiling this, where that is bounded.
async fn reserve(vyr: &Vyr, work: Work) -> Result<Option<OwnedSemaphorePermit>> {
    match vyr.compiling() {
        Some(compiling) => compiling.memory(work).await.map(Some),
        None => Ok(None),
    }
}

/// What was there when something was made ready.
pub(super) fn tier(located: &Located, origin: Origin) -> &'static str {
    match origin {
        _ if located.pulled => "S0",
        Origin::Compiled | Origin::Unpacked => Tier::S1.as_str(),
        Origin::Cached | Origin::Adopted => Tier::S2.as_str(),
    }
}

/// Code that came with the artifact, where its signer has the right to that; else compiled here.
async fn compiled(
    vyr: &Vyr,
    policy: &Policy,
    wanted: &Wanted,
    located: &Located,
    subject: &Digest,
    (loaded, memory): (Loaded, Option<OwnedSemaphorePermit>),
    pool: Option<Pool>,
) -> Result<(Digest, Compiled, Origin, Loaded)> {
    let code = loaded.code.clone();
    let engine = vyr.engine_for(wanted.deterministic)?.clone();
    let reasons = match compile::adopt(vyr, &engine, policy, located.repository.as_deref(), subject, &code).await? {
        Ok(compiled) => return Ok((code, compiled, Origin::Adopted, loaded)),
        Err(reasons) => reasons,
    };
    if wanted.compiled_only {
        let why = if reasons.is_empty() { "none comes with it".to_owned() } else { reasons.join("; ") };
        return Err(Error::new(
            ErrorKind::Refused,
            format!("nothing is compiled here (--compiled-only), and no compiled code can be used: {why}"),
        )
        .hint(
            "make it on a machine like this one with `vyr compile REF --push --key KEY`, trust that key here with \
             `vyr trust add --key FILE --compiled`, and ask for it once more with `--pull always`",
        ));
    }
    for reason in reasons {
        vyr.reporter().note(&format!("{reason}; compiling here"));
    }
    let cache = vyr.code_cache()?;
    // A pool has bounds of its own.
    let turn = match vyr.compiling() {
        Some(compiling) if pool.is_none() => Some(compiling.turn().await?),
        _ => None,
    };
    let span = tracing::Span::current();
    blocking(move || {
        let for_others = turn.is_some();
        let _held = (memory, turn);
        let _entered = span.entered();
        let bytes = loaded.bytes.as_slice();
        let compile = || cache.get_or_compile(&engine, &loaded.code, || Ok::<_, Error>(bytes));
        let cached = if for_others { Compiling::aside(compile)? } else { on(pool.as_ref(), compile) }?;
        let origin = if cached.tier == Tier::S1 { Origin::Compiled } else { Origin::Cached };
        Ok((code, cached.compiled, origin, loaded))
    })
    .await
}

/// Does `work` on the pool, where there is one: what the compiler splits among threads stays there too.
fn on<T: Send>(pool: Option<&Pool>, work: impl FnOnce() -> T + Send) -> T {
    match pool {
        Some(pool) => {
            let span = tracing::Span::current();
            pool.install(|| span.in_scope(work))
        }
        None => work(),
    }
}

/// What the program is called inside: the layer's title, else the repository's last part.
fn argv0(found: &Found, located: &Located) -> String {
    if let Code::Layer(layer) = &found.source
        && let Some(title) = layer.annotations().as_ref().and_then(|a| a.get(TITLE))
    {
        return title.clone();
    }
    if let Some(path) = &found.entrypoint {
        return path.clone();
    }
    let name = located.repository.as_deref().and_then(|r| r.rsplit('/').next()).unwrap_or("main");
    format!("{name}.wasm")
}

/// What the manifests say, before any large blob is read.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) selected: Digest,
    pub(super) form: ArtifactForm,
    pub(super) source: Code,
    entrypoint: Option<String>,
}

/// Reads and hashes the manifests from `root` down to the one that runs.
pub(super) fn examine(vyr: &Vyr, root: &Digest) -> Result<Found> {
    let layout = vyr.layout();
    let bytes = layout.read_verified(root, MAX_MANIFEST_BYTES)?;
    let (selected, manifest) = match Manifest::parse(&bytes, None)? {
        Manifest::Image(manifest) => (root.clone(), manifest),
        Manifest::Index(index) => {
            let offer = offered(layout, &index)?;
            let Some(child) = offer.first() else {
                return Err(Error::new(ErrorKind::InvalidContent, "the index offers nothing for this machine"));
            };
            (child.digest().clone(), child_manifest(layout, child)?)
        }
    };
    // What is called Wasm by an index and isn't leaves room for the image beside it.
    let recognised = recognise(&manifest);
    let recognised = if selected == *root {
        recognised
    } else {
        recognised.map_err(|e| e.because(FallbackReason::NotWasm.as_str()))
    };
    match recognised? {
        Recognised::Wasm { form, layer } => Ok(Found { selected, form, source: Code::Layer(layer), entrypoint: None }),
        Recognised::Image { config, layers } => {
            let parsed = ImageConfig::parse(&layout.read_verified(config.digest(), MAX_MANIFEST_BYTES)?)?;
            match parsed.form()? {
                ArtifactForm::LinuxImage => Err(needs_fallback(&parsed)),
                form => {
                    let entrypoint = parsed.entrypoint()?.path.to_string_lossy().into_owned();
                    Ok(Found {
                        selected,
                        form,
                        source: Code::Entrypoint { config, layers },
                        entrypoint: Some(entrypoint),
                    })
                }
            }
        }
    }
}

/// What an index in the store offers, those below it included as far as they are there.
pub(super) fn offered(layout: &Layout, index: &ImageIndex) -> Result<Offer> {
    let mut offered = offer(index)?;
    for below in offered.unresolved() {
        let inner = match layout.read_verified(below.digest(), MAX_MANIFEST_BYTES) {
            Ok(bytes) => match Manifest::parse(&bytes, Some(below.media_type().as_ref()))? {
                Manifest::Index(inner) => offer(&inner).unwrap_or_default(),
                Manifest::Image(_) => Offer::default(),
            },
            Err(StoreError::NoBlob(_)) => Offer::default(),
            Err(e) => return Err(e.into()),
        };
        offered.absorb(&below, inner);
    }
    Ok(offered)
}

/// Reads one manifest that an index lists.
pub(super) fn child_manifest(layout: &Layout, child: &Descriptor) -> Result<Box<ImageManifest>> {
    let bytes = layout.read_verified(child.digest(), MAX_MANIFEST_BYTES).map_err(|e| {
        Error::from(e).hint("the store holds the index but not its manifest for this platform; run `vyr pull` again")
    })?;
    match Manifest::parse(&bytes, Some(child.media_type().as_ref()))? {
        Manifest::Image(manifest) => Ok(manifest),
        Manifest::Index(_) => Err(Error::new(
            ErrorKind::InvalidContent,
            format!("the index says that {} is a manifest, and it is another index", child.digest()),
        )),
    }
}

/// The manifest that would run of `root`: itself, or for an index the one for this machine. What can't be run at all
/// stands for itself, since it can still be kept and verified.
///
/// # Errors
/// The store's own.
pub fn selected(vyr: &Vyr, root: &Digest) -> Result<Digest> {
    match examine(vyr, root) {
        Ok(found) => Ok(found.selected),
        Err(e) if matches!(e.kind(), ErrorKind::CannotStart | ErrorKind::InvalidContent) => Ok(root.clone()),
        Err(e) => Err(e),
    }
}

/// What form the artifact at `root` has; `None` for what can't be run.
#[must_use]
pub fn form_of(vyr: &Vyr, root: &Digest) -> Option<ArtifactForm> {
    match examine(vyr, root) {
        Ok(found) => Some(found.form),
        Err(e) if e.kind() == ErrorKind::CannotStart => Some(ArtifactForm::LinuxImage),
        Err(_) => None,
    }
}

/// The Wasm bytes, hashed as they were read.
pub(super) struct Loaded {
    pub(super) bytes: Vec<u8>,
    pub(super) code: Digest,
    seals: Vec<SealedBlob>,
    command: Command,
}

impl Found {
    /// The size of what is read for it, in bytes, as its manifest says.
    pub(super) fn size(&self) -> u64 {
        match &self.source {
            Code::Layer(layer) => layer.size(),
            Code::Entrypoint { layers, .. } => layers.iter().map(Descriptor::size).fold(0, u64::saturating_add),
        }
    }

    /// Reads the Wasm. What is returned is what was hashed: nothing is read twice.
    pub(super) fn load(&self, layout: &Layout) -> Result<Loaded> {
        match &self.source {
            Code::Layer(layer) => {
                let (bytes, seal) = read_sealed(layout, layer)?;
                if !bytes.starts_with(WASM_MAGIC) {
                    return Err(Error::new(
                        ErrorKind::InvalidContent,
                        format!("layer {} is not Wasm: it looks like {}", layer.digest(), looks_like(&bytes)),
                    )
                    .because(FallbackReason::NotWasm.as_str())
                    .hint(instead(looks_like(&bytes))));
                }
                Ok(Loaded { bytes, code: layer.digest().clone(), seals: vec![seal], command: Command::default() })
            }
            Code::Entrypoint { config, layers } => {
                let parsed = ImageConfig::parse(&layout.read_verified(config.digest(), MAX_MANIFEST_BYTES)?)?;
                let entrypoint = parsed.entrypoint()?;
                let mut seals = Vec::new();
                let mut readers = Vec::new();
                for layer in layers {
                    let file = layout.open_blob(layer.digest())?;
                    seals.push(SealedBlob::before_hashing(layer.digest(), &file).map_err(|e| unreadable(layer, &e))?);
                    readers.push((
                        layer.clone(),
                        Hashed {
                            inner: file,
                            hasher: Hasher::for_digest(layer.digest())?,
                            wanted: layer.digest().clone(),
                            done: false,
                        },
                    ));
                }
                let bytes = extract_entrypoint(&entrypoint.path, &parsed.rootfs.diff_ids, readers)?;
                let code = crate::oci::sha256(&bytes);
                let command = Command {
                    argv0: String::new(),
                    fixed_args: entrypoint.fixed_args,
                    default_args: entrypoint.default_args,
                    env: entrypoint.env,
                };
                Ok(Loaded { bytes, code, seals, command })
            }
        }
    }
}

fn unreadable(layer: &Descriptor, e: &std::io::Error) -> Error {
    Error::new(ErrorKind::Storage, format!("layer {} can't be read: {e}", layer.digest()))
}

/// Reads a whole blob and hashes it.
fn read_sealed(layout: &Layout, layer: &Descriptor) -> Result<(Vec<u8>, SealedBlob)> {
    let file = layout.open_blob(layer.digest())?;
    let seal = SealedBlob::before_hashing(layer.digest(), &file).map_err(|e| unreadable(layer, &e))?;
    if layer.size() > MAX_WASM_BYTES {
        return Err(Error::new(
            ErrorKind::InvalidContent,
            format!("layer {} has {} bytes; at most {MAX_WASM_BYTES} are compiled", layer.digest(), layer.size()),
        ));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(layer.size()).unwrap_or(0));
    file.take(layer.size() + 1).read_to_end(&mut bytes).map_err(|e| unreadable(layer, &e))?;
    if bytes.len() as u64 != layer.size() {
        return Err(Error::new(
            ErrorKind::Refused,
            format!(
                "layer {} in the store has {} bytes, not the {} that the manifest says",
                layer.digest(),
                bytes.len(),
                layer.size()
            ),
        )
        .hint("run `vyr pull` to fetch it again"));
    }
    let mut hasher = Hasher::for_digest(layer.digest())?;
    hasher.update(&bytes);
    let found = hasher.finish();
    if found == *layer.digest() {
        Ok((bytes, seal))
    } else {
        Err(digest_mismatch(layer.digest(), &found).hint("run `vyr pull` to fetch it again from a registry you trust"))
    }
}

/// Hashes a compressed layer as it streams by, and turns its end into an error when the digest is another.
struct Hashed<R> {
    inner: R,
    hasher: Hasher,
    wanted: Digest,
    done: bool,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        if count > 0 {
            self.hasher.update(buffer.get(..count).unwrap_or_default());
        } else if !self.done {
            self.done = true;
            let found = self.hasher.clone().finish();
            if found != self.wanted {
                return Err(std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    format!("its digest is {found}, not {}", self.wanted),
                ));
            }
        }
        Ok(count)
    }
}
