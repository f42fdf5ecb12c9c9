//! Owns the few file-system steps that durability and locking are made of.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use super::{Result, StoreError};

/// A file name that no other writer of this folder picks: process, moment and a counter. `create_new` settles the rest.
pub(super) fn unique_name(suffix: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    format!("{}-{nanos:08x}-{}{suffix}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(super) fn fsync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|f| f.sync_all()).map_err(StoreError::io("sync the folder", path))
}

#[expect(clippy::disallowed_methods, reason = "this is the store's atomic write: callers sync before and after")]
pub(super) fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(StoreError::io("rename a file to", to))
}

/// Makes a folder, and those above it that are missing, each with its name on disk: what comes into it later lasts no
/// longer than the way to it.
pub(super) fn make_folder(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    make_folder(above)?;
    match std::fs::create_dir(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => Err(StoreError::io("create the folder", path)(e)),
        _ => fsync_folder(above),
    }
}

/// Removes a file; that it's gone already is fine.
pub(super) fn unlink(path: &Path) -> Result<bool> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io("remove", path)(e)),
    }
}

/// A file being written beside its place, which replaces what is there in one step or goes away.
#[derive(Debug)]
pub(super) struct Replacement {
    file: BufWriter<File>,
    temporary: PathBuf,
    done: bool,
}

impl Replacement {
    /// Starts one in `folder`, which must be on the device of its later place.
    pub(super) fn create(folder: &Path) -> Result<Self> {
        let temporary = folder.join(unique_name(".tmp"));
        let file = create_locked(&temporary)?;
        Ok(Self { file: BufWriter::with_capacity(1 << 16, file), temporary, done: false })
    }

    pub(super) fn writer(&mut self) -> &mut BufWriter<File> {
        &mut self.file
    }

    pub(super) fn commit(mut self, place: &Path) -> Result<()> {
        self.file.flush().map_err(StoreError::io("write", place))?;
        self.file.get_ref().sync_all().map_err(StoreError::io("sync", place))?;
        rename(&self.temporary, place)?;
        self.done = true;
        place.parent().map_or(Ok(()), fsync_folder)
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.done {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

pub(super) fn replace_file(folder: &Path, place: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = Replacement::create(folder)?;
    file.writer().write_all(bytes).map_err(StoreError::io("write", place))?;
    file.commit(place)
}

/// Creates a file that is locked for as long as it's open, so that a collection can tell it from a dead one.
pub(super) fn create_locked(path: &Path) -> Result<File> {
    loop {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(StoreError::io("create", path))?;
        lock(&file, path)?;
        // A collection may have taken it for dead between the two steps.
        if links(&file, path)? > 0 {
            return Ok(file);
        }
    }
}

pub(super) fn links(file: &File, path: &Path) -> Result<u64> {
    file.metadata().map(|m| m.nlink()).map_err(StoreError::io("look at", path))
}

fn retry(path: &Path, mut step: impl FnMut() -> io::Result<()>) -> Result<()> {
    loop {
        match step() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map_err(StoreError::io("lock", path)),
        }
    }
}

/// Takes the exclusive lock, waiting for it.
pub(super) fn lock(file: &File, path: &Path) -> Result<()> {
    retry(path, || file.lock())
}

/// Takes the shared lock, waiting for it.
pub(super) fn lock_shared(file: &File, path: &Path) -> Result<()> {
    retry(path, || file.lock_shared())
}

/// Takes the exclusive lock unless someone else has one.
pub(super) fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(StoreError::io("lock", path)(e)),
    }
}

/// Opens a lock file, creating it.
pub(super) fn lock_file(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(StoreError::io("open the lock", path))
}

/// Runs file-system work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
