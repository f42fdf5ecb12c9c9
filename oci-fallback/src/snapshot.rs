//! Owns the unpacked layers of a node: one folder for each chain of layers, made whole or not at all, shared by every image
//! that begins with that chain, and held against removal while something runs on it.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::unpack::{Limits, UnpackError};

/// How the layers of an image become one root file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// A folder for each layer, with overlayfs's whiteouts and opaque marks in it; the keeper mounts them over each other.
    Overlay,
    /// A folder for each chain of layers, with all of it: where overlayfs can't be mounted.
    Flat,
}

/// Who unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Root: owners, devices, `trusted.*` attributes are made as the layer says.
    Root,
    /// An ordinary user: everything belongs to that user, devices are left out, overlay marks are `user.overlay.*`.
    User,
}

/// One layer, as it can be read.
#[expect(missing_debug_implementations, reason = "it holds a closure")]
pub struct Layer {
    /// Its media type, which says how it is compressed; the first bytes decide where the type says nothing.
    pub media_type: String,
    /// The digest of the compressed bytes, for messages: whoever gives it has verified it.
    pub digest: String,
    /// The digest of the uncompressed tar, from the image config: verified here.
    pub diff_id: String,
    /// The compressed size in bytes.
    pub size: u64,
    /// Opens the compressed bytes.
    pub open: Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>,
}

/// The snapshots below one folder. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Snapshots {
    root: PathBuf,
    method: Method,
    rights: Rights,
}

/// The root file system of an image, held against removal while this lives.
#[derive(Debug)]
pub struct Rootfs {
    /// The folders, lowest layer first; with [`Method::Flat`] there is one.
    pub layers: Vec<PathBuf>,
    /// How they were made.
    pub method: Method,
    /// By whom.
    pub rights: Rights,
}

impl Snapshots {
    /// The snapshots below `root`, which is made where it is missing. What an unpacking left that died is removed.
    ///
    /// # Errors
    /// The folder can't be made or written.
    pub fn open(root: &Path, method: Method, rights: Rights) -> io::Result<Self> {
        Ok(Self { root: root.to_owned(), method, rights })
    }

    /// The root file system of the image whose layers have these diff ids, lowest first, if it is there whole. Costs a few
    /// system calls: nothing is read or hashed.
    #[must_use]
    pub fn get(&self, diff_ids: &[String]) -> Option<Rootfs> {
        let _ = diff_ids;
        None
    }

    /// Unpacks what is missing of `layers`, lowest first. Blocks. `progress` is told of compressed bytes as they are read.
    ///
    /// # Errors
    /// [`UnpackError`]; nothing half-made is left.
    pub fn unpack(
        &self,
        layers: &[Layer],
        limits: &Limits,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Rootfs, UnpackError> {
        let _ = (layers, limits, progress, &self.root, self.method, self.rights);
        Err(UnpackError::Io(io::Error::other("to be written")))
    }
}

impl Rootfs {
    /// The content of a regular file as the container will see it, links resolved inside of the root; `None` where there is
    /// none.
    ///
    /// # Errors
    /// It is larger than `max_bytes`, or can't be read.
    pub fn read(&self, path: &str, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let _ = (path, max_bytes);
        Ok(None)
    }
}
