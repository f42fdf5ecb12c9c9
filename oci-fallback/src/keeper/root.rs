//! Owns what a container sees as its root: the image's layers, and over them what is its own for this run.
//!
//! What a container writes is in a file system in memory of `disk_bytes`, for three reasons: its size is a limit that holds
//! for anybody, where quotas of a disk's folders are root's and only some file systems'; nothing of it can be left on a disk
//! by a kill; and what is discarded anyway needs no disk's speed. Its price is that it counts as the container's memory, of
//! which it takes as much as was written and not as much as is allowed.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use super::mounts::{self, Access};
use super::wire::Order;
use super::{flat, inroot};
use crate::cgroup::Group;
use crate::container::Network;

/// Where the keeper's own file system in memory goes, in its own mount namespace. Over the cgroups, for then no engine sees
/// any: the container's is made and joined already, and some engines refuse two versions side by side.
const RUN: &str = "/sys/fs/cgroup";

/// The same for an engine that has to see cgroups of version 2.
const ASIDE: &str = "/dev/shm";

/// Whether cgroups of version 2 are all there is: then they are mounted where otherwise the others' folders are.
fn is_unified() -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    #[expect(clippy::useless_conversion, reason = "its width differs between machines")]
    rustix::fs::statfs(RUN).is_ok_and(|there| i64::from(there.f_type) == CGROUP2_SUPER_MAGIC)
}

/// Mounts the keeper's own file system in memory.
///
/// # Errors
/// The kernel's own.
pub(super) fn cover() -> io::Result<&'static Path> {
    cover_at(RUN)
}

fn cover_at(run: &'static str) -> io::Result<&'static Path> {
    mounts::uncover(run);
    let place = rustix::fs::open(run, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    mounts::attach(&mounts::memory(RUN_BYTES, RUN_INODES)?, place)?;
    Ok(Path::new(run))
}

/// The cgroup that an engine is told to join, where it insists.
pub(crate) const STAND_IN: &str = "vyr";

/// For the bundle and the engine's state.
const RUN_BYTES: u64 = 16 << 20;
const RUN_INODES: u64 = 4096;

/// The folders that programs expect to be able to write, and what anybody may do in them.
pub(super) const SCRATCH: [(&str, u32); 3] = [("/tmp", 0o1777), ("/run", 0o755), ("/var/tmp", 0o1777)];

/// What is ready for an engine.
#[derive(Debug)]
pub(crate) struct Place {
    /// The bundle's folder.
    pub(crate) bundle: PathBuf,
    /// For the engine's state.
    pub(crate) state: PathBuf,
    /// The root.
    pub(crate) root: PathBuf,
    /// What goes to `/sys/fs/cgroup` and into it, in that order: from here to there.
    pub(crate) cgroup: Vec<(PathBuf, String)>,
}

impl Place {
    /// Whether the engine sees no cgroups but those that it is given.
    pub(crate) fn covers_cgroups(&self) -> bool {
        self.bundle.starts_with(RUN)
    }
}

struct Builder<'a> {
    order: &'a Order,
    disk: PathBuf,
    root: OwnedFd,
    /// How many folders on `disk` have been handed out.
    given: usize,
}

/// Mounts all of it.
///
/// # Errors
/// What couldn't be done, in words.
pub(super) fn prepare(order: &Order, group: &Group, notes: &mut Vec<String>) -> Result<Place, String> {
    let wanted = if order.engine.wants_cgroup() && is_unified() { ASIDE } else { RUN };
    let run = Path::new(wanted);
    let place =
        Place { bundle: run.join("bundle"), state: run.join("state"), root: run.join("root"), cgroup: Vec::new() };
    let views = view(group).map_err(words("show the container its cgroup"))?;
    let engines = match group.for_engine() {
        Some((name, path)) => {
            Some((name, mounts::bind(CWD, path, Access::Write).map_err(words("show the engine its cgroup"))?))
        }
        None => None,
    };

    cover_at(wanted).map_err(words("mount a tmpfs"))?;
    for folder in ["bundle", "state", "root", "upper", "work", "cgroup", "etc", "disk"] {
        fs::create_dir(run.join(folder)).map_err(words("make a folder"))?;
    }
    if let Some((name, mount)) = engines {
        fs::create_dir(run.join(name)).map_err(words("make a folder"))?;
        mount_at(&mount, &run.join(name))?;
    }
    stand_ins(run).map_err(words("make stand-ins for cgroups"))?;
    let disk = run.join("disk");
    let bytes = order.limits.disk_bytes.max(64 << 10);
    mount_at(&mounts::memory(bytes, (bytes >> 13).clamp(256, 1 << 20)).map_err(words("mount a tmpfs"))?, &disk)?;

    mount_root(order, &place)?;
    let root = rustix::fs::open(&place.root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| words("open the root")(error.into()))?;
    let mut builder = Builder { order, disk, root, given: 0 };
    builder.mount_points()?;
    builder.scratch(notes)?;
    builder.volumes()?;
    builder.etc(run, notes)?;
    builder.mounts()?;
    builder.working_folder()?;
    let cgroup = attach_views(views, run).map_err(words("show the container its cgroup"))?;
    Ok(Place { cgroup, ..place })
}

/// An ordinary user can't take the machine's cgroups of version 1 away, only cover them, and libcontainer still finds them in
/// the list of mounts and insists on joining: what it then writes goes into these files.
fn stand_ins(run: &Path) -> io::Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    for line in mounts.lines().filter(|line| line.contains(" - cgroup ")) {
        let Some(mount) = line.split(' ').nth(4).map(Path::new).filter(|mount| mount.starts_with(run)) else {
            continue;
        };
        let folder = mount.join(STAND_IN);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("cgroup.procs"), "")?;
        if mount.ends_with("cpuset") {
            for folder in [mount, &folder] {
                fs::write(folder.join("cpuset.cpus"), "0")?;
                fs::write(folder.join("cpuset.mems"), "0")?;
            }
        }
    }
    Ok(())
}

