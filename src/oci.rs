//! Owns the vocabulary of the OCI image and distribution specs as VYR uses it: references, digests,
//! descriptors, media types. The grammar itself is `oci-spec`'s; there is no I/O here.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

pub use oci_spec::distribution::Reference;
pub use oci_spec::image::{Descriptor, Digest, DigestAlgorithm, ImageIndex, ImageManifest, MediaType};

use crate::error::{Error, ErrorKind};

/// The largest manifest or index that is read, in bytes (distribution spec 1.1, "Pushing manifests":
/// registries should accept 4 MiB; more is refused here before it is buffered).
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// The most layers (or index entries) that a manifest may list.
pub const MAX_DESCRIPTORS: usize = 4096;

/// Media types that the artifact contract names.
pub mod media {
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// Docker schema 2 manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// OCI image config.
    pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// The empty descriptor's config (image spec 1.1, "Guidance for an Empty Descriptor").
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// CNCF Wasm OCI artifact, config.
    pub const WASM_CONFIG_V0: &str = "application/vnd.wasm.config.v0+json";
    /// The older Wasm config.
    pub const WASM_CONFIG_V1: &str = "application/vnd.wasm.config.v1+json";
    /// CNCF Wasm OCI artifact, layer.
    pub const WASM_LAYER: &str = "application/wasm";
    /// The older Wasm layer.
    pub const WASM_CONTENT_LAYER: &str = "application/vnd.wasm.content.layer.v1+wasm";
    /// The same, as some module registries wrote it.
    pub const WASM_MODULE_LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";
    /// cosign's simple-signing payload.
    pub const SIMPLE_SIGNING: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
    /// A Sigstore bundle, as a referrer's artifactType and layer.
    pub const SIGSTORE_BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
    /// Compiled code of an artifact, as a referrer's artifactType.
    pub const VYR_COMPILED: &str = "application/vnd.vyr.compiled.v0";
    /// What compiled code was made from and for, as its manifest's config.
    pub const VYR_COMPILED_CONFIG: &str = "application/vnd.vyr.compiled.config.v0+json";
    /// The code itself, as its manifest's layer.
    pub const VYR_COMPILED_CODE: &str = "application/vnd.vyr.compiled.code.v0";
    /// The same, compressed with Zstandard (RFC 8878).
    pub const VYR_COMPILED_CODE_ZSTD: &str = "application/vnd.vyr.compiled.code.v0+zstd";
    /// The signers that a trust policy trusts, as an artifactType of a bundle.
    pub const VYR_POLICY: &str = "application/vnd.vyr.trust-policy.v0";
    /// The same, as its layer.
    pub const VYR_POLICY_GRANTS: &str = "application/vnd.vyr.trust-policy.grants.v0+json";
}

/// The host under which a node's own repositories stand in its store, whatever its address is: `.localhost` is nobody
/// else's (RFC 6761, section 6.3; docs/adr/0008).
pub const OWN_HOST: &str = "vyr.localhost";

/// The content of the empty descriptor: `{}`.
pub const EMPTY_JSON: &[u8] = b"{}";

/// A running hash over content in one of the two accepted algorithms.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Box<aws_lc_rs::digest::Context>),
    /// SHA-512.
    Sha512(Box<aws_lc_rs::digest::Context>),
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sha256(_) => "Hasher(sha256)",
            Self::Sha512(_) => "Hasher(sha512)",
        })
    }
}

impl Hasher {
    /// A hasher for the algorithm of `digest`.
    ///
    /// # Errors
    /// An algorithm other than sha256 and sha512.
    pub fn for_digest(digest: &Digest) -> Result<Self, Error> {
        match digest.algorithm() {
            DigestAlgorithm::Sha256 => Ok(Self::sha256()),
            DigestAlgorithm::Sha512 => Ok(Self::sha512()),
            other => {
                Err(Error::new(ErrorKind::Refused, format!("the digest algorithm {other} of {digest} is not accepted"))
                    .hint("name the content by sha256 or sha512"))
            }
        }
    }

    /// A SHA-256 hasher.
    #[must_use]
    pub fn sha256() -> Self {
        Self::Sha256(Box::new(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256)))
    }

    /// A SHA-512 hasher.
    #[must_use]
    pub fn sha512() -> Self {
        Self::Sha512(Box::new(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA512)))
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(h) | Self::Sha512(h) => h.update(bytes),
        }
    }

    /// The digest of what was added.
    #[must_use]
    pub fn finish(self) -> Digest {
        let (name, sum) = match self {
            Self::Sha256(h) => ("sha256", h.finish()),
            Self::Sha512(h) => ("sha512", h.finish()),
        };
        parse_own(&format!("{name}:{}", hex::encode(sum.as_ref())))
    }
}

