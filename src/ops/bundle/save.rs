//! Owns the making of a bundle.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::json;

use crate::artifact::Manifest;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, EMPTY_JSON, LayoutName, MAX_MANIFEST_BYTES, media, sha256};
use crate::ops::Vyr;
use crate::ops::compile;
use crate::ops::pull::{self, Purpose};
use crate::ops::resolve::{Located, PullMode, locate, stored_name};
use crate::ops::verify::Policy;
use crate::store::{Exported, Loose};
use crate::trust::SigningKey;

/// What to save.
#[derive(Debug)]
pub struct SaveRequest {
    /// The artifacts.
    pub references: Vec<ArtifactRef>,
    /// The tar to write.
    pub to: PathBuf,
    /// With compiled code: what the store has, and where that has none for this machine, what is made and signed with this
    /// key.
    pub code: Option<SigningKey>,
    /// With the signers that this machine trusts.
    pub with_policy: bool,
    /// Of an index only what this machine runs, and what else is in the store.
    pub this_platform: bool,
}

/// What was saved.
#[derive(Debug, Clone, Serialize)]
pub struct Saved {
    /// The tar.
    pub file: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// The artifacts' digests.
    pub artifacts: Vec<String>,
    /// The compiled code's digests, of what was made now.
    pub compiled: Vec<String>,
    /// The signers that a taker would be asked to trust.
    pub grants: Vec<String>,
}

/// Writes artifacts to a tar, with their signatures, referrers and platforms. It is there whole or not at all.
///
/// # Errors
/// [`ErrorKind::NotFound`] for what can't be had, platforms of an index included; what compiling and the disk fail with.
#[tracing::instrument(skip_all, fields(to = %request.to.display()))]
pub async fn save(vyr: &Vyr, request: SaveRequest) -> Result<Saved> {
    let (mut what, mut compiled) = (Vec::new(), Vec::new());
    for reference in &request.references {
        let located = locate(vyr, reference, PullMode::Missing, Purpose::Keep).await?;
        if !request.this_platform {
            platforms(vyr, reference, &located).await?;
        }
        if let Some(key) = &request.code
            && !compile::is_there(vyr, &located.root).await?
        {
            compiled.push(compile::make(vyr, located.clone_for_saving(), key).await?.digest.to_string());
        }
        let name = match reference {
            // By its digest too, since skopeo and oras find nothing in a tar of several without a name.
            ArtifactRef::Registry(by_digest) if by_digest.digest().is_some() => {
                located.repository.as_ref().map(|repository| format!("{repository}@{}", located.root))
            }
            ArtifactRef::Registry(by_tag) => stored_name(by_tag),
            ArtifactRef::Layout { name: Some(LayoutName::Tag(tag)), .. } => Some(tag.clone()),
            _ => None,
        };
        what.push(Exported { digest: located.root, name, repository: located.repository });
    }
    let grants = if request.with_policy {
        let policy = Policy::load(vyr)?;
        policy.rules().grants(policy.machine_key())?
    } else {
        Vec::new()
    };
    let loose = if request.with_policy { vec![policy_artifact(&grants)?] } else { Vec::new() };
    let without = request.code.is_none().then_some(media::VYR_COMPILED);
    vyr.store().await?.bundle(&what, without, loose, &request.to).await?;
    let bytes = std::fs::metadata(&request.to).map_or(0, |found| found.len());
    Ok(Saved {
        file: request.to,
        bytes,
        artifacts: what.into_iter().map(|one| one.digest.to_string()).collect(),
        compiled,
        grants: grants.iter().map(ToString::to_string).collect(),
    })
}

impl Located {
    /// The same digest, asked about again: what was found beside it goes with the first.
    fn clone_for_saving(&self) -> Self {
        Self {
            root: self.root.clone(),
            repository: self.repository.clone(),
            claimed: self.claimed,
            reference: self.reference.clone(),
            pulled: self.pulled,
            unusable: self.unusable.clone(),
        }
    }
}

/// Brings the platforms of an index that the store lacks.
async fn platforms(vyr: &Vyr, reference: &ArtifactRef, located: &Located) -> Result<()> {
    let bytes = vyr.layout().read_verified(&located.root, MAX_MANIFEST_BYTES)?;
    let Manifest::Index(index) = Manifest::parse(&bytes, None)? else { return Ok(()) };
    for child in index.manifests() {
        let digest: &Digest = child.digest();
        if vyr.layout().blob_size(digest)?.is_some() {
            continue;
        }
        let lacking = |why: &str| {
            let platform = child.platform().as_ref().map(|p| format!(" for {}/{}", p.os(), p.architecture()));
            Error::new(
                ErrorKind::NotFound,
                format!("{reference} lists {digest}{}, which the store lacks{why}", platform.unwrap_or_default()),
            )
            .hint("save it where the registry can be reached, or with --this-platform without what this machine doesn't run")
        };
        match &located.reference {
            Some(registry) if !vyr.config().offline => {
                let named = registry.clone_with_digest(digest.to_string());
                pull::pull(vyr, &named, Purpose::Keep).await.map_err(|e| lacking(&format!(": {}", e.why())))?;
            }
            _ => return Err(lacking("")),
        }
    }
    Ok(())
}

/// The signers as an artifact: not the policy's text, which means what it does beside its files and on its machine only.
fn policy_artifact(grants: &[crate::trust::Grant]) -> Result<Loose> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::Internal, format!("the policy can't be written: {e}"));
    let layer = serde_json::to_vec_pretty(grants).map_err(failed)?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "artifactType": media::VYR_POLICY,
        "config": {"mediaType": media::EMPTY, "digest": sha256(EMPTY_JSON).to_string(), "size": EMPTY_JSON.len()},
        "layers": [{"mediaType": media::VYR_POLICY_GRANTS, "digest": sha256(&layer).to_string(), "size": layer.len()}],
    }));
    Ok(Loose { manifest: manifest.map_err(failed)?, blobs: vec![EMPTY_JSON.to_vec(), layer] })
}
