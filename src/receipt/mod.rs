//! Owns receipts: what is stated of an execution, by whom it is signed, and how it is kept. `docs/receipt.md` is the
//! schema.
//!
//! A receipt is an in-toto Statement v1 about the artifact that was executed, whose predicate is [`Predicate`], in a DSSE
//! envelope that the node's key signed. The node keeps statement and signature beside the task's record and makes the
//! Sigstore bundle, which repeats the statement in base64, when somebody wants it.

use serde::{Deserialize, Serialize};
use sigstore_types::{Bundle, SignatureContent};

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, parse_digest, sha256_bytes};
use crate::trust::{SigningKey, StatementSignature, sign_statement, statement_bundle};

mod predicate;

#[cfg(test)]
mod tests;

pub use predicate::{
    ArtifactFacts, EndFacts, EngineFacts, Hashed, InputFacts, LimitFacts, MadeFacts, OutputFacts, Predicate,
    StartFacts, StateFacts, StreamFacts, TaskFacts, UseFacts, VerifiedFacts, Word,
};

/// The type of a receipt's predicate.
pub const PREDICATE_TYPE: &str = "https://vyr.dev/attestation/execution/v0";
const STATEMENT_V1: &str = "https://in-toto.io/Statement/v1";
/// What [`Sealed::to_bytes`] begins with.
const FORM: u8 = 1;

/// `sha256:<hex>` of bytes.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha256_bytes(bytes)))
}

#[derive(Debug, Serialize, Deserialize)]
struct Statement<P> {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: P,
}

#[derive(Debug, Serialize, Deserialize)]
struct Subject {
    name: String,
    digest: std::collections::BTreeMap<String, String>,
}

/// A signed receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    statement: Vec<u8>,
    signed: StatementSignature,
}

/// What a receipt says, once it was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Receipt {
    /// The artifact's digest: the statement's subject.
    pub subject: Digest,
    /// The artifact's name: its repository, or its digest where it has none.
    pub name: String,
    /// The rest.
    pub predicate: Predicate,
}

impl Sealed {
    /// States and signs.
    ///
    /// # Errors
    /// The key fails.
    pub fn seal(key: &SigningKey, receipt: &Receipt) -> Result<Self> {
        let digest = receipt.subject.to_string();
        let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", &digest));
        let statement = Statement {
            kind: STATEMENT_V1.into(),
            subject: vec![Subject {
                name: receipt.name.clone(),
                digest: [(algorithm.to_owned(), hex.to_owned())].into(),
            }],
            predicate_type: PREDICATE_TYPE.into(),
            predicate: &receipt.predicate,
        };
        let statement = serde_json::to_vec(&statement)
            .map_err(|e| Error::new(ErrorKind::Internal, format!("the receipt can't be written: {e}")))?;
        let signed = sign_statement(key, &statement)?;
        Ok(Self { statement, signed })
    }

    /// As it is kept: the form, the key's hash, the signature with its length, the statement.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let length = u8::try_from(self.signed.signature.len()).unwrap_or(u8::MAX);
        let mut bytes = Vec::with_capacity(34 + self.signed.signature.len() + self.statement.len());
        bytes.push(FORM);
        bytes.extend_from_slice(&self.signed.key);
        bytes.push(length);
        bytes.extend_from_slice(&self.signed.signature);
        bytes.extend_from_slice(&self.statement);
        bytes
    }

    /// From what is kept; `None` for something else.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (&[FORM], rest) = bytes.split_first_chunk::<1>()? else { return None };
        let (key, rest) = rest.split_first_chunk::<32>()?;
        let (&[length], rest) = rest.split_first_chunk::<1>()?;
        let (signature, statement) = rest.split_at_checked(usize::from(length))?;
        let signed = StatementSignature { key: *key, signature: signature.to_vec() };
        Some(Self { statement: statement.to_vec(), signed })
    }

    /// The Sigstore bundle (JSON, v0.3).
    ///
    /// # Errors
    /// JSON can't be written.
    pub fn bundle(&self) -> Result<Vec<u8>> {
        Ok(statement_bundle(&self.signed, &self.statement)?)
    }
}

/// Reads the receipt in a bundle. Who signed it is not asked here.
///
/// # Errors
/// [`ErrorKind::InvalidContent`]: it is none.
pub fn read(bundle: &[u8]) -> Result<Receipt> {
    let none = |why: String| {
        Error::new(ErrorKind::InvalidContent, format!("it is not a receipt: {why}"))
            .hint("give what `vyr receipt show --bundle` printed")
    };
    let bundle: Bundle = serde_json::from_slice(bundle).map_err(|e| none(format!("not a Sigstore bundle: {e}")))?;
    let SignatureContent::DsseEnvelope(envelope) = &bundle.content else {
        return Err(none("its bundle holds no DSSE envelope".into()));
    };
    let payload = envelope.payload.as_bytes();
    let statement: Statement<serde_json::Value> =
        serde_json::from_slice(payload).map_err(|e| none(format!("its statement: {e}")))?;
    if statement.kind != STATEMENT_V1 || statement.predicate_type != PREDICATE_TYPE {
        return Err(none(format!("its statement is of type `{:.100}`", statement.predicate_type)));
    }
    let subject = statement.subject.into_iter().next().ok_or_else(|| none("its statement has no subject".into()))?;
    let digest = subject.digest.iter().find_map(|(algorithm, hex)| parse_digest(&format!("{algorithm}:{hex}")).ok());
    let predicate = serde_json::from_value(statement.predicate).map_err(|e| none(format!("its predicate: {e}")))?;
    Ok(Receipt {
        subject: digest.ok_or_else(|| none("its subject has no digest".into()))?,
        name: subject.name,
        predicate,
    })
}
