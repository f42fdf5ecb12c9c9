//! Owns how the upper folder of an overlay becomes a layer: its whiteouts, opaque folders, links and attributes in the
//! form that the image specification has for them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tar::{Builder, EntryType};

use crate::entries::header;

#[derive(Debug, Default)]
struct Seen {
    /// Where a file with several names was first.
    links: BTreeMap<(u64, u64), PathBuf>,
}

/// Adds all below `folder`, names in order.
pub(crate) fn add<W: Write>(builder: &mut Builder<W>, folder: &Path) -> Result<()> {
    walk(builder, folder, Path::new(""), &mut Seen::default())
}

fn walk<W: Write>(builder: &mut Builder<W>, root: &Path, below: &Path, seen: &mut Seen) -> Result<()> {
    let mut names: Vec<OsString> =
        std::fs::read_dir(root.join(below))?.map(|entry| Ok(entry?.file_name())).collect::<Result<_>>()?;
    names.sort();
    for name in names {
        let path = below.join(name);
        one(builder, root, &path, seen).with_context(|| path.display().to_string())?;
        if root.join(&path).symlink_metadata()?.is_dir() {
            walk(builder, root, &path, seen)?;
        }
    }
    Ok(())
}

/// Names and values, as PAX has them.
type Marks = Vec<(String, Vec<u8>)>;

/// The attributes that belong to the file, and whether the overlay has marked it opaque.
fn attributes(path: &Path) -> Result<(Marks, bool)> {
    let mut list = vec![0; 4096];
    let size = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let (mut all, mut opaque) = (Vec::new(), false);
    for name in list[..size].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let name = std::str::from_utf8(name)?;
        let mut value = vec![0; 4096];
        let size = rustix::fs::lgetxattr(path, name, &mut value[..])?;
        value.truncate(size);
        if name.starts_with("trusted.overlay.") {
            opaque |= name == "trusted.overlay.opaque";
        } else {
            all.push((format!("SCHILY.xattr.{name}"), value));
        }
    }
    Ok((all, opaque))
}

fn one<W: Write>(builder: &mut Builder<W>, root: &Path, path: &Path, seen: &mut Seen) -> Result<()> {
    let full = root.join(path);
    let meta = full.symlink_metadata()?;
    let kind = meta.file_type();
    if kind.is_char_device() && meta.rdev() == 0 {
        let name = [b".wh.", path.file_name().unwrap_or_default().as_bytes()].concat();
        let name = path.with_file_name(OsString::from_vec(name));
        return Ok(builder.append_data(&mut header(EntryType::Regular, 0o644, 0), name, io::empty())?);
    }
    let (marks, opaque) = attributes(&full)?;
    if !marks.is_empty() {
        builder.append_pax_extensions(marks.iter().map(|(name, value)| (name.as_str(), &value[..])))?;
    }
    let mut head = header(EntryType::Regular, meta.mode() & 0o7777, 0);
    head.set_uid(u64::from(meta.uid()));
    head.set_gid(u64::from(meta.gid()));
    head.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    if kind.is_dir() {
        head.set_entry_type(EntryType::Directory);
        builder.append_data(&mut head, path.join(""), io::empty())?;
        if opaque {
            let mark = path.join(".wh..wh..opq");
            builder.append_data(&mut header(EntryType::Regular, 0o644, 0), mark, io::empty())?;
        }
        return Ok(());
    }
    if meta.nlink() > 1 {
        if let Some(first) = seen.links.get(&(meta.dev(), meta.ino())) {
            head.set_entry_type(EntryType::Link);
            return Ok(builder.append_link(&mut head, path, first)?);
        }
        seen.links.insert((meta.dev(), meta.ino()), path.to_owned());
    }
    if kind.is_symlink() {
        head.set_entry_type(EntryType::Symlink);
        builder.append_link(&mut head, path, std::fs::read_link(&full)?)?;
    } else if kind.is_file() {
        head.set_size(meta.len());
        builder.append_data(&mut head, path, std::fs::File::open(&full)?)?;
    } else if kind.is_fifo() {
        head.set_entry_type(EntryType::Fifo);
        builder.append_data(&mut head, path, io::empty())?;
    }
    // Sockets are nothing that a layer can hold, and devices are made by the runtime.
    Ok(())
}
