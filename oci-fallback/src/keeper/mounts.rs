//! Owns the kinds of mounts that a keeper makes, by the calls that need no path at the place where they go.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use libcontainer::syscall::linux::{
    AT_EMPTY_PATH, AT_RECURSIVE, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, MountAttr,
};
use libcontainer::syscall::syscall::create_syscall;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};

/// A mount that is nowhere yet.
pub(super) type Detached = OwnedFd;

/// What a bound folder allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Write,
    Read,
}

/// The folder or file at `path` of `from`, with what is mounted in it, without set-user-id programs and devices.
///
/// # Errors
/// The kernel's own.
pub(super) fn bind(from: impl AsFd, path: impl AsRef<Path>, access: Access) -> io::Result<Detached> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(from, path.as_ref(), flags)?;
    let mut attributes = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV;
    if access == Access::Read {
        attributes |= MOUNT_ATTR_RDONLY;
    }
    set(&tree, attributes)?;
    Ok(tree)
}

/// The file at `path` of `from`, which can only be read there: not its mode and owner can be changed either.
///
/// # Errors
/// The kernel's own.
pub(super) fn read_only_file(from: impl AsFd, path: impl AsRef<Path>) -> io::Result<Detached> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = rustix::mount::open_tree(from, path.as_ref(), flags)?;
    set(&mount, MOUNT_ATTR_RDONLY)?;
    Ok(mount)
}

/// Sets attributes on a detached mount and all in it.
fn set(tree: &OwnedFd, attributes: u64) -> io::Result<()> {
    let attributes = MountAttr { attr_set: attributes, attr_clr: 0, propagation: 0, userns_fd: 0 };
    create_syscall()
        .mount_setattr(
            tree.as_fd(),
            Path::new(""),
            AT_EMPTY_PATH | AT_RECURSIVE,
            &attributes,
            std::mem::size_of::<MountAttr>(),
        )
        .map_err(io::Error::other)
}

/// Puts a detached mount onto what `place` is.
///
/// # Errors
/// The kernel's own.
pub(super) fn attach(mount: &Detached, place: impl AsFd) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", place, "", flags)?)
}

/// A file system in memory.
///
/// # Errors
/// The kernel's own.
pub(super) fn memory(size: u64, inodes: u64) -> io::Result<Detached> {
    let context = rustix::mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "size", size.to_string())?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "nr_inodes", inodes.to_string())?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0755")?;
    rustix::mount::fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// Folders over each other, the lowest first, with what is written going to `upper`.
///
/// # Errors
/// The kernel's own.
pub(super) fn overlay(lower: &[&Path], upper: &Path, work: &Path, user: bool) -> io::Result<Detached> {
    match overlay_by_layer(lower, upper, work, user) {
        // Before Linux 6.5 there is no `lowerdir+`, and all go into one string, which may have a page.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => overlay_by_string(lower, upper, work, user),
        other => other,
    }
}

fn overlay_by_layer(lower: &[&Path], upper: &Path, work: &Path, user: bool) -> io::Result<Detached> {
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for folder in lower.iter().rev() {
        rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir+", *folder)?;
    }
    finish(context, upper, work, user)
}

fn overlay_by_string(lower: &[&Path], upper: &Path, work: &Path, user: bool) -> io::Result<Detached> {
    let mut all = String::new();
    for folder in lower.iter().rev() {
        let folder = folder.to_str().ok_or_else(|| io::Error::other("a layer's path is no UTF-8"))?;
        if !all.is_empty() {
            all.push(':');
        }
        for character in folder.chars() {
            if matches!(character, '\\' | ':' | ',') {
                all.push('\\');
            }
            all.push(character);
        }
    }
    let context = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "lowerdir", all)?;
    finish(context, upper, work, user)
}

fn finish(context: OwnedFd, upper: &Path, work: &Path, user: bool) -> io::Result<Detached> {
    rustix::mount::fsconfig_set_string(context.as_fd(), "upperdir", upper)?;
    rustix::mount::fsconfig_set_string(context.as_fd(), "workdir", work)?;
    if user {
        rustix::mount::fsconfig_set_flag(context.as_fd(), "userxattr")?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    // Nothing is gained by executing a file here, with or without set-uid bits and capabilities of its own: without `nosuid`
    // one whose capabilities aren't among the container's could not be executed at all.
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?)
}

/// What is mounted from now on stays in this namespace, and what others mount stays out.
///
/// # Errors
/// The kernel's own.
pub(super) fn keep_private() -> io::Result<()> {
    use rustix::mount::MountPropagationFlags as Flags;
    Ok(rustix::mount::mount_change("/", Flags::PRIVATE | Flags::REC)?)
}

/// This pid namespace's own `/proc`, which engines read their children in.
///
/// # Errors
/// The kernel's own.
pub(super) fn proc() -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    Ok(rustix::mount::mount("proc", "/proc", "proc", flags, None)?)
}

/// Takes away what is mounted at `path`, where that is allowed.
pub(super) fn uncover(path: &str) {
    let _ = rustix::mount::unmount(path, UnmountFlags::DETACH);
}
