//! Owns uploads that come in pieces: files beside the blobs, named by who began them, that a restart finds again.

use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::layout::Layout;
use super::writer::{BlobWriter, Progress};
use super::{Result, StoreError, disk};
use crate::oci::sha256_bytes;

/// How long an upload waits to be gone on with. A collection keeps its file as long.
const LIVES: Duration = Duration::from_secs(24 * 3600);

/// An upload that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenUpload {
    /// Its name.
    pub id: Uuid,
    /// When something was last written to it.
    pub touched: SystemTime,
}

/// An upload belongs to one repository: asked for under another, there is no such file.
fn file_name(repository: &str, id: Uuid) -> String {
    let hash = hex::encode(sha256_bytes(repository.as_bytes()));
    format!("upload-{}-{}.partial", id.simple(), hash.get(..16).unwrap_or_default())
}

impl Layout {
    fn upload_path(&self, repository: &str, id: Uuid) -> PathBuf {
        self.ingest().join(file_name(repository, id))
    }

    /// Begins an upload with nothing in it.
    ///
    /// # Errors
    /// The file system's own.
    pub fn begin_upload(&self, repository: &str, id: Uuid) -> Result<()> {
        let path = self.upload_path(repository, id);
        let made = OpenOptions::new().write(true).create_new(true).open(&path);
        made.map(drop).map_err(StoreError::io("create", &path))
    }

    /// How many bytes the upload has; `None` when there is no such upload in that repository.
    ///
    /// # Errors
    /// The file system's own.
    pub fn upload_length(&self, repository: &str, id: Uuid) -> Result<Option<u64>> {
        let path = self.upload_path(repository, id);
        match std::fs::metadata(&path) {
            Ok(found) => Ok(Some(found.len())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(StoreError::io("look at", &path)(e)),
        }
    }

    /// A writer that goes on with the upload; `None` when there is none. One at a time: a second one waits.
    ///
    /// # Errors
    /// The file system's own.
    pub fn upload_writer(&self, repository: &str, id: Uuid, progress: Option<Progress>) -> Result<Option<BlobWriter>> {
        BlobWriter::uploading(self, self.upload_path(repository, id), progress)
    }

    /// Ends the upload without a blob. Says whether there was one.
    ///
    /// # Errors
    /// The file system's own.
    pub fn abandon_upload(&self, repository: &str, id: Uuid) -> Result<bool> {
        disk::unlink(&self.upload_path(repository, id))
    }

    /// Removes the uploads that nobody went on with for a day, and says which are left.
    ///
    /// # Errors
    /// The file system's own.
    pub fn expire_uploads(&self, now: SystemTime) -> Result<Vec<OpenUpload>> {
        self.sweep_uploads(|_, touched| now.duration_since(touched).is_ok_and(|age| age > LIVES))
    }

    /// Ends the upload `wanted`, whichever repository it's in. Says which are left.
    ///
    /// # Errors
    /// The file system's own.
    pub fn end_upload(&self, wanted: Uuid) -> Result<Vec<OpenUpload>> {
        self.sweep_uploads(|id, _| id == wanted)
    }

    fn sweep_uploads(&self, goes: impl Fn(Uuid, SystemTime) -> bool) -> Result<Vec<OpenUpload>> {
        let folder = self.ingest();
        let mut left = Vec::new();
        for item in std::fs::read_dir(folder).map_err(StoreError::io("list", folder))? {
            let item = item.map_err(StoreError::io("list", folder))?;
            let name = item.file_name();
            let id = name.to_str().and_then(|n| n.strip_prefix("upload-")).and_then(|n| n.get(..32));
            let Some(id) = id.and_then(|id| Uuid::try_parse(id).ok()) else { continue };
            let Some(touched) = item.metadata().ok().and_then(|m| m.modified().ok()) else { continue };
            let path = item.path();
            if goes(id, touched)
                && let Ok(file) = std::fs::File::open(&path)
                && disk::try_lock(&file, &path)?
            {
                disk::unlink(&path)?;
                continue;
            }
            left.push(OpenUpload { id, touched });
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::{DigestAlgorithm, Hasher, sha256};

    #[test]
    fn an_upload_goes_on_after_a_restart_and_by_another_algorithm() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::create(home.path()).unwrap();
        let id = Uuid::now_v7();
        layout.begin_upload("a/b", id).unwrap();
        assert!(layout.begin_upload("a/b", id).is_err());
        assert_eq!(layout.upload_length("a/c", id).unwrap(), None, "it is another repository's");
        let start = Progress::start(DigestAlgorithm::Sha256);
        let mut writer = layout.upload_writer("a/b", id, start).unwrap().unwrap();
        writer.add(b"one ").unwrap();
        let first = writer.pause().unwrap();
        let mut writer = layout.upload_writer("a/b", id, Some(first.clone())).unwrap().unwrap();
        writer.add(b"wrong").unwrap();
        let back = writer.rewind(Some(first), 4).unwrap();
        assert_eq!(layout.upload_length("a/b", id).unwrap(), Some(4));
        drop(back);
        // As after a restart: nobody knows how far the hash was.
        let mut writer = layout.upload_writer("a/b", id, None).unwrap().unwrap();
        assert_eq!(writer.position(), 4);
        writer.add(b"two").unwrap();
        let mut hasher = Hasher::sha512();
        hasher.update(b"one two");
        let digest = hasher.finish();
        let lease = layout.lease().unwrap();
        let (found, size) = writer.expecting(&digest).unwrap().commit(&lease).unwrap();
        assert_eq!((found, size), (digest.clone(), 7));
        assert_eq!(layout.read_verified(&digest, 10).unwrap(), b"one two");
        assert_eq!(layout.upload_length("a/b", id).unwrap(), None);
    }

    #[test]
    fn what_has_another_digest_is_gone_and_what_is_old_too() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::create(home.path()).unwrap();
        let (bad, old) = (Uuid::now_v7(), Uuid::now_v7());
        layout.begin_upload("a", bad).unwrap();
        let mut writer = layout.upload_writer("a", bad, None).unwrap().unwrap();
        writer.add(b"x").unwrap();
        let lease = layout.lease().unwrap();
        assert!(writer.expecting(&sha256(b"y")).unwrap().commit(&lease).is_err());
        assert_eq!(layout.upload_length("a", bad).unwrap(), None);
        layout.begin_upload("a", old).unwrap();
        assert_eq!(layout.expire_uploads(SystemTime::now()).unwrap().len(), 1);
        assert!(layout.expire_uploads(SystemTime::now() + LIVES * 2).unwrap().is_empty());
        assert_eq!(layout.upload_length("a", old).unwrap(), None);
    }
}
