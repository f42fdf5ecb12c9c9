//! Owns which endpoint a path below `/v2/` is (distribution spec 1.1, "Endpoints"). Names hold slashes, so paths are
//! read from their end.

use uuid::Uuid;

use super::refusal::{Code, Refusal};
use crate::oci::{Digest, parse_digest};

/// The longest repository name. With a host before it, most clients take 255 (distribution spec 1.1, "Pulling manifests").
const MAX_NAME: usize = 255;

/// An endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/v2/`.
    Base,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/<name>/tags/list`.
    Tags(String),
    /// `/v2/<name>/manifests/<reference>`.
    Manifest(String, Named),
    /// `/v2/<name>/referrers/<digest>`.
    Referrers(String, Digest),
    /// `/v2/<name>/blobs/<digest>`.
    Blob(String, Digest),
    /// `/v2/<name>/blobs/uploads/`.
    Uploads(String),
    /// `/v2/<name>/blobs/uploads/<id>`.
    Upload(String, Uuid),
}

impl Route {
    /// The repository that it's about.
    pub(super) fn repository(&self) -> Option<&str> {
        match self {
            Self::Base | Self::Catalog => None,
            Self::Tags(name)
            | Self::Manifest(name, _)
            | Self::Referrers(name, _)
            | Self::Blob(name, _)
            | Self::Uploads(name)
            | Self::Upload(name, _) => Some(name),
        }
    }

    /// The same of another repository.
    pub(super) fn of(self, repository: String) -> Self {
        match self {
            Self::Base | Self::Catalog => self,
            Self::Tags(_) => Self::Tags(repository),
            Self::Manifest(_, named) => Self::Manifest(repository, named),
            Self::Referrers(_, digest) => Self::Referrers(repository, digest),
            Self::Blob(_, digest) => Self::Blob(repository, digest),
            Self::Uploads(_) => Self::Uploads(repository),
            Self::Upload(_, id) => Self::Upload(repository, id),
        }
    }
}

/// How a manifest is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Named {
    Tag(String),
    Digest(Digest),
}

/// Reads the path of a request, which begins with `/v2`.
///
/// # Errors
/// [`Code::NameInvalid`], [`Code::DigestInvalid`], [`Code::ManifestInvalid`] for a tag, [`Code::Unsupported`] for no
/// endpoint at all.
pub(super) fn parse(path: &str) -> Result<Route, Refusal> {
    let path = decoded(path).ok_or_else(|| Refusal::new(Code::NameInvalid, "the path is no UTF-8"))?;
    let path = path.strip_prefix("/v2").unwrap_or(&path).trim_start_matches('/');
    match path {
        "" => return Ok(Route::Base),
        "_catalog" => return Ok(Route::Catalog),
        _ => {}
    }
    let mut parts: Vec<&str> = path.rsplitn(4, '/').collect();
    parts.reverse();
    let endpoint = match *parts.as_slice() {
        [head, "blobs", "uploads", ""] => return Ok(Route::Uploads(name(head)?)),
        [head, "blobs", "uploads", id] => {
            let id = Uuid::try_parse(id).map_err(|_| Refusal::new(Code::BlobUploadUnknown, "no such upload"))?;
            return Ok(Route::Upload(name(head)?, id));
        }
        // One part less: what is before the last two is the name.
        _ => {
            let mut parts: Vec<&str> = path.rsplitn(3, '/').collect();
            parts.reverse();
            parts
        }
    };
    match *endpoint.as_slice() {
        [head, "tags", "list"] => Ok(Route::Tags(name(head)?)),
        [head, "blobs", "uploads"] => Ok(Route::Uploads(name(head)?)),
        [head, "blobs", text] => Ok(Route::Blob(name(head)?, digest(text)?)),
        [head, "referrers", text] => Ok(Route::Referrers(name(head)?, digest(text)?)),
        [head, "manifests", text] if text.contains(':') => {
            Ok(Route::Manifest(name(head)?, Named::Digest(digest(text)?)))
        }
        [head, "manifests", text] => Ok(Route::Manifest(name(head)?, Named::Tag(tag(text)?))),
        _ => Err(Refusal::new(Code::Unsupported, "there is no such endpoint").status(404)),
    }
}

/// A digest that is accepted.
///
/// # Errors
/// [`Code::DigestInvalid`].
pub(super) fn digest(text: &str) -> Result<Digest, Refusal> {
    parse_digest(text).map_err(|e| Refusal::new(Code::DigestInvalid, e.why()))
}

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
///
/// # Errors
/// [`Code::ManifestInvalid`].
pub(super) fn tag(text: &str) -> Result<String, Refusal> {
    let fits = |(at, b): (usize, u8)| b.is_ascii_alphanumeric() || b == b'_' || (at > 0 && matches!(b, b'.' | b'-'));
    if (1..=128).contains(&text.len()) && text.bytes().enumerate().all(fits) {
        Ok(text.to_owned())
    } else {
        Err(Refusal::new(Code::ManifestInvalid, "this can't be a tag"))
    }
}

/// A repository name: words of lower-case letters and digits joined by `.`, `_`, `__` or dashes, in parts between slashes.
///
/// # Errors
/// [`Code::NameInvalid`].
pub(super) fn name(text: &str) -> Result<String, Refusal> {
    if is_name(text) {
        Ok(text.to_owned())
    } else {
        Err(Refusal::new(Code::NameInvalid, "this can't be the name of a repository"))
    }
}

/// Whether this can name a repository.
pub(in crate::server) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.len() <= MAX_NAME && text.split('/').all(is_part)
}

fn is_part(part: &str) -> bool {
    let word = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(word) || !bytes.last().is_some_and(word) {
        return false;
    }
    bytes.split(word).filter(|joint| !joint.is_empty()).all(|joint| match joint {
        b"." | b"_" | b"__" => true,
        dashes => dashes.iter().all(|b| *b == b'-'),
    })
}

/// Without its percent-encoding. Clients encode the colon of a digest, if anything.
fn decoded(path: &str) -> Option<String> {
    let mut out = Vec::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let pair = [bytes.next()?, bytes.next()?];
        let mut one = [0];
        hex::decode_to_slice(pair, &mut one).ok()?;
        out.extend(one);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn each_endpoint_is_told_whatever_the_name_holds() {
        let blob = format!("sha256:{HEX}");
        let id = Uuid::now_v7();
        let own = str::to_owned;
        for (path, wanted) in [
            ("/v2", Route::Base),
            ("/v2/", Route::Base),
            ("/v2/_catalog", Route::Catalog),
            ("/v2/a/tags/list", Route::Tags(own("a"))),
            ("/v2/a/b/c/tags/list", Route::Tags(own("a/b/c"))),
            ("/v2/tags/list/tags/list", Route::Tags(own("tags/list"))),
            ("/v2/a/manifests/V1.0_x-y", Route::Manifest(own("a"), Named::Tag(own("V1.0_x-y")))),
            (&format!("/v2/a/b/manifests/{blob}"), Route::Manifest(own("a/b"), Named::Digest(blob.parse().unwrap()))),
            (&format!("/v2/a/blobs/sha256%3A{HEX}"), Route::Blob(own("a"), blob.parse().unwrap())),
            (&format!("/v2/blobs/blobs/{blob}"), Route::Blob(own("blobs"), blob.parse().unwrap())),
            (&format!("/v2/a/referrers/{blob}"), Route::Referrers(own("a"), blob.parse().unwrap())),
            ("/v2/a/blobs/uploads/", Route::Uploads(own("a"))),
            ("/v2/a/b/blobs/uploads", Route::Uploads(own("a/b"))),
            (&format!("/v2/a/b/c/blobs/uploads/{id}"), Route::Upload(own("a/b/c"), id)),
        ] {
            assert_eq!(parse(path).unwrap(), wanted, "{path}");
        }
    }

    #[test]
    fn what_is_no_endpoint_is_refused_by_its_code() {
        let blob = format!("sha256:{HEX}");
        for (path, code) in [
            ("/v2/../../etc/passwd/tags/list", Code::NameInvalid),
            ("/v2/a/%2e%2e/b/tags/list", Code::NameInvalid),
            ("/v2/a%00b/tags/list", Code::NameInvalid),
            ("/v2/a%ff/tags/list", Code::NameInvalid),
            ("/v2/a%/tags/list", Code::NameInvalid),
            ("/v2/A/tags/list", Code::NameInvalid),
            ("/v2/a//b/tags/list", Code::NameInvalid),
            ("/v2/tags/list", Code::Unsupported),
            ("/v2/a/blobs/sha256:12", Code::DigestInvalid),
            ("/v2/a/blobs/md5:d41d8cd98f00b204e9800998ecf8427e", Code::DigestInvalid),
            ("/v2/a/manifests/sha256:baddigeststring", Code::DigestInvalid),
            ("/v2/a/manifests/.hidden", Code::ManifestInvalid),
            ("/v2/a/manifests/a b", Code::ManifestInvalid),
            ("/v2/a/blobs/uploads/12", Code::BlobUploadUnknown),
            ("/v2/a/b", Code::Unsupported),
            (&format!("/v2/-a/blobs/{blob}"), Code::NameInvalid),
        ] {
            assert_eq!(parse(path).unwrap_err().code(), code, "{path}");
        }
    }

    #[test]
    fn names_are_those_of_the_spec() {
        for good in ["a", "0", "a/b", "a.b", "a_b", "a__b", "a-b", "a---b", "a1/b2.c-d__e"] {
            assert!(name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in ["", "/", "a/", "/a", "a..b", "a___b", "a._b", "-a", "a-", "a.-b", "a b", "\u{e9}", ".", "..", &long]
        {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert!(tag(&"a".repeat(128)).is_ok() && tag(&"a".repeat(129)).is_err() && tag("-a").is_err());
    }
}
