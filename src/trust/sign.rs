//! Owns the making of signatures: one key, one manifest digest, both of cosign's forms.
//!
//! Formats: the simple form is containers/image's "simple signing" payload in cosign's `specs/SIGNATURE_SPEC.md`;
//! the bundle is Sigstore bundle v0.3 (sigstore/protobuf-specs) as an OCI 1.1 referrer, as cosign 3 writes it, with a
//! DSSE envelope over an in-toto Statement v1. cosign 2 sees only the first, cosign 3 prefers the second.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Value, json};

use super::keys::{KeyError, SigningKey};
use super::material::{MAX_BUNDLE_BYTES, PREDICATE_ANNOTATION, SIGNATURE_ANNOTATION, SIMPLE_TYPE, Unusable, sig_tag};
use crate::error::{Error, ErrorKind};
use crate::oci::{self, Digest, EMPTY_JSON, MAX_DESCRIPTORS, MAX_MANIFEST_BYTES, media};

/// The predicate type of a signature's in-toto statement, as cosign 3 writes it.
pub const PREDICATE_TYPE: &str = "https://sigstore.dev/cosign/sign/v1";
/// The DSSE payload type of an in-toto statement.
pub(super) const IN_TOTO: &str = "application/vnd.in-toto+json";
/// The type of an in-toto Statement v1.
pub(super) const STATEMENT_V1: &str = "https://in-toto.io/Statement/v1";

/// What is signed: a manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedSubject {
    /// Its digest.
    pub digest: Digest,
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A blob to be pushed before the manifest that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    /// SHA-256 of `bytes`.
    pub digest: Digest,
    /// Its media type in the manifest.
    pub media_type: &'static str,
    /// The content.
    pub bytes: Vec<u8>,
}

impl Blob {
    fn new(media_type: &'static str, bytes: Vec<u8>) -> Self {
        Self { digest: oci::sha256(&bytes), media_type, bytes }
    }

    fn descriptor(&self) -> Value {
        json!({ "mediaType": self.media_type, "size": self.bytes.len(), "digest": self.digest.to_string() })
    }
}

/// The simple form: a manifest under the tag `sha256-<hex>.sig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimpleForm {
    /// The tag to push the manifest under.
    pub tag: String,
    /// The manifest ([`media::MANIFEST`]). Equal to the old one when that already holds this key's signature.
    pub manifest: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
    /// The payload and the config.
    pub blobs: Vec<Blob>,
}

/// The bundle form: a referrer of the subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BundleForm {
    /// The manifest ([`media::MANIFEST`]), whose artifactType is [`media::SIGSTORE_BUNDLE`].
    pub manifest: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
    /// The bundle and the empty config.
    pub blobs: Vec<Blob>,
    /// The manifest's annotations, which a fallback index repeats.
    pub annotations: BTreeMap<&'static str, &'static str>,
}

/// Both forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedForms {
    /// What cosign 2 reads.
    pub simple: SimpleForm,
    /// What cosign 3 reads first.
    pub bundle: BundleForm,
}

/// Why a signature can't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The key failed.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The signatures already at the tag can't be read, so none can be added to them.
    #[error("the signatures that {digest} already has can't be added to: {why}")]
    OldManifest {
        /// The signed digest.
        digest: String,
        /// What is wrong.
        why: String,
    },
    /// JSON could not be written.
    #[error("the signature could not be encoded: {0}")]
    Encode(#[from] serde_json::Error),
}

impl From<SignError> for Error {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Key(key) => key.into(),
            SignError::OldManifest { .. } => Self::new(ErrorKind::InvalidContent, &error)
                .hint("remove its .sig tag from the registry, then sign again"),
            SignError::Encode(_) => Self::new(ErrorKind::Internal, &error),
        }
    }
}

// Field order is cosign's, so that the bytes are the same as those that it writes.
#[derive(Serialize)]
struct Payload<'a> {
    critical: Critical<'a>,
    optional: Option<()>,
}
#[derive(Serialize)]
struct Critical<'a> {
    identity: Identity<'a>,
    image: Image<'a>,
    #[serde(rename = "type")]
    kind: &'static str,
}
#[derive(Serialize)]
struct Identity<'a> {
    #[serde(rename = "docker-reference")]
    docker_reference: &'a str,
}
#[derive(Serialize)]
struct Image<'a> {
    #[serde(rename = "docker-manifest-digest")]
    digest: &'a str,
}

