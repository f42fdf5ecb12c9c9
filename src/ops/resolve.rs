//! Owns how a REF becomes a digest that the store holds.

use std::path::Path;
use std::str::FromStr;

use super::Vyr;
use super::{mirror, own, pull};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, Reference, parse_digest, repository_of};
use crate::store::{LayoutSource, Origin};
use crate::trust::SignatureMaterial;

/// When the registry is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullMode {
    /// A digest only if the store lacks it; a tag each time, with the last known digest if there is no network.
    #[default]
    Missing,
    /// Each time, and no network is an error.
    Always,
    /// Never.
    Never,
}

impl FromStr for PullMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "missing" => Ok(Self::Missing),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(format!("`{text}` is not missing, always or never")),
        }
    }
}

/// What a REF turned out to name, in the store by now.
#[derive(Debug)]
pub struct Located {
    /// The digest of the manifest or index.
    pub root: Digest,
    /// `host[:port]/repository`, which trust rules match on: one that the content is really from, as far as this machine
    /// knows, whatever name it was asked for by.
    pub repository: Option<String>,
    /// Nobody but who brought the content says that it is from there.
    pub claimed: bool,
    /// The registry reference that was given, for asking it again.
    pub reference: Option<Reference>,
    /// Whether content was fetched just now.
    pub pulled: bool,
    /// Signatures that were found but can't be stored, since they are malformed.
    pub unusable: Vec<SignatureMaterial>,
}

/// The name under which the store knows a tag: always with host and tag.
#[must_use]
pub fn stored_name(reference: &Reference) -> Option<String> {
    reference.tag().map(|tag| format!("{}/{}:{tag}", reference.registry(), reference.repository()))
}

/// Finds what `reference` names, pulling it if need be.
///
/// # Errors
/// [`ErrorKind::NotFound`] when there is no such thing; what the registry or the store fails with.
#[tracing::instrument(name = "resolve", skip_all, fields(reference = %reference))]
pub async fn locate(vyr: &Vyr, reference: &ArtifactRef, mode: PullMode, purpose: pull::Purpose) -> Result<Located> {
    match reference {
        ArtifactRef::Stored(digest) => stored(vyr, digest).await,
        ArtifactRef::Layout { path, name } => {
            if !path.exists() {
                return Err(Error::new(ErrorKind::NotFound, format!("there is no file or folder {}", path.display()))
                    .hint("name a folder or tar in the OCI image layout, as `vyr export` and `oras` write it"));
            }
            let (path, select) = (path.clone(), name.clone());
            let wanted = tokio::task::spawn_blocking(move || -> Result<Digest> {
                Ok(LayoutSource::open(&path)?.resolve(select.as_ref())?.digest().clone())
            })
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, format!("reading the layout failed: {e}")))??;
            let ArtifactRef::Layout { path, name } = reference else { unreachable!("matched above") };
            let store = vyr.store().await?;
            store.import(path, name.as_ref()).await?;
            Ok(Located {
                root: wanted,
                repository: None,
                claimed: false,
                reference: None,
                pulled: true,
                unusable: Vec::new(),
            })
        }
        ArtifactRef::Registry(reference) if own::is_own(&vyr.config().home, reference) => {
            match mirror::Upstream::of(vyr.config(), reference.repository()) {
                // Whom to trust and what it's called is as if it had been named without the mirror.
                Some(upstream) => in_registry(vyr, &upstream.reference(reference), mode, purpose).await,
                None => in_own(vyr, reference).await,
            }
        }
        ArtifactRef::Registry(reference) => in_registry(vyr, reference, mode, purpose).await,
    }
}

