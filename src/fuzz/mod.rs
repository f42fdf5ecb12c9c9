//! Owns what a fuzzer calls: one function a target, which takes any bytes and panics where a promise is broken. In no build
//! that is handed out: it's here for the library's own tests, and behind the feature `fuzzing` for `fuzz/`.
//!
//! What is promised is more than that nothing panics: what was read prints back and reads the same, two readers of one
//! manifest see the same blobs, nobody's signature counts for what was not signed, an upload has the bytes that it was
//! sent, nothing lands outside of its folder.

mod layer;
#[cfg(test)]
mod tests;

use std::path::{Component, Path};
use std::sync::OnceLock;

use crate::artifact::{ImageConfig, Manifest, offer, recognise};
use crate::config::{Config, Flags};
use crate::engine::NetRule;
use crate::oci::{ArtifactRef, Digest, LayoutName, media, parse_digest, sha256};
use crate::server::{Tokens, fuzzed};
use crate::state::{Base, Segment, StateName, SyncTag};
use crate::store::Layout;
use crate::task::TaskId;
use crate::trust::{
    Acceptance, Grant, Override, SignatureMaterial, SimpleSignature, TrustPolicy, bundle_descriptor,
    material_from_referrer, sig_layers, sig_tag, signed_by_tag, verify,
};

/// One function to fuzz.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of its seeds' folder and of its program in `fuzz/`.
    pub name: &'static str,
    /// Takes any bytes; panics where a promise is broken.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 8] = [
    Target { name: "reference", run: reference },
    Target { name: "manifest", run: manifest },
    Target { name: "signature", run: signature },
    Target { name: "layer", run: layer::layer },
    Target { name: "upload", run: fuzzed::upload },
    Target { name: "request", run: fuzzed::request },
    Target { name: "policy", run: policy },
    Target { name: "settings", run: settings },
];

/// Runs the target of this name.
///
/// # Panics
/// There is none; or a promise is broken.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    target.map_or_else(|| panic!("there is no target `{name}`"), |target| (target.run)(data));
}

/// A folder for what a target writes: in memory, where there is such a place, since nothing of it has to last.
pub(crate) fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap_or_else(|e| panic!("no temporary folder: {e}"))
}

/// That the blob of a digest lies in its layout, one file deep below its algorithm.
fn lies_inside(digest: &Digest) {
    let path = Layout::at(Path::new("/home")).blob_path(digest);
    let below = path.strip_prefix("/home/store/blobs").unwrap_or_else(|_| panic!("{} is outside", path.display()));
    let plain = below.components().all(|part| matches!(part, Component::Normal(_)));
    assert!(plain && below.components().count() == 2, "{}", path.display());
}

/// That what was read prints as what reads the same.
fn reads_back<T: std::str::FromStr + std::fmt::Display + PartialEq + std::fmt::Debug>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        assert_eq!(read.to_string().parse::<T>().ok().as_ref(), Some(&read), "{text:?}");
    }
}

/// References, digests, tags, and the other words that callers write.
fn reference(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    reads_back::<ArtifactRef>(text);
    reads_back::<TaskId>(text);
    reads_back::<NetRule>(text);
    if let Ok(found) = text.parse::<ArtifactRef>() {
        let digest = found.digest().unwrap_or_else(|e| panic!("{text:?} was taken with a digest that isn't: {e}"));
        digest.iter().for_each(lies_inside);
        match &found {
            ArtifactRef::Registry(reference) => {
                let repository = reference.repository();
                let plain = repository.split('/').all(|part| !matches!(part, "" | "." | ".."));
                assert!(plain, "{text:?} has the repository {repository:?}");
                assert!(
                    !repository.contains(|c: char| c.is_ascii_uppercase() || c.is_control() || c == ' '),
                    "{text:?}"
                );
            }
            ArtifactRef::Layout { path, name } => {
                assert!(!path.as_os_str().is_empty(), "{text:?} names no folder");
                assert!(!matches!(name, Some(LayoutName::Tag(tag)) if tag.is_empty()), "{text:?}");
            }
            ArtifactRef::Stored(_) => {}
        }
    }
    if let Ok(digest) = parse_digest(text) {
        assert_eq!(digest.to_string(), text, "a digest has one way to be written");
        lies_inside(&digest);
    }
    if let Some(digest) = signed_by_tag(text) {
        assert_eq!(sig_tag(&digest), text);
    }
    if let Some(tag) = SyncTag::parse(text) {
        assert_eq!(tag.to_string(), text, "no segment has two tags");
    }
    if let Ok(name) = text.parse::<StateName>() {
        assert!(!name.as_str().contains(['/', '\0']) && !matches!(name.as_str(), "." | ".."), "{text:?}");
    }
}