fn parse_own(text: &str) -> Digest {
    Digest::from_str(text).unwrap_or_else(|e| unreachable!("a digest made here parses: {e}"))
}

/// The SHA-256 digest of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Digest {
    parse_own(&format!("sha256:{}", hex::encode(sha256_bytes(bytes))))
}

/// The SHA-256 of `bytes`.
#[must_use]
pub fn sha256_bytes(bytes: &[u8]) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    digest
}

/// Whether `bytes` have `digest`, in the digest's own algorithm.
///
/// # Errors
/// [`ErrorKind::Refused`] when they don't, with both digests.
pub fn check_digest(digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
    let mut hasher = Hasher::for_digest(digest)?;
    hasher.update(bytes);
    let found = hasher.finish();
    if found == *digest { Ok(()) } else { Err(digest_mismatch(digest, &found)) }
}

/// The refusal for content that isn't what its digest says.
#[must_use]
pub fn digest_mismatch(wanted: &Digest, found: &Digest) -> Error {
    Error::new(ErrorKind::Refused, format!("the content's digest is {found}, not {wanted}"))
        .hint("the content was altered or damaged on its way; fetch it from a source you trust")
}

/// Parses a digest, accepting sha256 and sha512 only.
///
/// # Errors
/// [`ErrorKind::Usage`] for anything else.
pub fn parse_digest(text: &str) -> Result<Digest, Error> {
    let digest = Digest::from_str(text).map_err(|e| {
        let why = why_no_digest(text).unwrap_or_else(|| e.to_string());
        Error::new(ErrorKind::Usage, format!("`{text}` is not a digest: {why}"))
            .hint("write it as sha256:<64 hex digits>, all of them, in lower case")
    })?;
    Hasher::for_digest(&digest)?;
    Ok(digest)
}

/// What is wrong with the digits of a digest of the two accepted algorithms.
fn why_no_digest(text: &str) -> Option<String> {
    let (algorithm, digits) = text.split_once(':')?;
    let wanted = match algorithm {
        "sha256" => 64,
        "sha512" => 128,
        _ => return None,
    };
    if let Some(odd) = digits.chars().find(|c| !c.is_ascii_hexdigit()) {
        return Some(format!("{odd:?} is no hex digit"));
    }
    if digits.len() != wanted {
        return Some(format!("it has {} hex digits, and {algorithm} has {wanted}", digits.len()));
    }
    digits.contains(|c: char| c.is_ascii_uppercase()).then(|| "its hex digits are not in lower case".to_owned())
}

/// What stands where a REF is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArtifactRef {
    /// In a registry (or in the store, under that name).
    Registry(Reference),
    /// `oci:PATH[:tag|@digest]`: an OCI layout folder or tar.
    Layout {
        /// The folder or tar file.
        path: PathBuf,
        /// What names the manifest in it; `None` where the layout holds just one.
        name: Option<LayoutName>,
    },
    /// A bare digest: what the store holds under it.
    Stored(Digest),
}

/// How a manifest in an OCI layout is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutName {
    /// By the annotation `org.opencontainers.image.ref.name`.
    Tag(String),
    /// By digest.
    Digest(Digest),
}

impl ArtifactRef {
    /// The digest in the reference, if it has one.
    ///
    /// # Errors
    /// A digest algorithm that isn't accepted.
    pub fn digest(&self) -> Result<Option<Digest>, Error> {
        match self {
            Self::Registry(reference) => reference.digest().map(parse_digest).transpose(),
            Self::Layout { name: Some(LayoutName::Digest(digest)), .. } | Self::Stored(digest) => {
                Ok(Some(digest.clone()))
            }
            Self::Layout { .. } => Ok(None),
        }
    }

    /// `host[:port]/repository` for a registry reference: what trust rules match on.
    #[must_use]
    pub fn repository(&self) -> Option<String> {
        match self {
            Self::Registry(reference) => Some(repository_of(reference)),
            _ => None,
        }
    }
}

/// `host[:port]/repository` of a reference.
#[must_use]
pub fn repository_of(reference: &Reference) -> String {
    format!("{}/{}", reference.registry(), reference.repository())
}

impl fmt::Display for ArtifactRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry(reference) => reference.fmt(f),
            Self::Layout { path, name } => {
                write!(f, "oci:{}", path.display())?;
                match name {
                    Some(LayoutName::Tag(tag)) => write!(f, ":{tag}"),
                    Some(LayoutName::Digest(digest)) => write!(f, "@{digest}"),
                    None => Ok(()),
                }
            }
            Self::Stored(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for ArtifactRef {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(rest) = text.strip_prefix("oci:") {
            return layout_ref(rest);
        }
        if text.starts_with("sha256:") || text.starts_with("sha512:") {
            return parse_digest(text).map(Self::Stored);
        }
        parse_reference(text).map(Self::Registry)
    }
}