/// What the registry of this very data folder holds, in the repository that is named: the store has it, and nothing is
/// asked of the network. Trust rules still see the repository as it was written.
async fn in_own(vyr: &Vyr, reference: &Reference) -> Result<Located> {
    let store = vyr.store().await?;
    let found = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => store.shown_manifest(reference.repository(), &parse_digest(digest)?).await?,
        (None, Some(tag)) => store.shown_tag(reference.repository(), tag).await?,
        (None, None) => None,
    };
    let Some(shown) = found else {
        return Err(Error::new(ErrorKind::NotFound, format!("this node's registry has no {reference}"))
            .hint(format_args!("push it there first: `vyr push {reference} FILE`, or with any OCI client")));
    };
    Ok(Located {
        root: shown.digest,
        repository: Some(repository_of(reference)),
        claimed: false,
        reference: None,
        pulled: false,
        unusable: Vec::new(),
    })
}

async fn stored(vyr: &Vyr, digest: &Digest) -> Result<Located> {
    if vyr.layout().blob_size(digest)?.is_none() {
        return Err(Error::new(ErrorKind::NotFound, format!("{digest} is not in the store"))
            .hint("name it with its registry, as in host/repository@sha256:…, or see `vyr artifacts`"));
    }
    let Whence { repository, claimed } = single(vyr.store().await?.origins(digest).await?);
    Ok(Located { root: digest.clone(), repository, claimed, reference: None, pulled: false, unusable: Vec::new() })
}

/// What a reference's repository is, as far as it can be told from the words alone: that of the upstream for a mirror's.
/// Whether the content is from there is another question, which [`locate`] answers.
pub(super) fn repository_meant(vyr: &Vyr, reference: &ArtifactRef) -> Option<String> {
    let ArtifactRef::Registry(reference) = reference else { return None };
    if own::is_own(&vyr.config().home, reference)
        && let Some(upstream) = mirror::Upstream::of(vyr.config(), reference.repository())
    {
        return Some(upstream.to_string());
    }
    Some(repository_of(reference))
}

/// Where content of the store is from, for the trust policy.
#[derive(Debug, PartialEq, Eq)]
struct Whence {
    repository: Option<String>,
    claimed: bool,
}

/// Rules by repository apply where there is one single place that it came from. What is only said of it counts for nothing
/// where one is proven.
fn single(origins: Vec<Origin>) -> Whence {
    let (proven, claimed): (Vec<_>, Vec<_>) = origins.into_iter().partition(|origin| origin.proven);
    let (mut known, claimed) = if proven.is_empty() { (claimed, true) } else { (proven, false) };
    match known.len() {
        1 => Whence { repository: known.pop().map(|origin| origin.repository), claimed },
        _ => Whence { repository: None, claimed: false },
    }
}

/// Where content of the store that is asked for by the name `repository` is from; `None` when nothing but that name says
/// that it is from there. Whoever writes a reference must not choose by it among the rules of the trust policy.
fn under(repository: &str, origins: Vec<Origin>, named: bool) -> Option<Whence> {
    let known = origins.iter().find(|origin| origin.repository == repository);
    if known.is_some_and(|origin| origin.proven) {
        return Some(Whence { repository: Some(repository.to_owned()), claimed: false });
    }
    if known.is_none() && !named {
        return None;
    }
    // A name that somebody gave it, which is not where it is from if that is known.
    if origins.iter().any(|origin| origin.proven) {
        return Some(single(origins));
    }
    Some(Whence { repository: Some(repository.to_owned()), claimed: true })
}

/// The same, asked of the store.
async fn whence(vyr: &Vyr, reference: &Reference, digest: &Digest) -> Result<Option<Whence>> {
    let store = vyr.store().await?;
    let repository = repository_of(reference);
    let (origins, named) = (store.origins(digest).await?, store.is_named_in(digest, &repository).await?);
    if let Some(found) = under(&repository, origins, named) {
        return Ok(Some(found));
    }
    // The own registry of this data folder, which no node serves at the moment.
    let own = own::was_own(&vyr.config().home, reference)
        && store.shown_manifest(reference.repository(), digest).await?.is_some();
    Ok(own.then_some(Whence { repository: Some(repository), claimed: false }))
}

