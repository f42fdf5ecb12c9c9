//! Owns the names in an archive: what each means below the root, and which of them are whiteouts.

/// The longest path in bytes, as Linux's `PATH_MAX` with its end.
const LONGEST: usize = 4095;
/// The longest part of a path in bytes.
const LONGEST_PART: usize = 255;
/// How deep folders may lie. Each level holds a file descriptor when a tree is copied or removed.
const DEEPEST: usize = 256;

/// What an entry's name says about the layers below.
///
/// <https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md#whiteouts>
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// A file to be made.
    File,
    /// This name of the layers below is gone.
    Whiteout(&'a [u8]),
    /// All that the layers below have in the entry's folder is gone.
    Opaque,
    /// Written by aufs for itself.
    Aufs,
}

/// The path below the root that a name in an archive means: `.` and empty parts dropped, leading slashes too, `..` taken away
/// with the part before it. An empty path is the root.
///
/// # Errors
/// Why the name is refused.
pub(super) fn clean(name: &[u8]) -> Result<Vec<u8>, &'static str> {
    if name.contains(&0) {
        return Err("its name has a zero byte in it");
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if path.is_empty() {
                    return Err("its name leads out of the root");
                }
                path.truncate(split(&path).0.len());
            }
            part => {
                if part.len() > LONGEST_PART {
                    return Err("a part of its name is longer than 255 bytes");
                }
                push(&mut path, part);
            }
        }
    }
    bounded(&path)?;
    Ok(path)
}

/// Refuses a path that is too long or too deep: links may lead to one that no entry names.
///
/// # Errors
/// Why it is refused.
pub(super) fn bounded(path: &[u8]) -> Result<(), &'static str> {
    if path.len() > LONGEST {
        return Err("its path is longer than 4095 bytes");
    }
    if path.iter().filter(|b| **b == b'/').count() >= DEEPEST {
        return Err("it lies more than 256 folders deep");
    }
    Ok(())
}

/// Folder and last part.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Adds a part.
pub(super) fn push(path: &mut Vec<u8>, part: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(part);
}

/// A path with one more part.
pub(super) fn join(path: &[u8], part: &[u8]) -> Vec<u8> {
    let mut joined = Vec::with_capacity(path.len() + 1 + part.len());
    joined.extend_from_slice(path);
    push(&mut joined, part);
    joined
}

/// What a clean path means.
///
/// # Errors
/// Why it is refused.
pub(super) fn meaning(path: &[u8]) -> Result<Meaning<'_>, &'static str> {
    let (folder, last) = split(path);
    for part in folder.split(|b| *b == b'/') {
        if part.starts_with(b".wh..wh.") {
            return Ok(Meaning::Aufs);
        }
        if part.starts_with(b".wh.") {
            return Err("a whiteout can't be a folder");
        }
    }
    let Some(gone) = last.strip_prefix(b".wh.") else {
        return Ok(Meaning::File);
    };
    match gone {
        b".wh..opq" => Ok(Meaning::Opaque),
        b"" | b"." | b".." => Err("a whiteout must name a file in its own folder"),
        gone if gone.starts_with(b".wh.") => Ok(Meaning::Aufs),
        gone => Ok(Meaning::Whiteout(gone)),
    }
}
