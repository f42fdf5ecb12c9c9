//! Owns leases: the promise to a collection that a writer under way still needs certain blobs.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::layout::Layout;
use super::{Result, StoreError, disk};
use crate::oci::Digest;

/// What a writer under way depends on. A collection keeps every digest noted here, and all that it reaches, until the
/// lease's last clone is dropped or its process dies: the file is locked while the lease lives.
///
/// The calls wait for a collection under way, so they belong on a thread that may block.
#[derive(Debug, Clone)]
#[must_use = "blobs are kept for a writer only while its lease lives"]
pub struct Lease(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    layout: Layout,
    path: PathBuf,
    /// Taken by the drop alone.
    file: Option<File>,
}

/// Lease files that this process has and doesn't need now: locked and empty, which keeps nothing. A file made and removed
/// for each small write is what a busy registry would spend its time on: ext4 searches long for an inode that wasn't
/// freed just now.
static SPARE: Mutex<Vec<(PathBuf, File)>> = Mutex::new(Vec::new());
/// Whether there are any: a process that ends soon would leave them behind.
static KEEPS: AtomicBool = AtomicBool::new(false);
const MOST_SPARE: usize = 64;

fn spare() -> MutexGuard<'static, Vec<(PathBuf, File)>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lease {
    /// Says that this process writes many things for a long time: lease files are used again.
    pub fn use_again() {
        KEEPS.store(true, Ordering::Relaxed);
    }

    /// Takes that back, and removes those that are not in use.
    pub fn use_no_more() {
        KEEPS.store(false, Ordering::Relaxed);
        for (path, _) in spare().drain(..) {
            let _ = std::fs::remove_file(path);
        }
    }

    pub(super) fn create(layout: &Layout) -> Result<Self> {
        let folder = layout.leases();
        let found = {
            let mut spare = spare();
            let position = spare.iter().position(|(path, _)| path.parent() == Some(&folder));
            position.map(|position| spare.swap_remove(position))
        };
        // One whose folder was removed keeps nothing for anybody.
        if let Some((path, file)) = found
            && disk::links(&file, &path).is_ok_and(|links| links > 0)
        {
            return Ok(Self(Arc::new(Inner { layout: layout.clone(), path, file: Some(file) })));
        }
        let path = folder.join(disk::unique_name(""));
        let file = disk::create_locked(&path)?;
        Ok(Self(Arc::new(Inner { layout: layout.clone(), path, file: Some(file) })))
    }

    /// Notes digests that this writer is about to put, or relies on.
    ///
    /// # Errors
    /// The lease can't be written.
    pub fn note<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<()> {
        let _gate = self.0.layout.gate_shared()?;
        self.note_inside(digests)
    }

    /// As [`Lease::note`], for a caller that holds the gate.
    pub(super) fn note_inside<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<()> {
        let mut lines = String::new();
        for digest in digests {
            lines.push_str(digest.as_ref());
            lines.push('\n');
        }
        let Some(mut file) = self.0.file.as_ref() else { return Ok(()) };
        file.write_all(lines.as_bytes()).map_err(StoreError::io("write the lease", &self.0.path))
    }

    /// Notes `digest` and says how many bytes its blob has, when the store has it: a blob found so stays while the
    /// lease lives, and needn't be written.
    ///
    /// # Errors
    /// As [`Lease::note`].
    pub fn hold(&self, digest: &Digest) -> Result<Option<u64>> {
        // In this order: a collection before the note shows as an absent blob, one after it keeps the blob.
        let _gate = self.0.layout.gate_shared()?;
        self.note_inside([digest])?;
        self.0.layout.blob_size(digest)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let Some(mut file) = self.file.take() else { return };
        let mut spare = spare();
        if KEEPS.load(Ordering::Relaxed) && spare.len() < MOST_SPARE && file.set_len(0).is_ok() && file.rewind().is_ok()
        {
            spare.push((std::mem::take(&mut self.path), file));
            return;
        }
        drop(spare);
        let _ = std::fs::remove_file(&self.path);
    }
}

/// What the live leases hold; dead ones are removed unless `keep_dead`. The gate must be held alone.
pub(super) fn read_all(layout: &Layout, keep_dead: bool) -> Result<Vec<String>> {
    let folder = layout.leases();
    let mut noted = Vec::new();
    for item in std::fs::read_dir(&folder).map_err(StoreError::io("list", &folder))? {
        let path = item.map_err(StoreError::io("list", &folder))?.path();
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(StoreError::io("open the lease", &path)(e)),
        };
        if disk::try_lock(&file, &path)? {
            if !keep_dead {
                disk::unlink(&path)?;
            }
            continue;
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(StoreError::io("read the lease", &path))?;
        noted.extend(text.lines().map(str::to_owned));
    }
    Ok(noted)
}