/// Asks the registry whether the content is in the repository that it is said to be from, and remembers that.
///
/// # Errors
/// What the registry and the store fail with, and when it isn't there.
pub(super) async fn prove_origin(vyr: &Vyr, located: &mut Located) -> Result<()> {
    let (Some(reference), Some(repository)) = (&located.reference, &located.repository) else { return Ok(()) };
    // An alias says nothing of where it's from.
    if repository_of(reference) != *repository {
        return Ok(());
    }
    let there = reference.clone_with_digest(located.root.to_string());
    if vyr.client(&there)?.resolve(&there).await?.digest == located.root {
        vyr.store().await?.seen_in(&located.root, repository).await?;
        located.claimed = false;
    }
    Ok(())
}

async fn in_registry(vyr: &Vyr, reference: &Reference, mode: PullMode, purpose: pull::Purpose) -> Result<Located> {
    if let Some(file) = meant_file(reference) {
        return Err(Error::new(ErrorKind::Usage, format!("`{file}` is a file here, and what runs is an artifact"))
            .hint(format_args!("make it one: `vyr push oci:artifact:v1 {file}`, and name it as oci:artifact:v1")));
    }
    match look_up(vyr, reference, mode, purpose).await {
        Err(e) if mode != PullMode::Never && !vyr.config().offline => {
            let error = explained(vyr, reference, e).await;
            elsewhere(vyr, reference, error).await
        }
        located => located,
    }
}

/// The same error, where the store has the digest that was named, and not from there.
async fn elsewhere(vyr: &Vyr, reference: &Reference, error: Error) -> Result<Located> {
    let digest = reference.digest().map(parse_digest).transpose()?;
    let Some(digest) = digest.filter(|digest| matches!(vyr.layout().blob_size(digest), Ok(Some(_)))) else {
        return Err(error);
    };
    if !is_listed(vyr, &digest).await? || whence(vyr, reference, &digest).await?.is_some() {
        return Err(error);
    }
    let why = format!("{}; the store has {digest}, but not from {}", error.why(), repository_of(reference));
    Err(Error::new(error.kind(), why).hint(by_its_own_name(vyr, &digest).await?))
}

/// What to write for content of the store in place of a name that isn't its own.
async fn by_its_own_name(vyr: &Vyr, digest: &Digest) -> Result<String> {
    let origins = vyr.store().await?.origins(digest).await?;
    Ok(match origins.into_iter().find(|origin| origin.proven) {
        Some(origin) => format!("name it as {}@{digest}, or by its digest alone", origin.repository),
        None => "name it by its digest alone".to_owned(),
    })
}

/// The Wasm file that a reference without a host names as well: what was meant, where it is there.
pub(super) fn meant_file(reference: &Reference) -> Option<&str> {
    if reference.registry() != HUB || reference.digest().is_some() {
        return None;
    }
    let name = reference.repository().strip_prefix("library/").unwrap_or(reference.repository());
    ((name.ends_with(".wasm") || name.ends_with(".wat")) && Path::new(name).is_file()).then_some(name)
}

/// Where references without a host lead.
const HUB: &str = "docker.io";

/// The same error with what the registry says when it is asked more closely.
async fn explained(vyr: &Vyr, reference: &Reference, error: Error) -> Error {
    let error = match (error.kind(), vyr.client(reference)) {
        (ErrorKind::NotFound, Ok(client)) => client.why_missing(reference, error).await,
        _ => error,
    };
    let of_registry = matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Unavailable);
    if reference.registry() != HUB || !of_registry {
        return error;
    }
    let hint = "a reference without a host is on Docker Hub: write host[:port]/repository:tag for another registry";
    Error::new(error.kind(), error.why()).hint(hint)
}

