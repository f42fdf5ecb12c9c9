//! Owns the folder in which roots, layers and images are kept between runs, under names that hold the hash of all that
//! went into them.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

/// Goes up when the same description makes something else than before.
const EDITION: u32 = 1;

#[derive(Debug)]
pub(crate) struct Cache {
    root: PathBuf,
    /// One program at a time builds.
    _lock: File,
}

impl Cache {
    /// Waits for another program that uses it.
    pub(crate) fn open() -> Result<Self> {
        let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
        let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from).or(home);
        let root = base.context("neither XDG_CACHE_HOME nor HOME is set")?.join("vyr/corpus");
        for name in ["layers", "images", "blobs", "tmp", "programs"] {
            std::fs::create_dir_all(root.join(name)).with_context(|| root.display().to_string())?;
        }
        let lock = File::create(root.join(".lock"))?;
        lock.lock()?;
        // What a run that was ended has left.
        for entry in std::fs::read_dir(root.join("tmp"))? {
            let path = entry?.path();
            drop(std::fs::remove_dir_all(&path).or_else(|_| std::fs::remove_file(&path)));
        }
        Ok(Self { root, _lock: lock })
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// A folder of this run's own, on the same file system.
    pub(crate) fn scratch(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix("work").tempdir_in(self.root.join("tmp"))?)
    }

    /// `path`, made by `make` under another name unless it's there.
    pub(crate) fn once(&self, path: PathBuf, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        if !path.exists() {
            let scratch = self.scratch()?;
            let made = scratch.path().join("made");
            make(&made)?;
            #[expect(clippy::disallowed_methods, reason = "a cache that is lost is made again; it needs no fsync")]
            std::fs::rename(&made, &path).with_context(|| path.display().to_string())?;
        }
        Ok(path)
    }
}

/// The name of what is made as `description` says.
pub(crate) fn key(description: &impl Serialize) -> Result<String> {
    let text = serde_json::to_vec(&(EDITION, description))?;
    Ok(hex::encode(Sha256::digest(text))[..20].to_owned())
}
