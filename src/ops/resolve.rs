//! Owns how a REF becomes a digest that the store holds.

use std::path::Path;
use std::str::FromStr;

use super::Vyr;
use super::{mirror, own, pull};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, Reference, parse_digest};
use crate::store::{LayoutSource, own_name};
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
    /// `host[:port]/repository`, which trust rules match on.
    pub repository: Option<String>,
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
            Ok(Located { root: wanted, repository: None, reference: None, pulled: true, unusable: Vec::new() })
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

/// What the registry of this very data folder holds: the store has it, and nothing is asked of the network. Trust rules
/// still see the repository as it was written.
async fn in_own(vyr: &Vyr, reference: &Reference) -> Result<Located> {
    let store = vyr.store().await?;
    let found = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => Some(parse_digest(digest)?),
        (None, Some(tag)) => store.resolve(&own_name(reference.repository(), tag)).await?,
        (None, None) => None,
    };
    let root = match found {
        Some(digest) if is_listed(vyr, &digest).await? => digest,
        _ => {
            return Err(Error::new(ErrorKind::NotFound, format!("this node's registry has no {reference}"))
                .hint(format_args!("push it there first: `vyr push {reference} FILE`, or with any OCI client")));
        }
    };
    let repository = Some(crate::oci::repository_of(reference));
    Ok(Located { root, repository, reference: None, pulled: false, unusable: Vec::new() })
}

async fn stored(vyr: &Vyr, digest: &Digest) -> Result<Located> {
    if vyr.layout().blob_size(digest)?.is_none() {
        return Err(Error::new(ErrorKind::NotFound, format!("{digest} is not in the store"))
            .hint("name it with its registry, as in host/repository@sha256:…, or see `vyr artifacts`"));
    }
    // Rules by repository apply where the store knows one single place that it came from.
    let origins = vyr.store().await?.origins(digest).await?;
    let repository = match origins.as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    };
    Ok(Located { root: digest.clone(), repository, reference: None, pulled: false, unusable: Vec::new() })
}

async fn in_registry(vyr: &Vyr, reference: &Reference, mode: PullMode, purpose: pull::Purpose) -> Result<Located> {
    if let Some(file) = meant_file(reference) {
        return Err(Error::new(ErrorKind::Usage, format!("`{file}` is a file here, and what runs is an artifact"))
            .hint(format_args!("make it one: `vyr push oci:artifact:v1 {file}`, and name it as oci:artifact:v1")));
    }
    match look_up(vyr, reference, mode, purpose).await {
        Err(e) if mode != PullMode::Never && !vyr.config().offline => Err(explained(vyr, reference, e).await),
        located => located,
    }
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
    let found = |root: Digest, pulled: bool, unusable| Located {
        root,
        repository: Some(crate::oci::repository_of(reference)),
        reference: Some(reference.clone()),
        pulled,
        unusable,
    };
    let network = mode != PullMode::Never && !vyr.config().offline;
    if let Some(digest) = reference.digest() {
        let digest = parse_digest(digest)?;
        if mode != PullMode::Always && vyr.layout().blob_size(&digest)?.is_some() && is_listed(vyr, &digest).await? {
            return Ok(found(digest, false, Vec::new()));
        }
        if !network {
            return Err(missing(vyr, &format!("{digest} is not in the store"), reference));
        }
        let pulled = pull::pull(vyr, reference, purpose).await?;
        return Ok(found(pulled.root, true, pulled.unusable));
    }
    let name = stored_name(reference).unwrap_or_else(|| reference.whole());
    if !network {
        return match vyr.store().await?.resolve(&name).await? {
            Some(digest) => Ok(found(digest, false, Vec::new())),
            None => Err(missing(vyr, &format!("{name} is not in the store"), reference)),
        };
    }
    let current = match vyr.client(reference)?.resolve(reference).await {
        Ok(resolved) => resolved.digest,
        Err(e) if e.kind() == ErrorKind::Unavailable && mode != PullMode::Always => {
            let store = vyr.store().await?;
            let mut known = store.resolve(&name).await?;
            if let (None, Some(tag), true) = (&known, reference.tag(), own::was_own(&vyr.config().home, reference)) {
                known = store.resolve(&own_name(reference.repository(), tag)).await?;
            }
            let Some(digest) = known else { return Err(e) };
            vyr.reporter()
                .note(&format!("{name} could not be looked up ({}); using the last known digest {digest}", e.why()));
            return Ok(found(digest, false, Vec::new()));
        }
        Err(e) => return Err(e),
    };
    if mode != PullMode::Always && vyr.layout().blob_size(&current)?.is_some() && is_listed(vyr, &current).await? {
        let store = vyr.store().await?;
        if store.resolve(&name).await?.as_ref() != Some(&current) {
            store.tag(&name, &current).await?;
        }
        return Ok(found(current, false, Vec::new()));
    }
    let pulled = pull::pull(vyr, reference, purpose).await?;
    Ok(found(pulled.root, true, pulled.unusable))
}

async fn is_listed(vyr: &Vyr, digest: &Digest) -> Result<bool> {
    Ok(vyr.store().await?.get(digest).await?.is_some())
}

pub(super) fn missing(vyr: &Vyr, why: &str, reference: &Reference) -> Error {
    let forbidden =
        if vyr.config().offline { "the network is forbidden (--offline)" } else { "pulling is off (--pull never)" };
    Error::new(ErrorKind::NotFound, format!("{why}, and {forbidden}")).hint(format_args!(
        "run `vyr pull {}` while there is a network, or `vyr import` it from a folder",
        reference.whole()
    ))
}
