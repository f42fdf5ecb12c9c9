//! Owns the file of bearer tokens: hashes, names, and what each may do.

use std::collections::HashMap;
use std::io::{Read as _, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use base64::Engine as _;

use super::rights::Limits;
use crate::config::{Unfit, open_guarded};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::sha256_bytes;

/// A file of bearer tokens: a line each with a name, `sha256:<hex>` of the token, which itself is kept nowhere, and
/// `read:PREFIX` and `write:PREFIX` where it's for some repositories alone. Lines that begin with `#` are remarks. A change
/// of the file counts from the next call.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    look: Option<Look>,
    holders: HashMap<[u8; 32], Holder>,
}

/// Who has a token.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) name: Arc<str>,
    /// The repositories that it is for, where it isn't for everything.
    pub(super) limits: Option<Arc<Limits>>,
}

/// A line of the file.
struct Line {
    name: String,
    hash: [u8; 32],
    limits: Option<Limits>,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sha256:{}", self.name, hex::encode(self.hash))?;
        self.limits.iter().try_for_each(|limits| write!(f, "{limits}"))
    }
}

/// By what a file that has changed is known: who may write it decides as well as what is in it, so the time of that too.
type Look = (SystemTime, u64, u64, i64, i64);

fn look(path: &Path) -> Option<Look> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

fn parse(path: &Path) -> Result<Vec<Line>> {
    let bad = |why: String| Error::new(ErrorKind::Usage, format!("the token file {} {why}", path.display()));
    let unreadable =
        |e: std::io::Error| bad(format!("can't be read: {e}")).hint("make one with `vyr token add NAME --file FILE`");
    let mut text = String::new();
    let mut file = open_guarded(path).map_err(|unfit| match unfit {
        Unfit::Open { why, next } => bad(format!("decides who is let in, and {why}")).hint(next),
        Unfit::Io(e) => unreadable(e),
    })?;
    file.read_to_string(&mut text).map_err(unreadable)?;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, rest) = line
            .split_once(' ')
            .and_then(|(name, rest)| Some((name, rest.trim().strip_prefix("sha256:")?)))
            .ok_or_else(|| bad(format!("has no `NAME sha256:…` in line {number}")))?;
        let (digits, words) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let mut hash = [0; 32];
        hex::decode_to_slice(digits, &mut hash).map_err(|e| bad(format!("has no SHA-256 in line {number}: {e}")))?;
        // A right that isn't understood must not read as none at all, which is everything.
        let limits = match words.trim() {
            "" => None,
            words => Some(Limits::read(words).map_err(|e| bad(format!("is wrong in line {number}: {}", e.why())))?),
        };
        found.push(Line { name: name.to_owned(), hash, limits });
    }
    Ok(found)
}

impl Tokens {
    /// The tokens in the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when it can't be read or parsed.
    pub fn open(path: &Path) -> Result<Self> {
        let tokens = Self { path: path.to_owned(), known: Mutex::default() };
        // Looked at before it is read: what is written in between is seen at the next call.
        let look = look(path);
        tokens.take(look, parse(path)?);
        Ok(tokens)
    }

    fn take(&self, look: Option<Look>, lines: Vec<Line>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.look = look;
        known.holders = lines
            .into_iter()
            .map(|line| (line.hash, Holder { name: line.name.into(), limits: line.limits.map(Arc::new) }))
            .collect();
    }

    /// The names in the file at `path`, with what each is limited to.
    ///
    /// # Errors
    /// As [`Tokens::open`].
    pub fn list(path: &Path) -> Result<Vec<(String, Option<Limits>)>> {
        Ok(parse(path)?.into_iter().map(|line| (line.name, line.limits)).collect())
    }

    /// Who has the token with this hash.
    pub(super) fn holder(&self, hash: &[u8; 32]) -> Option<Holder> {
        let now = look(&self.path);
        let stale = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.look.is_none() || known.look != now
        };
        if stale {
            match parse(&self.path) {
                Ok(lines) => self.take(now, lines),
                Err(e) => {
                    // Nobody is let in by a file that can't be read.
                    tracing::error!(error = %e, "no bearer token is accepted");
                    self.take(now, Vec::new());
                }
            }
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // By its hash: how long the look-up takes says nothing about the token.
        known.holders.get(hash).cloned()
    }

