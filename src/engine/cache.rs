//! Owns the cache of compiled code on disk.
//!
//! Compiled code is run as it is: whoever can put a file here that is loaded, runs machine code as this user.
//! So an entry is loaded only if this node's key says that this node compiled it ([`super::seal`]), for this
//! Wasm and this engine; anything else is as if it weren't there, and is compiled anew. Code that was compiled elsewhere
//! comes in by [`CodeCache::adopt`] alone, with the proof that its signer has that right, and is found again only under
//! the trust policy that said so.
//!
//! ```text
//! code-v1/<first 16 hex digits of the fingerprint>/<sha256 of Wasm digest and fingerprint>.cwasm and .seal
//! ```
//!
//! # What remains
//! Files are private to this user, mapped, and by the seal's fast path not read before they are. So the
//! following isn't kept out: a process of the same user or of root (it could as well read the key, or write
//! to this process) that alters a file while it is mapped, or through a mapping that it made before the
//! file was sealed; a disk that returns other bytes than were written; a file system that doesn't set
//! change times (keep the cache on a local one), and a system clock that is set back and then meets the old
//! change time to the nanosecond.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use wasmtime::Module;
use wasmtime::component::Component;

use super::code::{Code, Compiled};
use super::inspect::Kind;
use super::seal::{self, Identity, Seal};
use super::{Engine, StartError};
use crate::oci::Digest;
use crate::trust::Native;

/// The folder's name changes with the format of what is in it.
const BUCKET: &str = "code-v1";
/// How exactly the last use of an entry is known.
const USE_GRANULARITY: Duration = Duration::from_secs(3600);
/// A temporary file older than this was left by a crash.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A cache of compiled code in a folder, authenticated by a key.
#[derive(Debug, Clone)]
pub struct CodeCache {
    root: PathBuf,
    key: hmac::Key,
}

/// Where compiled code came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tier {
    /// It was compiled now.
    S1,
    /// It was in the cache.
    S2,
}

impl Tier {
    /// The tier's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::S1 => "S1",
            Self::S2 => "S2",
        }
    }
}

/// Compiled code with its origin.
#[derive(Debug, Clone)]
pub struct Cached {
    /// The code.
    pub compiled: Compiled,
    /// Where it came from.
    pub tier: Tier,
    /// The time for looking it up and mapping it.
    pub load: Duration,
    /// The time for compiling and writing it; zero at [`Tier::S2`].
    pub compile: Duration,
}

/// What was found of the entries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checked {
    /// How many there were.
    pub entries: u64,
    /// How many weren't what was sealed.
    pub damaged: u64,
}

/// One entry, as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name: a hash, 64 hex digits.
    pub name: String,
    /// The beginning of the fingerprint of the engine it was made for.
    pub fingerprint: String,
    /// What it takes on disk, in bytes.
    pub bytes: u64,
    /// When it was last used, give or take an hour.
    pub last_used: SystemTime,
}

/// What a pruning did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Entries removed.
    pub removed: usize,
    /// Their bytes.
    pub freed: u64,
    /// The bytes that are left.
    pub kept: u64,
}

/// An entry and the path of its seal.
type Listed = (Entry, PathBuf);

/// Compiled code that was made elsewhere.
#[derive(Debug)]
pub struct Precompiled {
    /// Module or component.
    pub kind: Kind,
    /// The fingerprint of the engine that it was made for.
    pub fingerprint: String,
    /// The digest of the Wasm that it was made from.
    pub wasm: Digest,
    /// The code.
    pub code: Vec<u8>,
}

struct Paths {
    folder: PathBuf,
    code: PathBuf,
    seal: PathBuf,
    /// What the seal is about: the Wasm, and for code from elsewhere also under which policy it was let in.
    subject: String,
    /// What spans call it.
    label: String,
}

impl CodeCache {
    /// A cache below `dir`. Touches nothing yet: the folder is made when something is written.
    #[must_use]
    pub fn open(dir: impl AsRef<Path>, key: &[u8; 32]) -> Self {
        Self { root: dir.as_ref().join(BUCKET), key: hmac::Key::new(hmac::HMAC_SHA256, key) }
    }

    /// The compiled code of the Wasm with `digest`, if it's here. An entry that doesn't hold is as none.
    #[must_use]
    #[tracing::instrument(name = "load", skip_all, fields(%digest))]
    pub fn get(&self, engine: &Engine, digest: &Digest) -> Option<Compiled> {
        self.find(engine, &self.paths(engine, digest))
    }

    /// The same of what [`CodeCache::adopt`] took under the trust policy with the hash `policy`: under another one, it is
    /// not here.
    #[must_use]
    #[tracing::instrument(name = "load", skip_all, fields(%digest))]
    pub fn adopted(&self, engine: &Engine, digest: &Digest, policy: &str) -> Option<Compiled> {
        self.find(engine, &self.adopted_paths(engine, digest, policy))
    }