/// Manifests, indexes, image configs and the manifests of a synced state's segments.
fn manifest(data: &[u8]) {
    let said = [
        None,
        Some(media::MANIFEST),
        Some(media::INDEX),
        Some(media::DOCKER_MANIFEST),
        Some(media::DOCKER_LIST),
        Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8"),
    ];
    for said in said {
        let (used, kept) = (Manifest::parse(data, said), crate::store::edges_of(data, said));
        let Ok(used) = used else { continue };
        let named: Vec<(Digest, u64)> = match &used {
            Manifest::Image(image) => {
                std::iter::once(image.config()).chain(image.layers()).map(|d| (d.digest().clone(), d.size())).collect()
            }
            Manifest::Index(index) => index.manifests().iter().map(|d| (d.digest().clone(), d.size())).collect(),
        };
        // What runs is read by one, what is kept and collected by the other (CVE-2021-41190).
        if let Ok(kept) = kept {
            assert_eq!(named, kept, "two readers see two artifacts");
        }
        match &used {
            Manifest::Image(image) => drop(recognise(image)),
            Manifest::Index(index) => {
                if let Ok(mut offered) = offer(index) {
                    let inner = offered.clone();
                    for below in inner.unresolved() {
                        offered.absorb(&below, inner.clone());
                    }
                    assert!(offered.first().is_none_or(|first| named.iter().any(|(d, _)| d == first.digest())));
                }
            }
        }
        let _ = (used.media_type(), used.annotations());
    }
    if let Ok(config) = ImageConfig::parse(data) {
        let _ = config.form();
        if let Ok(entry) = config.entrypoint() {
            let inside = entry.path.components().all(|part| matches!(part, Component::Normal(_)));
            assert!(inside, "the entrypoint {} leads out", entry.path.display());
        }
    }
    if let Ok(segment) = Segment::parse(data) {
        assert_eq!(Segment::parse(&segment.manifest()), Ok(segment));
    }
    if let Ok(base) = Base::parse(data) {
        assert_eq!(Base::parse(&base.manifest()), Ok(base));
    }
}

/// What is signed in the seeds, and what nobody ever signed.
const SIGNED: &[u8] = b"artifact";
const NOT_SIGNED: &[u8] = b"another artifact";
/// Where it comes from.
const REPOSITORY: &str = "localhost:5000/team/app";
/// A repository that the policy rejects.
const REJECTED: &str = "localhost:5000/rejected";

/// A policy that trusts a key and an identity, whose signatures are among the seeds.
fn trusting() -> &'static TrustPolicy {
    static POLICY: OnceLock<TrustPolicy> = OnceLock::new();
    POLICY.get_or_init(|| {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/trust"));
        TrustPolicy::load(&folder.join("trust.toml")).unwrap_or_else(|e| panic!("the seeds' policy: {e}"))
    })
}

/// A signature in the simple form as one seed: payload, signature, certificate, chain and log entry, with a byte 0 between.
fn simple(data: &[u8]) -> Option<SimpleSignature> {
    let mut parts = data.split(|b| *b == 0);
    let payload = parts.next()?.to_vec();
    let mut text = || parts.next().and_then(|part| std::str::from_utf8(part).ok()).map(str::to_owned);
    let signature = text()?;
    let mut some = || text().filter(|text| !text.is_empty());
    Some(SimpleSignature {
        payload_digest: Some(sha256(&payload)),
        payload,
        signature,
        certificate: some(),
        chain: some(),
        rekor: some(),
    })
}

/// Signatures in both forms, and the manifests that they come in.
fn signature(data: &[u8]) {
    let mut material = vec![SignatureMaterial::Bundle(data.to_vec())];
    material.extend(simple(data).map(SignatureMaterial::Simple));
    let (layers, unusable) = sig_layers(data);
    material.extend(unusable);
    material.extend(layers.iter().map(|layer| layer.material(data.to_vec())));
    let _ = bundle_descriptor(data);
    material.extend(material_from_referrer(data, data.to_vec()));
    for one in &material {
        let decide = |repository, content: &[u8], overrule| {
            verify(trusting(), None, Some(repository), &sha256(content), std::slice::from_ref(one), overrule)
        };
        if let Ok(acceptance) = decide(REPOSITORY, NOT_SIGNED, Override::None) {
            panic!("nobody signed this, and it is {acceptance:?}");
        }
        let rejected = decide(REJECTED, SIGNED, Override::AllowUnsigned);
        assert!(rejected.is_err(), "a rule that rejects was overruled");
        match decide(REPOSITORY, SIGNED, Override::None) {
            Ok(Acceptance::Signed { .. }) => {}
            Ok(other) => panic!("the policy takes signatures alone, and this is {other:?}"),
            Err(refusal) => {
                let error = crate::Error::from(refusal);
                assert_eq!(error.kind(), crate::ErrorKind::Refused);
                assert!(error.why().len() < 20_000, "a refusal of {} bytes", error.why().len());
            }
        }
    }
    let subject = crate::trust::SignedSubject {
        digest: sha256(SIGNED),
        media_type: media::MANIFEST.to_owned(),
        size: SIGNED.len() as u64,
    };
    if let Ok(form) = crate::trust::wrap_bundle(data, &subject) {
        assert!(matches!(bundle_descriptor(&form.manifest), Ok(Some(_))), "what was wrapped is not found again");
    }
    let _ = crate::receipt::read(data);
}