async fn look_up(vyr: &Vyr, reference: &Reference, mode: PullMode, purpose: pull::Purpose) -> Result<Located> {
    let found = |root: Digest, from: Whence, pulled: bool, unusable| Located {
        root,
        repository: from.repository,
        claimed: from.claimed,
        reference: Some(reference.clone()),
        pulled,
        unusable,
    };
    let here = || Whence { repository: Some(repository_of(reference)), claimed: false };
    let network = mode != PullMode::Never && !vyr.config().offline;
    if let Some(digest) = reference.digest() {
        let digest = parse_digest(digest)?;
        let stored = vyr.layout().blob_size(&digest)?.is_some() && is_listed(vyr, &digest).await?;
        if stored
            && mode != PullMode::Always
            && let Some(from) = whence(vyr, reference, &digest).await?
        {
            return Ok(found(digest, from, false, Vec::new()));
        }
        if !network && stored {
            let why = format!("{digest} is in the store, but not from {}", repository_of(reference));
            let own_name = by_its_own_name(vyr, &digest).await?;
            return Err(Error::new(ErrorKind::NotFound, format!("{why}, and {}", forbidden(vyr)))
                .hint(format_args!("{own_name}; or run `vyr pull {}` while there is a network", reference.whole())));
        }
        if !network {
            return Err(missing(vyr, &format!("{digest} is not in the store"), reference));
        }
        let pulled = pull::pull(vyr, reference, purpose).await?;
        return Ok(found(pulled.root, here(), true, pulled.unusable));
    }
    let name = stored_name(reference).unwrap_or_else(|| reference.whole());
    if !network {
        return match vyr.store().await?.resolve(&name).await? {
            Some(digest) => {
                // The name itself says that much.
                let said = || Whence { repository: Some(repository_of(reference)), claimed: true };
                let from = whence(vyr, reference, &digest).await?.unwrap_or_else(said);
                Ok(found(digest, from, false, Vec::new()))
            }
            None => Err(missing(vyr, &format!("{name} is not in the store"), reference)),
        };
    }
    let current = match vyr.client(reference)?.resolve(reference).await {
        Ok(resolved) => resolved.digest,
        Err(e) if e.kind() == ErrorKind::Unavailable && mode != PullMode::Always => {
            let store = vyr.store().await?;
            let mut known = match store.resolve(&name).await? {
                Some(digest) => whence(vyr, reference, &digest).await?.map(|from| (digest, from)),
                None => None,
            };
            if let (None, Some(tag), true) = (&known, reference.tag(), own::was_own(&vyr.config().home, reference)) {
                known = store.shown_tag(reference.repository(), tag).await?.map(|shown| (shown.digest, here()));
            }
            let Some((digest, from)) = known else { return Err(e) };
            vyr.reporter()
                .note(&format!("{name} could not be looked up ({}); using the last known digest {digest}", e.why()));
            return Ok(found(digest, from, false, Vec::new()));
        }
        Err(e) => return Err(e),
    };
    if mode != PullMode::Always && vyr.layout().blob_size(&current)?.is_some() && is_listed(vyr, &current).await? {
        let store = vyr.store().await?;
        if store.resolve(&name).await?.as_ref() != Some(&current) {
            store.tag(&name, &current).await?;
        }
        // Its registry has just said so.
        store.seen_in(&current, &repository_of(reference)).await?;
        return Ok(found(current, here(), false, Vec::new()));
    }
    let pulled = pull::pull(vyr, reference, purpose).await?;
    Ok(found(pulled.root, here(), true, pulled.unusable))
}

async fn is_listed(vyr: &Vyr, digest: &Digest) -> Result<bool> {
    Ok(vyr.store().await?.get(digest).await?.is_some())
}

pub(super) fn missing(vyr: &Vyr, why: &str, reference: &Reference) -> Error {
    Error::new(ErrorKind::NotFound, format!("{why}, and {}", forbidden(vyr))).hint(format_args!(
        "run `vyr pull {}` while there is a network, or `vyr import` it from a folder",
        reference.whole()
    ))
}

fn forbidden(vyr: &Vyr) -> &'static str {
    if vyr.config().offline { "the network is forbidden (--offline)" } else { "pulling is off (--pull never)" }
}
