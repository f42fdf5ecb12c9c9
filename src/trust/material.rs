//! Owns the way from what a registry or the store holds (a `.sig` manifest, a referrer) to signatures to verify.
//!
//! Nothing is trusted or refused here: what can't be used is carried on as [`Unusable`], since another signature
//! beside it may be good, and since the refusal has to name it if none is.

use std::collections::HashMap;

use super::sign::PREDICATE_TYPE;
use crate::oci::{self, Descriptor, Digest, ImageManifest, MAX_DESCRIPTORS, MAX_MANIFEST_BYTES, media};

/// The largest simple-signing payload that is read, in bytes; a usual one has under 300.
pub const MAX_PAYLOAD_BYTES: u64 = 64 << 10;
/// The largest bundle that is read, in bytes; a usual one has under 20 KiB.
pub const MAX_BUNDLE_BYTES: u64 = 1 << 20;
/// The most signatures of one artifact that are looked at.
pub const MAX_SIGNATURES: usize = 128;

/// The largest certificate, chain or bundle annotation, in bytes.
const MAX_ANNOTATION_BYTES: usize = 64 << 10;
/// `critical.type` of a payload.
pub(super) const SIMPLE_TYPE: &str = "cosign container image signature";
/// The annotation that holds the simple form's signature.
pub(super) const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// The annotation by which a bundle's referrer says what its statement is.
pub(super) const PREDICATE_ANNOTATION: &str = "dev.sigstore.bundle.predicateType";
const CERTIFICATE_ANNOTATION: &str = "dev.sigstore.cosign/certificate";
const CHAIN_ANNOTATION: &str = "dev.sigstore.cosign/chain";
const REKOR_ANNOTATION: &str = "dev.sigstore.cosign/bundle";

/// One signature of an artifact, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SignatureMaterial {
    /// A layer of a `.sig` manifest.
    Simple(SimpleSignature),
    /// The bytes of a Sigstore bundle.
    Bundle(Vec<u8>),
    /// Something in a signature's place that can't be used.
    Unusable(Unusable),
}

/// A layer of a `.sig` manifest with what its annotations say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimpleSignature {
    /// The exact bytes that are signed.
    pub payload: Vec<u8>,
    /// The digest that the manifest gives for the payload, where it is known.
    pub payload_digest: Option<Digest>,
    /// The signature in base64.
    pub signature: String,
    /// The signing certificate in PEM, for keyless signatures.
    pub certificate: Option<String>,
    /// The certificates above it in PEM.
    pub chain: Option<String>,
    /// Rekor's signed entry timestamp, as cosign's JSON.
    pub rekor: Option<String>,
}

/// Why something in a signature's place can't be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unusable {
    /// Over its cap, so never read.
    TooLarge {
        /// `payload`, `bundle` or `manifest`.
        what: &'static str,
        /// Its size in bytes.
        size: u64,
        /// The cap in bytes.
        limit: u64,
    },
    /// More signatures than are looked at.
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// The simple form is malformed.
    Payload(String),
    /// The bundle form is malformed.
    Bundle(String),
}

impl From<Unusable> for SignatureMaterial {
    fn from(unusable: Unusable) -> Self {
        Self::Unusable(unusable)
    }
}

/// The tag of the simple form: `sha256-<hex>.sig`.
#[must_use]
pub fn sig_tag(digest: &Digest) -> String {
    format!("{}.sig", digest.to_string().replacen(':', "-", 1))
}

/// What a tag of the simple form is about; `None` for any other tag.
#[must_use]
pub fn signed_by_tag(tag: &str) -> Option<Digest> {
    let (algorithm, hex) = tag.strip_suffix(".sig")?.split_once('-')?;
    oci::parse_digest(&format!("{algorithm}:{hex}")).ok()
}

/// A signature layer of a `.sig` manifest whose payload is yet to be fetched.
#[derive(Debug, Clone)]
pub struct SigLayer {
    /// What to fetch; its size is within [`MAX_PAYLOAD_BYTES`].
    pub descriptor: Descriptor,
}

impl SigLayer {
    /// The signature, once its payload is there.
    #[must_use]
    pub fn material(&self, payload: Vec<u8>) -> SignatureMaterial {
        if let Some(too_large) = too_large("payload", payload.len() as u64, MAX_PAYLOAD_BYTES) {
            return too_large.into();
        }
        let annotation = |name: &str| self.descriptor.annotations().as_ref().and_then(|a| a.get(name)).cloned();
        SignatureMaterial::Simple(SimpleSignature {
            payload,
            payload_digest: Some(self.descriptor.digest().clone()),
            signature: annotation(SIGNATURE_ANNOTATION).unwrap_or_default(),
            certificate: annotation(CERTIFICATE_ANNOTATION),
            chain: annotation(CHAIN_ANNOTATION),
            rekor: annotation(REKOR_ANNOTATION),
        })
    }
}

