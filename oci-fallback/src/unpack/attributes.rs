//! Owns extended attributes: which of an image's are kept, and the two that overlayfs reads.

use std::os::fd::{AsFd, AsRawFd};

use rustix::buffer::spare_capacity;
use rustix::fs::XattrFlags;
use rustix::io::Errno;

use super::fault::{Attempted, Fault};
use crate::snapshot::Rights;

/// Names and values.
pub(super) type Attributes = Vec<(Vec<u8>, Vec<u8>)>;

/// The default access list of a folder, which new files in it inherit.
pub(super) const INHERITED: &[u8] = b"system.posix_acl_default";

/// The mark of a folder that hides what lower layers have in it.
pub(super) fn opaque_mark(rights: Rights) -> &'static [u8] {
    match rights {
        Rights::Root => b"trusted.overlay.opaque",
        Rights::User => b"user.overlay.opaque",
    }
}

/// Whether an image's attribute is kept: what programs store for themselves, a file's capabilities, and access lists. The
/// rest is the machine's own: overlayfs reads its marks, and labels and signatures are a matter of its policy.
fn is_kept(name: &[u8]) -> bool {
    match name {
        b"security.capability" | b"system.posix_acl_access" | INHERITED => true,
        name => name.starts_with(b"user.") && !name.starts_with(b"user.overlay."),
    }
}

/// Whether the folder is marked opaque.
pub(super) fn is_opaque(folder: impl AsFd, rights: Rights) -> bool {
    let mut value = [0_u8; 2];
    matches!(rustix::fs::fgetxattr(folder, opaque_mark(rights), &mut value[..]), Ok(1) if value[0] == b'y')
}

/// Marks a folder opaque.
pub(super) fn make_opaque(folder: impl AsFd, rights: Rights) -> Result<(), Errno> {
    rustix::fs::fsetxattr(folder, opaque_mark(rights), b"y", XattrFlags::empty())
}

/// This file system, or whoever unpacks, can't have that attribute.
fn can_be_without(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::RANGE | Errno::TOOBIG)
}

/// Sets attributes on an open file or folder. Gives how many were left out.
pub(super) fn set(file: impl AsFd, attributes: &Attributes) -> Result<u64, Fault> {
    let mut left_out = 0;
    for (name, value) in attributes {
        if !is_kept(name) {
            left_out += 1;
            continue;
        }
        match rustix::fs::fsetxattr(&file, name, value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(e) if can_be_without(e) => left_out += 1,
            Err(e) => return Err(e).attempted("set an extended attribute"),
        }
    }
    Ok(left_out)
}

/// Sets attributes on what can't be opened: a link, a device, a pipe. The folder is named by its descriptor, and the last
/// part isn't followed.
pub(super) fn set_beside(folder: impl AsFd, name: &[u8], attributes: &Attributes) -> Result<u64, Fault> {
    let mut path = format!("/proc/self/fd/{}/", folder.as_fd().as_raw_fd()).into_bytes();
    path.extend_from_slice(name);
    let mut left_out = 0;
    for (name, value) in attributes {
        if !is_kept(name) {
            left_out += 1;
            continue;
        }
        match rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty()) {
            Ok(()) => {}
            Err(e) if can_be_without(e) || e == Errno::NOENT => left_out += 1,
            Err(e) => return Err(e).attempted("set an extended attribute"),
        }
    }
    Ok(left_out)
}

/// All attributes of an open file or folder that an image's may have.
pub(crate) fn all(file: impl AsFd) -> Result<Attributes, Errno> {
    let size = match rustix::fs::flistxattr_query(&file) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        Ok(size) => size,
        Err(e) => return Err(e),
    };
    let mut list = Vec::with_capacity(size + 256);
    rustix::fs::flistxattr(&file, spare_capacity(&mut list))?;
    let mut attributes = Vec::new();
    for name in list.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        if !is_kept(name) {
            continue;
        }
        let size = rustix::fs::fgetxattr_query(&file, name)?;
        let mut value = Vec::with_capacity(size + 1);
        rustix::fs::fgetxattr(&file, name, spare_capacity(&mut value))?;
        attributes.push((name.to_vec(), value));
    }
    Ok(attributes)
}

/// Removes what a folder has besides what it is to have.
pub(super) fn clear(file: impl AsFd) -> Result<(), Errno> {
    for (name, _) in all(&file)? {
        match rustix::fs::fremovexattr(&file, &name) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(e) if can_be_without(e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
