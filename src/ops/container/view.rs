//! Owns what can be told of the image that an artifact would run as a container.

use serde::Serialize;

use super::prepare::{config_of, find, is_whole, manifest_of};
use crate::error::Result;
use crate::oci::{Descriptor, Digest, MAX_MANIFEST_BYTES};
use crate::ops::Vyr;

/// An image as its config has it. The field names are stable.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ImageView {
    /// The digest of its manifest.
    pub manifest: String,
    /// Whether all of it is in the store; else nothing below is known.
    pub stored: bool,
    /// `linux/amd64`.
    pub platform: String,
    /// Its entrypoint.
    pub entrypoint: Vec<String>,
    /// Its default arguments.
    pub cmd: Vec<String>,
    /// Its user.
    pub user: String,
    /// Where it starts.
    pub working_dir: String,
    /// Folders that hold data.
    pub volumes: Vec<String>,
    /// How many layers it has.
    pub layers: usize,
    /// Their compressed size, in bytes.
    pub bytes: u64,
    /// Whether they are unpacked.
    pub unpacked: bool,
}

/// The image that the artifact at `root` has for this machine; `None` where there is none.
///
/// # Errors
/// The store's own, and what is malformed.
pub(in crate::ops) fn describe(vyr: &Vyr, root: &Digest) -> Result<Option<ImageView>> {
    let Some(child) = find(vyr, root)? else { return Ok(None) };
    let layout = vyr.layout();
    if let Some(child) = &child
        && !is_whole(layout, child)?
    {
        return Ok(Some(ImageView { manifest: child.digest().to_string(), ..ImageView::default() }));
    }
    let (manifest, image) = manifest_of(layout, root, child.as_ref())?;
    let config = config_of(&layout.read_verified(image.config().digest(), MAX_MANIFEST_BYTES)?)?;
    let said = config.config().clone().unwrap_or_default();
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Ok(Some(ImageView {
        manifest: manifest.to_string(),
        stored: true,
        platform: format!("{}/{}", config.os(), config.architecture()),
        entrypoint: said.entrypoint().clone().unwrap_or_default(),
        cmd: said.cmd().clone().unwrap_or_default(),
        user: text(said.user()),
        working_dir: text(said.working_dir()),
        volumes: said.volumes().clone().unwrap_or_default(),
        layers: image.layers().len(),
        bytes: image.layers().iter().map(Descriptor::size).fold(0, u64::saturating_add),
        unpacked: vyr.snapshots()?.get(config.rootfs().diff_ids()).is_some(),
    }))
}
