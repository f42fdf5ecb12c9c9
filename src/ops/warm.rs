//! Owns making artifacts ready before anybody runs them: verified and compiled, so that the first run finds compiled code.

use std::sync::Arc;

use serde::Serialize;

use super::Vyr;
use super::prepare::{Origin, Pool, Wanted, examine, prepare, prove, proven};
use super::pull::Purpose;
use super::resolve::{Located, PullMode, locate};
use super::verify::{Policy, is_unsigned};
use crate::artifact::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::fallback::PathChoice;
use crate::oci::{ArtifactRef, Digest, MAX_MANIFEST_BYTES, media, parse_reference};

/// What was made ready.
#[derive(Debug, Clone, Serialize)]
pub struct Warmed {
    /// The REF as it was given.
    pub reference: String,
    /// Its digest.
    pub digest: String,
    /// Where its machine code is from: `compiled` now, `cached`, or `adopted`.
    pub code_origin: Origin,
}

/// Pulls an artifact if need be, verifies and compiles it, and runs nothing.
///
/// # Errors
/// As a run's, up to its start.
pub async fn warm(vyr: &Vyr, reference: &ArtifactRef, pull: PullMode) -> Result<Warmed> {
    let wanted = Wanted {
        reference: reference.clone(),
        pull,
        allow_unsigned: false,
        compiled_only: false,
        deterministic: false,
        path: PathChoice::Auto,
        asked_by: None,
    };
    let ready = prepare(vyr, &wanted).await?;
    Ok(Warmed { reference: reference.to_string(), digest: ready.root.to_string(), code_origin: ready.origin })
}

/// Threads for work that nobody waits for: as many as may compile at once, and each yields to whatever else wants the CPU.
///
/// # Errors
/// [`ErrorKind::Internal`] when the system gives no threads.
pub fn background(threads: usize) -> Result<Background> {
    let built = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .thread_name(|_| "vyr-compile".to_owned())
        // On Linux a thread's own. Where it isn't allowed, the work is done all the same.
        .start_handler(|_| {
            let _ = rustix::process::nice(19);
        })
        .build();
    let pool = built.map_err(|e| Error::new(ErrorKind::Internal, format!("no threads to compile on: {e}")))?;
    Ok(Background(Arc::new(pool)))
}

/// Threads for work that nobody waits for.
#[derive(Debug, Clone)]
pub struct Background(Pool);

/// How what arrives is made ready.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The threads that do it.
    pub on: Background,
    /// The largest Wasm that is compiled, in bytes.
    pub largest: u64,
    /// Compile nothing: take only code that comes with it.
    pub compiled_only: bool,
}

/// Makes ready what has just come into the store, as content of `repository` (`host[:port]/repository`), where it is no
/// larger than the Wasm that may be compiled. For what is about an artifact, a signature or compiled code, that artifact is
/// meant. Nothing is asked of the network, and nothing that the trust policy refuses is read. Who pushes it says by which
/// name this registry is known, so that name is a claim unless it is one that this machine knows to be its own.
///
/// # Errors
/// [`ErrorKind::Exhausted`] for what is too large; why it can't be run, or may not.
pub async fn arrived(vyr: &Vyr, digest: &Digest, repository: Option<&str>, how: &Arrival) -> Result<Origin> {
    let mut root = digest.clone();
    // A signature may be that of compiled code, which is about the artifact.
    for _ in 0..3 {
        match about(vyr, &root)? {
            Some(subject) => root = subject,
            None => break,
        }
    }
    let found = examine(vyr, &root)?;
    let size = found.size();
    if size > how.largest {
        let why = format!("it has {size} bytes, and at most {} are compiled on arrival", how.largest);
        return Err(Error::new(ErrorKind::Exhausted, why));
    }
    let wanted = Wanted {
        reference: match repository {
            Some(repository) => ArtifactRef::Registry(parse_reference(&format!("{repository}@{root}"))?),
            None => ArtifactRef::Stored(root.clone()),
        },
        pull: PullMode::Never,
        allow_unsigned: false,
        compiled_only: how.compiled_only,
        deterministic: false,
        path: PathChoice::Auto,
        asked_by: None,
    };
    let policy = Policy::load(vyr)?;
    let mut located = match locate(vyr, &wanted.reference, PullMode::Never, Purpose::Run).await {
        Ok(located) => located,
        Err(e) if e.kind() == ErrorKind::NotFound && repository.is_some() => {
            let origins = vyr.store().await?.origins(&root).await?;
            if origins.iter().any(|origin| origin.proven) {
                return Err(e);
            }
            let repository = repository.map(str::to_owned);
            Located { root, repository, claimed: true, reference: None, pulled: false, unusable: Vec::new() }
        }
        Err(e) => return Err(e),
    };
    if let Some(ready) = proven(vyr, &policy, &wanted, &located.root, located.repository.as_deref())? {
        return Ok(ready.origin);
    }
    if is_unsigned(vyr, &policy, &located, &found.selected).await? {
        return Err(Error::new(ErrorKind::Refused, format!("{} has no signature yet", located.root)));
    }
    // Without a reference no registry is asked for newer signatures.
    located.reference = None;
    Ok(prove(vyr, &policy, &wanted, &mut located, Some(how.on.0.clone())).await?.origin)
}

/// What a signature or compiled code is about.
fn about(vyr: &Vyr, digest: &Digest) -> Result<Option<Digest>> {
    let bytes = vyr.layout().read_verified(digest, MAX_MANIFEST_BYTES)?;
    let Manifest::Image(manifest) = Manifest::parse(&bytes, None)? else { return Ok(None) };
    let kind = manifest.artifact_type().as_ref().map(AsRef::<str>::as_ref);
    let beside = kind.is_some_and(|kind| kind == media::VYR_COMPILED || kind == media::SIGSTORE_BUNDLE);
    Ok(manifest.subject().as_ref().filter(|_| beside).map(|subject| subject.digest().clone()))
}