/// Signs `subject` with `key` in both forms. The simple form binds `repository` (`host[:port]/repository`; `None`
/// binds none) and, where the tag already holds a manifest, adds to it: pass that as `existing`.
///
/// The result is a function of the arguments but for the signatures' own randomness.
///
/// # Errors
/// [`SignError`]: the key fails, or `existing` isn't a manifest.
#[tracing::instrument(skip_all, fields(digest = %subject.digest, key = key.key_id()))]
pub fn sign(
    key: &SigningKey,
    repository: Option<&str>,
    subject: &SignedSubject,
    existing: Option<&[u8]>,
) -> Result<SignedForms, SignError> {
    Ok(SignedForms { simple: simple(key, repository, subject, existing)?, bundle: bundle(key, subject)? })
}

fn simple(
    key: &SigningKey,
    repository: Option<&str>,
    subject: &SignedSubject,
    existing: Option<&[u8]>,
) -> Result<SimpleForm, SignError> {
    let digest = subject.digest.to_string();
    let payload = serde_json::to_vec(&Payload {
        critical: Critical {
            identity: Identity { docker_reference: repository.unwrap_or_default() },
            image: Image { digest: &digest },
            kind: SIMPLE_TYPE,
        },
        optional: None,
    })?;
    let payload = Blob::new(media::SIMPLE_SIGNING, payload);
    let mut layers = match existing {
        Some(bytes) => old_layers(&digest, bytes)?,
        None => Vec::new(),
    };
    if let Some(bytes) = existing.filter(|_| layers.iter().any(|layer| is_ours(key, &payload, layer))) {
        let config = config_of(&layers)?;
        let manifest = bytes.to_vec();
        return Ok(SimpleForm {
            tag: sig_tag(&subject.digest),
            digest: oci::sha256(&manifest),
            manifest,
            blobs: vec![payload, config],
        });
    }
    let signature = STANDARD.encode(key.sign(&payload.bytes)?);
    let mut layer = payload.descriptor();
    layer["annotations"] = json!({ SIGNATURE_ANNOTATION: signature });
    layers.push(layer);
    let config = config_of(&layers)?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "config": config.descriptor(),
        "layers": layers,
    }))?;
    Ok(SimpleForm {
        tag: sig_tag(&subject.digest),
        digest: oci::sha256(&manifest),
        manifest,
        blobs: vec![payload, config],
    })
}

fn old_layers(digest: &str, bytes: &[u8]) -> Result<Vec<Value>, SignError> {
    let bad = |why: String| SignError::OldManifest { digest: digest.to_owned(), why };
    if bytes.len() as u64 > MAX_MANIFEST_BYTES {
        return Err(bad(format!("{} bytes are too many", bytes.len())));
    }
    let mut manifest: Value = serde_json::from_slice(bytes).map_err(|e| bad(e.to_string()))?;
    let Some(Value::Array(layers)) = manifest.get_mut("layers").map(Value::take) else {
        return Err(bad("it has no list of layers".into()));
    };
    if layers.len() >= MAX_DESCRIPTORS {
        return Err(bad(format!("{} signatures are too many", layers.len())));
    }
    if layers
        .iter()
        .any(|layer| layer.get("digest").and_then(Value::as_str).is_none_or(|d| oci::parse_digest(d).is_err()))
    {
        return Err(bad("a layer has no digest".into()));
    }
    Ok(layers)
}

/// Signing again with the same key adds nothing, so that repeated pushes don't grow the manifest.
fn is_ours(key: &SigningKey, payload: &Blob, layer: &Value) -> bool {
    layer.get("digest").and_then(Value::as_str) == Some(payload.digest.to_string().as_str())
        && layer["annotations"][SIGNATURE_ANNOTATION]
            .as_str()
            .and_then(|text| STANDARD.decode(text).ok())
            .is_some_and(|signature| key.verifying_key().verify(&payload.bytes, &signature))
}

