//! Owns the short-lived tokens that the registry's token service gives: what is in one, and its seal.
//!
//! A pass is `vyrt_`, what it says in JSON, a dot, and an HMAC over that; both in URL-safe base64. The key is made from the
//! node's secret. A pass names the token that it was given for by its hash. It is good for nothing that its holder may
//! not do at the moment it is shown, and for nothing at all once the holder's token is taken out.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use super::rights::Scope;
use crate::config::Secret;

/// How long a pass is good. Docker's token specification has 60 s as the least that clients expect.
pub(in crate::server) const LIFE: Duration = Duration::from_secs(300);
const BEGIN: &str = "vyrt_";
/// The longest that is looked at, in bytes.
const MAX: usize = 64 << 10;

/// What a pass says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Says {
    /// The SHA-256 of the holder's token in hex; none for a reader without one.
    holder: Option<String>,
    /// When it ends, in seconds since 1970.
    expires: u64,
    scopes: Vec<String>,
}

/// A pass that was read: its seal is right, and its time isn't over.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) holder: Option<[u8; 32]>,
    pub(super) scopes: Arc<[Scope]>,
}

/// Makes and reads passes.
#[derive(Debug)]
pub(super) struct Seal(hmac::Key);

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

impl Seal {
    pub(super) fn new(secret: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &secret.derive("registry pass v1")))
    }

    /// Whether this looks like a pass, whatever it is worth.
    pub(super) fn is_pass(token: &[u8]) -> bool {
        token.starts_with(BEGIN.as_bytes())
    }

    pub(super) fn make(&self, holder: Option<&[u8; 32]>, scopes: &[Scope], now: SystemTime) -> String {
        let says = Says {
            holder: holder.map(hex::encode),
            expires: seconds(now + LIFE),
            scopes: scopes.iter().map(ToString::to_string).collect(),
        };
        // A map of strings and a number: it can't fail.
        let says = serde_json::to_vec(&says).unwrap_or_default();
        let tag = hmac::sign(&self.0, &says);
        format!("{BEGIN}{}.{}", URL_SAFE_NO_PAD.encode(says), URL_SAFE_NO_PAD.encode(tag))
    }

    /// # Errors
    /// Why it isn't accepted.
    pub(super) fn read(&self, token: &[u8], now: SystemTime) -> Result<Pass, &'static str> {
        const WRONG: &str = "the token is not one that this node gave";
        let token = Some(token).filter(|token| token.len() <= MAX).ok_or(WRONG)?;
        let (says, tag) =
            std::str::from_utf8(token).ok().and_then(|text| text.strip_prefix(BEGIN)?.split_once('.')).ok_or(WRONG)?;
        let (says, tag) = URL_SAFE_NO_PAD.decode(says).ok().zip(URL_SAFE_NO_PAD.decode(tag).ok()).ok_or(WRONG)?;
        // In constant time, and before anything of it is believed.
        hmac::verify(&self.0, &says, &tag).map_err(|_| WRONG)?;
        let says: Says = serde_json::from_slice(&says).map_err(|_| WRONG)?;
        if seconds(now) >= says.expires {
            return Err("the token has expired");
        }
        let holder = match says.holder {
            None => None,
            Some(text) => {
                let mut hash = [0; 32];
                hex::decode_to_slice(text, &mut hash).map_err(|_| WRONG)?;
                Some(hash)
            }
        };
        Ok(Pass { holder, scopes: says.scopes.iter().filter_map(|text| text.parse().ok()).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Home;

    fn seal() -> (tempfile::TempDir, Seal) {
        let folder = tempfile::tempdir().unwrap();
        let secret = Secret::read_or_create(&Home::new(folder.path().to_owned())).unwrap();
        (folder, Seal::new(&secret))
    }

    #[test]
    fn a_pass_says_what_it_was_made_for_until_its_time_is_over() {
        let (_folder, seal) = seal();
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let scopes: Vec<Scope> = vec!["repository:a/b:pull,push".parse().unwrap(), Scope::Catalog];
        let pass = seal.make(Some(&[7; 32]), &scopes, now);
        assert!(Seal::is_pass(pass.as_bytes()) && pass.bytes().all(|b| b.is_ascii_graphic()));
        let read = seal.read(pass.as_bytes(), now + LIFE - Duration::from_secs(1)).unwrap();
        assert_eq!((read.holder, &*read.scopes), (Some([7; 32]), &*scopes));
        assert_eq!(seal.read(pass.as_bytes(), now + LIFE).unwrap_err(), "the token has expired");
        assert_eq!(seal.read(seal.make(None, &[], now).as_bytes(), now).unwrap().holder, None);
    }

    #[test]
    fn what_is_altered_anywhere_or_sealed_by_another_node_is_refused() {
        let ((_folder, seal), (_other, other)) = (seal(), seal());
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let pass = seal.make(None, &["repository:a:pull".parse().unwrap()], now);
        assert!(other.read(pass.as_bytes(), now).is_err());
        for at in 0..pass.len() {
            let mut altered = pass.clone().into_bytes();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            // The last letter of unpadded base64 has bits that mean nothing; such a text isn't taken at all.
            assert!(seal.read(&altered, now).is_err(), "byte {at}");
        }
        let (says, _) = pass.split_once('.').unwrap();
        for bad in ["", "vyrt_", "vyrt_.", "vyrt_e30.", &format!("{says}."), says, &"x".repeat(MAX + 1)] {
            assert!(seal.read(bad.as_bytes(), now).is_err(), "{bad:.20}");
        }
    }
}
