//! Owns who is calling, and whether they may.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;

use crate::config::Secret;
use crate::oci::sha256_bytes;

mod file;
mod pass;
mod rights;

pub use file::Tokens;
pub use rights::Limits;

pub(super) use pass::LIFE;
pub(super) use rights::{Action, Rights, Scope, Verdict};

use file::Holder;
use pass::Seal;

/// What a caller that nobody knows is named.
pub(super) const ANONYMOUS: &str = "anonymous";

/// The other side of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    who: Option<Arc<str>>,
    share: Arc<str>,
    /// Whether it came by TLS.
    pub(super) secure: bool,
}

/// Who makes a call.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// The credential's name, `uid:<n>`, or `anonymous`.
    pub(super) name: Arc<str>,
    /// Whose turn it is when something waits.
    pub(super) share: Arc<str>,
    /// What they may do.
    pub(super) rights: Rights,
    /// Whether they are let in without a credential where others show one.
    pub(super) guest: bool,
}

impl Caller {
    fn known(name: Arc<str>, share: Arc<str>, rights: Rights) -> Self {
        Self { name, share, rights, guest: false }
    }
}

impl Peer {
    /// Over plain TCP.
    pub(super) fn plain(number: u64) -> Self {
        Self { who: None, share: format!("connection {number}").into(), secure: false }
    }

    /// Over TLS, with the certificate that it showed, in DER.
    pub(super) fn tls(number: u64, certificate: Option<&[u8]>) -> Self {
        let who: Option<Arc<str>> = certificate.map(|der| {
            let print = hex::encode(sha256_bytes(der));
            format!("certificate:{}", print.get(..16).unwrap_or_default()).into()
        });
        Self { share: who.clone().unwrap_or_else(|| format!("connection {number}").into()), who, secure: true }
    }

    /// Over the Unix socket.
    pub(super) fn unix(uid: u32) -> Self {
        let who: Arc<str> = format!("uid:{uid}").into();
        Self { share: Arc::clone(&who), who: Some(who), secure: false }
    }
}

/// The rule for callers.
#[derive(Debug)]
pub(super) struct Access {
    tokens: Option<Tokens>,
    certificates: bool,
    /// What may be read without a credential, where tokens are asked for.
    anonymous: Option<Arc<Limits>>,
    seal: Seal,
}

/// A short-lived token, and what it is for.
#[derive(Debug)]
pub(super) struct Given {
    pub(super) token: String,
    pub(super) scopes: Vec<Scope>,
}

const UNKNOWN: &str = "the bearer token is not one that this node knows";
const NEEDED: &str = "a bearer token is needed";

impl Access {
    pub(super) fn new(tokens: Option<Tokens>, certificates: bool, anonymous: Option<Limits>, secret: &Secret) -> Self {
        Self { tokens, certificates, anonymous: anonymous.map(Arc::new), seal: Seal::new(secret) }
    }

    /// Who is calling, by the connection and the `authorization` header.
    ///
    /// # Errors
    /// Why the call isn't let in.
    pub(super) fn caller(&self, peer: &Peer, authorization: Option<&[u8]>) -> Result<Caller, &'static str> {
        if let Some(who) = &peer.who {
            return Ok(Caller::known(Arc::clone(who), Arc::clone(&peer.share), Rights::ALL));
        }
        let Some(tokens) = &self.tokens else {
            return if self.certificates {
                Err("a client certificate is needed")
            } else {
                Ok(Caller::known(ANONYMOUS.into(), Arc::clone(&peer.share), Rights::ALL))
            };
        };
        let token = authorization.and_then(token_in).ok_or(NEEDED)?;
        if !Seal::is_pass(&token) {
            let Holder { name, limits } = tokens.holder(&sha256_bytes(&token)).ok_or(UNKNOWN)?;
            return Ok(Caller::known(Arc::clone(&name), name, Rights::of(limits)));
        }
        let pass = self.seal.read(&token, SystemTime::now())?;
        let caller = match pass.holder {
            None => self.reader(peer).ok_or(NEEDED)?,
            // What the holder may do counts as it is now: rights and tokens can have gone since.
            Some(hash) => {
                let Holder { name, limits } = tokens.holder(&hash).ok_or(UNKNOWN)?;
                Caller::known(Arc::clone(&name), name, Rights::of(limits))
            }
        };
        Ok(Caller { rights: caller.rights.within(pass.scopes), ..caller })
    }

    /// Whether who comes so is let in without a word, and by a name that nothing vouches for: a certificate would.
    pub(super) fn is_open_to(&self, peer: &Peer) -> bool {
        peer.who.is_none() && !peer.secure && self.tokens.is_none() && !self.certificates
    }

    /// Whoever reads the registry without a credential, where that may be done at all.
    pub(super) fn reader(&self, peer: &Peer) -> Option<Caller> {
        let limits = self.tokens.as_ref().and(self.anonymous.as_ref())?;
        let rights = Rights::of(Some(Arc::clone(limits)));
        Some(Caller { name: ANONYMOUS.into(), share: Arc::clone(&peer.share), rights, guest: true })
    }

    /// Whether there are tokens that a short-lived one can be had for.
    pub(super) fn gives_passes(&self) -> bool {
        self.tokens.is_some()
    }

    /// A short-lived token for what of `scopes` is granted to who has `token`, or to a reader without one.
    ///
    /// # Errors
    /// Why none is given.
    pub(super) fn pass<'a>(
        &self,
        token: Option<&[u8]>,
        scopes: impl Iterator<Item = &'a str>,
    ) -> Result<Given, &'static str> {
        let tokens = self.tokens.as_ref().ok_or("this node asks for no tokens")?;
        let (holder, rights) = match token {
            // A pass buys no other: it would never end.
            Some(token) => {
                let hash = sha256_bytes(token);
                (Some(hash), Rights::of(tokens.holder(&hash).ok_or(UNKNOWN)?.limits))
            }
            None => (None, Rights::of(Some(Arc::clone(self.anonymous.as_ref().ok_or(NEEDED)?)))),
        };
        let scopes = rights.grant(scopes);
        Ok(Given { token: self.seal.make(holder.as_ref(), &scopes, SystemTime::now()), scopes })
    }
}

