//! `vyr trust` and `vyr verify`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::Session;
use crate::error::Result;
use crate::oci::ArtifactRef;
use crate::ops::pull::Purpose;
use crate::ops::resolve::{PullMode, locate};
use crate::ops::trust::{Trusted, add, list, remove, remove_compiled};
use crate::ops::verify::{Policy, verify};
use crate::trust::Acceptance;

/// Edit the trust policy
#[derive(Debug, Subcommand)]
pub(super) enum Trust {
    /// Trust a signer, for everything or for a repository and what is below it
    Add(Add),
    /// List the rules
    Ls,
    /// Remove a rule, or one signer of it
    Rm(Rm),
}

#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Add {
    /// A public key in PEM
    #[arg(long, value_name = "FILE", required_unless_present_any = ["identity", "identity_regexp"], conflicts_with_all = ["identity", "identity_regexp"])]
    key: Option<PathBuf>,
    /// Trust the key with compiled code, which runs outside of any sandbox, and with nothing else
    #[arg(long, requires = "key")]
    compiled: bool,
    /// A certificate's identity
    #[arg(long, value_name = "TEXT", requires_all = ["issuer", "trusted_root"], conflicts_with = "identity_regexp")]
    identity: Option<String>,
    /// A pattern for the whole of a certificate's identity
    #[arg(long, value_name = "PATTERN", requires_all = ["issuer", "trusted_root"])]
    identity_regexp: Option<String>,
    /// The OIDC issuer in the certificate
    #[arg(long, value_name = "URL")]
    issuer: Option<String>,
    /// The trusted root (JSON) of the Sigstore instance
    #[arg(long, value_name = "FILE")]
    trusted_root: Option<PathBuf>,
    /// Only for this repository and what is below it
    #[arg(long, value_name = "PREFIX", default_value = "")]
    repository: String,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    /// The rule's repository
    #[arg(long, value_name = "PREFIX", default_value = "")]
    repository: String,
    /// Take the right to compiled code away, and no other
    #[arg(long)]
    compiled: bool,
    /// One signer: its key id, key file or identity as `vyr trust ls` shows it; without it the whole rule goes
    signer: Option<String>,
}

#[derive(Serialize)]
struct Rule {
    repository: String,
    action: &'static str,
    keys: Vec<Key>,
    identities: Vec<String>,
    machine_key: bool,
}

#[derive(Serialize)]
struct Key {
    entry: String,
    id: Option<String>,
}

impl Trust {
    pub(super) fn execute(self, session: &Session) -> Result<u8> {
        match self {
            Self::Add(words) => {
                let what = match (words.key, words.identity, words.identity_regexp) {
                    (Some(key), _, _) if words.compiled => Trusted::CompiledKey(key),
                    (Some(key), _, _) => Trusted::Key(key),
                    (None, exact, pattern) => Trusted::Identity {
                        regexp: exact.is_none(),
                        identity: exact.or(pattern).unwrap_or_default(),
                        issuer: words.issuer.unwrap_or_default(),
                        trusted_root: words.trusted_root.unwrap_or_default(),
                    },
                };
                add(&session.vyr, &words.repository, &what)?;
            }
            Self::Rm(words) if words.compiled => {
                remove_compiled(&session.vyr, &words.repository, words.signer.as_deref())?;
            }
            Self::Rm(words) => remove(&session.vyr, &words.repository, words.signer.as_deref())?,
            Self::Ls => {
                let rules: Vec<Rule> = list(&session.vyr)?
                    .into_iter()
                    .map(|rule| Rule {
                        repository: rule.repository,
                        action: rule.action,
                        keys: rule.keys.into_iter().map(|(entry, id)| Key { entry, id }).collect(),
                        identities: rule.identities,
                        machine_key: rule.machine_key,
                    })
                    .collect();
                session.printer.list(&rules, &["repository", "action", "signers"], |rule| {
                    let repository = if rule.repository.is_empty() { "(everything)" } else { &rule.repository };
                    let mut signers: Vec<String> = rule
                        .keys
                        .iter()
                        .map(|k| k.id.clone().unwrap_or_else(|| format!("{} (can't be read)", k.entry)))
                        .chain(rule.identities.iter().cloned())
                        .collect();
                    if rule.machine_key {
                        signers.push("this machine's key".to_owned());
                    }
                    vec![repository.to_owned(), rule.action.to_owned(), signers.join("\n")]
                })?;
            }
        }
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Verify {
    /// The artifact
    reference: ArtifactRef,
    /// When to ask the registry: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: PullMode,
}

#[derive(Serialize)]
struct Verdict {
    reference: String,
    digest: String,
    signed_digest: String,
    acceptance: Acceptance,
}

impl Verify {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let attempted = format!("verify {}", self.reference);
        let vyr = &session.vyr;
        let work = async {
            let mut located = locate(vyr, &self.reference, self.pull, Purpose::Keep).await?;
            let selected = crate::ops::prepare::selected(vyr, &located.root)?;
            let accepted = verify(vyr, &Policy::load(vyr)?, &mut located, &selected).await?;
            Ok(Verdict {
                reference: self.reference.to_string(),
                digest: located.root.to_string(),
                signed_digest: accepted.digest().to_string(),
                acceptance: accepted.acceptance().clone(),
            })
        };
        let verdict = work.await.map_err(|e: crate::Error| e.attempted(attempted))?;
        session.printer.result(&verdict, || format!("{}\n  {}", verdict.digest, verdict.acceptance))?;
        Ok(0)
    }
}
