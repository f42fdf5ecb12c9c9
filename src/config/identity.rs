//! Owns the node's secret: 32 random bytes, made once, that authenticate what this node wrote to its own caches.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::hmac;

use super::Home;
use crate::error::{Error, ErrorKind, Result};

/// The node's secret. Keys for each use are derived from it, so that a seal of one kind is never valid as another.
#[derive(Clone)]
pub struct Secret(hmac::Key);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    /// Reads the secret, or `None` where none was made yet.
    ///
    /// # Errors
    /// [`ErrorKind::Storage`] when it is there but can't be read or has another length.
    pub fn read(home: &Home) -> Result<Option<Self>> {
        let path = home.node_secret();
        let mut bytes = Vec::with_capacity(64);
        match std::fs::File::open(&path).and_then(|f| f.take(64).read_to_end(&mut bytes)) {
            Ok(32) => Ok(Some(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))),
            Ok(n) => Err(Error::new(ErrorKind::Storage, format!("{} has {n} bytes, not 32", path.display()))
                .hint("remove it: a new one is made, and cached code is compiled again")),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::new(ErrorKind::Storage, format!("{} can't be read: {e}", path.display()))),
        }
    }

    /// Reads the secret, making it at first use. Two processes that make it at once end with the same one.
    ///
    /// # Errors
    /// As [`Secret::read`], and when it can't be written.
    pub fn read_or_create(home: &Home) -> Result<Self> {
        if let Some(secret) = Self::read(home)? {
            return Ok(secret);
        }
        let mut bytes = [0_u8; 32];
        // Of the kernel at once: a first start would wait for a generator to seed itself otherwise.
        getrandom::fill(&mut bytes)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("the system gave no random bytes: {e}")))?;
        write_new_private(&home.node_secret(), &bytes)?;
        Self::read(home)?
            .ok_or_else(|| Error::new(ErrorKind::Storage, "the node's secret vanished after it was written"))
    }

    /// A key for one use, named by `purpose`.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.0, purpose.as_bytes());
        let mut key = [0_u8; 32];
        key.copy_from_slice(tag.as_ref());
        key
    }
}

/// Writes a file that only this user may read, unless one is there already: the first writer wins, whole.
///
/// # Errors
/// [`ErrorKind::Storage`] naming the path.
pub(crate) fn write_new_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: std::io::Error| {
        Error::unwritable(path, &e).hint("check the data folder's owner and free space, or set VYR_HOME to another")
    };
    let folder = path.parent().unwrap_or_else(|| Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mut temporary = tempfile::Builder::new();
    let temporary = temporary
        .prefix(".new-")
        .make_in(folder, |p| OpenOptions::new().write(true).create_new(true).mode(0o600).open(p));
    let mut temporary = temporary.map_err(failed)?;
    temporary.write_all(bytes).map_err(failed)?;
    temporary.as_file().sync_all().map_err(failed)?;
    match temporary.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(e) if e.error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed(e.error)),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_secret_is_made_once_and_private() -> Result<()> {
        let folder = tempfile::tempdir().expect("tempdir");
        let home = Home::new(folder.path().to_owned());
        assert!(Secret::read(&home)?.is_none());
        let first = Secret::read_or_create(&home)?;
        let again = Secret::read_or_create(&home)?;
        assert_eq!(first.derive("a"), again.derive("a"));
        assert_ne!(first.derive("a"), first.derive("b"));
        let mode = std::fs::metadata(home.node_secret()).expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::fs::write(home.node_secret(), b"short").expect("write");
        assert!(Secret::read(&home).is_err());
        Ok(())
    }
}
