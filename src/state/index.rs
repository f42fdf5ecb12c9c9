//! Owns which files of a state changed since they were last sealed: a kept index of how each looked, as git keeps one.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

use super::changeset::{Changes, OUTBOX, WHITEOUT, new_file, stays_inside};
use super::inside::{Inside, kind};
use crate::oci::{Digest, Hasher};

/// A file that was touched less long before it was looked at may change again and look the same: file systems count time in
/// the kernel's ticks, of which the longest is 10 ms.
const RACY_NANOS: i128 = 20_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    File,
    Folder,
    Link,
}

/// How something looked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    kind: Kind,
    size: u64,
    /// Modification and change in nanoseconds, and the inode. `None`: whatever it looks like, its content is compared.
    look: Option<(i128, i128, u64)>,
    /// Of a file's content or a link's target, as it was sealed.
    content: Option<[u8; 32]>,
}

/// How everything looked when it was last sealed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    entries: BTreeMap<PathBuf, Entry>,
    /// The layer that was sealed with it.
    #[serde(default)]
    pub(super) layer: Option<String>,
    /// And its place in the chain.
    #[serde(default)]
    pub(super) seq: u64,
}

/// What is to be sealed.
#[derive(Debug)]
pub(super) struct Diff {
    changed: Vec<PathBuf>,
    gone: Vec<PathBuf>,
    now: Index,
    /// The bytes of the files that changed.
    pub(super) bytes: u64,
}

fn nanos(seconds: i64, nanos: i64) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn entry(found: &Stat) -> Option<Entry> {
    let kind = match kind(found) {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Folder,
        FileType::Symlink => Kind::Link,
        _ => return None,
    };
    let time = |seconds: i64, part: u64| nanos(seconds, i64::try_from(part).unwrap_or(0));
    let modified = time(found.st_mtime, found.st_mtime_nsec);
    let changed = time(found.st_ctime, found.st_ctime_nsec);
    // A folder's own times change with what is in it, which is told by itself.
    let look = if kind == Kind::Folder { (0, 0, 0) } else { (modified, changed, found.st_ino) };
    let size = if kind == Kind::File { found.st_size.unsigned_abs() } else { 0 };
    Some(Entry { kind, size, look: Some(look), content: None })
}

/// The most that the way of something may have, in bytes: no system call takes a longer one.
const MOST_PATH_BYTES: usize = 4000;

/// What a listing finds, in the order of paths. The outbox is nobody's business here, nor is what no changeset can name.
fn list(inside: &Inside, found: &mut BTreeMap<PathBuf, Entry>) -> io::Result<()> {
    inside.walk(&mut |path, stat| {
        if path == Path::new(OUTBOX) {
            return Ok(false);
        }
        let name = path.file_name().and_then(|name| name.to_str());
        let nameable = name.is_some_and(|name| !name.starts_with(WHITEOUT)) && path.as_os_str().len() < MOST_PATH_BYTES;
        let Some(entry) = entry(stat).filter(|_| nameable) else {
            tracing::warn!(path = %path.display(), "no changeset can hold this, so it is not synced");
            return Ok(false);
        };
        found.insert(path.to_owned(), entry);
        Ok(true)
    })
}

fn hash(mut from: impl Read) -> io::Result<[u8; 32]> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => context.update(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(context.finish().as_ref());
    Ok(sum)
}

fn content(inside: &Inside, path: &Path, kind: Kind) -> io::Result<[u8; 32]> {
    match kind {
        Kind::File => hash(inside.file(path)?),
        Kind::Link => hash(inside.link(path)?.as_os_str().as_encoded_bytes()),
        Kind::Folder => Ok([0; 32]),
    }
}

