//! Owns the unpacked layers of a node: one folder for each chain of layers, made whole or not at all, shared by every image
//! that begins with that chain, and held against removal while something runs on it.

use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

mod chain;
mod copy;
mod place;

#[cfg(test)]
mod tests;

pub use chain::chain_ids;
pub(crate) use copy::file as copy_file;
use place::{Claim, Held, Known, Place};

use crate::unpack::{self, Budget, LeftOut, Limits, Tree, UnpackError};

/// For what is never stopped.
static NEVER: AtomicBool = AtomicBool::new(false);

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
    /// Root: owners, devices and capabilities are made as the layer says, overlay marks are `trusted.overlay.*`.
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
    place: Place,
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
    held: Vec<Held>,
}

/// One snapshot.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its chain id, `sha256:…`.
    pub chain_id: String,
    /// What its own layer holds, or with [`Method::Flat`] all of its layers, in bytes as they are read back.
    pub bytes: u64,
    /// When it was last asked for.
    pub last_used: SystemTime,
}

impl Snapshots {
    /// The snapshots below `root`, which is made where it is missing. What an unpacking left that died is removed, and so is
    /// what was lost with the power.
    ///
    /// # Errors
    /// The folder can't be made or written.
    pub fn open(root: &Path, method: Method, rights: Rights) -> io::Result<Self> {
        // Owners, devices and marks differ, so neither may take the other's for its own.
        let name = match (method, rights) {
            (Method::Overlay, Rights::Root) => "overlay",
            (Method::Overlay, Rights::User) => "overlay-user",
            (Method::Flat, Rights::Root) => "flat",
            (Method::Flat, Rights::User) => "flat-user",
        };
        Ok(Self { place: Place::open(root.join(name))?, method, rights })
    }

    /// The root file system of the image whose layers have these diff ids, lowest first, if it is there whole. Costs a few
    /// system calls for each layer: no file of it is read or hashed.
    #[must_use]
    pub fn get(&self, diff_ids: &[String]) -> Option<Rootfs> {
        let held = self.wanted(diff_ids).ok()?.iter().map(|hex| self.place.hold(hex).ok()?).collect::<Option<_>>()?;
        Some(self.rootfs(held))
    }

