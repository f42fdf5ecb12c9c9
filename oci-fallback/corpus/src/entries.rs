//! Owns how a layer's described files become tar entries.

use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use tar::{EntryType, Header};

use crate::case::{Entry, Kind};

/// `\xNN` in a path is that byte: TOML's strings are UTF-8 alone.
pub(crate) fn bytes_of(path: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = path;
    while let Some((before, after)) = rest.split_once("\\x") {
        bytes.extend_from_slice(before.as_bytes());
        let digits = after.get(..2).context("two digits after \\x")?;
        bytes.push(u8::from_str_radix(digits, 16)?);
        rest = &after[2..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// An entry of a program, or of a symbolic link.
pub(crate) fn plain((path, from, target): (&str, &str, &str)) -> Entry {
    let kind = if target.is_empty() { Kind::File } else { Kind::Symlink };
    Entry { path: path.into(), kind, from: from.into(), target: target.into(), ..Entry::default() }
}

/// A header with everything that isn't the file's own.
pub(crate) fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn os(bytes: &[u8]) -> &Path {
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Adds an entry, or its `count` of them. `program` finds the file of a name.
pub(crate) fn add<W: Write>(
    builder: &mut tar::Builder<W>,
    entry: &Entry,
    program: &dyn Fn(&str) -> Result<PathBuf>,
) -> Result<()> {
    let path = bytes_of(entry.path.trim_start_matches('/'))?;
    if entry.count == 0 {
        return one(builder, entry, &path, program).with_context(|| entry.path.clone());
    }
    ensure!(entry.path.contains("{}"), "{}: `count` wants a `{{}}`", entry.path);
    for number in 0..entry.count {
        let numbered = entry.path.trim_start_matches('/').replace("{}", &number.to_string());
        one(builder, entry, &bytes_of(&numbered)?, program)?;
    }
    Ok(())
}

fn one<W: Write>(
    builder: &mut tar::Builder<W>,
    entry: &Entry,
    path: &[u8],
    program: &dyn Fn(&str) -> Result<PathBuf>,
) -> Result<()> {
    let marks: Vec<(String, &[u8])> =
        entry.xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), value.as_bytes())).collect();
    if !marks.is_empty() {
        builder.append_pax_extensions(marks.iter().map(|(name, value)| (name.as_str(), *value)))?;
    }
    let (folder, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..=at], &path[at + 1..]),
        None => (&path[..0], path),
    };
    let (kind, mode) = match entry.kind {
        Kind::File | Kind::Whiteout | Kind::Opaque => (EntryType::Regular, 0o644),
        Kind::Dir => (EntryType::Directory, 0o755),
        Kind::Symlink => (EntryType::Symlink, 0o777),
        Kind::Hardlink => (EntryType::Link, 0o644),
        Kind::Fifo => (EntryType::Fifo, 0o644),
        Kind::CharDevice => (EntryType::Char, 0o666),
    };
    let mut head = header(kind, entry.mode.unwrap_or(mode), 0);
    head.set_uid(entry.uid);
    head.set_gid(entry.gid);
    head.set_mtime(entry.mtime);
    match entry.kind {
        Kind::File => {
            let (size, content): (u64, Box<dyn Read>) = if !entry.from.is_empty() {
                let file = std::fs::File::open(program(&entry.from)?)?;
                head.set_mode(entry.mode.unwrap_or(0o755));
                (file.metadata()?.len(), Box::new(file))
            } else if entry.zeros > 0 {
                (entry.zeros, Box::new(io::repeat(0).take(entry.zeros)))
            } else {
                (entry.text.len() as u64, Box::new(entry.text.as_bytes()))
            };
            head.set_size(size);
            builder.append_data(&mut head, os(path), content)?;
        }
        Kind::Dir | Kind::Fifo => builder.append_data(&mut head, os(path), io::empty())?,
        Kind::CharDevice => {
            // `/dev/null`, whatever its name.
            head.set_device_major(1)?;
            head.set_device_minor(3)?;
            builder.append_data(&mut head, os(path), io::empty())?;
        }
        Kind::Symlink | Kind::Hardlink => {
            if entry.target.is_empty() {
                bail!("a link wants a target");
            }
            let target = bytes_of(&entry.target)?;
            let hard = entry.kind == Kind::Hardlink;
            let target = if hard { target.strip_prefix(b"/").unwrap_or(&target) } else { &target };
            builder.append_link(&mut head, os(path), os(target))?;
        }
        Kind::Whiteout => builder.append_data(&mut head, os(&[folder, b".wh.", name].concat()), io::empty())?,
        Kind::Opaque => builder.append_data(&mut head, os(&[path, b"/.wh..wh..opq"].concat()), io::empty())?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_may_hold_any_byte() {
        assert_eq!(bytes_of("caf\\xe9/\\x0a.txt").unwrap(), b"caf\xe9/\n.txt");
        assert!(bytes_of("\\xg0").is_err() && bytes_of("\\x1").is_err());
    }

    /// Attributes belong to the entry after them, and whiteouts are named by the specification.
    #[test]
    fn entries_are_as_the_specification_has_them() {
        let text = "kind = 'whiteout'\npath = '/a/b'\nxattrs = { 'user.x' = 'y' }";
        let entry: Entry = toml::from_str(text).unwrap();
        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder, &entry, &|_| bail!("none")).unwrap();
        add(&mut builder, &toml::from_str("path = 'n{}'\ncount = 2\nzeros = 3").unwrap(), &|_| bail!("none")).unwrap();
        let bytes = builder.into_inner().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let mut seen = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let marks = entry.pax_extensions().unwrap().map_or(0, Iterator::count);
            seen.push((entry.path().unwrap().display().to_string(), entry.size(), marks));
        }
        assert_eq!(seen, [("a/.wh.b".to_owned(), 0, 1), ("n0".to_owned(), 3, 0), ("n1".to_owned(), 3, 0)]);
    }
}
