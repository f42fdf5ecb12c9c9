//! Owns what stays on disk of images besides their blobs: unpacked layers, which go when no image in the store has them.

use std::collections::HashSet;

use vyr_oci_fallback::snapshot::chain_ids;

use super::prepare::config_of;
use crate::artifact::{Manifest, Recognised, recognise};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, MAX_MANIFEST_BYTES};
use crate::ops::{Vyr, blocking};

/// Removes the unpacked layers that no image in the store has and nothing runs on. Returns how many bytes that freed.
///
/// # Errors
/// The store's, and the disk's own.
pub(in crate::ops) async fn collect(vyr: &Vyr) -> Result<u64> {
    if !vyr.config().home.snapshots().exists() {
        return Ok(0);
    }
    let mut wanted = HashSet::new();
    for entry in vyr.store().await?.list().await? {
        // What can't be read as an image has no layers to keep.
        if let Ok(Some(diff_ids)) = diff_ids(vyr, &entry.digest) {
            wanted.extend(chain_ids(&diff_ids).unwrap_or_default());
        }
    }
    let snapshots = vyr.snapshots()?.clone();
    blocking(move || {
        snapshots
            .remove_unused(|chain| wanted.contains(chain))
            .map_err(|e| Error::new(ErrorKind::Storage, format!("unpacked layers can't be removed: {e}")))
    })
    .await
}

fn diff_ids(vyr: &Vyr, manifest: &Digest) -> Result<Option<Vec<String>>> {
    let layout = vyr.layout();
    let Manifest::Image(manifest) = Manifest::parse(&layout.read_verified(manifest, MAX_MANIFEST_BYTES)?, None)? else {
        return Ok(None);
    };
    let Recognised::Image { config, .. } = recognise(&manifest)? else { return Ok(None) };
    let config = config_of(&layout.read_verified(config.digest(), MAX_MANIFEST_BYTES)?)?;
    Ok(Some(config.rootfs().diff_ids().clone()))
}

impl Vyr {
    /// Makes ready what containers need, and clears up what those left whose keepers were killed: for a node's start, so
    /// that the first container doesn't wait for it. Blocks. Once is enough, and the first time has to be before the process
    /// confines itself.
    pub(crate) fn prepare_containers(&self) {
        if self.machine_if_known().is_some() {
            return;
        }
        vyr_oci_fallback::keeper::sweep();
        if self.config().home.snapshots().exists()
            && let Err(e) = self.snapshots()
        {
            tracing::warn!(error = %e, "unpacked layers can't be used");
        }
        let engines = &self.machine().engines;
        // Who made a container is in its record, and an installed one is asked for its version.
        let _ = engines.first().map(vyr_oci_fallback::engine::Choice::name);
        tracing::debug!(?engines, "containers");
    }
}
