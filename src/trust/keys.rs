//! Owns keys: making, reading and writing them in cosign's formats, and signing and verifying bytes with them.
//!
//! The default algorithms are those of cosign's `LoadSignerVerifier` (sigstore/sigstore, `pkg/signature`): ECDSA in
//! ASN.1 DER over SHA-256, Ed25519 over the message itself, RSA PKCS #1 v1.5 over SHA-256.

use std::fmt;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sigstore::crypto::signing_key::kdf;
use sigstore_crypto::{KeyAlgorithm, SigningScheme, validate_raw_public_key, verify_signature};
use sigstore_types::{DerPublicKey, SignatureBytes};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};
use crate::oci;

/// The largest key file that is read, in bytes: an encrypted RSA-4096 key is under 6 KiB.
pub const MAX_KEY_BYTES: usize = 64 << 10;

const ENCRYPTED_SIGSTORE: &str = "ENCRYPTED SIGSTORE PRIVATE KEY";
const ENCRYPTED_COSIGN: &str = "ENCRYPTED COSIGN PRIVATE KEY";

/// What [`SigningKey::generate`] makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// ECDSA on P-256, cosign's own default.
    EcdsaP256,
    /// Ed25519.
    Ed25519,
    /// RSA, 2048 bits.
    Rsa2048,
    /// RSA, 3072 bits.
    Rsa3072,
    /// RSA, 4096 bits.
    Rsa4096,
}

/// Why a key can't be made, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text isn't the key that was asked for.
    #[error("not a {expected} key in PEM: {why}")]
    Malformed {
        /// `private` or `public`.
        expected: &'static str,
        /// What is wrong.
        why: String,
    },
    /// A key of a kind that VYR doesn't use.
    #[error("the key's algorithm is not accepted: {0}")]
    UnknownAlgorithm(String),
    /// The key is encrypted and no password was given.
    #[error("the private key is encrypted and no password was given")]
    PasswordNeeded,
    /// The password doesn't open the key.
    #[error("the password does not open this private key")]
    WrongPassword,
    /// The cryptographic library failed.
    #[error("the cryptographic library failed to {0}")]
    Crypto(&'static str),
}

impl From<KeyError> for Error {
    fn from(error: KeyError) -> Self {
        let (kind, hint) = match &error {
            KeyError::Malformed { expected: "public", .. } => {
                (ErrorKind::Usage, "give a PEM file that starts with -----BEGIN PUBLIC KEY-----, such as cosign.pub")
            }
            KeyError::Malformed { .. } => {
                (ErrorKind::Usage, "give a private key as `vyr keygen` or `cosign generate-key-pair` write it")
            }
            KeyError::UnknownAlgorithm(_) => {
                (ErrorKind::Usage, "use an ECDSA P-256, Ed25519 or RSA key (2048 bits or more)")
            }
            KeyError::PasswordNeeded => (
                ErrorKind::Usage,
                "set VYR_KEY_PASSWORD (or COSIGN_PASSWORD) to the password that the key was made with",
            ),
            KeyError::WrongPassword => (
                ErrorKind::Usage,
                "set VYR_KEY_PASSWORD (or COSIGN_PASSWORD) to the one given when the key pair was made",
            ),
            KeyError::Crypto(_) => return Self::new(ErrorKind::Internal, error),
        };
        Self::new(kind, &error).hint(hint)
    }
}

enum Pair {
    EcdsaP256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(Box<RsaKeyPair>),
}