impl Index {
    /// What was kept; an index that can't be read is as none: then everything is sealed again, and nothing is missed.
    pub(super) fn load(path: &Path) -> Self {
        fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    pub(super) fn save(&self, path: &Path) -> io::Result<()> {
        let bytes = serde_json::to_vec(self)?;
        let mut file = new_file(path)?;
        file.write_all(&bytes)?;
        file.sync_data()
    }

    /// What of the folder `root` isn't as it was, at `now` (nanoseconds since the epoch, by the file system's clock).
    pub(super) fn compare(&self, root: &Path, now: i128) -> io::Result<Diff> {
        let mut entries = BTreeMap::new();
        let inside = Inside::open(root)?;
        list(&inside, &mut entries)?;
        let (mut changed, mut bytes) = (Vec::new(), 0);
        for (path, entry) in &mut entries {
            let before = self.entries.get(path);
            if let Some(before) = before
                && before.kind == entry.kind
                && before.size == entry.size
            {
                if before.look == entry.look {
                    entry.content = before.content;
                    continue;
                }
                // Touched, or not surely looked at before.
                if entry.kind == Kind::Folder || before.content == content(&inside, path, entry.kind).ok() {
                    entry.content = before.content;
                    if is_racy(entry, now) {
                        entry.look = None;
                    }
                    continue;
                }
            }
            changed.push(path.clone());
            bytes += entry.size;
        }
        // Of a folder that is gone, its own whiteout says all.
        let mut gone: Vec<PathBuf> = Vec::new();
        for path in self.entries.keys().filter(|path| !entries.contains_key(*path)) {
            if gone.last().is_none_or(|above| !path.starts_with(above)) {
                gone.push(path.clone());
            }
        }
        Ok(Diff { changed, gone, now: Self { entries, layer: None, seq: 0 }, bytes })
    }
}

fn is_racy(entry: &Entry, now: i128) -> bool {
    entry.look.is_some_and(|(modified, changed, _)| modified.max(changed) + RACY_NANOS >= now)
}

impl Diff {
    /// Nothing is to be sealed.
    pub(super) fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.gone.is_empty()
    }

    /// The index of all this, as if it had been sealed.
    pub(super) fn note(mut self, root: &Path, now: i128) -> io::Result<Index> {
        let inside = Inside::open(root)?;
        for path in &self.changed {
            let Some(entry) = self.now.entries.get_mut(path) else { continue };
            entry.content = Some(content(&inside, path, entry.kind)?);
            if is_racy(entry, now) {
                entry.look = None;
            }
        }
        Ok(self.now)
    }

    /// Writes the layer to `to`; the index that goes with it, and how large it is.
    pub(super) fn write(mut self, root: &Path, to: &Path, now: i128) -> io::Result<(Index, Digest, u64)> {
        let out =
            Hashing { file: io::BufWriter::with_capacity(1 << 18, new_file(to)?), hasher: Hasher::sha256(), size: 0 };
        let inside = Inside::open(root)?;
        let mut changes = Changes::new(out);
        for path in &self.gone {
            changes.gone(path)?;
        }
        for path in &self.changed {
            let Some(entry) = self.now.entries.get_mut(path) else { continue };
            let seconds = |look: Option<(i128, i128, u64)>| {
                look.map_or(0, |(modified, _, _)| u64::try_from(modified / 1_000_000_000).unwrap_or(0))
            };
            let mtime = seconds(entry.look);
            let written = match entry.kind {
                Kind::Folder => changes.folder(path, 0).map(|()| Some([0; 32])),
                Kind::Link => inside.link(path).and_then(|target| {
                    if !stays_inside(path, &target) {
                        tracing::warn!(path = %path.display(), "a link that leads out of the state is not synced");
                        return Ok(None);
                    }
                    changes.link(path, &target, mtime)?;
                    hash(target.as_os_str().as_encoded_bytes()).map(Some)
                }),
                Kind::File => inside.file(path).and_then(|file| {
                    let mut tee = Tee {
                        from: file.take(entry.size),
                        context: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256),
                    };
                    changes.file(path, entry.size, mtime, &mut tee)?;
                    let mut sum = [0; 32];
                    sum.copy_from_slice(tee.context.finish().as_ref());
                    Ok(Some(sum))
                }),
            };
            match written {
                Ok(sum) => entry.content = sum,
                // A guest that is at work removed it, or put something else there: the next time says so.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
                    entry.content = None;
                }
                // A container's user closed it, or it is another user's: no reason to keep back all the rest.
                Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                    tracing::warn!(path = %path.display(), "a file that this user may not read is not synced");
                    entry.content = None;
                }
                Err(e) => return Err(e),
            }
            if is_racy(entry, now) {
                entry.look = None;
            }
        }
        let out = changes.end()?;
        let (layer, size) = (out.hasher.finish(), out.size);
        out.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_data()?;
        self.now.layer = Some(layer.to_string());
        Ok((self.now, layer, size))
    }
}

