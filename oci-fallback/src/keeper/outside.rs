//! Owns keepers that one process starts for another: for one that has taken from itself the right to start anything. Who
//! starts them trusts no order: it says on the keeper's command line what may be in one ([`Bounds`]), and the keeper holds the
//! order against that.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};

use super::itself;
use super::wire::Order;
use crate::engine::Choice;

/// What may be in the order of a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bounds {
    /// What it is made of and what it sees is in this folder, and no link is followed in there.
    pub folder: PathBuf,
    /// What may make it.
    pub engines: Vec<Choice>,
}

/// A process that starts keepers for this one.
pub trait Elsewhere: std::fmt::Debug + Send + Sync {
    /// Starts one that has `socket` as its standard input, and returns a pipe from which its end can be read, in words.
    ///
    /// # Errors
    /// That process is gone.
    fn start(&self, socket: BorrowedFd<'_>, user: bool) -> io::Result<OwnedFd>;
}

static ELSEWHERE: OnceLock<Box<dyn Elsewhere>> = OnceLock::new();

/// From now on keepers of this process are started so, to its end.
pub fn start_elsewhere(by: Box<dyn Elsewhere>) {
    // The first is as good as any other.
    drop(ELSEWHERE.set(by));
}

pub(crate) fn elsewhere() -> Option<&'static dyn Elsewhere> {
    ELSEWHERE.get().map(AsRef::as_ref)
}

/// Starts a keeper for whoever has the other end of `socket`. To be waited for; when it didn't end well, [`sweep`].
///
/// # Errors
/// The system's own.
pub fn start(socket: BorrowedFd<'_>, user: bool, bounds: &Bounds) -> io::Result<Child> {
    let bounds = serde_json::to_string(bounds)?;
    spawn(|mut command| command.spawn(), socket, user, Some(&bounds))
}

/// Removes what a keeper left that was killed.
pub fn sweep() {
    crate::cgroup::sweep(false);
}

/// This program again, with nothing of this process but the socket, and where it can be made here in a form that a container
/// may get hold of. Otherwise the keeper sees to that.
pub(crate) fn spawn<C>(
    start: impl Fn(Command) -> io::Result<C>,
    socket: BorrowedFd<'_>,
    user: bool,
    bounds: Option<&str>,
) -> io::Result<C> {
    let begin = |apart: Option<BorrowedFd<'_>>| {
        let mut command = Command::new(apart.map_or_else(|| itself::SELF.to_owned(), itself::path));
        command
            .arg0(super::NAME)
            .arg(if user { super::USER } else { super::ROOT })
            .arg(if apart.is_some() { itself::APART } else { itself::PLAIN })
            .args(bounds)
            .env_clear()
            // Ctrl-C in a terminal is for the caller, who then says what is to become of the container.
            .process_group(0)
            .stdin(Stdio::from(socket.try_clone_to_owned()?))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        start(command)
    };
    match itself::apart() {
        // A security module may not know a file without a path.
        Some(apart) => begin(Some(apart)).or_else(|_| begin(None)),
        None => begin(None),
    }
}

/// In a keeper: holds an order against its bounds, and opens what it names, so that what was looked at is what is mounted.
///
/// # Errors
/// What is out of bounds, in words.
pub(super) fn hold(bounds: &OsStr, order: &mut Order) -> Result<Vec<OwnedFd>, String> {
    let bounds: Bounds = bounds
        .to_str()
        .and_then(|text| serde_json::from_str(text).ok())
        .ok_or("what may be ordered of this keeper can't be read")?;
    // It becomes a part of paths.
    crate::container::check_id(&order.id).map_err(|error| error.to_string())?;
    if !bounds.engines.contains(&order.engine) {
        return Err(format!("the engine {:?} may not be ordered", order.engine));
    }
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let folder = rustix::fs::open(&bounds.folder, flags | OFlags::DIRECTORY, Mode::empty())
        .map_err(|error| format!("{} can't be opened: {error}", bounds.folder.display()))?;
    let mut held = Vec::new();
    let paths = order.layers.iter_mut().chain(order.mounts.iter_mut().map(|mount| &mut mount.source));
    for path in paths {
        let opened = below(&folder, &bounds.folder, path)
            .map_err(|error| format!("{} may not be a part of a container: {error}", path.display()))?;
        *path = PathBuf::from(itself::path(std::os::fd::AsFd::as_fd(&opened)));
        held.push(opened);
    }
    debug_assert!(held.iter().all(|one| one.as_raw_fd() > 2));
    Ok(held)
}

/// Opens what is in the folder, by a way without links.
fn below(folder: &OwnedFd, root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let inside = path.strip_prefix(root).map_err(|_| io::Error::other("it is not in the data folder"))?;
    let inside = if inside.as_os_str().is_empty() { Path::new(".") } else { inside };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(folder, inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ordered_lies_in_the_folder_and_no_link_is_followed() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("home");
        std::fs::create_dir_all(root.join("snapshots/a")).unwrap();
        std::os::unix::fs::symlink("/", root.join("snapshots/out")).unwrap();
        std::os::unix::fs::symlink("a", root.join("snapshots/in")).unwrap();
        let folder = rustix::fs::open(&root, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        assert!(below(&folder, &root, &root.join("snapshots/a")).is_ok());
        for bad in ["snapshots/out", "snapshots/out/etc", "snapshots/in", "snapshots/a/../../../etc", "none"] {
            assert!(below(&folder, &root, &root.join(bad)).is_err(), "{bad}");
        }
        for bad in ["/", "/etc", "snapshots/a", "/proc/self/root"] {
            assert!(below(&folder, &root, Path::new(bad)).is_err(), "{bad}");
        }
    }
}