/// The config that cosign writes: an image whose layers are the payloads. They aren't compressed, so a layer's
/// diff id is its digest and the config follows from the layers alone.
fn config_of(layers: &[Value]) -> Result<Blob, SignError> {
    let diff_ids: Vec<&Value> = layers.iter().filter_map(|layer| layer.get("digest")).collect();
    let epoch = "0001-01-01T00:00:00Z";
    let history: Vec<Value> = layers.iter().map(|_| json!({ "created": epoch })).collect();
    let config = json!({
        "architecture": "", "created": epoch, "history": history, "os": "",
        "rootfs": { "type": "layers", "diff_ids": diff_ids }, "config": {},
    });
    Ok(Blob::new(media::IMAGE_CONFIG, serde_json::to_vec(&config)?))
}

#[derive(Serialize)]
struct Statement<'a> {
    _type: &'static str,
    subject: [StatementSubject<'a>; 1],
    #[serde(rename = "predicateType")]
    predicate_type: &'static str,
    predicate: Empty,
}
#[derive(Serialize)]
struct StatementSubject<'a> {
    digest: BTreeMap<&'a str, &'a str>,
    annotations: Empty,
}
#[derive(Serialize)]
struct Empty {}

fn bundle(key: &SigningKey, subject: &SignedSubject) -> Result<BundleForm, SignError> {
    let digest = subject.digest.to_string();
    let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", &digest));
    let statement = serde_json::to_vec(&Statement {
        _type: STATEMENT_V1,
        subject: [StatementSubject { digest: BTreeMap::from([(algorithm, hex)]), annotations: Empty {} }],
        predicate_type: PREDICATE_TYPE,
        predicate: Empty {},
    })?;
    let signature = key.sign(&sigstore_types::pae(IN_TOTO, &statement))?;
    let bundle = bundle_json(&key.verifying_key().hint(), &statement, &signature)?;
    referrer(bundle, subject, PREDICATE_TYPE).map_err(SignError::from)
}

/// A Sigstore bundle v0.3 over a DSSE envelope of an in-toto statement, signed by the key that `hint` tells of.
pub(super) fn bundle_json(hint: &str, statement: &[u8], signature: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&json!({
        "mediaType": media::SIGSTORE_BUNDLE,
        "verificationMaterial": { "publicKey": { "hint": hint } },
        "dsseEnvelope": {
            "payload": STANDARD.encode(statement),
            "payloadType": IN_TOTO,
            "signatures": [{ "sig": STANDARD.encode(signature) }],
        },
    }))
}

/// Puts a Sigstore bundle, made by whomever, into the referrer manifest under which a registry keeps it. Only its
/// outer shape is looked at: whether it counts is asked at verification.
///
/// # Errors
/// [`Unusable`]: over [`MAX_BUNDLE_BYTES`], or not a v0.3 bundle.
pub fn wrap_bundle(bundle: &[u8], subject: &SignedSubject) -> Result<BundleForm, Unusable> {
    let size = bundle.len() as u64;
    if size > MAX_BUNDLE_BYTES {
        return Err(Unusable::TooLarge { what: "bundle", size, limit: MAX_BUNDLE_BYTES });
    }
    let text = std::str::from_utf8(bundle).map_err(|_| Unusable::Bundle("it is not UTF-8 text".to_owned()))?;
    sigstore_types::Bundle::from_json(text).map_err(|e| Unusable::Bundle(e.to_string()))?;
    referrer(bundle.to_vec(), subject, PREDICATE_TYPE).map_err(|e| Unusable::Bundle(e.to_string()))
}

pub(super) fn referrer(
    bundle: Vec<u8>,
    subject: &SignedSubject,
    predicate_type: &'static str,
) -> Result<BundleForm, serde_json::Error> {
    let bundle = Blob::new(media::SIGSTORE_BUNDLE, bundle);
    let config = Blob::new(media::EMPTY, EMPTY_JSON.to_vec());
    let annotations =
        BTreeMap::from([("dev.sigstore.bundle.content", "dsse-envelope"), (PREDICATE_ANNOTATION, predicate_type)]);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media::MANIFEST,
        "artifactType": media::SIGSTORE_BUNDLE,
        "config": config.descriptor(),
        "layers": [bundle.descriptor()],
        "subject": { "mediaType": subject.media_type, "size": subject.size, "digest": subject.digest.to_string() },
        "annotations": annotations,
    }))?;
    Ok(BundleForm { digest: oci::sha256(&manifest), manifest, blobs: vec![bundle, config], annotations })
}