struct Tee<R> {
    from: R,
    context: aws_lc_rs::digest::Context,
}

impl<R: Read> Read for Tee<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buffer)?;
        self.context.update(buffer.get(..n).unwrap_or_default());
        Ok(n)
    }
}

/// A file whose bytes are hashed as they are written.
struct Hashing {
    file: io::BufWriter<File>,
    hasher: Hasher,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// The present, by the clock that gives files their times.
pub(super) fn now(scratch: &Path) -> io::Result<i128> {
    let file = new_file(scratch)?;
    let found = file.metadata()?;
    fs::remove_file(scratch)?;
    Ok(nanos(found.mtime(), found.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::super::changeset::Target;
    use super::super::segment::SegmentKind;
    use super::*;

    struct Fixture {
        folder: tempfile::TempDir,
        index: Index,
        copy: Target,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir(folder.path().join("data")).unwrap();
            let copy = Target::create(&folder.path().join("copy")).unwrap();
            Self { folder, index: Index::default(), copy }
        }

        fn data(&self, path: &str) -> PathBuf {
            self.folder.path().join("data").join(path)
        }

        /// Seals, applies, and says how many paths changed or went.
        fn seal(&mut self) -> usize {
            let (root, tar) = (self.data(""), self.folder.path().join("tar"));
            let now = now(&self.folder.path().join("scratch")).unwrap();
            let diff = self.index.compare(&root, now).unwrap();
            let count = diff.changed.len() + diff.gone.len();
            if !diff.is_empty() {
                let (index, layer, size) = diff.write(&root, &tar, now).unwrap();
                let bytes = fs::read(&tar).unwrap();
                assert_eq!((crate::oci::sha256(&bytes), bytes.len() as u64), (layer, size));
                self.copy.apply(&bytes[..], SegmentKind::Changes, 1).unwrap();
                self.index = index;
            }
            let saved = self.folder.path().join("index");
            self.index.save(&saved).unwrap();
            assert_eq!(Index::load(&saved), self.index);
            count
        }

        fn same(&self) {
            let ran = std::process::Command::new("diff")
                .args(["-r", "--no-dereference", "--exclude=outbox"])
                .args([self.data(""), self.copy.root().to_owned()])
                .output()
                .unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stdout));
        }
    }

    #[test]
    fn each_seal_has_what_changed_and_nothing_else() {
        let mut f = Fixture::new();
        assert_eq!(f.seal(), 0);
        fs::create_dir_all(f.data("a/b")).unwrap();
        fs::create_dir_all(f.data("outbox")).unwrap();
        fs::write(f.data("outbox/x"), b"not here").unwrap();
        fs::write(f.data("a/b/one"), b"1").unwrap();
        fs::write(f.data("two"), b"2").unwrap();
        std::os::unix::fs::symlink("a/b/one", f.data("link")).unwrap();
        assert_eq!(f.seal(), 5);
        let look = |f: &Fixture| f.index.entries[Path::new("two")].look;
        assert_eq!(look(&f), None, "it may change again and look the same");
        f.same();
        assert_eq!(f.seal(), 0, "it was racy, and its content is the same");
        // The same length within the same tick.
        fs::write(f.data("two"), b"3").unwrap();
        assert_eq!(f.seal(), 1);
        fs::write(f.data("two"), b"4").unwrap();
        assert_eq!(f.seal(), 1);
        f.same();
        // A folder goes whole, a file becomes a folder, a link another.
        fs::remove_dir_all(f.data("a")).unwrap();
        fs::remove_file(f.data("two")).unwrap();
        fs::create_dir(f.data("two")).unwrap();
        fs::write(f.data("two/in"), b"x").unwrap();
        fs::remove_file(f.data("link")).unwrap();
        std::os::unix::fs::symlink("two", f.data("link")).unwrap();
        assert_eq!(f.seal(), 4);
        f.same();
        assert_eq!(f.seal(), 0);
    }

    #[test]
    fn an_index_that_can_not_be_read_seals_everything() {
        let mut f = Fixture::new();
        fs::write(f.data("x"), b"x").unwrap();
        f.seal();
        fs::write(f.folder.path().join("index"), b"{half").unwrap();
        f.index = Index::load(&f.folder.path().join("index"));
        assert_eq!(f.seal(), 1);
        f.same();
    }
}