/// The signature layers of a `.sig` manifest, and what in it can't be used. Fetch each layer, then call
/// [`SigLayer::material`].
#[must_use]
pub fn sig_layers(manifest: &[u8]) -> (Vec<SigLayer>, Vec<SignatureMaterial>) {
    let manifest = match read_manifest(manifest) {
        Ok(manifest) => manifest,
        Err(ManifestError::TooLarge(unusable)) => return (Vec::new(), vec![unusable.into()]),
        Err(ManifestError::Malformed(why)) => return (Vec::new(), vec![Unusable::Payload(why).into()]),
    };
    let mut unusable = Vec::new();
    let mut layers = Vec::new();
    let count = manifest.layers().len();
    if count > MAX_SIGNATURES {
        unusable.push(Unusable::TooMany { count }.into());
    }
    for descriptor in manifest.layers().iter().take(MAX_SIGNATURES) {
        if descriptor.media_type().as_ref() != media::SIMPLE_SIGNING {
            continue;
        }
        let annotations_fit = descriptor
            .annotations()
            .as_ref()
            .is_none_or(|a: &HashMap<String, String>| a.values().all(|value| value.len() <= MAX_ANNOTATION_BYTES));
        if let Some(too_large) = too_large("payload", descriptor.size(), MAX_PAYLOAD_BYTES) {
            unusable.push(too_large.into());
        } else if !annotations_fit {
            unusable.push(Unusable::Payload("an annotation of its layer is too long".into()).into());
        } else {
            layers.push(SigLayer { descriptor: descriptor.clone() });
        }
    }
    (layers, unusable)
}

/// All signatures of a `.sig` manifest; `fetch` gives the bytes of a layer.
///
/// # Errors
/// Those of `fetch` alone: what is malformed becomes [`SignatureMaterial::Unusable`].
pub fn material_from_sig_manifest<E>(
    manifest: &[u8],
    mut fetch: impl FnMut(&Descriptor) -> Result<Vec<u8>, E>,
) -> Result<Vec<SignatureMaterial>, E> {
    let (layers, mut material) = sig_layers(manifest);
    for layer in layers {
        let payload = fetch(&layer.descriptor)?;
        material.push(layer.material(payload));
    }
    Ok(material)
}

/// The layer to fetch of a referrer that holds a Sigstore bundle; `None` when it is another kind of referrer.
/// cosign's entry in a fallback index lacks the artifactType, so each referrer's manifest has to be looked at.
///
/// # Errors
/// The manifest or its bundle can't be used.
pub fn bundle_descriptor(manifest: &[u8]) -> Result<Option<Descriptor>, Unusable> {
    let manifest = match read_manifest(manifest) {
        Ok(manifest) => manifest,
        Err(ManifestError::TooLarge(unusable)) => return Err(unusable),
        Err(ManifestError::Malformed(why)) => return Err(Unusable::Bundle(why)),
    };
    let Some(layer) = manifest.layers().iter().find(|layer| is_bundle(layer.media_type().as_ref())) else {
        return Ok(None);
    };
    if states_something_else(manifest.annotations().as_ref()) {
        return Ok(None);
    }
    match too_large("bundle", layer.size(), MAX_BUNDLE_BYTES) {
        Some(too_large) => Err(too_large),
        None => Ok(Some(layer.clone())),
    }
}

/// Whether a referrer, or its entry in a listing, says of itself that it is a statement about the artifact other than its
/// signature, as a receipt is. There may be any number of these, and none counts as a signature whatever is in it.
#[must_use]
pub fn states_something_else(annotations: Option<&HashMap<String, String>>) -> bool {
    annotations.and_then(|a| a.get(PREDICATE_ANNOTATION)).is_some_and(|predicate| predicate != PREDICATE_TYPE)
}

/// The signature in a referrer, given its manifest and the bytes of the layer that [`bundle_descriptor`] names;
/// `None` when the referrer is of another kind.
#[must_use]
pub fn material_from_referrer(manifest: &[u8], layer: Vec<u8>) -> Option<SignatureMaterial> {
    match bundle_descriptor(manifest) {
        Ok(None) => None,
        Err(unusable) => Some(unusable.into()),
        Ok(Some(descriptor)) => Some(match too_large("bundle", layer.len() as u64, MAX_BUNDLE_BYTES) {
            Some(too_large) => too_large.into(),
            None if oci::check_digest(descriptor.digest(), &layer).is_err() => {
                Unusable::Bundle("its bytes are not what its manifest names".into()).into()
            }
            None => SignatureMaterial::Bundle(layer),
        }),
    }
}

pub(super) fn too_large(what: &'static str, size: u64, limit: u64) -> Option<Unusable> {
    (size > limit).then_some(Unusable::TooLarge { what, size, limit })
}

/// Any version: an older or newer one is then refused by name instead of looking unsigned.
fn is_bundle(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.dev.sigstore.bundle")
}

enum ManifestError {
    TooLarge(Unusable),
    Malformed(String),
}

fn read_manifest(bytes: &[u8]) -> Result<ImageManifest, ManifestError> {
    if let Some(too_large) = too_large("manifest", bytes.len() as u64, MAX_MANIFEST_BYTES) {
        return Err(ManifestError::TooLarge(too_large));
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes)
        .map_err(|e| ManifestError::Malformed(format!("its manifest can't be read: {e}")))?;
    if manifest.layers().len() > MAX_DESCRIPTORS {
        return Err(ManifestError::Malformed(format!("its manifest lists {} layers", manifest.layers().len())));
    }
    Ok(manifest)
}