    /// Takes code that was compiled elsewhere, for the Wasm with `digest` and this engine. That it may be loaded is what
    /// `code` is the proof of: there is no other way for bytes that this node didn't compile to become code.
    ///
    /// # Errors
    /// [`StartError::Foreign`] for code of another Wasm or another engine, and for what isn't code.
    #[tracing::instrument(skip_all, fields(%digest))]
    pub fn adopt(
        &self,
        engine: &Engine,
        digest: &Digest,
        policy: &str,
        code: &Native<Precompiled>,
    ) -> Result<Compiled, StartError> {
        let code = code.value();
        let foreign = |why: String| StartError::Foreign { why };
        if code.fingerprint != engine.fingerprint() {
            return Err(foreign("it was compiled for another version, CPU or configuration".into()));
        }
        if code.wasm != *digest {
            return Err(foreign(format!("it was compiled from {}, not from {digest}", code.wasm)));
        }
        let paths = self.adopted_paths(engine, digest, policy);
        // Before it gets a seal: what the runtime itself refuses isn't kept.
        let in_memory =
            from_memory(engine, code.kind, &code.code, &paths.label).map_err(|e| foreign(format!("{e:#}")))?;
        Ok(match self.keep(engine, &paths, code.kind, &code.code) {
            Ok(file) => map(engine, code.kind, &file, &paths.label).unwrap_or(in_memory),
            Err(error) => {
                tracing::warn!(folder = %paths.folder.display(), %error, "compiled code can't be kept; it will be read again next time");
                in_memory
            }
        })
    }

    fn find(&self, engine: &Engine, paths: &Paths) -> Option<Compiled> {
        match self.load(engine, paths) {
            Ok(found) => found,
            Err(why) => {
                tracing::warn!(entry = %paths.code.display(), why, "cached code is not used and will be made anew");
                None
            }
        }
    }

    /// The compiled code of the Wasm with `digest`, from here, else from `bytes` and then kept here. Where it
    /// can't be kept, it's still returned. Compiling blocks for long.
    ///
    /// # Errors
    /// Those of `bytes` and of [`Engine::compile`].
    pub fn get_or_compile<B: AsRef<[u8]>, E: From<StartError>>(
        &self,
        engine: &Engine,
        digest: &Digest,
        bytes: impl FnOnce() -> Result<B, E>,
    ) -> Result<Cached, E> {
        let began = Instant::now();
        if let Some(compiled) = self.get(engine, digest) {
            return Ok(Cached { compiled, tier: Tier::S2, load: began.elapsed(), compile: Duration::ZERO });
        }
        let load = began.elapsed();
        let began = Instant::now();
        let bytes = bytes()?;
        let span = tracing::info_span!("compile", %digest, bytes = bytes.as_ref().len(), tier = "S1");
        let _entered = span.enter();
        let (kind, code) = engine.compile(bytes.as_ref())?;
        drop(bytes);
        let paths = self.paths(engine, digest);
        let compiled = match self.keep(engine, &paths, kind, &code) {
            Ok(file) => map(engine, kind, &file, &paths.label).ok(),
            Err(error) => {
                tracing::warn!(folder = %paths.folder.display(), %error, "compiled code can't be kept; it will be compiled again next time");
                None
            }
        };
        let compiled = match compiled {
            Some(compiled) => compiled,
            None => from_memory(engine, kind, &code, &paths.label).map_err(|e| StartError::from_load(&e))?,
        };
        Ok(Cached { compiled, tier: Tier::S1, load, compile: began.elapsed() })
    }

    fn paths(&self, engine: &Engine, digest: &Digest) -> Paths {
        self.paths_of(engine, digest.to_string(), digest.to_string())
    }

    fn adopted_paths(&self, engine: &Engine, digest: &Digest, policy: &str) -> Paths {
        self.paths_of(engine, format!("{digest} adopted under {policy}"), digest.to_string())
    }

    fn paths_of(&self, engine: &Engine, subject: String, label: String) -> Paths {
        let fingerprint = engine.fingerprint();
        let name = hex::encode(seal::sha256(format!("vyr-code-entry\0{subject}\0{fingerprint}").as_bytes()));
        let folder = self.root.join(&fingerprint[..16]);
        Paths {
            code: folder.join(format!("{name}.cwasm")),
            seal: folder.join(format!("{name}.seal")),
            folder,
            subject,
            label,
        }
    }