pub(super) fn words(attempted: &str) -> impl Fn(io::Error) -> String {
    move |error| format!("can't {attempted}: {error}")
}

pub(super) fn mount_at(mount: &mounts::Detached, path: &Path) -> Result<(), String> {
    rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .and_then(|place| mounts::attach(mount, place))
        .map_err(|error| format!("can't mount at {}: {error}", path.display()))
}

/// Layers with an upper folder over them: in it the mount points that the image lacks can be made, and all else if the root
/// may be written. Otherwise it is made read-only when the container is.
fn mount_root(order: &Order, place: &Place) -> Result<(), String> {
    let Some(top) = order.layers.last() else { return Err("an image without layers has no root".into()) };
    if !order.overlay && !order.writable_root {
        return flat::bind(top, &place.root, &flat::missing(order, top));
    }
    let base = place.root.parent().unwrap_or(&place.root);
    let base = if order.writable_root { base.join("disk") } else { base.to_owned() };
    let (upper, work) = (base.join("upper"), base.join("work"));
    for folder in [&upper, &work] {
        if !folder.exists() {
            fs::create_dir(folder).map_err(words("make a folder"))?;
        }
    }
    let lower: Vec<&Path> = order.layers.iter().map(PathBuf::as_path).collect();
    // The root folder's owner and mode come from the highest layer that has it, and an upper folder hides them.
    if let Ok(like) = rustix::fs::stat(top) {
        let _ = rustix::fs::chmod(&upper, Mode::from_raw_mode(like.st_mode & 0o7777));
    }
    match mounts::overlay(&lower, &upper, &work, order.user) {
        Ok(overlay) => mount_at(&overlay, &place.root),
        Err(error) if order.overlay => Err(format!("can't mount the image's layers with overlayfs: {error}")),
        Err(error) => Err(format!("a root that can be written needs overlayfs, which can't be mounted here: {error}")),
    }
}

