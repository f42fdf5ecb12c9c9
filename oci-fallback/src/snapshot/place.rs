//! Owns where snapshots lie and who may touch them when.
//!
//! ```text
//! PLACE/HEX/fs/        the files of the chain whose id is HEX
//! PLACE/HEX/lock       what is known of it; a shared flock on it holds the snapshot, an exclusive one is its remover's
//! PLACE/HEX/durable    it is on the disk: there from when the file system was synced
//! PLACE/tmp/HEX        one that is being made, by whoever has an exclusive flock on
//! PLACE/tmp/HEX.claim  which a remover of the snapshot has, too
//! ```
//!
//! A snapshot appears by a rename and is whole. It is not synced before that: that takes as long as unpacking, or longer,
//! and a snapshot can be made again from its layers. So `lock` says in which boot of this machine it was made, and
//! one of an earlier boot counts only when `durable` says that it had reached the disk before that boot ended.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FlockOperation, Timespec, Timestamps, UTIME_NOW};
use rustix::io::Errno;

use crate::unpack::{self, LeftOut};

/// What is known of a snapshot.
#[derive(Debug, Clone, Default, serde::Serialize, serde::Deserialize)]
pub(super) struct Known {
    /// The version of this form.
    pub(super) format: u32,
    /// What its layers count against [`crate::unpack::Limits`].
    pub(super) bytes: u64,
    pub(super) entries: u64,
    pub(super) left_out: LeftOut,
    /// The boot of the machine in which it was made; empty where that can't be told, and then it was synced at once.
    pub(super) boot: String,
}

/// How long it may take until a stopped wait for a claim ends.
const LONGEST_WAIT: Duration = Duration::from_millis(50);
/// The form of [`Known`].
const FORMAT: u32 = 1;

/// A snapshot that can't be removed while this lives.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) fs: PathBuf,
    pub(super) known: Known,
    _lock: File,
}

/// A folder of snapshots.
#[derive(Debug, Clone)]
pub(super) struct Place {
    dir: PathBuf,
    tmp: PathBuf,
    boot: String,
}

/// The right to make or remove one snapshot. What is unfinished goes when this does.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    place: &'a Place,
    hex: String,
    path: PathBuf,
    _lock: File,
}

impl Place {
    pub(super) fn open(dir: PathBuf) -> io::Result<Self> {
        let tmp = dir.join("tmp");
        // Set-uid files of strangers lie in it: nobody else may come near.
        DirBuilder::new().recursive(true).mode(0o700).create(&tmp).map_err(doing("make", &tmp))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
        let place = Self { dir, tmp, boot };
        place.sweep()?;
        Ok(place)
    }

    #[cfg(test)]
    pub(super) fn next_boot(&mut self) {
        self.boot = "another".into();
    }

    /// Removes what nobody makes or removes any more, and what was lost with the power.
    fn sweep(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.tmp)? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            // What can't be claimed has an owner that lives.
            drop(self.try_claim(name.strip_suffix(".claim").unwrap_or(&name))?);
        }
        for hex in self.all()? {
            if !self.is_whole(&hex)
                && let Some(claim) = self.try_claim(&hex)?
            {
                claim.clear_broken()?;
            }
        }
        Ok(())
    }

    /// The names of the snapshots, whole or not.
    pub(super) fn all(&self) -> io::Result<Vec<String>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name != "tmp"
            {
                all.push(name);
            }
        }
        Ok(all)
    }

    fn is_whole(&self, hex: &str) -> bool {
        let lock = self.dir.join(hex).join("lock");
        matches!(File::open(&lock).and_then(|lock| self.read(hex, &lock)), Ok(Some(_)))
    }

    /// What is known of a snapshot that counts.
    fn read(&self, hex: &str, lock: &File) -> io::Result<Option<Known>> {
        let mut text = String::new();
        let mut lock = lock;
        lock.read_to_string(&mut text)?;
        let Ok(known) = serde_json::from_str::<Known>(&text) else {
            return Ok(None);
        };
        let counts = known.format == FORMAT
            && (known.boot == self.boot && !self.boot.is_empty() || self.dir.join(hex).join("durable").exists());
        Ok(counts.then_some(known))
    }

    /// Holds a snapshot, if it is there and nobody removes it.
    pub(super) fn hold(&self, hex: &str) -> io::Result<Option<Held>> {
        match File::open(self.dir.join(hex).join("lock")) {
            Ok(lock) => self.hold_by(hex, lock),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    pub(super) fn hold_by(&self, hex: &str, lock: File) -> io::Result<Option<Held>> {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        // A remover unlinks it first: one that is still linked now that it is locked will stay.
        if lock.metadata()?.nlink() == 0 {
            return Ok(None);
        }
        let Some(known) = self.read(hex, &lock)? else {
            return Ok(None);
        };
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // When it was last used. One that can't be told this is used all the same.
        let _ = rustix::fs::futimens(&lock, &Timestamps { last_access: now, last_modification: now });
        Ok(Some(Held { fs: self.dir.join(hex).join("fs"), known, _lock: lock }))
    }

    /// When a snapshot was last used, and what is known of it.
    pub(super) fn look(&self, hex: &str) -> io::Result<Option<(SystemTime, Known)>> {
        let lock = match File::open(self.dir.join(hex).join("lock")) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let used = lock.metadata()?.modified()?;
        Ok(self.read(hex, &lock)?.map(|known| (used, known)))
    }

    /// Waits for the right to make or remove a snapshot.
    pub(super) fn claim(&self, hex: &str) -> io::Result<Claim<'_>> {
        loop {
            if let Some(claim) = self.claim_once(hex, FlockOperation::LockExclusive)? {
                return Ok(claim);
            }
        }
    }

    /// Waits for the right to make a snapshot, but not any longer once `stop` is set.
    pub(super) fn claim_unless(&self, hex: &str, stop: &AtomicBool) -> io::Result<Option<Claim<'_>>> {
        // Nothing wakes up who waits for a lock and for a flag, so it asks again: soon where another only looks at the
        // snapshot or removes it, and seldom where it unpacks.
        let mut wait = Duration::from_millis(1);
        while !stop.load(Ordering::Relaxed) {
            if let Some(claim) = self.try_claim(hex)? {
                return Ok(Some(claim));
            }
            std::thread::sleep(wait);
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Ok(None)
    }

    /// The right to make or remove a snapshot, if nobody has it.
    pub(super) fn try_claim(&self, hex: &str) -> io::Result<Option<Claim<'_>>> {
        self.claim_once(hex, FlockOperation::NonBlockingLockExclusive)
    }

    fn claim_once(&self, hex: &str, how: FlockOperation) -> io::Result<Option<Claim<'_>>> {
        let path = self.tmp.join(format!("{hex}.claim"));
        let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let lock = lock.map_err(doing("claim with", &path))?;
        match rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, how)) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(doing("lock", &path)(e)),
        }
        // Whoever had it has unlinked it: there may be another by now.
        if lock.metadata()?.nlink() == 0 {
            return Ok(None);
        }
        let claim = Claim { place: self, hex: hex.to_owned(), path, _lock: lock };
        claim.clear()?;
        Ok(Some(claim))
    }

    /// Waits until all snapshots of this boot are on the disk, and says so beside them.
    pub(super) fn settle(&self) -> io::Result<usize> {
        let waiting: Vec<_> =
            self.all()?.into_iter().filter(|hex| !self.dir.join(hex).join("durable").exists()).collect();
        if waiting.is_empty() {
            return Ok(0);
        }
        rustix::fs::syncfs(File::open(&self.dir)?)?;
        let mut settled = 0;
        for hex in waiting {
            // With the claim, nobody removes it now; a remover waits for that.
            if let Some(_claim) = self.try_claim(&hex)?
                && self.is_whole(&hex)
            {
                durable(&self.dir.join(&hex))?;
                settled += 1;
            }
        }
        Ok(settled)
    }
}

