//! Owns the digest of a state's content: what a receipt says of it before and after.
//!
//! It is the SHA-256 of the lines that `sha256sum` prints for all files, sorted by path as bytes: anybody can make it of a
//! copy (`find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`). Folders without a file in
//! them don't count.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::FileType;

use super::StateError;
use super::inside::{Inside, kind};
use crate::oci::Hasher;

/// The digest of the files below `folder`: `sha256:<hex>`. Reads them all. Blocks.
///
/// # Errors
/// Something can't be read.
pub fn content_digest(folder: &Path) -> Result<String, StateError> {
    let mut files = Vec::new();
    let failed = |e| StateError::io("list", folder)(e);
    let inside = Inside::open(folder).map_err(failed)?;
    let walked = inside.walk(&mut |path, found| {
        if kind(found) == FileType::RegularFile {
            files.push(path.to_owned());
        }
        Ok(true)
    });
    walked.map_err(failed)?;
    files.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    let mut lines = Hasher::sha256();
    for path in files {
        let whole = folder.join(&path);
        let sum = inside.file(&path).and_then(sum).map_err(StateError::io("read", &whole))?;
        lines.update(sum.as_bytes());
        lines.update(b"  ");
        lines.update(path.as_os_str().as_bytes());
        lines.update(b"\n");
    }
    Ok(lines.finish().to_string())
}

fn sum(mut file: File) -> io::Result<String> {
    let mut hasher = Hasher::sha256();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish().digest().to_owned()),
            count => hasher.update(buffer.get(..count).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_sha256sum_says() {
        let folder = tempfile::tempdir().unwrap();
        let empty = content_digest(folder.path()).unwrap();
        assert_eq!(empty, crate::oci::sha256(b"").to_string());
        std::fs::create_dir(folder.path().join("b")).unwrap();
        for (name, text) in [("b/x", "one"), ("a", "two"), ("b.c", "")] {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let script = "find . -type f -printf '%P\\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum";
        let said = std::process::Command::new("sh").args(["-c", script]).current_dir(folder.path()).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let said = said.split(' ').next().unwrap();
        assert_eq!(content_digest(folder.path()).unwrap(), format!("sha256:{said}"));
    }
}
