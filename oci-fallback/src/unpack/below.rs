//! Owns looking into the layers below as overlayfs would.

use std::os::fd::OwnedFd;

use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;

use super::attributes;
use super::beneath::{self, is_whiteout, kind};
use super::fault::{Attempted, Fault};
use crate::snapshot::Rights;

/// What the layers below have of a name.
pub(super) enum Below {
    Nothing,
    Folder(Vec<OwnedFd>),
    /// The folder of the layer that has it, and what it is.
    Other(usize, Stat),
}

/// What the layers below have of a name.
pub(super) fn below(lower: &[OwnedFd], part: &[u8], rights: Rights) -> Result<Below, Fault> {
    below_raw(lower, part, rights).attempted("look into the layers below")
}

/// The same, with the bare error.
pub(super) fn below_raw(lower: &[OwnedFd], part: &[u8], rights: Rights) -> Result<Below, Errno> {
    let mut folders = Vec::new();
    for (layer, folder) in lower.iter().enumerate() {
        let Some(stat) = beneath::look(folder, part)? else {
            continue;
        };
        if kind(&stat) != FileType::Directory {
            if folders.is_empty() && !is_whiteout(&stat) {
                return Ok(Below::Other(layer, stat));
            }
            break;
        }
        let inside = rustix::fs::openat(folder, part, beneath::FOLDER, Mode::empty())?;
        let last = attributes::is_opaque(&inside, rights);
        folders.push(inside);
        if last {
            break;
        }
    }
    Ok(if folders.is_empty() { Below::Nothing } else { Below::Folder(folders) })
}
