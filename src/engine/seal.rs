//! Owns the proof that a file of compiled code is what this node wrote.
//!
//! A seal is a small file beside the code, authenticated by HMAC-SHA-256 (RFC 2104, FIPS 180-4) with a key
//! that only this node has. It binds the code's SHA-256 to the Wasm's digest and the engine's fingerprint,
//! and to the *identity* of the file: device, inode, size, and the times of its last modification and
//! change. As long as the identity is the same, the content needn't be hashed again, which for a large
//! component would take longer than all the rest of a start: the kernel sets a file's change time at each
//! write to it, and no call sets it to a chosen value.
//!
//! What is changed so soon after a look at the clock that the kernel's coarse time (up to 10 ms a step) is
//! the same, would go unseen. As in git's index ("racily clean" entries), an identity therefore only counts
//! if its change time lies before the moment of sealing by more than such a step ([`Identity::settled`]).

use std::fs::File;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::{digest, hmac};
use rustix::fs::{FileType, fstat};

use super::inspect::Kind;

const MAGIC: &[u8; 8] = b"VYRSEAL1";
const BODY: usize = 8 + 1 + 32 + IDENTITY + 16;
const IDENTITY: usize = 8 + 8 + 8 + 16 + 16;
/// The length of a seal in bytes.
pub(super) const LENGTH: usize = BODY + 32;

/// Which file, in which state. Times are nanoseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    dev: u64,
    ino: u64,
    pub(super) len: u64,
    modified: i128,
    changed: i128,
}

impl Identity {
    /// The identity of an open file, which has to be a regular file of this user that nobody else may write.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let stat = fstat(file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a regular file"));
        }
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to another user"));
        }
        if stat.st_mode & 0o022 != 0 {
            return Err(io::Error::other("other users may write to it"));
        }
        let time = |seconds: i64, nanos: i128| i128::from(seconds) * 1_000_000_000 + nanos;
        Ok(Self {
            dev: stat.st_dev,
            ino: stat.st_ino,
            len: u64::try_from(stat.st_size).unwrap_or(0),
            modified: time(stat.st_mtime, i128::from(stat.st_mtime_nsec)),
            changed: time(stat.st_ctime, i128::from(stat.st_ctime_nsec)),
        })
    }

    /// Whether a write later than `at` (nanoseconds since 1970) is certain to change this identity: its
    /// change time is older by more than the step of the clock that the file system uses. Where that one
    /// shows whole seconds only, the step is taken to be two of them.
    pub(super) fn settled(&self, at: i128) -> bool {
        let step = if self.changed % 1_000_000_000 == 0 { 3_000_000_000 } else { 50_000_000 };
        self.changed.saturating_add(step) < at
    }

    fn write(&self, out: &mut Vec<u8>) {
        for number in [self.dev, self.ino, self.len] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for time in [self.modified, self.changed] {
            out.extend_from_slice(&time.to_le_bytes());
        }
    }
}

/// Now, in nanoseconds since 1970.
pub(super) fn now() -> i128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i128::try_from(d.as_nanos()).unwrap_or(0))
}

/// What a seal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) kind: Kind,
    /// SHA-256 of the code.
    pub(super) content: [u8; 32],
    pub(super) identity: Identity,
    /// A moment at which the content was known to be that, in nanoseconds since 1970.
    pub(super) sealed_at: i128,
}

/// What a seal says of the code, whoever wrote it.
pub(super) fn content(bytes: &[u8]) -> Option<[u8; 32]> {
    if bytes.len() != LENGTH || !bytes.starts_with(MAGIC) {
        return None;
    }
    bytes.get(MAGIC.len() + 1..MAGIC.len() + 33)?.try_into().ok()
}

impl Seal {
    /// Whether the file with `identity` is certain to be unaltered since it was sealed.
    pub(super) fn covers(&self, identity: &Identity) -> bool {
        self.identity == *identity && identity.settled(self.sealed_at)
    }