/// Parses `host[:port]/repository[:tag][@digest]`.
///
/// # Errors
/// [`ErrorKind::Usage`] with what is wrong.
pub fn parse_reference(text: &str) -> Result<Reference, Error> {
    if let Some(reference) = plain_reference(text) {
        return Ok(reference);
    }
    let reference = Reference::from_str(text).map_err(|e| no_reference(text, &e))?;
    // The grammar's expression lets these through where it takes the first part for a path.
    if reference.repository().contains(|c: char| c.is_ascii_uppercase()) {
        return Err(Error::new(
            ErrorKind::Usage,
            format!("`{text}` is not a reference: repository names are lower case"),
        )
        .hint("write the repository in lower case"));
    }
    if let Some(digest) = reference.digest() {
        parse_digest(digest)?;
    }
    Ok(reference)
}

/// Why a text is no reference, and what to write: the mistakes that people make, before the grammar's own words.
fn no_reference(text: &str, e: &oci_spec::distribution::ParseError) -> Error {
    let bad =
        |why: &str, hint: &str| Error::new(ErrorKind::Usage, format!("`{text}` is not a reference: {why}")).hint(hint);
    if let Some((scheme, rest)) = text.split_once("://") {
        return bad(&format!("it begins with {scheme}://"), &format!("write {rest}, without it"));
    }
    if text.ends_with(".wasm") || text.ends_with(".wat") {
        return bad(
            "it looks like a file, and what is named is an artifact",
            &format!("make it one: `vyr push oci:artifact:v1 {text}`, and name it as oci:artifact:v1"),
        );
    }
    if text.starts_with(['.', '/', '~']) {
        return bad("it looks like a path", &format!("write oci:{text} for a folder or tar in the OCI image layout"));
    }
    if let Some((_, digest)) = text.split_once('@')
        && let Err(e) = parse_digest(digest)
    {
        return e;
    }
    let name = text.split_once('@').map_or(text, |(name, _)| name);
    let path = name.split_once('/').map_or(name, |(_, path)| path);
    if path.split(':').next().is_some_and(|path| path.contains(|c: char| c.is_ascii_uppercase())) {
        return bad("repository names are lower case", "write the repository in lower case");
    }
    if text.contains(char::is_whitespace) {
        return bad("it has a space in it", "write host[:port]/repository[:tag] in one word");
    }
    bad(&e.to_string(), "write host[:port]/repository[:tag][@sha256:…], oci:PATH[:tag] or a digest")
}

/// The plain references, a strict subset of the grammar, without its regular expression: compiling that takes 30 ms, ten
/// times what a whole run takes (docs/adr/0004). Whatever isn't plain is `oci-spec`'s to judge, and a test holds this
/// against it.
fn plain_reference(text: &str) -> Option<Reference> {
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    let hex = |d: &str| d.len() == 64 && d.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if name.len() > 200 || !digest.is_none_or(|d| d.strip_prefix("sha256:").is_some_and(hex)) {
        return None;
    }
    let (host, path) = name.split_once('/')?;
    let (path, tag) = match path.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (path, None),
    };
    // Words of lower-case letters and digits, joined by single separators.
    let words = |part: &str, separators: &[char]| {
        part.split(separators).all(|w| !w.is_empty() && w.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9')))
    };
    let (domain, port) = host.split_once(':').map_or((host, None), |(domain, port)| (domain, Some(port)));
    let is_host = (port.is_some() || domain.contains('.') || domain == "localhost")
        && words(domain, &['.', '-'])
        && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()));
    let is_tag = |t: &str| {
        t.len() <= 128
            && t.bytes().enumerate().all(|(i, b)| {
                matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_') || (i > 0 && matches!(b, b'.' | b'-'))
            })
            && !t.is_empty()
    };
    // Docker's own names are rewritten by the grammar's owner.
    if !is_host
        || domain.ends_with("docker.io")
        || !path.split('/').all(|c| words(c, &['.', '-', '_']))
        || !tag.is_none_or(is_tag)
    {
        return None;
    }
    let (host, path) = (host.to_owned(), path.to_owned());
    Some(match (tag, digest) {
        (Some(tag), Some(digest)) => Reference::with_tag_and_digest(host, path, tag.to_owned(), digest.to_owned()),
        (None, Some(digest)) => Reference::with_digest(host, path, digest.to_owned()),
        (tag, None) => Reference::with_tag(host, path, tag.unwrap_or("latest").to_owned()),
    })
}

