//! `vyr save`, `load`, `warm`, `compile`.

use std::path::PathBuf;

use clap::Args;

use super::Session;
use super::print::human;
use super::publish::key;
use crate::error::Result;
use crate::oci::ArtifactRef;
use crate::ops::bundle::{LoadRequest, SaveRequest, load, save};
use crate::ops::compile::compile;
use crate::ops::resolve::PullMode;
use crate::ops::warm::warm;

#[derive(Debug, Args)]
pub(super) struct Save {
    /// The artifacts
    #[arg(required = true, value_name = "REF")]
    references: Vec<ArtifactRef>,
    /// The tar to write
    #[arg(long, short = 'o', value_name = "FILE")]
    to: PathBuf,
    /// With compiled code for machines like this one, signed with --key
    #[arg(long)]
    with_code: bool,
    /// The private key that signs the compiled code [default: this machine's own]
    #[arg(long, value_name = "FILE", requires = "with_code")]
    key: Option<PathBuf>,
    /// With the signers that this machine trusts; who loads it decides whether to take them
    #[arg(long)]
    with_policy: bool,
    /// Of an index that names several platforms, only what this machine runs
    #[arg(long)]
    this_platform: bool,
}

impl Save {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let code = if self.with_code { Some(key(session, self.key.as_ref())?) } else { None };
        let attempted = format!("save {}", self.to.display());
        let request = SaveRequest {
            references: self.references,
            to: self.to,
            code,
            with_policy: self.with_policy,
            this_platform: self.this_platform,
        };
        let saved = save(&session.vyr, request).await.map_err(|e| e.attempted(attempted))?;
        session.printer.result(&saved, || {
            let mut lines = saved.artifacts.clone();
            lines.extend(saved.compiled.iter().map(|digest| format!("compiled  {digest}")));
            lines.extend(saved.grants.iter().map(|grant| format!("trusts    {grant}")));
            lines.push(format!("{}: {}", saved.file.display(), human(saved.bytes)));
            lines.join("\n")
        })?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Load {
    /// The tar that `vyr save` wrote, or any OCI image layout
    from: PathBuf,
    /// Take what the trust policy refuses; this is recorded in audit.jsonl, and running it still needs the flag
    #[arg(long)]
    allow_unsigned: bool,
    /// Trust the signers that come with it from now on; without this they are only shown
    #[arg(long)]
    take_policy: bool,
}

impl Load {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let attempted = format!("load {}", self.from.display());
        let request =
            LoadRequest { from: self.from, allow_unsigned: self.allow_unsigned, take_policy: self.take_policy };
        let loaded = load(&session.vyr, request).await.map_err(|e| e.attempted(attempted))?;
        if let Some(offer) = &loaded.policy {
            for grant in &offer.adds {
                let what = if offer.taken { "now trusted" } else { "not trusted, since --take-policy isn't given" };
                session.printer.note(&format!("{what}: {grant}"));
            }
        }
        for digest in &loaded.absent {
            session.printer.note(&format!("another platform's {digest} is not in it"));
        }
        session.printer.result(&loaded, || {
            let line = |one: &crate::ops::bundle::LoadedArtifact| {
                let name = one.name.as_deref().map(|name| format!("  {name}")).unwrap_or_default();
                format!("{}{name}\n  {}", one.digest, one.acceptance)
            };
            loaded.artifacts.iter().map(line).collect::<Vec<_>>().join("\n")
        })?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Warm {
    /// The artifact
    reference: ArtifactRef,
    /// When to ask the registry: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: PullMode,
}

impl Warm {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let warmed = warm(&session.vyr, &self.reference, self.pull)
            .await
            .map_err(|e| e.attempted(format_args!("warm {}", self.reference)))?;
        session.printer.result(&warmed, || warmed.digest.clone())?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Compile {
    /// The artifact
    reference: ArtifactRef,
    /// Push it beside the artifact
    #[arg(long)]
    push: bool,
    /// The private key that signs it (PEM, cosign's or PKCS #8) [default: this machine's own]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl Compile {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let key = key(session, self.key.as_ref())?;
        let made = compile(&session.vyr, &self.reference, &key, self.push)
            .await
            .map_err(|e| e.attempted(format_args!("compile {}", self.reference)))?;
        session.printer.result(&made, || {
            let config = &made.config;
            format!(
                "{}\n  {} of {}\n  Wasmtime {} on {}, fingerprint {}\n  signed by {}",
                made.pushed.as_ref().unwrap_or(&made.digest),
                human(made.bytes),
                config.wasm,
                config.wasmtime,
                config.target,
                config.fingerprint,
                made.key
            )
        })?;
        Ok(0)
    }
}
