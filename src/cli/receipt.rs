//! `vyr receipt`: what is stated of an execution, whether that is genuine, and putting it beside the artifact.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use super::Session;
use super::client::NodeArgs;
use super::print::harmless;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::receipt::{self, Genuine};
use crate::receipt::read;
use crate::task::TaskId;
use crate::trust::{Signer, VerifyingKey};

/// The largest receipt that is read, in bytes.
const MAX_BYTES: u64 = 16 << 20;

#[derive(Debug, Subcommand)]
pub(super) enum Receipt {
    /// Show what a receipt states
    Show(Show),
    /// Say whether a receipt is genuine, and who signed it
    Verify(Verify),
    /// Push a receipt to the artifact's repository, where cosign verify-attestation finds it
    Push(Push),
}

#[derive(Debug, Args)]
pub(super) struct Of {
    /// A task's id, or a file with a receipt's bundle
    #[arg(value_name = "TASK|FILE")]
    pub(super) receipt: String,
    #[command(flatten)]
    pub(super) node: NodeArgs,
}

#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    of: Of,
    /// Print the signed bundle itself
    #[arg(long)]
    bundle: bool,
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    #[command(flatten)]
    of: Of,
    /// Take this public key's signature alone [default: what the trust policy takes for the artifact]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct Push {
    #[command(flatten)]
    of: Of,
    /// The repository that has the artifact [default: the one that the task's reference named]
    #[arg(long, value_name = "REPOSITORY")]
    to: Option<String>,
}

#[derive(Serialize)]
struct Verified {
    task: String,
    subject: String,
    status: String,
    signer: Signer,
}

impl Of {
    /// The receipt's bundle.
    pub(super) async fn bundle(&self, session: &Session) -> Result<Vec<u8>> {
        if let Ok(id) = self.receipt.parse::<TaskId>() {
            return Ok(self.node.connect(session).await?.get_receipt(id.to_string()).await?.to_vec());
        }
        let path = Path::new(&self.receipt);
        let unreadable = |why: String| {
            Error::new(ErrorKind::Usage, format!("{} can't be read: {why}", path.display()))
                .hint("name a task by its id, or a file that `vyr receipt show --bundle` wrote")
        };
        let length = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?.len();
        if length > MAX_BYTES {
            return Err(unreadable(format!("it has {length} bytes; at most {MAX_BYTES} are read")));
        }
        let mut bytes = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
        // The end of the line that it was printed in is no part of it: the same receipt has one digest.
        bytes.truncate(bytes.trim_ascii_end().len());
        Ok(bytes)
    }
}

/// The key in a file, and what it is called.
pub(super) fn read_key(path: &Path) -> Result<(VerifyingKey, String)> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Error::new(ErrorKind::Usage, format!("the key {} can't be read: {e}", path.display())))?;
    Ok((VerifyingKey::from_pem(&text)?, path.display().to_string()))
}

impl Receipt {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let (what, of) = match &self {
            Self::Show(verb) => ("show", &verb.of.receipt),
            Self::Verify(verb) => ("verify", &verb.of.receipt),
            Self::Push(verb) => ("push", &verb.of.receipt),
        };
        let what = format!("{what} the receipt {of}");
        let done = match self {
            Self::Show(verb) => verb.execute(session).await,
            Self::Verify(verb) => verb.execute(session).await,
            Self::Push(verb) => verb.execute(session).await,
        };
        done.map(|()| 0).map_err(|e| e.attempted(what))
    }
}

impl Show {
    async fn execute(self, session: &Session) -> Result<()> {
        let bundle = self.of.bundle(session).await?;
        if self.bundle {
            return session.printer.line(&String::from_utf8_lossy(&bundle));
        }
        let receipt = read(&bundle)?;
        let stated = serde_json::json!({
            "subject": receipt.subject.to_string(), "name": receipt.name, "predicate": receipt.predicate,
        });
        session.printer.result(&stated, || page(&stated))
    }
}

/// The fields below each other, a name for each.
fn page(stated: &Value) -> String {
    fn lines(name: &str, value: &Value, found: &mut Vec<(String, String)>) {
        let below = |part: &str| if name.is_empty() { part.to_owned() } else { format!("{name}.{part}") };
        match value {
            Value::Object(fields) => fields.iter().for_each(|(part, value)| lines(&below(part), value, found)),
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, value)| lines(&below(&n.to_string()), value, found));
            }
            Value::String(text) => found.push((name.to_owned(), harmless(text))),
            Value::Null => {}
            other => found.push((name.to_owned(), other.to_string())),
        }
    }
    let mut found = Vec::new();
    for part in ["subject", "name"] {
        lines(part, &stated[part], &mut found);
    }
    lines("", &stated["predicate"], &mut found);
    let width = found.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    found.iter().map(|(name, value)| format!("{name:<width$}  {value}")).collect::<Vec<_>>().join("\n")
}

impl Verify {
    async fn execute(self, session: &Session) -> Result<()> {
        let bundle = self.of.bundle(session).await?;
        let key = self.key.as_deref().map(read_key).transpose()?;
        let key = key.as_ref().map(|(key, path)| (key, path.as_str()));
        let Genuine { receipt, signer } = receipt::verify(&session.vyr, &bundle, key)?;
        let verified = Verified {
            task: receipt.predicate.task.id,
            subject: receipt.subject.to_string(),
            status: receipt.predicate.end.status,
            signer,
        };
        session.printer.result(&verified, || {
            let by = match &verified.signer {
                Signer::Key { id, listed } => format!("{listed} ({id})"),
                Signer::MachineKey { id } => format!("this machine's key ({id})"),
                Signer::Identity { identity, issuer } => format!("{identity} ({issuer})"),
            };
            format!("genuine: task {} of {} {}, signed by {by}", verified.task, verified.subject, verified.status)
        })
    }
}

impl Push {
    async fn execute(self, session: &Session) -> Result<()> {
        let bundle = self.of.bundle(session).await?;
        let pushed = receipt::push(&session.vyr, bundle, self.to.as_deref()).await?;
        session.printer.result(&pushed, || pushed.reference.clone())
    }
}