/// Trust policies and the grants that one hands to another.
fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let nowhere = Path::new("/nonexistent");
    if let Ok(grants) = serde_json::from_str::<Vec<Grant>>(text) {
        let mut policy = TrustPolicy::default();
        if let Ok(lacking) = policy.lacking(&grants, None) {
            for grant in &lacking {
                let _ = (grant.to_string(), policy.take(grant, "root.json"));
            }
        }
    }
    let Ok(mut policy) = TrustPolicy::parse(text.to_owned(), nowhere) else { return };
    assert_eq!(policy.to_toml(), text);
    let again = TrustPolicy::parse(text.to_owned(), nowhere).map(|policy| policy.hash(None));
    assert_eq!(again.ok(), Some(policy.hash(None)));
    let opens = policy.rules().iter().any(|rule| rule.action == "accept-unsigned");
    for repository in [None, Some(REPOSITORY), Some("docker.io/library/alpine"), Some("HOST/a/"), Some("")] {
        let decided = verify(&policy, None, repository, &sha256(SIGNED), &[], Override::None);
        assert!(opens || decided.is_err(), "no rule takes the unsigned, and {repository:?} is {decided:?}");
    }
    let _ = policy.grants(None);
    let before = policy.clone();
    let key = "another.pub";
    if policy.add_key(REPOSITORY, key).is_ok() {
        let lists = |policy: &TrustPolicy| {
            policy.rules().iter().any(|rule| {
                rule.repository == REPOSITORY && rule.action != "compiled" && rule.keys.iter().any(|(k, _)| k == key)
            })
        };
        assert!(lists(&policy), "a key that was added is not there");
        assert!(TrustPolicy::parse(policy.to_toml().to_owned(), nowhere).is_ok_and(|read| lists(&read)));
        assert!(policy.remove(REPOSITORY, Some(key)).is_ok(), "a key that was added can't be removed");
        assert!(!lists(&policy), "a key that was removed is there");
        let widened = policy.rules().iter().any(|rule| rule.action == "accept-unsigned") && !opens;
        assert!(!widened, "an edit took the unsigned in: {:?} was {:?}", policy.to_toml(), before.to_toml());
    }
}

/// The settings file and the file of tokens.
fn settings(data: &[u8]) {
    static HOME: OnceLock<tempfile::TempDir> = OnceLock::new();
    let home = HOME.get_or_init(scratch).path();
    let file = home.join("config.toml");
    if std::fs::write(&file, data).is_err() {
        return;
    }
    let flags = Flags { home: Some(home.to_owned()), ..Flags::default() };
    if let Ok(config) = Config::load(flags) {
        let _ = (config.connect_timeout(), config.read_timeout());
        let _ = (config.state.seal_after(), config.state.seal_bytes(), config.state.keep_pushed_bytes());
        for mirror in &config.mirrors {
            assert!(crate::oci::parse_reference(&format!("{}/x", mirror.upstream)).is_ok(), "{mirror:?}");
        }
        assert!(config.without.iter().all(|package| crate::config::WITHHOLDABLE.contains(&package.as_str())));
    }
    if let Ok(tokens) = Tokens::list(&file) {
        // What narrows a token is printed as what it is read from: else `vyr token` would widen it.
        for (name, limits) in tokens {
            assert!(!name.contains(' '), "{name:?}");
            if let Some(limits) = limits {
                let line = format!("{name} sha256:{}{limits}\n", "0".repeat(64));
                let written = std::fs::write(&file, &line).is_ok();
                let again = Tokens::list(&file).ok().and_then(|mut all| all.pop()).and_then(|(_, limits)| limits);
                assert!(!written || again.map(|l| l.to_string()) == Some(limits.to_string()), "{line:?}");
            }
        }
    }
}
