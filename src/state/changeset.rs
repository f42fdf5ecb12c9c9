//! Owns the tar of a segment: made from one file of an outbox or from what changed, and applied to a folder that nothing in
//! it can lead out of.
//!
//! The form is a layer changeset's (OCI image spec 1.1, layer.md): files and folders that are new or changed as they are
//! now, and for each that is gone an empty file `.wh.<name>`. Those come first.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::segment::SegmentKind;

/// The folder in which guests leave what is to be sealed at once.
pub const OUTBOX: &str = "outbox";
/// What a whiteout's name begins with.
pub(super) const WHITEOUT: &str = ".wh.";
const BLOCK: u64 = 512;
/// Two blocks of zeros end a tar.
const END: u64 = 2 * BLOCK;

fn header(kind: tar::EntryType, size: u64, mtime: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mtime(mtime);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn padding(size: u64) -> u64 {
    (BLOCK - size % BLOCK) % BLOCK
}

/// The layer of one outbox file, made while it is read: what is on disk is the file alone. A function of name and content.
#[derive(Debug, Clone)]
pub(super) struct OutboxTar {
    head: Vec<u8>,
    size: u64,
}

impl OutboxTar {
    /// Of a file called `name` with `size` bytes.
    ///
    /// # Errors
    /// A name that no tar can have.
    pub(super) fn new(name: &OsStr, size: u64) -> io::Result<Self> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = header(tar::EntryType::Regular, size, 0, 0o644);
        builder.append_data(&mut header, Path::new(OUTBOX).join(name), io::empty())?;
        // What ends the archive comes after the content.
        let head = builder.get_ref().clone();
        drop(builder.into_inner());
        Ok(Self { head, size })
    }

    /// The layer's size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.head.len() as u64 + self.size + padding(self.size) + END
    }

    /// The layer's bytes, with `file` for the content.
    pub(super) fn reader<R: Read>(&self, file: R) -> impl Read + use<R> {
        let zeros = padding(self.size) + END;
        io::Cursor::new(self.head.clone()).chain(file.take(self.size)).chain(io::repeat(0).take(zeros))
    }
}

/// Writes the layer of what changed.
pub(super) struct Changes<W: Write>(tar::Builder<W>);

impl<W: Write> Changes<W> {
    pub(super) fn new(out: W) -> Self {
        Self(tar::Builder::new(out))
    }

    /// That `path` is gone. Before all that is new.
    pub(super) fn gone(&mut self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default();
        let mut marker = std::ffi::OsString::from(WHITEOUT);
        marker.push(name);
        self.0.append_data(&mut header(tar::EntryType::Regular, 0, 0, 0o644), path.with_file_name(marker), io::empty())
    }

    pub(super) fn folder(&mut self, path: &Path, mtime: u64) -> io::Result<()> {
        self.0.append_data(&mut header(tar::EntryType::Directory, 0, mtime, 0o755), path, io::empty())
    }

    pub(super) fn link(&mut self, path: &Path, target: &Path, mtime: u64) -> io::Result<()> {
        self.0.append_link(&mut header(tar::EntryType::Symlink, 0, mtime, 0o777), path, target)
    }

    /// A file of `size` bytes. One that is shorter by now is filled up: it is sealed again, since it changed meanwhile.
    pub(super) fn file(&mut self, path: &Path, size: u64, mtime: u64, content: impl Read) -> io::Result<()> {
        let content = content.chain(io::repeat(0)).take(size);
        self.0.append_data(&mut header(tar::EntryType::Regular, size, mtime, 0o644), path, content)
    }

    pub(super) fn end(self) -> io::Result<W> {
        self.0.into_inner()
    }
}

fn refused(path: &Path, why: &str) -> io::Error {
    let shown: String = path.to_string_lossy().chars().take(200).flat_map(char::escape_default).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("the segment's entry `{shown}` {why}"))
}

/// A path of an archive, if it names something inside.
fn inside(path: &Path) -> io::Result<PathBuf> {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(refused(path, "leads out of the state"));
            }
        }
    }
    if clean.as_os_str().is_empty() || clean.as_os_str().as_bytes().contains(&0) {
        return Err(refused(path, "names nothing"));
    }
    Ok(clean)
}

/// Whether a symbolic link at `path` with this target stays inside.
pub(super) fn stays_inside(path: &Path, target: &Path) -> bool {
    let mut depth = path.components().count().saturating_sub(1);
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return false,
            },
            Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    !target.as_os_str().is_empty()
}

/// A folder that changesets are applied to.
#[derive(Debug)]
pub struct Target {
    root: PathBuf,
    handle: File,
}