type Views = Vec<(crate::cgroup::View, mounts::Detached)>;

/// Taken before the cgroups are covered.
fn view(group: &Group) -> io::Result<Views> {
    group
        .views()
        .into_iter()
        .map(|view| {
            let mount = mounts::bind(CWD, &view.path, Access::Read)?;
            Ok((view, mount))
        })
        .collect()
}

/// Not below names like those of the controllers: libcontainer takes a mount that ends in one for the machine's own.
fn attach_views(views: Views, run: &Path) -> io::Result<Vec<(PathBuf, String)>> {
    const THERE: &str = "/sys/fs/cgroup";
    let folder = run.join("cgroup");
    let mut all = Vec::new();
    for (number, (view, mount)) in views.into_iter().enumerate() {
        let here = run.join(format!("view-{number}"));
        fs::create_dir(&here)?;
        mounts::attach(&mount, rustix::fs::open(&here, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)?;
        let Some(name) = &view.name else {
            all.push((here, THERE.into()));
            continue;
        };
        if all.is_empty() {
            all.push((folder.clone(), THERE.into()));
        }
        fs::create_dir(folder.join(name))?;
        for link in view.links.iter().filter(|link| *link != name) {
            std::os::unix::fs::symlink(name, folder.join(link))?;
        }
        all.push((here, format!("{THERE}/{name}")));
    }
    Ok(all)
}

impl Builder<'_> {
    fn folder(&self, path: &str) -> Result<OwnedFd, String> {
        inroot::folder(&self.root, path).map_err(|error| format!("can't make {path} in the container: {error}"))
    }

    fn mount_points(&self) -> Result<(), String> {
        // Engines make what is in these by its path, and one of them before the root is the container's: a link of the
        // image's would lead it to this machine's folders. What is below them is covered by then.
        for own in ["proc", "sys", "dev"] {
            match rustix::fs::statat(&self.root, own, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if FileType::from_raw_mode(there.st_mode) != FileType::Directory => {
                    return Err(format!("the image's /{own} is not a folder"));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(error) => return Err(format!("can't look at the image's /{own}: {error}")),
            }
        }
        for folder in ["/proc", "/sys", "/dev", "/etc"] {
            self.folder(folder)?;
        }
        Ok(())
    }

    /// What a container is told of itself and of the network.
    fn etc(&self, run: &Path, notes: &mut Vec<String>) -> Result<(), String> {
        let name = &self.order.hostname;
        let access = if self.order.writable_root { Access::Write } else { Access::Read };
        let write = |file: &str, text: String| {
            let path = run.join("etc").join(file);
            fs::write(&path, text).map_err(words("write a file"))?;
            Ok::<_, String>(path)
        };
        let mut files = vec![(write("hostname", format!("{name}\n"))?, "/etc/hostname", access)];
        match self.order.network {
            Network::None => {
                let hosts = format!("127.0.0.1\tlocalhost {name}\n::1\tlocalhost ip6-localhost ip6-loopback\n");
                files.push((write("hosts", hosts)?, "/etc/hosts", access));
            }
            Network::Host => {
                for path in ["/etc/hosts", "/etc/resolv.conf"] {
                    match fs::canonicalize(path) {
                        Ok(real) => files.push((real, path, Access::Read)),
                        Err(error) => notes.push(format!("this machine's {path} can't be shown: {error}")),
                    }
                }
            }
        }
        for (from, to, access) in files {
            let place = inroot::file(&self.root, to).map_err(|error| format!("can't make {to}: {error}"))?;
            let mount = mounts::bind(CWD, &from, access).map_err(words("bind a file"))?;
            mounts::attach(&mount, place).map_err(|error| format!("can't mount {to}: {error}"))?;
        }
        Ok(())
    }

    /// With a root that can't be written, the folders for temporary files can.
    fn scratch(&mut self, notes: &mut Vec<String>) -> Result<(), String> {
        if self.order.writable_root {
            return Ok(());
        }
        for (path, mode) in SCRATCH {
            let taken = |other: &str| other.trim_end_matches('/') == path;
            if self.order.process.volumes.iter().any(|volume| taken(volume))
                || self.order.mounts.iter().any(|mount| taken(&mount.destination))
            {
                continue;
            }
            if let Err(words) = self.fresh(path, Some(mode)) {
                notes.push(format!("{path} can't be written: {words}"));
            }
        }
        Ok(())
    }

    fn volumes(&mut self) -> Result<(), String> {
        for volume in self.order.process.volumes.clone() {
            if !self.order.mounts.iter().any(|mount| mount.destination == volume) {
                self.fresh(&volume, None)?;
            }
        }
        Ok(())
    }

    /// Makes `path` a folder of this run, with what the image has there.
    fn fresh(&mut self, path: &str, mode: Option<u32>) -> Result<(), String> {
        let place = self.folder(path)?;
        let failed = |error: io::Error| format!("can't make {path} writable: {error}");
        let like = rustix::fs::fstat(&place).map_err(|error| failed(error.into()))?;
        self.given += 1;
        let folder = self.disk.join(format!("given-{}", self.given));
        fs::create_dir(&folder).map_err(failed)?;
        let mode = Mode::from_raw_mode(mode.unwrap_or(like.st_mode & 0o7777));
        rustix::fs::chmod(&folder, mode).map_err(|error| failed(error.into()))?;
        // As an ordinary user there are no other owners.
        let _ = rustix::fs::chown(&folder, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)));
        let mount = if is_empty(&place).map_err(failed)? {
            mounts::bind(CWD, &folder, Access::Write).map_err(failed)?
        } else {
            let work = self.disk.join(format!("work-{}", self.given));
            fs::create_dir(&work).map_err(failed)?;
            let lower = PathBuf::from(format!("/proc/self/fd/{}", place.as_raw_fd()));
            match mounts::overlay(&[&lower], &folder, &work, self.order.user) {
                Ok(overlay) => overlay,
                // Not here, or too many over each other.
                Err(_) => {
                    flat::copy(&lower, &folder, 0).map_err(failed)?;
                    mounts::bind(CWD, &folder, Access::Write).map_err(failed)?
                }
            }
        };
        mounts::attach(&mount, place).map_err(failed)
    }

    fn mounts(&self) -> Result<(), String> {
        for mount in &self.order.mounts {
            let (from, to) = (mount.source.display(), &mount.destination);
            let place = Path::new(to);
            if place.file_name().is_none() || ["/proc", "/sys", "/dev"].iter().any(|own| place.starts_with(own)) {
                return Err(format!("can't mount {from} at {to}: that is the container's own"));
            }
            let folder = fs::metadata(&mount.source).map_err(|error| format!("can't mount {from}: {error}"))?.is_dir();
            let place = if folder { inroot::folder(&self.root, to) } else { inroot::file(&self.root, to) }
                .map_err(|error| format!("can't make {to} in the container: {error}"))?;
            let access = if mount.read_only { Access::Read } else { Access::Write };
            let bound =
                mounts::bind(CWD, &mount.source, access).map_err(|error| format!("can't mount {from}: {error}"))?;
            mounts::attach(&bound, place).map_err(|error| format!("can't mount {from} at {to}: {error}"))?;
        }
        Ok(())
    }

    fn working_folder(&self) -> Result<(), String> {
        let cwd = self.order.process.cwd.as_str();
        // What is below these is the kernel's.
        if ["/proc", "/sys", "/dev"].iter().any(|own| Path::new(cwd).starts_with(own)) {
            return Ok(());
        }
        self.folder(cwd).map(|_| ())
    }
}

fn is_empty(folder: &OwnedFd) -> io::Result<bool> {
    let readable = rustix::fs::openat2(
        folder,
        ".",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH,
    )?;
    for entry in rustix::fs::Dir::new(readable)? {
        if !matches!(entry?.file_name().to_bytes(), b"." | b"..") {
            return Ok(false);
        }
    }
    Ok(true)
}
