//! Owns who is calling, and whether they may.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::rand::SecureRandom as _;
use base64::Engine as _;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::sha256_bytes;

/// The other side of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    who: Option<Arc<str>>,
    share: Arc<str>,
}

/// Who makes a call.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The credential's name, `uid:<n>`, or `anonymous`.
    pub(super) name: Arc<str>,
    /// Whose turn it is when something waits.
    pub(super) share: Arc<str>,
}

impl Peer {
    /// Over plain TCP.
    pub(super) fn plain(number: u64) -> Self {
        Self { who: None, share: format!("connection {number}").into() }
    }

    /// Over TLS, with the certificate that it showed, in DER.
    pub(super) fn tls(number: u64, certificate: Option<&[u8]>) -> Self {
        let who: Option<Arc<str>> = certificate.map(|der| {
            let print = hex::encode(sha256_bytes(der));
            format!("certificate:{}", print.get(..16).unwrap_or_default()).into()
        });
        Self { share: who.clone().unwrap_or_else(|| format!("connection {number}").into()), who }
    }

    /// Over the Unix socket.
    pub(super) fn unix(uid: u32) -> Self {
        let who: Arc<str> = format!("uid:{uid}").into();
        Self { share: Arc::clone(&who), who: Some(who) }
    }
}

/// The rule for callers.
#[derive(Debug)]
pub(super) struct Access {
    tokens: Option<Tokens>,
    certificates: bool,
}

impl Access {
    pub(super) fn new(tokens: Option<Tokens>, certificates: bool) -> Self {
        Self { tokens, certificates }
    }

    /// Who is calling, by the connection and the `authorization` header.
    ///
    /// # Errors
    /// Why the call isn't let in.
    pub(super) fn caller(&self, peer: &Peer, authorization: Option<&[u8]>) -> Result<Caller, &'static str> {
        if let Some(who) = &peer.who {
            return Ok(Caller { name: Arc::clone(who), share: Arc::clone(&peer.share) });
        }
        let Some(tokens) = &self.tokens else {
            return if self.certificates {
                Err("a client certificate is needed")
            } else {
                Ok(Caller { name: "anonymous".into(), share: Arc::clone(&peer.share) })
            };
        };
        let token = authorization.and_then(token_in).ok_or("a bearer token is needed")?;
        let name = tokens.name_of(&token).ok_or("the bearer token is not one that this node knows")?;
        Ok(Caller { name: Arc::clone(&name), share: name })
    }
}

/// The token in an `authorization` header: a bearer token, or the password that goes with whatever user name, since
/// that is what the registry clients' `login` asks for.
fn token_in(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    let (scheme, rest) = value.split_at_checked(value.iter().position(|b| *b == b' ')?)?;
    let rest = rest.get(1..)?;
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(rest.into());
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = base64::engine::general_purpose::STANDARD.decode(rest).ok()?;
    let colon = pair.iter().position(|b| *b == b':')?;
    Some(pair.get(colon + 1..)?.to_vec().into())
}

/// A file of bearer tokens: a line each with a name and `sha256:<hex>` of the token, which itself is kept nowhere.
/// Lines that begin with `#` are remarks. A change of the file counts from the next call.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    look: Option<(SystemTime, u64, u64)>,
    names: HashMap<[u8; 32], Arc<str>>,
}

fn look(path: &Path) -> Option<(SystemTime, u64, u64)> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.ino(), found.size()))
}

