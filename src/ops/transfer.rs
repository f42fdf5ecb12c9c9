//! Owns listing, collecting, exporting and importing what the store holds.

use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use super::Vyr;
use super::pull::Purpose;
use super::ready::Ready;
use super::resolve::{PullMode, locate};
use super::run::rfc3339;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, LayoutName};
use crate::store::{GcOptions, GcReport};

/// One artifact, as listed.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The manifest's digest.
    pub digest: String,
    /// Its names.
    pub tags: Vec<String>,
    /// Everything it reaches, in bytes.
    pub size: u64,
    /// The manifest's media type.
    pub media_type: String,
    /// Its `artifactType`, else its config's type.
    pub artifact_type: Option<String>,
    /// What it is about, for a signature or another referrer.
    pub subject: Option<String>,
    /// When it came, RFC 3339.
    pub created: String,
    /// When it was last used, RFC 3339.
    pub last_used: String,
}

/// The artifacts in the store. Signatures and the children of indexes are listed with `all` only.
///
/// # Errors
/// The store's own.
pub async fn artifacts(vyr: &Vyr, all: bool) -> Result<Vec<Row>> {
    let entries = vyr.store().await?.list().await?;
    let is_signature = |tags: &[String]| tags.iter().any(|t| t.ends_with(".sig"));
    Ok(entries
        .into_iter()
        .filter(|e| all || (e.subject.is_none() && !e.has_parent && !is_signature(&e.tags)))
        .map(|e| {
            let last_used = Ready::last_used(vyr, &e.digest).map_or(e.last_used, |t| t.max(e.last_used));
            Row {
                digest: e.digest.to_string(),
                tags: e.tags,
                size: e.total_size,
                media_type: e.media_type,
                artifact_type: e.artifact_type.or(e.config_media_type),
                subject: e.subject.map(|s| s.to_string()),
                created: rfc3339(e.created),
                last_used: rfc3339(last_used),
            }
        })
        .collect())
}

/// Removes what nothing needs, and with a budget the artifacts used longest ago. Compiled code beyond its own budget
/// goes too, and so do unpacked layers and records of what is gone.
///
/// # Errors
/// The store's own.
pub async fn gc(vyr: &Vyr, dry_run: bool, budget_bytes: Option<u64>) -> Result<GcReport> {
    let hint = |digest: &Digest| Ready::last_used(vyr, digest);
    let options = GcOptions { dry_run, budget_bytes, last_used_hint: &hint, ..GcOptions::new(SystemTime::now()) };
    let mut report = vyr.store().await?.gc(options).await?;
    if !dry_run {
        report.freed_bytes += super::container::collect(vyr).await?;
        for removed in &report.removed {
            let folder = vyr.config().home.ready(&removed.digest);
            if let Err(e) = std::fs::remove_dir_all(&folder)
                && e.kind() != std::io::ErrorKind::NotFound
            {
                tracing::warn!(folder = %folder.display(), error = %e, "an old record can't be removed");
            }
        }
        vyr.code_cache()?
            .prune(vyr.config().code_cache_bytes)
            .map_err(|e| Error::new(ErrorKind::Storage, format!("the code cache can't be pruned: {e}")))?;
    }
    Ok(report)
}

/// Copies artifacts with their signatures to an OCI layout folder, or to a tar of one.
///
/// # Errors
/// [`ErrorKind::NotFound`] for what isn't in the store; the disk's own.
pub async fn export(vyr: &Vyr, references: &[ArtifactRef], to: &Path) -> Result<Vec<String>> {
    let mut what = Vec::new();
    for reference in references {
        let located = locate(vyr, reference, PullMode::Missing, Purpose::Keep).await?;
        let name = match reference {
            ArtifactRef::Registry(reference) => {
                super::resolve::stored_name(reference).filter(|_| reference.digest().is_none())
            }
            ArtifactRef::Layout { name: Some(LayoutName::Tag(tag)), .. } => Some(tag.clone()),
            _ => None,
        };
        what.push((located.root, name));
    }
    vyr.store().await?.export(&what, to).await?;
    Ok(what.into_iter().map(|(digest, _)| digest.to_string()).collect())
}

/// What was imported.
#[derive(Debug, Clone, Serialize)]
pub struct Imported {
    /// The manifest's digest.
    pub digest: String,
    /// The name it had.
    pub name: Option<String>,
}

/// Takes artifacts out of an OCI layout folder or tar into the store, every byte verified.
///
/// # Errors
/// [`ErrorKind::Refused`] for content that isn't what its digest says or an archive that leads out.
pub async fn import(vyr: &Vyr, from: &Path, select: Option<&LayoutName>) -> Result<Vec<Imported>> {
    let imported = vyr.store().await?.import(from, select).await?;
    Ok(imported.into_iter().map(|(digest, name)| Imported { digest: digest.to_string(), name }).collect())
}
