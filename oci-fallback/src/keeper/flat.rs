//! Owns roots and volumes where overlayfs can't be mounted.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::CWD;

use super::mounts::{self, Access};
use super::root::{SCRATCH, mount_at, words};
use super::wire::Order;

/// The mount points of this run that an image lacks, without the leading `/`.
pub(super) fn missing(order: &Order, image: &Path) -> Vec<PathBuf> {
    let etc = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
    let scratch = SCRATCH.map(|(path, _)| path);
    let volumes = order.process.volumes.iter().map(String::as_str);
    let mounts = order.mounts.iter().map(|mount| mount.destination.as_str());
    etc.into_iter()
        .chain(scratch)
        .chain(volumes)
        .chain(mounts)
        .chain([order.process.cwd.as_str()])
        .map(|path| PathBuf::from(path.trim_matches('/')))
        .filter(|path| fs::symlink_metadata(image.join(path)).is_err())
        .collect()
}

/// A root of its own with each entry of `image` bound into it: mount points can be made in it, and not in the image. Where
/// one is missing deeper in, its parents are made the same way.
///
/// # Errors
/// What couldn't be done, in words.
pub(super) fn bind(image: &Path, root: &Path, missing: &[PathBuf]) -> Result<(), String> {
    let read = words("read the image's root");
    for entry in fs::read_dir(image).map_err(&read)? {
        let entry = entry.map_err(&read)?;
        let (from, to) = (entry.path(), root.join(entry.file_name()));
        let like = entry.metadata().map_err(&read)?;
        if like.is_symlink() {
            let target = fs::read_link(&from).map_err(&read)?;
            std::os::unix::fs::symlink(target, to).map_err(words("make a link"))?;
            continue;
        }
        if !like.is_dir() {
            fs::write(&to, "").map_err(words("make a file"))?;
        } else {
            fs::create_dir(&to).map_err(words("make a folder"))?;
            let below = |path: &PathBuf| path.strip_prefix(entry.file_name()).ok().map(Path::to_owned);
            let deeper: Vec<PathBuf> = missing.iter().filter_map(below).collect();
            if !deeper.is_empty() {
                fs::set_permissions(&to, like.permissions()).map_err(words("make a folder"))?;
                let _ = std::os::unix::fs::chown(&to, Some(like.uid()), Some(like.gid()));
                bind(&from, &to, &deeper)?;
                continue;
            }
        }
        mount_at(&mounts::bind(CWD, &from, Access::Read).map_err(words("bind the image"))?, &to)?;
    }
    Ok(())
}

/// All that is in a folder, as far as it is files, folders and links. What is larger than the container's disk fails by that.
///
/// # Errors
/// The disk's own.
pub(super) fn copy(from: &Path, to: &Path, depth: usize) -> io::Result<()> {
    const DEEPEST: usize = 256;
    if depth > DEEPEST {
        return Err(io::Error::other("the folders are too deep"));
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let like = entry.metadata()?;
        if like.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from)?, &to)?;
        } else if like.is_dir() {
            fs::create_dir(&to)?;
            copy(&from, &to, depth + 1)?;
        } else if like.is_file() {
            fs::copy(&from, &to)?;
        } else {
            continue;
        }
        let _ = std::os::unix::fs::lchown(&to, Some(like.uid()), Some(like.gid()));
        if !like.is_symlink() {
            fs::set_permissions(&to, like.permissions())?;
        }
    }
    Ok(())
}