    fn load(&self, engine: &Engine, paths: &Paths) -> Result<Option<Compiled>, String> {
        let fail = |error: io::Error| error.to_string();
        let (seal, file) = match (read_seal(&paths.seal), open(&paths.code)) {
            (Ok(seal), Ok(file)) => (seal, file),
            (Err(error), _) | (_, Err(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            (Err(error), _) | (_, Err(error)) => return Err(fail(error)),
        };
        let seal = Seal::from_bytes(&seal, &self.key, &paths.subject, engine.fingerprint())
            .ok_or("its seal is not one of this node for this Wasm")?;
        let identity = Identity::of(&file).map_err(fail)?;
        if identity.len != seal.identity.len {
            return Err("its length is not what was sealed".into());
        }
        if !seal.covers(&identity) {
            // The clock is read first: what is written from here on changes a settled identity.
            let at = seal::now();
            if seal::sha256_file(&file).map_err(fail)? != seal.content {
                return Err("its content is not what was sealed".into());
            }
            if Identity::of(&file).map_err(fail)? != identity {
                return Err("it was altered while it was read".into());
            }
            if identity.settled(at) {
                let seal = Seal { identity, sealed_at: at, ..seal };
                if let Err(error) = self.write_seal(engine, paths, seal) {
                    tracing::debug!(%error, "the entry can't be sealed again");
                }
            }
        }
        match map(engine, seal.kind, &file, &paths.label) {
            Ok(compiled) => Ok(Some(compiled)),
            // A file system without execution (noexec), or no /proc: then from memory, all of it checked.
            Err(error) => {
                tracing::debug!(error = format!("{error:#}"), "the entry can't be mapped");
                let mut code = Vec::new();
                (&file).read_to_end(&mut code).map_err(fail)?;
                if seal::sha256(&code) != seal.content {
                    return Err("its content is not what was sealed".into());
                }
                from_memory(engine, seal.kind, &code, &paths.label).map(Some).map_err(|e| format!("{e:#}"))
            }
        }
    }

    /// Writes an entry. What a crash leaves is at worst code without a seal, which isn't loaded; the code is
    /// on disk before there is a seal that vouches for it.
    fn keep(&self, engine: &Engine, paths: &Paths, kind: Kind, code: &[u8]) -> io::Result<File> {
        DirBuilder::new().recursive(true).mode(0o700).create(&paths.folder)?;
        // tempfile makes files with mode 0600.
        let mut temporary = tempfile::Builder::new().prefix(".tmp").tempfile_in(&paths.folder)?;
        temporary.write_all(code)?;
        temporary.as_file().sync_data()?;
        let file = temporary.persist(&paths.code).map_err(|error| error.error)?;
        // After the rename, which is a change too.
        let identity = Identity::of(&file)?;
        let seal = Seal { kind, content: seal::sha256(code), identity, sealed_at: seal::now() };
        self.write_seal(engine, paths, seal)?;
        Ok(file)
    }

    fn write_seal(&self, engine: &Engine, paths: &Paths, seal: Seal) -> io::Result<()> {
        let mut temporary = tempfile::Builder::new().prefix(".tmp").tempfile_in(&paths.folder)?;
        temporary.write_all(&seal.to_bytes(&self.key, &paths.subject, engine.fingerprint()))?;
        temporary.persist(&paths.seal).map_err(|error| error.error)?;
        Ok(())
    }

    /// The entry for a Wasm in the cache, whether or not it would hold.
    #[must_use]
    pub fn entry(&self, engine: &Engine, digest: &Digest) -> Option<Entry> {
        listed(&self.paths(engine, digest).seal)
    }

    /// All entries, of all engines.
    ///
    /// # Errors
    /// The folder can't be read; that there is none is an empty list.
    pub fn entries(&self) -> io::Result<Vec<Entry>> {
        Ok(self.scan()?.0.into_iter().map(|(entry, _)| entry).collect())
    }

    /// Entries with their seals' paths, and what was left behind by crashes.
    fn scan(&self) -> io::Result<(Vec<Listed>, Vec<PathBuf>)> {
        let (mut entries, mut litter) = (Vec::new(), Vec::new());
        let folders = match fs::read_dir(&self.root) {
            Ok(folders) => folders,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((entries, litter)),
            Err(error) => return Err(error),
        };
        for folder in folders {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                let path = file.path();
                let old = || {
                    let modified = file.metadata().and_then(|meta| meta.modified());
                    modified.is_ok_and(|at| at.elapsed().is_ok_and(|age| age > ABANDONED))
                };
                match path.extension().and_then(|extension| extension.to_str()) {
                    Some("seal") => match listed(&path) {
                        Some(entry) => entries.push((entry, path)),
                        None if old() => litter.push(path),
                        None => {}
                    },
                    Some("cwasm") if path.with_extension("seal").exists() => {}
                    _ if old() => litter.push(path),
                    _ => {}
                }
            }
        }
        Ok((entries, litter))
    }

    /// Holds the code of each entry, of all engines, against what its seal says, and removes those that are something else.
    /// It is only damage that is looked for: whether a seal is this node's is asked when its code is loaded.
    ///
    /// # Errors
    /// The folder can't be read or changed.
    pub fn check(&self, drop_damaged: bool) -> io::Result<Checked> {
        let mut checked = Checked::default();
        for (_, seal) in self.scan()?.0 {
            let code = seal.with_extension("cwasm");
            checked.entries += 1;
            let holds = || -> io::Result<bool> {
                let content = seal::content(&fs::read(&seal)?);
                let file = open(&code)?;
                Ok(content == Some(seal::sha256_file(&file)?))
            };
            if holds().unwrap_or(false) {
                continue;
            }
            checked.damaged += 1;
            if drop_damaged {
                remove(&seal)?;
                remove(&code)?;
            }
        }
        Ok(checked)
    }

    /// Removes the longest unused entries until at most `max_bytes` are left, and what crashes left behind.
    /// Guests that run keep their code: a mapping outlives its file's name.
    ///
    /// # Errors
    /// The folder can't be read or changed.
    pub fn prune(&self, max_bytes: u64) -> io::Result<Pruned> {
        let (mut entries, litter) = self.scan()?;
        for path in litter {
            remove(&path)?;
        }
        entries.sort_by_key(|(entry, _)| entry.last_used);
        let mut pruned = Pruned { kept: entries.iter().map(|(entry, _)| entry.bytes).sum(), ..Pruned::default() };
        for (entry, path) in entries {
            if pruned.kept <= max_bytes {
                break;
            }
            remove(&path)?;
            remove(&path.with_extension("cwasm"))?;
            pruned.removed += 1;
            pruned.freed += entry.bytes;
            pruned.kept -= entry.bytes;
        }
        Ok(pruned)
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn listed(seal: &Path) -> Option<Entry> {
    let meta = fs::metadata(seal).ok()?;
    let code = fs::metadata(seal.with_extension("cwasm")).ok()?;
    Some(Entry {
        name: seal.file_stem()?.to_str()?.to_owned(),
        fingerprint: seal.parent()?.file_name()?.to_str()?.to_owned(),
        bytes: code.len() + meta.len(),
        last_used: meta.modified().ok()?,
    })
}

/// Opens without following a link at the end of the path, and without waiting for a FIFO's other end.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// Reads a seal and notes its use: its modification time is when the entry was last used.
fn read_seal(path: &Path) -> io::Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::with_capacity(seal::LENGTH + 1);
    (&file).take(seal::LENGTH as u64 + 1).read_to_end(&mut bytes)?;
    let used = file.metadata()?.modified()?;
    if used.elapsed().is_ok_and(|age| age > USE_GRANULARITY) {
        // A read-only cache has no use times; it isn't pruned either.
        let _ = file.set_modified(SystemTime::now());
    }
    Ok(bytes)
}

/// Maps compiled code. Only for files whose seal has been checked.
#[expect(unsafe_code, reason = "the one place where a file becomes code")]
fn map(engine: &Engine, kind: Kind, file: &File, label: &str) -> wasmtime::Result<Compiled> {
    let engine = engine.wasmtime();
    let code = match kind {
        Kind::Module => {
            let file = file.try_clone()?;
            // SAFETY: the file was written by this node with the output of `precompile_module`, its own or that of
            // somebody whom the trust policy trusts with it (a `Native`), which the seal proves, and is private to this user and never written again (entries are replaced by
            // renaming), so that it stays as it is while mapped. What remains is in this file's opening.
            Code::Module(unsafe { Module::deserialize_open_file(engine, file) }?)
        }
        Kind::Component => {
            // There is no variant that takes a descriptor; this path names the descriptor, not the entry, so
            // that the file which was checked is the one that is mapped.
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            // SAFETY: as above, with `precompile_component`.
            Code::Component(unsafe { Component::deserialize_file(engine, path) }?)
        }
    };
    Ok(Compiled { code, label: Arc::from(label) })
}

/// Loads compiled code from memory. Only for what was just compiled, for a `Native`, or where seal and content were checked.
#[expect(unsafe_code, reason = "the one place where bytes become code")]
fn from_memory(engine: &Engine, kind: Kind, code: &[u8], label: &str) -> wasmtime::Result<Compiled> {
    let engine = engine.wasmtime();
    let code = match kind {
        // SAFETY: the bytes are the output of `precompile_module` by this process, or by this node and proven
        // so, or by somebody whom the trust policy trusts with it; they are copied.
        Kind::Module => Code::Module(unsafe { Module::deserialize(engine, code) }?),
        // SAFETY: as above, with `precompile_component`.
        Kind::Component => Code::Component(unsafe { Component::deserialize(engine, code) }?),
    };
    Ok(Compiled { code, label: Arc::from(label) })
}

#[cfg(test)]
mod tests;