    /// Unpacks what is missing of `layers`, lowest first. Blocks, also while another process unpacks the same. `progress` is
    /// told of compressed bytes as they are read.
    ///
    /// What it gives is whole, but reaches the disk later: see [`Self::settle`], which a thread of its own calls afterwards.
    ///
    /// # Errors
    /// [`UnpackError`]; nothing half-made is left.
    pub fn unpack(
        &self,
        layers: &[Layer],
        limits: &Limits,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Rootfs, UnpackError> {
        self.unpack_unless(layers, limits, progress, &NEVER)
    }

    /// The same, until `stop` is set: that is looked at with each entry and each buffer, and while another process unpacks the
    /// same. A [`Layer::open`] that blocks, or a reader it gave, is waited for.
    ///
    /// # Errors
    /// [`UnpackError::Stopped`] and all others; nothing half-made is left.
    pub fn unpack_unless(
        &self,
        layers: &[Layer],
        limits: &Limits,
        progress: &(dyn Fn(u64) + Sync),
        stop: &AtomicBool,
    ) -> Result<Rootfs, UnpackError> {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let wanted = self.wanted(&diff_ids)?;
        let budget = Budget::new(*limits, stop);
        let mut held: Vec<Held> = Vec::with_capacity(wanted.len());
        let mut made = false;
        for (at, hex) in wanted.iter().enumerate() {
            let own = if self.method == Method::Flat { layers } else { layers.get(at..=at).unwrap_or_default() };
            let there = match self.place.hold(hex)? {
                Some(there) => Some(there),
                None => {
                    let claim = self.place.claim_unless(hex, stop)?.ok_or(UnpackError::Stopped)?;
                    // Whoever had the claim before may have made it.
                    match self.place.hold(hex)? {
                        Some(there) => Some(there),
                        None => {
                            held.push(self.make(claim, own, &diff_ids, &held, &budget, progress)?);
                            made = true;
                            None
                        }
                    }
                }
            };
            if let Some(there) = there {
                let layer = own.last().map(|layer| layer.digest.clone()).unwrap_or_default();
                let counted = budget.add(there.known.bytes, there.known.entries);
                counted.map_err(|limit| UnpackError::Limit { layer, path: None, limit })?;
                held.push(there);
            }
        }
        if made {
            let place = self.place.clone();
            let settle = move || place.settle().map_err(|e| tracing::warn!("snapshots are not on the disk: {e}"));
            // Without it they are made again after a restart of the machine.
            let _ = std::thread::Builder::new().name("vyr-settle".into()).spawn(settle);
        }
        Ok(self.rootfs(held))
    }

    /// Waits until the snapshots are on the disk, and marks them so: one that isn't marked is not taken any more after
    /// the machine has started again, and made anew. Gives how many were marked.
    ///
    /// # Errors
    /// The disk's own: what could not be written is not marked.
    pub fn settle(&self) -> io::Result<usize> {
        self.place.settle()
    }

    /// All snapshots, whether something runs on them or not.
    ///
    /// # Errors
    /// The folder can't be read.
    pub fn list(&self) -> io::Result<Vec<Snapshot>> {
        let mut list = Vec::new();
        for hex in self.place.all()? {
            if let Some((last_used, known)) = self.place.look(&hex)? {
                list.push(Snapshot { chain_id: format!("sha256:{hex}"), bytes: known.bytes, last_used });
            }
        }
        Ok(list)
    }

    /// Removes the snapshots that nobody holds and that `keep` doesn't want, told of their chain ids ([`chain_ids`]). Gives
    /// how many bytes that freed, as [`Snapshot::bytes`] counts them.
    ///
    /// With [`Method::Overlay`] an image needs the snapshots of all its chain ids, with [`Method::Flat`] that of the last.
    ///
    /// # Errors
    /// One can't be removed; others may have been.
    pub fn remove_unused(&self, keep: impl Fn(&str) -> bool) -> io::Result<u64> {
        let mut freed = 0;
        for hex in self.place.all()? {
            if !keep(&format!("sha256:{hex}")) {
                freed += self.place.claim(&hex)?.remove()?.unwrap_or(0);
            }
        }
        Ok(freed)
    }

    /// The names of the snapshots that an image consists of.
    fn wanted(&self, diff_ids: &[String]) -> Result<Vec<String>, UnpackError> {
        let mut chain = chain_ids(diff_ids)?;
        if chain.is_empty() {
            chain.push(chain::nothing());
        }
        if self.method == Method::Flat {
            chain.drain(..chain.len() - 1);
        }
        Ok(chain.iter().filter_map(|id| chain::hexadecimal(id)).map(str::to_owned).collect())
    }

    fn rootfs(&self, held: Vec<Held>) -> Rootfs {
        let layers = held.iter().map(|held| held.fs.clone()).collect();
        Rootfs { layers, method: self.method, rights: self.rights, held }
    }

    /// Makes one snapshot: of one layer over those below, or of all layers.
    fn make(
        &self,
        claim: Claim<'_>,
        layers: &[Layer],
        diff_ids: &[String],
        below: &[Held],
        budget: &Budget<'_>,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<Held, UnpackError> {
        let before = budget.used();
        let (mut folder, mut start) = (claim.begin()?, 0);
        let mut left_out = LeftOut::default();
        if self.method == Method::Flat
            && let Some((shared, prefix)) = self.longest_prefix(diff_ids)?
        {
            match copy::tree(place::open_folder(&prefix.fs)?.as_fd(), folder.as_fd(), self.rights, budget.stop) {
                Ok(()) => {
                    let layer = layers.first().map(|layer| layer.digest.clone()).unwrap_or_default();
                    let counted = budget.add(prefix.known.bytes, prefix.known.entries);
                    counted.map_err(|limit| UnpackError::Limit { layer, path: None, limit })?;
                    (start, left_out) = (shared, prefix.known.left_out);
                }
                // This user can't read all of it: then from the layers, which it can.
                Err(rustix::io::Errno::ACCESS) => folder = claim.begin()?,
                Err(rustix::io::Errno::CANCELED) => return Err(UnpackError::Stopped),
                Err(e) => return Err(UnpackError::Io(e.into())),
            }
        }
        let lower = below.iter().rev().map(|held| place::open_folder(&held.fs)).collect::<io::Result<_>>()?;
        let mut tree = Tree::new(folder, lower, self.method, self.rights, start > 0, budget)
            .map_err(|e| UnpackError::Io(e.into()))?;
        for layer in layers.iter().skip(start) {
            unpack::layer(layer, &mut tree, progress)?;
        }
        if layers.is_empty() {
            tree.finish_layer().map_err(|_| match budget.stop.load(Ordering::Relaxed) {
                true => UnpackError::Stopped,
                false => io::Error::other("can't finish an empty root").into(),
            })?;
        }
        left_out.devices += tree.left_out.devices;
        left_out.attributes += tree.left_out.attributes;
        let after = budget.used();
        let (bytes, entries) = (after.0 - before.0, after.1 - before.1);
        Ok(claim.publish(Known { bytes, entries, left_out, ..Known::default() })?)
    }

    /// The snapshot of the most layers that this image begins with, and how many they are.
    fn longest_prefix(&self, diff_ids: &[String]) -> Result<Option<(usize, Held)>, UnpackError> {
        let chain = chain_ids(diff_ids)?;
        for count in (1..chain.len()).rev() {
            let held = chain::hexadecimal(&chain[count - 1]).map(|hex| self.place.hold(hex)).transpose()?;
            if let Some(held) = held.flatten() {
                return Ok(Some((count, held)));
            }
        }
        Ok(None)
    }
}

impl Rootfs {
    /// A root file system of folders that somebody else has made and keeps, lowest layer first.
    #[must_use]
    pub fn of_folders(layers: Vec<PathBuf>, method: Method, rights: Rights) -> Self {
        Self { layers, method, rights, held: Vec::new() }
    }

    /// What of the image was left out, in all its layers.
    #[must_use]
    pub fn left_out(&self) -> LeftOut {
        self.held.iter().fold(LeftOut::default(), |sum, held| LeftOut {
            devices: sum.devices + held.known.left_out.devices,
            attributes: sum.attributes + held.known.left_out.attributes,
        })
    }

    /// The content of a regular file as the container will see it, links resolved inside of the root; `None` where there is
    /// none.
    ///
    /// # Errors
    /// It is larger than `max_bytes`, or can't be read.
    pub fn read(&self, path: &str, max_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let lower = self.layers.iter().rev().map(|layer| place::open_folder(layer)).collect::<io::Result<_>>()?;
        let budget = Budget::new(Limits::default(), &NEVER);
        let Some(file) = Tree::view(None, lower, self.method, self.rights, &budget).open_file(path)? else {
            return Ok(None);
        };
        let mut content = Vec::new();
        file.take(max_bytes.saturating_add(1)).read_to_end(&mut content)?;
        if content.len() as u64 > max_bytes {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                format!("{path} is larger than {max_bytes} bytes"),
            ));
        }
        Ok(Some(content))
    }
}