/// A private key.
pub struct SigningKey {
    pair: Pair,
    /// PKCS #8 version 1, which is what Go's x509 reads.
    pkcs8: Zeroizing<Vec<u8>>,
    public: VerifyingKey,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.public.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// Makes a key. RSA takes up to some seconds.
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when the random source or the library fails.
    pub fn generate(algorithm: Algorithm) -> Result<Self, KeyError> {
        let failed = |_| KeyError::Crypto("generate a key");
        match algorithm {
            Algorithm::EcdsaP256 => {
                Self::from_ecdsa(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?)
            }
            Algorithm::Ed25519 => Self::from_ed25519(Ed25519KeyPair::generate().map_err(failed)?),
            Algorithm::Rsa2048 => Self::from_rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failed)?),
            Algorithm::Rsa3072 => Self::from_rsa(RsaKeyPair::generate(KeySize::Rsa3072).map_err(failed)?),
            Algorithm::Rsa4096 => Self::from_rsa(RsaKeyPair::generate(KeySize::Rsa4096).map_err(failed)?),
        }
    }

    /// Reads a private key in PEM: cosign's two encrypted labels, PKCS #8 `PRIVATE KEY`, SEC 1 `EC PRIVATE KEY` and
    /// `RSA PRIVATE KEY`. Opening an encrypted one costs some 100 ms of scrypt and 64 MiB; no other form does.
    ///
    /// # Errors
    /// [`KeyError`]: not such a key, an algorithm that isn't accepted, a missing or wrong password.
    pub fn from_pem(text: &str, password: Option<&[u8]>) -> Result<Self, KeyError> {
        let block = parse_pem(text, "private")?;
        match block.tag() {
            ENCRYPTED_SIGSTORE | ENCRYPTED_COSIGN => {
                check_envelope(block.contents())?;
                let password = password.ok_or(KeyError::PasswordNeeded)?;
                // Whatever fails past the envelope's checks is the authenticated decryption.
                let der = kdf::decrypt(block.contents(), password).map_err(|_| KeyError::WrongPassword)?;
                Self::from_pkcs8(&Zeroizing::new(der))
            }
            "PRIVATE KEY" => Self::from_pkcs8(block.contents()),
            "EC PRIVATE KEY" => Self::from_ecdsa(
                EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, block.contents()).map_err(
                    |_| KeyError::UnknownAlgorithm("an EC private key that is not on P-256, or is damaged".into()),
                )?,
            ),
            "RSA PRIVATE KEY" => Self::from_rsa(
                RsaKeyPair::from_der(block.contents())
                    .map_err(|e| KeyError::UnknownAlgorithm(format!("an RSA private key that can't be used ({e})")))?,
            ),
            label => Err(KeyError::Malformed { expected: "private", why: format!("its label is `{label}`") }),
        }
    }

    fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der) {
            return Self::from_ecdsa(pair);
        }
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der) {
            return Self::from_ed25519(pair);
        }
        match RsaKeyPair::from_pkcs8(der) {
            Ok(pair) => Self::from_rsa(pair),
            Err(_) => {
                Err(KeyError::UnknownAlgorithm("neither ECDSA P-256 nor Ed25519 nor RSA of 2048 bits or more".into()))
            }
        }
    }

    fn from_ecdsa(pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Crypto("encode a key"))?.as_ref().to_vec();
        let spki =
            AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(|_| KeyError::Crypto("encode a key"))?;
        let public = VerifyingKey::from_spki(spki.as_ref().to_vec())?;
        Ok(Self { pair: Pair::EcdsaP256(pair), pkcs8: Zeroizing::new(pkcs8), public })
    }

    fn from_ed25519(pair: Ed25519KeyPair) -> Result<Self, KeyError> {
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::Crypto("encode a key"))?.as_ref().to_vec();
        let spki =
            AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(|_| KeyError::Crypto("encode a key"))?;
        let public = VerifyingKey::from_spki(spki.as_ref().to_vec())?;
        Ok(Self { pair: Pair::Ed25519(pair), pkcs8: Zeroizing::new(pkcs8), public })
    }

    fn from_rsa(pair: RsaKeyPair) -> Result<Self, KeyError> {
        let pkcs8 =
            AsDer::<Pkcs8V1Der<'_>>::as_der(&pair).map_err(|_| KeyError::Crypto("encode a key"))?.as_ref().to_vec();
        let spki =
            AsDer::<PublicKeyX509Der<'_>>::as_der(pair.public_key()).map_err(|_| KeyError::Crypto("encode a key"))?;
        let public = VerifyingKey::from_spki(spki.as_ref().to_vec())?;
        Ok(Self { pair: Pair::Rsa(Box::new(pair)), pkcs8: Zeroizing::new(pkcs8), public })
    }

    /// The private key as `ENCRYPTED SIGSTORE PRIVATE KEY`: base64 of JSON with scrypt (N 32768, r 8, p 1) and NaCl
    /// secretbox around PKCS #8 (go-tuf `encrypted.go`, as cosign's `pkg/cosign/keys.go` uses it).
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when the library fails.
    pub fn to_encrypted_pem(&self, password: &[u8]) -> Result<Zeroizing<String>, KeyError> {
        let sealed = kdf::encrypt(&self.pkcs8, password).map_err(|_| KeyError::Crypto("encrypt a key"))?;
        Ok(Zeroizing::new(encode_pem(ENCRYPTED_SIGSTORE, sealed)))
    }

    /// The private key as PKCS #8 `PRIVATE KEY`, in the clear: for a file that only its owner reads.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(encode_pem("PRIVATE KEY", self.pkcs8.to_vec()))
    }

    /// The public key as PEM `PUBLIC KEY`.
    #[must_use]
    pub fn public_pem(&self) -> String {
        self.public.to_pem()
    }

    /// The public key.
    #[must_use]
    pub fn verifying_key(&self) -> &VerifyingKey {
        &self.public
    }

    /// `sha256:<hex>` of the public key's SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn key_id(&self) -> &str {
        self.public.id()
    }

    /// Signs `message` as cosign does with a key of this kind.
    ///
    /// # Errors
    /// [`KeyError::Crypto`] when the random source or the library fails.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let failed = |_| KeyError::Crypto("sign");
        match &self.pair {
            Pair::EcdsaP256(pair) => Ok(pair.sign(&SystemRandom::new(), message).map_err(failed)?.as_ref().to_vec()),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).map_err(failed)?;
                Ok(signature)
            }
        }
    }
}

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyingKey {
    spki: DerPublicKey,
    algorithm: KeyAlgorithm,
    id: String,
}

