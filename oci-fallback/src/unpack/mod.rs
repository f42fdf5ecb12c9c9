//! Owns the way from a layer's bytes to files: what an archive may hold, and that none of it lands outside of its folder.
//!
//! ```text
//! source   a thread: reads, decompresses, hashes ──► buffers ──► archive: entries, counted
//!                                                                  │
//! name     what an entry's name means, confined                    ▼
//! tree     the folders, those of the layers below under them ◄── entry: makes it
//! below    what the layers below have of a name
//! beneath  the calls that can't leave a folder
//! ```

use std::io;

mod archive;
mod attributes;
mod below;
mod beneath;
mod budget;
mod entry;
mod fault;
mod header;
mod look;
mod name;
mod pax;
mod source;
mod tree;

#[cfg(test)]
mod tests;

pub(crate) use attributes::all as attributes_of;
pub(crate) use beneath::{FOLDER, kind, names, remove};
pub(crate) use budget::Budget;
pub use budget::Limit;
pub use fault::UnpackError;
pub use tree::LeftOut;
pub(crate) use tree::Tree;

use crate::snapshot::Layer;

/// What unpacking one image may come to.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// All files of all layers together, in bytes as they are read back: holes count. So do extended headers and whatever
    /// follows the end of an archive, so that no stream is endless.
    pub bytes: u64,
    /// All entries of all layers together, and the folders that they only imply.
    pub entries: u64,
    /// What must be held in memory of one layer until its end, in bytes: the paths of its folders with what they are to get.
    pub held: u64,
}

impl Default for Limits {
    /// 64 GiB, one million entries, and 256 MiB held.
    fn default() -> Self {
        Self { bytes: 64 << 30, entries: 500_000, held: 256 << 20 }
    }
}

/// Unpacks one layer into a tree, and verifies that it is what its diff id says.
pub(crate) fn layer(layer: &Layer, tree: &mut Tree<'_>, progress: &(dyn Fn(u64) + Sync)) -> Result<(), UnpackError> {
    source::known(&layer.media_type).map_err(|why| UnpackError::MediaType {
        layer: layer.digest.clone(),
        media_type: layer.media_type.clone(),
        why,
    })?;
    let (pump, stream) = source::pipe();
    let digest = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("vyr-inflate".into())
            .spawn_scoped(scope, move || pump.run(&*layer.open, progress))
            .map_err(|e| io::Error::new(e.kind(), format!("can't start the thread that reads a layer: {e}")))?;
        entries(layer, stream, tree)
    })?;
    let actual = digest.map(|digest| format!("sha256:{}", hex::encode(digest))).unwrap_or_default();
    if actual != layer.diff_id {
        return Err(UnpackError::DiffId { layer: layer.digest.clone(), expected: layer.diff_id.clone(), actual });
    }
    Ok(())
}

/// Makes every entry. Gives the digest of the whole stream.
fn entries(layer: &Layer, stream: source::Stream, tree: &mut Tree<'_>) -> Result<Option<[u8; 32]>, UnpackError> {
    let mut archive = archive::Archive::new(stream, tree.budget);
    let mut last: Option<Vec<u8>> = None;
    loop {
        match archive.next() {
            Ok(Some(mut entry)) => {
                let made = tree.put(&mut entry, &mut archive).and_then(|()| tree.held_is_little());
                made.map_err(|fault| fault.at(&layer.digest, Some(&entry.header.name)))?;
                last = Some(entry.header.name);
            }
            Ok(None) => break,
            Err(fault) => return Err(fault.at(&layer.digest, last.as_deref())),
        }
    }
    let stream = archive.finish().map_err(|fault| fault.at(&layer.digest, last.as_deref()))?;
    tree.finish_layer().map_err(|(path, fault)| fault.at(&layer.digest, Some(&path)))?;
    Ok(stream.digest())
}

impl Tree<'_> {
    /// A regular file as a container sees it, links followed inside of the root, opened for reading; `None` where there is
    /// none.
    ///
    /// # Errors
    /// It can't be opened, or links lead in a circle.
    pub(crate) fn open_file(&mut self, path: &str) -> io::Result<Option<std::fs::File>> {
        look::open_file(self, path.as_bytes()).map_err(|fault| match fault {
            fault::Fault::Disk { source, .. } | fault::Fault::Stream(source) => source,
            fault::Fault::Refused(why) | fault::Fault::Archive(why) => io::Error::other(why),
            fault::Fault::Limit(limit) => io::Error::other(limit.to_string()),
            fault::Fault::Stopped => io::Error::other("it was stopped"),
        })
    }
}
