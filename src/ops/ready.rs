//! Owns the ready record: what was proven about one manifest under one trust policy, so that the next run needs no
//! signature check and no re-hash of large blobs. It is a memo, never a permission: it is sealed with this node's
//! secret, names the policy's hash, and counts only while every blob it speaks of is unaltered.
//!
//! A blob counts as unaltered while device, inode, size, mtime and ctime are what they were when it was hashed, and
//! the ctime lies safely before the hashing began (the "racily clean" rule of git's index): any later write, truncate
//! or replace moves the ctime, which no unprivileged call can set back. What is left is an attacker who can set the
//! system clock or write to the block device; such a one owns the node's secret too.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use super::Vyr;
use crate::artifact::ArtifactForm;
use crate::error::{Error, ErrorKind, Result};
use crate::fallback::Fallback;
use crate::oci::{Digest, MAX_MANIFEST_BYTES, parse_digest, sha256_bytes};
use crate::trust::Acceptance;

/// How much older than the hashing a ctime must be, for kernels with coarse time stamps.
const RACY_MARGIN: Duration = Duration::from_millis(20);
const PURPOSE: &str = "vyr ready record v1";

/// What a blob looked like when it was last hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SealedBlob {
    digest: String,
    dev: u64,
    ino: u64,
    size: u64,
    mtime_ns: i64,
    ctime_ns: i64,
    /// When the hashing began.
    hashed_at_ns: u64,
}

impl SealedBlob {
    /// The look of the file that is about to be hashed: take it before reading.
    pub(super) fn before_hashing(digest: &Digest, file: &File) -> std::io::Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let look = file.metadata()?;
        Ok(Self {
            digest: digest.to_string(),
            dev: look.dev(),
            ino: look.ino(),
            size: look.size(),
            mtime_ns: nanos(look.mtime(), look.mtime_nsec()),
            ctime_ns: nanos(look.ctime(), look.ctime_nsec()),
            hashed_at_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
        })
    }

    /// Whether the file at `path` is still what was hashed.
    fn is_unaltered(&self, path: &std::path::Path) -> bool {
        let Ok(look) = std::fs::symlink_metadata(path) else { return false };
        let margin = u64::try_from(RACY_MARGIN.as_nanos()).unwrap_or(0);
        look.is_file()
            && (look.dev(), look.ino(), look.size()) == (self.dev, self.ino, self.size)
            && nanos(look.mtime(), look.mtime_nsec()) == self.mtime_ns
            && nanos(look.ctime(), look.ctime_nsec()) == self.ctime_ns
            && u64::try_from(self.ctime_ns).is_ok_and(|ctime| ctime.saturating_add(margin) < self.hashed_at_ns)
    }
}

fn nanos(seconds: i64, nanos: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// The record itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Ready {
    /// The digest that was asked for.
    pub(super) root: String,
    /// The manifest that runs: the same, or one that the index at `root` lists.
    pub(super) selected: String,
    /// Its form.
    pub(super) form: ArtifactForm,
    /// The digest of the Wasm bytes, which names the compiled code.
    pub(super) code: String,
    /// A component, else a module.
    pub(super) component: bool,
    /// What the image's config adds to the command, for a compat image.
    pub(super) command: Command,
    /// The blobs that were hashed.
    pub(super) blobs: Vec<SealedBlob>,
    /// Why it may run.
    pub(super) acceptance: Acceptance,
    /// The digest whose signature counts: the root's or the selected manifest's.
    pub(super) signed: String,
    /// Of a container: why it ran, and under which engine that was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) fallback: Option<(Fallback, String)>,
    policy: String,
    repository: Option<String>,
}

/// What comes from the image config.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command {
    /// The program's name as the guest sees it.
    pub(super) argv0: String,
    /// Arguments before the caller's.
    pub(super) fixed_args: Vec<String>,
    /// Arguments where the caller gives none.
    pub(super) default_args: Vec<String>,
    /// Environment under the caller's.
    pub(super) env: Vec<(String, String)>,
}

/// Under what the proof was made: a record for one never counts for another.
#[derive(Debug, Clone)]
pub(super) struct Conditions<'a> {
    pub(super) root: &'a Digest,
    pub(super) policy: &'a str,
    pub(super) repository: Option<&'a str>,
    /// For the container and not for the Wasm.
    pub(super) container: bool,
}