impl VerifyingKey {
    /// Reads PEM `PUBLIC KEY`: ECDSA on P-256 or P-384, Ed25519, or RSA from 2048 to 8192 bits.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] or [`KeyError::UnknownAlgorithm`].
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let block = parse_pem(text, "public")?;
        if block.tag() != "PUBLIC KEY" {
            return Err(KeyError::Malformed { expected: "public", why: format!("its label is `{}`", block.tag()) });
        }
        Self::from_spki(block.into_contents())
    }

    /// Takes a SubjectPublicKeyInfo in DER (RFC 5280 section 4.1.2.7).
    ///
    /// # Errors
    /// As [`Self::from_pem`].
    pub fn from_spki(der: Vec<u8>) -> Result<Self, KeyError> {
        let id = oci::sha256(&der).to_string();
        let spki = DerPublicKey::new(der);
        let algorithm = KeyAlgorithm::from_spki(&spki).map_err(|e| KeyError::UnknownAlgorithm(e.to_string()))?;
        let key = Self { spki, algorithm, id };
        let Some(scheme) = key.schemes().first() else {
            return Err(KeyError::UnknownAlgorithm(format!("{algorithm:?}")));
        };
        if algorithm == KeyAlgorithm::Rsa {
            let raw = sigstore_crypto::VerificationKey::from_spki_with_scheme(&key.spki, *scheme)
                .map_err(|e| KeyError::UnknownAlgorithm(e.to_string()))?;
            validate_raw_public_key(*scheme, raw.as_bytes()).map_err(|e| KeyError::UnknownAlgorithm(e.to_string()))?;
        }
        Ok(key)
    }

    /// The schemes that cosign signs with for such a key: SHA-256 in the simple form always, SHA-384 in its bundles
    /// for P-384; for RSA the default padding and the one of its key-management plug-ins.
    fn schemes(&self) -> &'static [SigningScheme] {
        match self.algorithm {
            KeyAlgorithm::EcdsaP256 => &[SigningScheme::EcdsaP256Sha256],
            KeyAlgorithm::EcdsaP384 => &[SigningScheme::EcdsaP384Sha256, SigningScheme::EcdsaP384Sha384],
            KeyAlgorithm::Ed25519 => &[SigningScheme::Ed25519],
            KeyAlgorithm::Rsa => &[SigningScheme::RsaPkcs1Sha256, SigningScheme::RsaPssSha256],
            _ => &[],
        }
    }

    /// Whether `signature` is this key's over `message`.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let wrapped = SignatureBytes::from_bytes(signature);
        self.schemes().iter().any(|scheme| verify_signature(&self.spki, message, &wrapped, *scheme).is_ok())
            || self.algorithm == KeyAlgorithm::Ed25519 && self.verify_ed25519ph(message, signature)
    }

    /// Ed25519ph (RFC 8032 section 5.1), which cosign 3 signs with where cosign 2 signs with Ed25519. The two don't
    /// mix: their inputs are told apart by a prefix. aws-lc-rs has only the latter.
    fn verify_ed25519ph(&self, message: &[u8], signature: &[u8]) -> bool {
        use sha2::Digest as _;
        let Ok(raw) = sigstore_crypto::VerificationKey::from_spki(&self.spki) else { return false };
        let Ok(key) = ed25519_dalek::VerifyingKey::try_from(raw.as_bytes()) else { return false };
        let Ok(signature) = ed25519_dalek::Signature::from_slice(signature) else { return false };
        key.verify_prehashed_strict(sha2::Sha512::new_with_prefix(message), None, &signature).is_ok()
    }

    /// `sha256:<hex>` of the SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// SHA-256 of its SubjectPublicKeyInfo.
    pub(super) fn hash(&self) -> [u8; 32] {
        crate::oci::sha256_bytes(self.spki.as_bytes())
    }

    /// What cosign writes as a bundle's `publicKey.hint`: base64 of SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn hint(&self) -> String {
        self.id
            .strip_prefix("sha256:")
            .and_then(|h| hex::decode(h).ok())
            .map(|sum| STANDARD.encode(sum))
            .unwrap_or_default()
    }

    /// PEM `PUBLIC KEY`.
    #[must_use]
    pub fn to_pem(&self) -> String {
        encode_pem("PUBLIC KEY", self.spki.as_bytes().to_vec())
    }

    /// A short name of the algorithm, for people.
    #[must_use]
    pub fn algorithm(&self) -> &'static str {
        match self.algorithm {
            KeyAlgorithm::EcdsaP256 => "ECDSA P-256",
            KeyAlgorithm::EcdsaP384 => "ECDSA P-384",
            KeyAlgorithm::Ed25519 => "Ed25519",
            KeyAlgorithm::Rsa => "RSA",
            _ => "unknown",
        }
    }
}