fn parse(path: &Path) -> Result<Vec<(String, [u8; 32])>> {
    let bad = |why: String| Error::new(ErrorKind::Usage, format!("the token file {} {why}", path.display()));
    let text = std::fs::read_to_string(path)
        .map_err(|e| bad(format!("can't be read: {e}")).hint("make one with `vyr token add NAME --file FILE`"))?;
    let mut found = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, hash) = line
            .split_once(' ')
            .and_then(|(name, hash)| Some((name, hash.trim().strip_prefix("sha256:")?)))
            .ok_or_else(|| bad(format!("has no `NAME sha256:…` in line {number}")))?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(hash, &mut bytes).map_err(|e| bad(format!("has no SHA-256 in line {number}: {e}")))?;
        found.push((name.to_owned(), bytes));
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
        let names = parse(path)?;
        tokens.take(names);
        Ok(tokens)
    }

    fn take(&self, names: Vec<(String, [u8; 32])>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.look = look(&self.path);
        known.names = names.into_iter().map(|(name, hash)| (hash, Arc::from(name))).collect();
    }

    /// The names in the file at `path`.
    ///
    /// # Errors
    /// As [`Tokens::open`].
    pub fn names(path: &Path) -> Result<Vec<String>> {
        Ok(parse(path)?.into_iter().map(|(name, _)| name).collect())
    }

    fn name_of(&self, token: &[u8]) -> Option<Arc<str>> {
        let stale = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.look.is_none() || known.look != look(&self.path)
        };
        if stale {
            match parse(&self.path) {
                Ok(names) => self.take(names),
                Err(e) => {
                    // Nobody is let in by a file that can't be read.
                    tracing::error!(error = %e, "no bearer token is accepted");
                    self.take(Vec::new());
                }
            }
        }
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        // By its hash: how long the look-up takes says nothing about the token.
        known.names.get(&sha256_bytes(token)).cloned()
    }

    /// Makes a token named `name`, writes its hash to the file at `path`, and returns it: it can't be had again.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a name that can't be written or is taken; [`ErrorKind::Storage`] when the file can't be.
    pub fn add(path: &Path, name: &str) -> Result<String> {
        if name.is_empty() || name.starts_with('#') || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(Error::new(ErrorKind::Usage, format!("`{name}` can't name a token"))
                .hint("use letters, digits, dots and dashes"));
        }
        if path.exists() && parse(path)?.iter().any(|(known, _)| known == name) {
            return Err(Error::new(ErrorKind::Conflict, format!("{} has a token named {name}", path.display()))
                .hint(format_args!("take it out first: `vyr token rm {name}`, or use another name")));
        }
        let mut secret = [0; 32];
        aws_lc_rs::rand::SystemRandom::new()
            .fill(&mut secret)
            .map_err(|_| Error::new(ErrorKind::Internal, "the system gave no random bytes"))?;
        let token = format!("vyr_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(secret));
        let line = format!("{name} sha256:{}\n", hex::encode(sha256_bytes(token.as_bytes())));
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
        if !known.iter().any(|(n, _)| n == name) {
            return Err(Error::new(ErrorKind::NotFound, format!("{} has no token named {name}", path.display())));
        }
        let text: String = known
            .iter()
            .filter(|(n, _)| n != name)
            .map(|(n, hash)| format!("{n} sha256:{}\n", hex::encode(hash)))
            .collect();
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
    fn a_token_is_known_until_it_is_taken_out_and_stands_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let token = Tokens::add(&path, "ci").unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&token));
        assert_eq!(Tokens::add(&path, "ci").unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(Tokens::add(&path, "a b").unwrap_err().kind(), ErrorKind::Usage);
        let access = Access::new(Some(Tokens::open(&path).unwrap()), false);
        let peer = Peer::plain(1);
        let header = format!("Bearer {token}");
        assert_eq!(&*access.caller(&peer, Some(header.as_bytes())).unwrap().name, "ci");
        assert!(access.caller(&peer, None).is_err());
        assert!(access.caller(&peer, Some(b"Bearer vyr_other")).is_err());
        assert!(access.caller(&peer, Some(token.as_bytes())).is_err(), "the scheme is missing");
        let basic = |pair: &str| format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let login = basic(&format!("whoever:{token}"));
        assert_eq!(&*access.caller(&peer, Some(login.as_bytes())).unwrap().name, "ci");
        for bad in [basic(&token), basic(&format!("{token}:")), basic("ci:"), "Basic %%%".into(), "Basic".into()] {
            assert!(access.caller(&peer, Some(bad.as_bytes())).is_err(), "{bad}");
        }
        Tokens::remove(&path, "ci").unwrap();
        assert!(access.caller(&peer, Some(header.as_bytes())).is_err(), "it counts from the next call");
        assert_eq!(Tokens::remove(&path, "ci").unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn who_comes_by_socket_or_certificate_needs_no_token() {
        let access = Access::new(None, true);
        assert_eq!(&*access.caller(&Peer::unix(7), None).unwrap().name, "uid:7");
        assert!(access.caller(&Peer::tls(1, None), None).is_err());
        let named = access.caller(&Peer::tls(1, Some(b"der")), None).unwrap();
        assert!(named.name.starts_with("certificate:") && named.name == named.share);
        let open = Access::new(None, false);
        let (one, two) = (open.caller(&Peer::plain(1), None).unwrap(), open.caller(&Peer::plain(2), None).unwrap());
        assert!(one.name == two.name && one.share != two.share, "connections that nobody knows share by themselves");
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
