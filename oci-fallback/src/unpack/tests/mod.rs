//! Owns what the tests of unpacking share: layers out of archives, trees to look at.

use std::io::{self, Cursor, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::snapshot::{Layer, Method, Rights, Rootfs, Snapshots};
use crate::unpack::{Limits, UnpackError};

mod hostile;
mod layers;
mod layout;
mod metadata;
mod streams;
mod umoci;

use layout::{Entry, Tar};

fn typed(bytes: Vec<u8>, diff_id: String, media_type: &str) -> Layer {
    let digest = layout::sha256(&bytes);
    let size = bytes.len() as u64;
    let open = Box::new(move || Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>));
    Layer { media_type: media_type.into(), digest, diff_id, size, open }
}

fn layer(tar: Vec<u8>) -> Layer {
    let diff_id = layout::sha256(&tar);
    typed(tar, diff_id, "application/vnd.oci.image.layer.v1.tar")
}

struct Unpacked {
    _dir: tempfile::TempDir,
    rootfs: Rootfs,
}

impl Unpacked {
    /// A path in the highest layer.
    fn path(&self, path: &str) -> PathBuf {
        self.rootfs.layers.last().expect("a layer").join(path)
    }

    fn read(&self, path: &str) -> Option<String> {
        let content = self.rootfs.read(path, 1 << 20).expect("readable");
        content.map(|content| String::from_utf8(content).expect("text"))
    }
}

fn unpack_with(method: Method, rights: Rights, limits: Limits, layers: &[Layer]) -> Result<Unpacked, UnpackError> {
    let dir = tempfile::tempdir().expect("a folder");
    let snapshots = Snapshots::open(dir.path(), method, rights).expect("snapshots");
    let rootfs = snapshots.unpack(layers, &limits, &|_| {});
    if rootfs.is_err() {
        let left: Vec<_> = walk(dir.path()).into_iter().filter(|path| !layered(path)).collect();
        assert!(left.is_empty(), "left after an error: {left:?}");
    }
    Ok(Unpacked { rootfs: rootfs?, _dir: dir })
}

/// What belongs to a snapshot that is whole, and the folders they lie in.
fn layered(path: &Path) -> bool {
    let parts: Vec<_> = path.components().collect();
    parts.len() == 1 || !path.to_string_lossy().contains("tmp/")
}

fn unpack(method: Method, tars: Vec<Vec<u8>>) -> Result<Unpacked, UnpackError> {
    let layers: Vec<_> = tars.into_iter().map(layer).collect();
    unpack_with(method, Rights::Root, Limits::default(), &layers)
}

/// Unpacks both ways.
fn both(tars: &[Vec<u8>]) -> [Unpacked; 2] {
    [Method::Overlay, Method::Flat].map(|method| unpack(method, tars.to_vec()).expect("unpacked"))
}

/// That both ways refuse an archive, and what they say.
fn refused(tar: Vec<u8>) -> String {
    let [a, b] = [Method::Overlay, Method::Flat]
        .map(|method| unpack(method, vec![tar.clone()]).err().expect("refused").to_string());
    assert_eq!(a, b);
    a
}

fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten() {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path.clone());
            }
            found.push(path.strip_prefix(dir).expect("below").to_owned());
        }
    }
    found
}

fn is_whiteout(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|meta| meta.file_type().is_char_device() && meta.rdev() == 0)
}

fn is_opaque(path: &Path, name: &str) -> bool {
    let mut value = [0_u8; 8];
    matches!(rustix::fs::getxattr(path, name, &mut value[..]), Ok(1) if value[0] == b'y')
}

fn mode(path: &Path) -> u32 {
    path.symlink_metadata().expect("there").mode() & 0o7777
}

fn io_kind(error: &UnpackError) -> io::ErrorKind {
    match error {
        UnpackError::Read { source, .. } | UnpackError::Entry { source, .. } => source.kind(),
        other => panic!("{other}"),
    }
}