    fn tag(key: &hmac::Key, subject: &str, fingerprint: &str, body: &[u8]) -> hmac::Context {
        let mut context = hmac::Context::with_key(key);
        for part in [subject.as_bytes(), fingerprint.as_bytes()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.update(body);
        context
    }

    /// The seal as it stands in its file, for the Wasm with digest `subject`.
    pub(super) fn to_bytes(self, key: &hmac::Key, subject: &str, fingerprint: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(LENGTH);
        out.extend_from_slice(MAGIC);
        out.push(match self.kind {
            Kind::Module => 0,
            Kind::Component => 1,
        });
        out.extend_from_slice(&self.content);
        self.identity.write(&mut out);
        out.extend_from_slice(&self.sealed_at.to_le_bytes());
        let tag = Self::tag(key, subject, fingerprint, &out).sign();
        out.extend_from_slice(tag.as_ref());
        out
    }

    /// Reads a seal; `None` if it isn't one that was made with `key` for this Wasm and this engine.
    pub(super) fn from_bytes(bytes: &[u8], key: &hmac::Key, subject: &str, fingerprint: &str) -> Option<Self> {
        if bytes.len() != LENGTH || !bytes.starts_with(MAGIC) {
            return None;
        }
        let (body, tag) = bytes.split_at(BODY);
        let expected = Self::tag(key, subject, fingerprint, body).sign();
        aws_lc_rs::constant_time::verify_slices_are_equal(expected.as_ref(), tag).ok()?;
        let mut rest = &body[MAGIC.len()..];
        let kind = match take::<1>(&mut rest)? {
            [0] => Kind::Module,
            [1] => Kind::Component,
            _ => return None,
        };
        let content = take::<32>(&mut rest)?;
        let identity = Identity {
            dev: u64::from_le_bytes(take(&mut rest)?),
            ino: u64::from_le_bytes(take(&mut rest)?),
            len: u64::from_le_bytes(take(&mut rest)?),
            modified: i128::from_le_bytes(take(&mut rest)?),
            changed: i128::from_le_bytes(take(&mut rest)?),
        };
        Some(Self { kind, content, identity, sealed_at: i128::from_le_bytes(take(&mut rest)?) })
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

/// SHA-256 of `bytes`.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    finish(digest::digest(&digest::SHA256, bytes))
}

/// SHA-256 of a file, from its beginning.
pub(super) fn sha256_file(file: &File) -> io::Result<[u8; 32]> {
    use std::os::unix::fs::FileExt as _;
    let mut context = digest::Context::new(&digest::SHA256);
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(finish(context.finish())),
            Ok(count) => {
                context.update(&buffer[..count]);
                at += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn finish(digest: digest::Digest) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        let identity = Identity { dev: 1, ino: 2, len: 3, modified: -4, changed: 5_000_000_001 };
        Seal { kind: Kind::Component, content: [7; 32], identity, sealed_at: 6_000_000_000 }
    }

    #[test]
    fn a_seal_is_read_back_and_only_by_its_maker_for_its_subject() {
        let (key, other) = (hmac::Key::new(hmac::HMAC_SHA256, &[1; 32]), hmac::Key::new(hmac::HMAC_SHA256, &[2; 32]));
        let bytes = seal().to_bytes(&key, "sha256:a", "f");
        assert_eq!(bytes.len(), LENGTH);
        assert_eq!(Seal::from_bytes(&bytes, &key, "sha256:a", "f"), Some(seal()));
        assert_eq!(Seal::from_bytes(&bytes, &other, "sha256:a", "f"), None);
        assert_eq!(Seal::from_bytes(&bytes, &key, "sha256:b", "f"), None);
        assert_eq!(Seal::from_bytes(&bytes, &key, "sha256:a", "g"), None);
        assert_eq!(Seal::from_bytes(&bytes, &key, "sha256:", "af"), None, "the parts are delimited");
        for at in 0..bytes.len() {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            assert_eq!(Seal::from_bytes(&bent, &key, "sha256:a", "f"), None, "byte {at}");
            assert_eq!(Seal::from_bytes(&bytes[..at], &key, "sha256:a", "f"), None);
        }
    }

    #[test]
    fn a_file_changed_just_before_sealing_is_not_covered() {
        let seal = seal();
        assert!(seal.covers(&seal.identity));
        let racy = Seal { sealed_at: seal.identity.changed + 10_000_000, ..seal };
        assert!(!racy.covers(&racy.identity));
        let whole = Identity { changed: 5_000_000_000, ..seal.identity };
        assert!(!Seal { identity: whole, ..seal }.covers(&whole), "a clock of whole seconds needs a longer wait");
        assert!(!seal.covers(&Identity { ino: 3, ..seal.identity }));
        assert!(!seal.covers(&Identity { changed: 5_000_000_002, ..seal.identity }));
    }
}