/// The token in an `authorization` header: a bearer token, or the password that goes with whatever user name, since
/// that is what the registry clients' `login` asks for.
pub(super) fn token_in(value: &[u8]) -> Option<Cow<'_, [u8]>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Home;
    use crate::error::ErrorKind;

    fn ruled(tokens: Option<&std::path::Path>, certificates: bool, anonymous: Option<Limits>) -> Access {
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret::read_or_create(&Home::new(folder.path().to_owned())).unwrap();
        Access::new(tokens.map(|path| Tokens::open(path).unwrap()), certificates, anonymous, &secret)
    }

    #[test]
    fn a_token_is_known_until_it_is_taken_out_and_stands_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let token = Tokens::add(&path, "ci", None).unwrap();
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&token));
        assert_eq!(Tokens::add(&path, "ci", None).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(Tokens::add(&path, "a b", None).unwrap_err().kind(), ErrorKind::Usage);
        let access = ruled(Some(&path), false, None);
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
        let access = ruled(None, true, None);
        assert_eq!(&*access.caller(&Peer::unix(7), None).unwrap().name, "uid:7");
        assert!(access.caller(&Peer::tls(1, None), None).is_err());
        let named = access.caller(&Peer::tls(1, Some(b"der")), None).unwrap();
        assert!(named.name.starts_with("certificate:") && named.name == named.share);
        let open = ruled(None, false, None);
        let (one, two) = (open.caller(&Peer::plain(1), None).unwrap(), open.caller(&Peer::plain(2), None).unwrap());
        assert!(one.name == two.name && one.share != two.share, "connections that nobody knows share by themselves");
    }

    #[test]
    fn a_pass_is_worth_what_its_holder_is_worth_now() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let words = |word: &str| [word.to_owned()];
        let token = Tokens::add(&path, "ci", Some(Limits::new(&[], &words("team")).unwrap())).unwrap();
        let access = ruled(Some(&path), false, Some(Limits::new(&words("public"), &[]).unwrap()));
        let peer = Peer::plain(1);
        let bearer = |token: &str| format!("Bearer {token}").into_bytes();
        let given = access.pass(Some(token.as_bytes()), ["repository:team/app:pull,push"].into_iter()).unwrap();
        let caller = access.caller(&peer, Some(&bearer(&given.token))).unwrap();
        assert_eq!((&*caller.name, caller.rights.may(Action::Push, "team/app")), ("ci", Verdict::Yes));
        assert!(!caller.rights.whole(), "it is the registry's alone");
        assert_eq!(access.pass(Some(given.token.as_bytes()), std::iter::empty()).unwrap_err(), UNKNOWN);
        assert_eq!(access.pass(Some(b"vyr_other"), std::iter::empty()).unwrap_err(), UNKNOWN);
        // Whoever has none reads what is open.
        let open = access.pass(None, ["repository:public/x:pull,push", "repository:team:pull"].into_iter()).unwrap();
        assert_eq!(open.scopes, ["repository:public/x:pull".parse().unwrap()]);
        let reader = access.caller(&peer, Some(&bearer(&open.token))).unwrap();
        assert_eq!(reader.rights.may(Action::Pull, "public/x"), Verdict::Yes);
        assert_eq!(reader.rights.may(Action::Push, "public/x"), Verdict::No);
        // Taken out, and made again under the same name: another token.
        Tokens::remove(&path, "ci").unwrap();
        assert_eq!(access.caller(&peer, Some(&bearer(&given.token))).unwrap_err(), UNKNOWN);
        Tokens::add(&path, "ci", None).unwrap();
        assert_eq!(access.caller(&peer, Some(&bearer(&given.token))).unwrap_err(), UNKNOWN);
    }

    #[test]
    fn without_a_token_file_there_are_no_passes_and_nobody_reads_by_default() {
        let open = ruled(None, false, None);
        assert!(!open.gives_passes() && open.pass(None, std::iter::empty()).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        Tokens::add(&path, "ci", None).unwrap();
        let closed = ruled(Some(&path), false, None);
        assert!(closed.reader(&Peer::plain(1)).is_none() && closed.pass(None, std::iter::empty()).is_err());
    }
}