/// What applying a segment did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Applied {
    /// Files written.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Target {
    /// A folder, made if it isn't there.
    ///
    /// # Errors
    /// The file system's own.
    pub fn create(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        Ok(Self { root: root.to_owned(), handle: File::open(root)? })
    }

    /// The parent folder of `path`, opened so that no link is followed on the way, and made where it is missing.
    fn parent(&self, path: &Path) -> io::Result<File> {
        let mut here = self.handle.try_clone()?;
        for part in path.parent().into_iter().flat_map(Path::components) {
            let Component::Normal(name) = part else { continue };
            let open = |folder: &File| {
                // One name, so there is nothing to follow but itself.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                rustix::fs::openat(folder, name, flags, Mode::empty())
            };
            here = match open(&here) {
                Ok(found) => File::from(found),
                Err(rustix::io::Errno::NOENT) => {
                    rustix::fs::mkdirat(&here, name, Mode::from_raw_mode(0o755))?;
                    File::from(open(&here)?)
                }
                // A link or a file where a folder has to be: the state had something else there before.
                Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                    return Err(refused(path, "goes through what is no folder"));
                }
                Err(e) => return Err(e.into()),
            };
        }
        Ok(here)
    }

    /// Removes what stands at `name`, whatever it is, without following a link.
    fn clear(folder: &File, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(folder, name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {
                // The folder's own path: it was opened without following links, and nobody else writes here.
                let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(folder)));
                fs::remove_dir_all(path.join(name))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Applies a segment's layer. A record of an outbox gets its place in the chain before its name; two of one name stay
    /// two.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for an entry that leads out, or that isn't a file, folder or link; the file system's.
    pub fn apply(&self, layer: impl Read, kind: SegmentKind, seq: u64) -> io::Result<Applied> {
        let mut applied = Applied::default();
        let mut archive = tar::Archive::new(layer);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let mut path = inside(&entry.path()?)?;
            if kind == SegmentKind::Outbox {
                path = self.record(&path, seq, entry.header().entry_type())?;
            }
            let name = path.file_name().unwrap_or_default().to_owned();
            let folder = self.parent(&path)?;
            if kind == SegmentKind::Changes
                && let Some(gone) = name.as_bytes().strip_prefix(WHITEOUT.as_bytes())
            {
                if matches!(gone, b"" | b"." | b"..") {
                    return Err(refused(&path, "removes nothing"));
                }
                Self::clear(&folder, OsStr::from_bytes(gone))?;
                continue;
            }
            match entry.header().entry_type() {
                tar::EntryType::Regular | tar::EntryType::Continuous => {
                    Self::clear(&folder, &name)?;
                    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let made = rustix::fs::openat(&folder, &*name, flags, Mode::from_raw_mode(0o644))?;
                    applied.bytes += io::copy(&mut entry, &mut File::from(made))?;
                    applied.files += 1;
                }
                tar::EntryType::Directory => match rustix::fs::mkdirat(&folder, &*name, Mode::from_raw_mode(0o755)) {
                    Ok(()) => {}
                    Err(rustix::io::Errno::EXIST) => {
                        let found = rustix::fs::statat(&folder, &*name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
                        if !rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() {
                            Self::clear(&folder, &name)?;
                            rustix::fs::mkdirat(&folder, &*name, Mode::from_raw_mode(0o755))?;
                        }
                    }
                    Err(e) => return Err(e.into()),
                },
                tar::EntryType::Symlink => {
                    let target = entry.link_name()?.unwrap_or_default().into_owned();
                    if !stays_inside(&path, &target) {
                        return Err(refused(&path, "is a link that leads out of the state"));
                    }
                    Self::clear(&folder, &name)?;
                    rustix::fs::symlinkat(&target, &folder, &*name)?;
                }
                other => return Err(refused(&path, &format!("is neither file, folder nor link but {other:?}"))),
            }
        }
        Ok(applied)
    }

    /// Where a record goes.
    fn record(&self, path: &Path, seq: u64, kind: tar::EntryType) -> io::Result<PathBuf> {
        let mut parts = path.components();
        let in_outbox = parts.next().is_some_and(|first| first.as_os_str() == OUTBOX);
        match (in_outbox, parts.next(), parts.next()) {
            (true, Some(Component::Normal(name)), None) if kind == tar::EntryType::Regular => {
                let mut numbered = std::ffi::OsString::from(format!("{seq:012}-"));
                numbered.push(name);
                Ok(Path::new(OUTBOX).join(numbered))
            }
            _ => Err(refused(path, "is no record of an outbox")),
        }
    }

    /// The folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// A file that only this user can read, new and empty.
pub(super) fn new_file(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    }
    OpenOptions::new().write(true).read(true).create(true).truncate(true).mode(0o644).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar_of(entries: &[(&str, tar::EntryType, &[u8], &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, kind, content, target) in entries {
            let mut header = header(*kind, content.len() as u64, 0, 0o644);
            // By hand: the crate's own builder refuses what an attacker writes.
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
            out.extend_from_slice(header.as_bytes());
            out.extend_from_slice(content);
            out.resize(out.len() + usize::try_from(padding(content.len() as u64)).unwrap(), 0);
        }
        out.extend([0; 1024]);
        out
    }

    #[test]
    fn a_record_is_a_function_of_name_and_content_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        for (name, content) in [("a", vec![1; 513]), ("empty", vec![]), (&"n".repeat(240), vec![7; 512])] {
            let tar = OutboxTar::new(OsStr::new(name), content.len() as u64).unwrap();
            let mut bytes = Vec::new();
            tar.reader(&content[..]).read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() as u64, tar.bytes());
            let target = Target::create(folder.path()).unwrap();
            let applied = target.apply(&bytes[..], SegmentKind::Outbox, 3).unwrap();
            assert_eq!(applied, Applied { files: 1, bytes: content.len() as u64 });
            let path = folder.path().join(format!("outbox/000000000003-{name}"));
            assert_eq!(fs::read(path).unwrap(), content);
        }
    }

    #[test]
    fn changes_are_applied_in_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::create(folder.path()).unwrap();
        fs::create_dir_all(folder.path().join("old/deep")).unwrap();
        fs::write(folder.path().join("old/deep/x"), b"x").unwrap();
        fs::write(folder.path().join("swap"), b"file").unwrap();
        let mut changes = Changes::new(Vec::new());
        changes.gone(Path::new("old")).unwrap();
        changes.gone(Path::new("never")).unwrap();
        changes.folder(Path::new("swap"), 0).unwrap();
        changes.file(Path::new("swap/in"), 4, 0, &b"abcd"[..]).unwrap();
        changes.file(Path::new("short"), 4, 0, &b"ab"[..]).unwrap();
        changes.link(Path::new("swap/link"), Path::new("../short"), 0).unwrap();
        let bytes = changes.end().unwrap();
        for _ in 0..2 {
            target.apply(&bytes[..], SegmentKind::Changes, 1).unwrap();
        }
        assert!(!folder.path().join("old").exists());
        assert_eq!(fs::read(folder.path().join("swap/in")).unwrap(), b"abcd");
        assert_eq!(fs::read(folder.path().join("swap/link")).unwrap(), b"ab\0\0");
    }

    #[test]
    fn nothing_leads_out() {
        use tar::EntryType as T;
        let outer = tempfile::tempdir().unwrap();
        let root = outer.path().join("state");
        fs::write(outer.path().join("victim"), b"safe").unwrap();
        let target = Target::create(&root).unwrap();
        // What an earlier version of this state could have left.
        std::os::unix::fs::symlink("..", root.join("up")).unwrap();
        for bad in [
            ("../victim", T::Regular, &b"x"[..], ""),
            ("a/../../victim", T::Regular, b"x", ""),
            ("/victim", T::Regular, b"x", ""),
            ("up/victim", T::Regular, b"x", ""),
            ("up/.wh.victim", T::Regular, b"", ""),
            (".wh...", T::Regular, b"", ""),
            (".wh.", T::Regular, b"", ""),
            ("link", T::Symlink, b"", "../victim"),
            ("link", T::Symlink, b"", "/etc/passwd"),
            ("hard", T::Link, b"", "../victim"),
            ("device", T::Char, b"", ""),
            ("pipe", T::Fifo, b"", ""),
            ("", T::Regular, b"x", ""),
            (".", T::Regular, b"x", ""),
        ] {
            let failed = target.apply(&tar_of(&[bad])[..], SegmentKind::Changes, 1);
            assert!(failed.is_err(), "{bad:?} was applied");
        }
        for bad in ["outbox/a/b", "other", "outbox", "outbox/../x"] {
            let failed = target.apply(&tar_of(&[(bad, T::Regular, b"x", "")])[..], SegmentKind::Outbox, 1);
            assert!(failed.is_err(), "{bad} was applied");
        }
        // Over a link, not through it.
        target.apply(&tar_of(&[("up", T::Regular, b"x", "")])[..], SegmentKind::Changes, 1).unwrap();
        assert!(root.join("up").symlink_metadata().unwrap().is_file());
        assert_eq!(fs::read(outer.path().join("victim")).unwrap(), b"safe");
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 2);
    }
}