fn layout_ref(rest: &str) -> Result<ArtifactRef, Error> {
    if rest.is_empty() || rest.starts_with('@') {
        return Err(
            Error::new(ErrorKind::Usage, format!("`oci:{rest}` names no folder")).hint("write oci:PATH[:tag|@digest]")
        );
    }
    if let Some((path, digest)) =
        rest.rsplit_once('@').filter(|(_, d)| d.starts_with("sha256:") || d.starts_with("sha512:"))
    {
        return Ok(ArtifactRef::Layout { path: path.into(), name: Some(LayoutName::Digest(parse_digest(digest)?)) });
    }
    // The first colon ends the path, as in the transports of containers/image: names may hold colons, and do.
    match rest.split_once(':') {
        Some((path, tag)) if !path.is_empty() && !tag.is_empty() => {
            Ok(ArtifactRef::Layout { path: path.into(), name: Some(LayoutName::Tag(tag.to_owned())) })
        }
        Some(_) => Err(Error::new(ErrorKind::Usage, format!("`oci:{rest}` has an empty path or name"))
            .hint("write oci:PATH[:tag|@digest]")),
        None => Ok(ArtifactRef::Layout { path: rest.into(), name: None }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_of_each_kind_parse_and_print_back() -> Result<(), Error> {
        let by_digest = format!("localhost:5000/a/b@sha256:{HEX}");
        for text in [
            "localhost:5000/app:v1",
            by_digest.as_str(),
            "oci:/tmp/layout:v1",
            "oci:rel/layout",
            &format!("oci:x@sha256:{HEX}"),
            &format!("sha256:{HEX}"),
        ] {
            assert_eq!(text.parse::<ArtifactRef>()?.to_string(), text);
        }
        assert!(
            matches!("oci:store:localhost:5000/app:v1".parse()?, ArtifactRef::Layout { name: Some(LayoutName::Tag(t)), .. } if t == "localhost:5000/app:v1")
        );
        Ok(())
    }

    #[test]
    fn bad_references_are_usage_errors() {
        for text in [
            "",
            "localhost:5000/UPPER",
            "UPPER/case:v1",
            "host/app@sha256:12",
            "sha256:zz",
            "oci:",
            "oci::v1",
            &format!("oci:@sha256:{HEX}"),
            "localhost:5000/app:",
            "a b",
        ] {
            let error = text.parse::<ArtifactRef>().err();
            assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::Usage), "{text}");
        }
    }

    #[test]
    fn plain_references_are_what_the_grammar_says() {
        // Random texts from the pieces of references, so that many are nearly right.
        let pieces = [
            "localhost",
            "127.0.0.1",
            "ghcr.io",
            "docker.io",
            "a",
            "App",
            "v1",
            "1.0",
            "x-y",
            "x_y",
            "x__y",
            "x--y",
            ":5000",
            ":",
            "/",
            "@",
            ".",
            "-",
            "_",
            "sha256:",
            HEX,
            "library",
            "index.docker.io",
            "0",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % n as u64).unwrap_or(0)
        };
        let mut plain = 0;
        let mut check = |text: &str| {
            if let Some(reference) = plain_reference(text) {
                plain += 1;
                assert_eq!(Reference::from_str(text).as_ref(), Ok(&reference), "{text}");
            }
        };
        for _ in 0..200_000 {
            let text: String = (0..=next(9)).map(|_| pieces[next(pieces.len())]).collect();
            check(&text);
        }
        for host in ["localhost", "localhost:5000", "127.0.0.1:5000", "ghcr.io", "r.example.com:443"] {
            for path in ["a", "a/b", "team/app-x", "a.b/c_d"] {
                for tail in [
                    String::new(),
                    ":v1".into(),
                    ":V1.0-rc_2".into(),
                    format!("@sha256:{HEX}"),
                    format!(":v1@sha256:{HEX}"),
                ] {
                    check(&format!("{host}/{path}{tail}"));
                }
            }
        }
        assert!(plain > 500, "only {plain} were plain");
        for other in [
            "ubuntu",
            "docker.io/ubuntu",
            "host/UP",
            "a..b/c",
            "localhost:/a",
            "localhost/a:",
            "localhost/a@sha256:00",
            "a b/c",
            "-a.b/c",
        ] {
            assert!(plain_reference(other).is_none(), "{other}");
        }
    }

    #[test]
    fn both_algorithms_hash() -> Result<(), Error> {
        let d256 = sha256(b"");
        assert_eq!(d256.to_string(), format!("sha256:{HEX}"));
        check_digest(&d256, b"")?;
        let d512 = parse_digest(
            "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        )?;
        check_digest(&d512, b"")?;
        assert_eq!(check_digest(&d512, b"x").map_err(|e| e.kind()), Err(ErrorKind::Refused));
        Ok(())
    }
}