fn encode_pem(label: &str, der: Vec<u8>) -> String {
    pem::encode_config(&pem::Pem::new(label, der), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

fn parse_pem(text: &str, expected: &'static str) -> Result<pem::Pem, KeyError> {
    if text.len() > MAX_KEY_BYTES {
        return Err(KeyError::Malformed { expected, why: format!("{} bytes are too many", text.len()) });
    }
    pem::parse(text).map_err(|e| {
        let why = match e {
            pem::PemError::MalformedFraming => "it has no block from -----BEGIN to -----END".to_owned(),
            e => e.to_string(),
        };
        KeyError::Malformed { expected, why }
    })
}

/// Checks what `kdf::decrypt` takes for granted: a nonce of another length than secretbox's would end the process,
/// and anything wrong before the decryption isn't a wrong password.
fn check_envelope(json: &[u8]) -> Result<(), KeyError> {
    #[derive(serde::Deserialize)]
    struct Named {
        name: String,
    }
    #[derive(serde::Deserialize)]
    struct Cipher {
        name: String,
        nonce: String,
    }
    #[derive(serde::Deserialize)]
    struct Envelope {
        kdf: Named,
        cipher: Cipher,
    }
    let malformed = |why: String| KeyError::Malformed { expected: "private", why };
    let envelope: Envelope =
        serde_json::from_slice(json).map_err(|e| malformed(format!("its envelope is not cosign's: {e}")))?;
    if envelope.kdf.name != "scrypt" || envelope.cipher.name != "nacl/secretbox" {
        return Err(KeyError::UnknownAlgorithm(format!(
            "encrypted by {} and {}",
            envelope.kdf.name, envelope.cipher.name
        )));
    }
    match STANDARD.decode(&envelope.cipher.nonce) {
        Ok(nonce) if nonce.len() == 24 => Ok(()),
        _ => Err(malformed("its nonce is not 24 bytes of base64".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_signs_verifies_and_round_trips() {
        for algorithm in [Algorithm::EcdsaP256, Algorithm::Ed25519, Algorithm::Rsa2048] {
            let key = SigningKey::generate(algorithm).expect("generates");
            let signature = key.sign(b"message").expect("signs");
            let public = VerifyingKey::from_pem(&key.public_pem()).expect("reads its own PEM");
            assert_eq!(public.id(), key.key_id());
            assert!(public.verify(b"message", &signature), "{algorithm:?}");
            assert!(!public.verify(b"massage", &signature), "{algorithm:?}");
            assert!(!public.verify(b"message", b""), "{algorithm:?}");
            let again = SigningKey::from_pem(&key.to_pem(), None).expect("reads its own PEM");
            assert_eq!(again.key_id(), key.key_id());
        }
    }

    #[test]
    fn an_encrypted_key_opens_with_its_password_only() {
        let key = SigningKey::generate(Algorithm::EcdsaP256).expect("generates");
        let pem = key.to_encrypted_pem(b"secret").expect("encrypts");
        assert_eq!(SigningKey::from_pem(&pem, Some(b"secret")).expect("opens").key_id(), key.key_id());
        assert!(matches!(SigningKey::from_pem(&pem, Some(b"Secret")), Err(KeyError::WrongPassword)));
        assert!(matches!(SigningKey::from_pem(&pem, None), Err(KeyError::PasswordNeeded)));
    }

    #[test]
    fn bad_private_keys_are_errors_not_panics() {
        let envelope = |json: &str| encode_pem(ENCRYPTED_SIGSTORE, json.as_bytes().to_vec());
        let short_nonce = r#"{"kdf":{"name":"scrypt","params":{"N":65536,"r":8,"p":1},"salt":"AAAA"},"cipher":{"name":"nacl/secretbox","nonce":"AAAA"},"ciphertext":"AAAA"}"#;
        let other = short_nonce.replace("scrypt", "argon2");
        for text in [
            String::new(),
            "x".repeat(MAX_KEY_BYTES + 1),
            envelope(short_nonce),
            envelope("{}"),
            envelope(&other),
            encode_pem("PRIVATE KEY", vec![0x30, 0x03, 0x02, 0x01, 0x00]),
            encode_pem("EC PRIVATE KEY", vec![1, 2, 3]),
            encode_pem("RSA PRIVATE KEY", vec![1, 2, 3]),
            encode_pem("CERTIFICATE", vec![1, 2, 3]),
        ] {
            let error = SigningKey::from_pem(&text, Some(b"")).expect_err("refused");
            assert!(!matches!(error, KeyError::WrongPassword), "{text:.60}: {error}");
        }
    }

    #[test]
    fn bad_public_keys_are_named() {
        let private = SigningKey::generate(Algorithm::EcdsaP256).expect("generates").to_pem();
        assert!(matches!(VerifyingKey::from_pem(&private), Err(KeyError::Malformed { .. })));
        assert!(matches!(VerifyingKey::from_pem("nothing"), Err(KeyError::Malformed { .. })));
        assert!(matches!(VerifyingKey::from_spki(vec![0x30, 0x00]), Err(KeyError::UnknownAlgorithm(_))));
    }
}
