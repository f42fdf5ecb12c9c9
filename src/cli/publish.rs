//! `vyr push`, `vyr sign`, `vyr keygen`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::Session;
use super::args::{Output, pair};
use crate::config::{EnvVars, write_new_private};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::ArtifactRef;
use crate::ops::push::{PushRequest, push};
use crate::ops::sign::{machine_key, sign};
use crate::trust::{Algorithm, SigningKey};

#[derive(Debug, Args)]
pub(super) struct Push {
    /// Where to, as host/repository:tag or oci:PATH:tag
    reference: ArtifactRef,
    /// The Wasm module or component
    file: PathBuf,
    /// Put this container image beside it, to run where the Wasm can't start (repeatable); an index gives all its Linux images
    #[arg(long, value_name = "IMAGE")]
    fallback: Vec<ArtifactRef>,
    /// Sign with this key (PEM, cosign's or PKCS #8) instead of this machine's own
    #[arg(long, value_name = "FILE")]
    sign_key: Option<PathBuf>,
    /// Don't sign
    #[arg(long, conflicts_with = "sign_key")]
    no_sign: bool,
    /// Annotate the manifest (repeatable)
    #[arg(long = "annotation", value_name = "KEY=VALUE", value_parser = pair)]
    annotations: Vec<(String, String)>,
}

impl Push {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let attempted = format!("push {} to {}", self.file.display(), self.reference);
        let key = match self.no_sign {
            true => None,
            false => Some(key(session, self.sign_key.as_ref()).map_err(|e| e.attempted(&attempted))?),
        };
        let request = PushRequest {
            reference: self.reference,
            file: self.file,
            annotations: self.annotations.into_iter().collect(),
            fallback: self.fallback,
            key,
        };
        let pushed = push(&session.vyr, request).await.map_err(|e| e.attempted(attempted))?;
        session.printer.result(&pushed, || pushed.reference.clone())?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Sign {
    /// The artifact
    reference: ArtifactRef,
    /// The private key (PEM, cosign's or PKCS #8) [default: this machine's own]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Sign {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let attempted = |e: Error| e.attempted(format_args!("sign {}", self.reference));
        let key = key(session, self.key.as_ref()).map_err(attempted)?;
        let signed = sign(&session.vyr, &self.reference, &key).await.map_err(attempted)?;
        session.printer.result(&signed, || signed.reference.clone())?;
        Ok(0)
    }
}

pub(super) fn key(session: &Session, path: Option<&PathBuf>) -> Result<SigningKey> {
    let Some(path) = path else { return machine_key(&session.vyr.config().home) };
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::new(ErrorKind::Usage, format!("the key {} can't be read: {e}", path.display())))
        .map_err(|e| {
            e.hint("give a private key's file: `vyr keygen` makes one; without --sign-key this machine's own key signs")
        })?;
    // An empty password is a password: cosign's own default for generated keys in scripts.
    let password = EnvVars::first(&[EnvVars::VYR_KEY_PASSWORD, EnvVars::COSIGN_PASSWORD]).unwrap_or_default();
    SigningKey::from_pem(&text, Some(password.as_bytes())).map_err(|e| {
        let error = Error::from(e);
        let hint = error.next().unwrap_or_default().to_owned();
        Error::new(error.kind(), format!("the key {} can't be used: {}", path.display(), error.why())).hint(hint)
    })
}

/// The kinds of keys that can be made.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum KeyAlgorithm {
    /// ECDSA on P-256, what cosign makes
    EcdsaP256,
    /// Ed25519
    Ed25519,
    /// RSA with 3072 bits
    Rsa,
}

#[derive(Debug, Args)]
pub(super) struct Keygen {
    /// Writes PREFIX.key and PREFIX.pub
    #[arg(default_value = "vyr", value_name = "PREFIX")]
    prefix: PathBuf,
    /// The algorithm
    #[arg(long, value_enum, default_value_t = KeyAlgorithm::EcdsaP256)]
    algorithm: KeyAlgorithm,
}

#[derive(Serialize)]
struct Made {
    private_key: PathBuf,
    public_key: PathBuf,
    id: String,
}

impl Keygen {
    pub(super) fn execute(self, session: &Session) -> Result<u8> {
        let with = |extension: &str| {
            let mut name = self.prefix.clone().into_os_string();
            name.push(extension);
            PathBuf::from(name)
        };
        let made = Made { private_key: with(".key"), public_key: with(".pub"), id: String::new() };
        for path in [&made.private_key, &made.public_key] {
            if path.exists() {
                return Err(Error::new(ErrorKind::Usage, format!("{} is there already", path.display()))
                    .hint("give another PREFIX, or move it away"));
            }
        }
        let algorithm = match self.algorithm {
            KeyAlgorithm::EcdsaP256 => Algorithm::EcdsaP256,
            KeyAlgorithm::Ed25519 => Algorithm::Ed25519,
            KeyAlgorithm::Rsa => Algorithm::Rsa3072,
        };
        let key = SigningKey::generate(algorithm)?;
        let password = EnvVars::first(&[EnvVars::VYR_KEY_PASSWORD, EnvVars::COSIGN_PASSWORD]);
        if password.is_none() && session.printer.output == Output::Text {
            session.printer.note("the private key has an empty password; set VYR_KEY_PASSWORD to encrypt it with one");
        }
        write_new_private(
            &made.private_key,
            key.to_encrypted_pem(password.unwrap_or_default().as_bytes())?.as_bytes(),
        )?;
        std::fs::write(&made.public_key, key.public_pem()).map_err(|e| {
            Error::new(ErrorKind::Storage, format!("{} can't be written: {e}", made.public_key.display()))
        })?;
        let made = Made { id: key.key_id().to_owned(), ..made };
        session.printer.result(&made, || format!("{}\n{}", made.private_key.display(), made.public_key.display()))?;
        Ok(0)
    }
}