    /// Makes a token named `name`, for everything or for what `limits` says, writes its hash to the file at `path`, and
    /// returns it: it can't be had again.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a name that can't be written or is taken; [`ErrorKind::Storage`] when the file can't be.
    pub fn add(path: &Path, name: &str, limits: Option<Limits>) -> Result<String> {
        if name.is_empty() || name.starts_with('#') || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::new(ErrorKind::Usage, format!("`{name}` can't name a token"))
                .hint("use letters, digits, dots and dashes"));
        }
        // In the file it would look like one for everything.
        if limits.as_ref().is_some_and(Limits::is_empty) {
            return Err(Error::new(ErrorKind::Usage, format!("{name} would be let in for nothing"))
                .hint("give repositories with --read or --write, or neither for everything"));
        }
        if path.exists() && parse(path)?.iter().any(|line| line.name == name) {
            return Err(Error::new(ErrorKind::Conflict, format!("{} has a token named {name}", path.display()))
                .hint(format_args!("take it out first: `vyr token rm {name}`, or use another name")));
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("the system gave no random bytes: {e}")))?;
        let token = format!("vyr_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret));
        let line = Line { name: name.to_owned(), hash: sha256_bytes(token.as_bytes()), limits };
        // An editor may have left the last line without its end.
        let ends = std::fs::read(path).map_or(true, |text| text.is_empty() || text.ends_with(b"\n"));
        let line = if ends { format!("{line}\n") } else { format!("\n{line}\n") };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)
                .map_err(|e| Error::new(ErrorKind::Storage, format!("{} can't be made: {e}", folder.display())))?;
        }
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .and_then(|mut file| file.write_all(line.as_bytes()).and_then(|()| file.sync_data()))
            .map_err(|e| Error::new(ErrorKind::Storage, format!("{} can't be written: {e}", path.display())))?;
        Ok(token)
    }

    /// Takes the token named `name` out of the file at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Storage`] when the file can't be written.
    pub fn remove(path: &Path, name: &str) -> Result<()> {
        let known = parse(path)?;
        if !known.iter().any(|line| line.name == name) {
            return Err(Error::new(ErrorKind::NotFound, format!("{} has no token named {name}", path.display())));
        }
        let text: String = known.iter().filter(|line| line.name != name).map(|line| format!("{line}\n")).collect();
        let failed =
            |e: std::io::Error| Error::new(ErrorKind::Storage, format!("{} can't be written: {e}", path.display()));
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_kept_beside_the_hash_and_older_files_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let limits = Limits::new(&words(&["public", "team"]), &words(&["team/app"])).unwrap();
        let old = Tokens::add(&path, "old", None).unwrap();
        let new = Tokens::add(&path, "new", Some(limits.clone())).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.lines().next().unwrap().split(' ').count() == 2, "as before: {text}");
        assert!(text.ends_with(" read:public read:team write:team/app\n"), "{text}");
        let tokens = Tokens::open(&path).unwrap();
        let holder = |token: &str| tokens.holder(&sha256_bytes(token.as_bytes())).unwrap();
        assert!(holder(&old).limits.is_none());
        assert_eq!(holder(&new).limits.as_deref(), Some(&limits));
        Tokens::remove(&path, "old").unwrap();
        assert_eq!(Tokens::list(&path).unwrap(), [("new".to_owned(), Some(limits))], "the rest stays as it was");
        // A right that this version doesn't know lets nobody in.
        std::fs::write(&path, format!("{}, admin:x\n", std::fs::read_to_string(&path).unwrap().trim())).unwrap();
        assert!(tokens.holder(&sha256_bytes(new.as_bytes())).is_none());
    }

    #[test]
    fn a_token_is_added_behind_a_line_without_end_and_a_file_that_was_made_private_counts() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let first = Tokens::add(&path, "first", None).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text.trim_end()).unwrap();
        let second = Tokens::add(&path, "second", None).unwrap();
        let tokens = Tokens::open(&path).unwrap();
        let known = |token: &str| tokens.holder(&sha256_bytes(token.as_bytes())).is_some();
        assert!(known(&first) && known(&second));
        // Others may write it: then it lets nobody in, until they may not.
        let mode = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o666);
        assert!(!known(&first));
        mode(0o600);
        assert!(known(&first) && known(&second));
    }

    #[test]
    fn a_malformed_file_is_named_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::fs::write(&path, "# remark\nname deadbeef\n").unwrap();
        let error = Tokens::open(&path).unwrap_err();
        assert!(error.why().contains("line 2"), "{error}");
        assert!(Tokens::open(&folder.path().join("none")).is_err());
    }
}