impl Conditions<'_> {
    fn path(&self, vyr: &Vyr) -> PathBuf {
        let mut conditions = self.policy.as_bytes().to_vec();
        conditions.push(0);
        conditions.extend_from_slice(self.repository.unwrap_or_default().as_bytes());
        conditions.push(u8::from(self.repository.is_some()));
        if self.container {
            conditions.extend_from_slice(b"container");
        }
        let name = sha256_bytes(&conditions);
        vyr.config().home.ready(self.root).join(hex::encode(name.get(..12).unwrap_or_default()))
    }
}

impl Ready {
    /// Puts a record together.
    #[expect(clippy::too_many_arguments, reason = "the record's fields, once")]
    pub(super) fn new(
        conditions: &Conditions<'_>,
        selected: &Digest,
        form: ArtifactForm,
        code: &Digest,
        component: bool,
        command: Command,
        blobs: Vec<SealedBlob>,
        acceptance: Acceptance,
        signed: &Digest,
    ) -> Self {
        Self {
            root: conditions.root.to_string(),
            selected: selected.to_string(),
            form,
            code: code.to_string(),
            component,
            command,
            blobs,
            acceptance,
            signed: signed.to_string(),
            fallback: None,
            policy: conditions.policy.to_owned(),
            repository: conditions.repository.map(str::to_owned),
        }
    }

    /// That it is of a container, why that ran, and under which engine that was found.
    pub(super) fn of_container(self, fallback: Fallback, fingerprint: String) -> Self {
        Self { fallback: Some((fallback, fingerprint)), ..self }
    }

    /// The record for these conditions, if there is one, it is ours, and everything it speaks of is unaltered. Anything
    /// else is as if there were none: the long way proves it all again.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when the manifest itself, which is re-hashed each time, isn't what its digest says.
    pub(super) fn load(vyr: &Vyr, conditions: &Conditions<'_>) -> Result<Option<Self>> {
        let path = conditions.path(vyr);
        let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
        let Some((tag, body)) = bytes.split_at_checked(32) else { return Ok(None) };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &vyr.secret()?.derive(PURPOSE));
        if hmac::verify(&key, body, tag).is_err() {
            return Ok(None);
        }
        let Ok(record) = serde_json::from_slice::<Self>(body) else { return Ok(None) };
        if record.root != conditions.root.to_string()
            || record.policy != conditions.policy
            || record.repository.as_deref() != conditions.repository
        {
            return Ok(None);
        }
        // Manifests are small: they are hashed at every run, and only blobs go by their look.
        let root = vyr.layout().read_verified(conditions.root, MAX_MANIFEST_BYTES);
        if root.is_err() {
            return root.map(|_| None).map_err(Error::from);
        }
        if record.selected != record.root {
            vyr.layout().read_verified(&parse_digest(&record.selected)?, MAX_MANIFEST_BYTES)?;
        }
        for blob in &record.blobs {
            if !blob.is_unaltered(&vyr.layout().blob_path(&parse_digest(&blob.digest)?)) {
                return Ok(None);
            }
        }
        Ok(Some(record))
    }

    /// Writes the record; it's a memo, so a failure costs speed alone.
    pub(super) fn save(&self, vyr: &Vyr, conditions: &Conditions<'_>) -> Result<()> {
        let path = conditions.path(vyr);
        let failed =
            |e: std::io::Error| Error::new(ErrorKind::Storage, format!("{} can't be written: {e}", path.display()));
        let body = serde_json::to_vec(self).map_err(|e| failed(e.into()))?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &vyr.secret()?.derive(PURPOSE));
        let tag = hmac::sign(&key, &body);
        let folder = path.parent().unwrap_or(&path);
        std::fs::create_dir_all(folder).map_err(failed)?;
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(tag.as_ref()).and_then(|()| file.write_all(&body)).map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        Ok(())
    }

    /// When the artifact was last made ready or run, by its records' modification times.
    pub(super) fn last_used(vyr: &Vyr, root: &Digest) -> Option<SystemTime> {
        let folder = std::fs::read_dir(vyr.config().home.ready(root)).ok()?;
        folder.filter_map(|e| e.ok()?.metadata().ok()?.modified().ok()).max()
    }

    /// Marks the record as used now, which collection by age goes by.
    pub(super) fn touch(vyr: &Vyr, conditions: &Conditions<'_>) {
        use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW, utimensat};
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        // A read-only data folder still runs what it holds.
        let _ = utimensat(
            CWD,
            conditions.path(vyr),
            &Timestamps { last_access: now, last_modification: now },
            AtFlags::empty(),
        );
    }
}