/// Marks a snapshot in this folder as one that is on the disk.
fn durable(folder: &Path) -> io::Result<()> {
    let mark = OpenOptions::new().create(true).append(true).mode(0o600).open(folder.join("durable"))?;
    mark.sync_all()?;
    File::open(folder)?.sync_all()
}

impl Claim<'_> {
    fn folder(&self) -> PathBuf {
        self.place.tmp.join(&self.hex)
    }

    fn clear(&self) -> io::Result<()> {
        remove_in(&self.place.tmp, &self.hex)
    }

    /// An empty folder for the files.
    pub(super) fn begin(&self) -> io::Result<OwnedFd> {
        self.clear()?;
        let fs = self.folder().join("fs");
        DirBuilder::new().recursive(true).mode(0o700).create(&fs).map_err(doing("make", &fs))?;
        open_folder(&fs)
    }

    /// Puts it in its place, where it is held already.
    pub(super) fn publish(self, mut known: Known) -> io::Result<Held> {
        let folder = self.folder();
        known.format = FORMAT;
        known.boot.clone_from(&self.place.boot);
        let lock = OpenOptions::new().create_new(true).read(true).write(true).mode(0o600).open(folder.join("lock"));
        let mut lock = lock.map_err(doing("finish", &folder))?;
        lock.write_all(&serde_json::to_vec(&known)?)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).map_err(doing("hold", &folder))?;
        if known.boot.is_empty() {
            rustix::fs::syncfs(&lock)?;
            durable(&folder)?;
        }
        self.clear_broken()?;
        // A folder, with what makes it count in it: nothing here is replaced, so the store's atomic write isn't what it is.
        let target = self.place.dir.join(&self.hex);
        rustix::fs::renameat(CWD, &folder, CWD, &target).map_err(doing("put in its place", &target))?;
        Ok(Held { fs: target.join("fs"), known, _lock: lock })
    }

    /// Removes what lies in the snapshot's place and doesn't count: its removal was cut off, or the power.
    fn clear_broken(&self) -> io::Result<()> {
        if !self.place.is_whole(&self.hex) {
            remove_in(&self.place.dir, &self.hex)?;
        }
        Ok(())
    }

    /// Removes the snapshot, unless it is held. Gives how many bytes that frees.
    pub(super) fn remove(self) -> io::Result<Option<u64>> {
        let folder = self.place.dir.join(&self.hex);
        let path = folder.join("lock");
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(e.into()),
        }
        let known = self.place.read(&self.hex, &lock)?;
        fs::remove_file(&path)?;
        remove_in(&self.place.dir, &self.hex)?;
        Ok(Some(known.map_or(0, |known| known.bytes)))
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        // What stays is swept when the snapshots are next opened.
        let _ = self.clear();
        let _ = fs::remove_file(&self.path);
    }
}

/// Says what was being done, and to what.
fn doing<E: Into<io::Error>>(what: &str, path: &Path) -> impl Fn(E) -> io::Error {
    move |e| {
        let e = e.into();
        io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()))
    }
}

/// Opens one of our own folders.
pub(super) fn open_folder(path: &Path) -> io::Result<OwnedFd> {
    rustix::fs::openat(CWD, path, unpack::FOLDER, rustix::fs::Mode::empty()).map_err(doing("open", path))
}

fn remove_in(folder: &Path, name: &str) -> io::Result<()> {
    unpack::remove(open_folder(folder)?.as_fd(), name.as_bytes()).map_err(doing("remove from", folder))
}
