//! `vyr pull`, `put`, `export`, `import`, `inspect`, `artifacts`, `gc`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::Session;
use super::args::size;
use super::print::{harmless, human, one_line, short};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, parse_digest};
use crate::ops::audit::Deed;
use crate::ops::pull::Purpose;
use crate::ops::put::{Parts, put_artifact};
use crate::ops::resolve::{PullMode, locate};
use crate::ops::transfer;
use crate::ops::verify::{Policy, verify, verify_or_overrule};

#[derive(Debug, Args)]
pub(super) struct Pull {
    /// The artifact
    reference: ArtifactRef,
    /// Keep it although the trust policy refuses it; running it still needs the flag
    #[arg(long)]
    allow_unsigned: bool,
}

#[derive(Serialize)]
struct Pulled {
    reference: String,
    digest: String,
    accepted: Option<String>,
    refused: Option<String>,
}

impl Pull {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let vyr = &session.vyr;
        let work = async {
            let mut located = locate(vyr, &self.reference, PullMode::Always, Purpose::Keep).await?;
            let policy = Policy::load(vyr)?;
            let selected = crate::ops::prepare::selected(vyr, &located.root)?;
            // To have it is not to run it: what the policy says is told, and asked again at the run.
            let verdict = if self.allow_unsigned {
                let reference = self.reference.to_string();
                let deed = Deed { verb: "pull", reference: &reference, asked_by: None };
                verify_or_overrule(vyr, &policy, &mut located, &selected, deed).await
            } else {
                verify(vyr, &policy, &mut located, &selected).await
            };
            let (accepted, refused) = match verdict {
                Ok(accepted) => (Some(accepted.acceptance().to_string()), None),
                Err(e) if e.kind() == ErrorKind::Refused => (None, Some(e.why().to_owned())),
                Err(e) => return Err(e),
            };
            Ok(Pulled { reference: self.reference.to_string(), digest: located.root.to_string(), accepted, refused })
        };
        let pulled = work.await.map_err(|e: Error| e.attempted(format_args!("pull {}", self.reference)))?;
        if let Some(refused) = &pulled.refused {
            session.printer.note(&format!("it is in the store, but would not run: {refused}"));
        }
        session.printer.result(&pulled, || pulled.digest.clone())?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Put {
    /// The manifest's file
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// The digest that the manifest must have
    #[arg(long, value_name = "DIGEST")]
    digest: Option<String>,
    /// A blob that the manifest names (repeatable)
    #[arg(long = "blob", value_name = "FILE")]
    blobs: Vec<PathBuf>,
    /// A Sigstore bundle over the manifest's digest (repeatable)
    #[arg(long = "signature", value_name = "FILE")]
    signatures: Vec<PathBuf>,
    /// Name it host/repository:tag
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Put {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let read = |path: &PathBuf| {
            std::fs::read(path)
                .map(bytes::Bytes::from)
                .map_err(|e| Error::new(ErrorKind::Usage, format!("{} can't be read: {e}", path.display())))
        };
        let repository = match self.name.as_deref().map(str::parse::<ArtifactRef>).transpose()? {
            Some(ArtifactRef::Registry(reference)) => Some(crate::oci::repository_of(&reference)),
            Some(_) => return Err(Error::new(ErrorKind::Usage, "the name is not host/repository:tag")),
            None => None,
        };
        let parts = Parts {
            media_type: None,
            digest: self.digest.as_deref().map(parse_digest).transpose()?,
            manifest: read(&self.manifest)?,
            blobs: self.blobs.iter().map(read).collect::<Result<_>>()?,
            signatures: self.signatures.iter().map(read).collect::<Result<_>>()?,
            name: self.name,
            repository,
        };
        let put = put_artifact(&session.vyr, parts)
            .await
            .map_err(|e| e.attempted(format_args!("put {}", self.manifest.display())))?;
        session.printer.result(&put, || put.digest.clone())?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The artifacts, then the folder or .tar file to write
    #[arg(required = true, num_args = 2.., value_names = ["REF", "TO"])]
    words: Vec<String>,
}

impl Export {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let Some((to, references)) = self.words.split_last() else {
            return Err(Error::new(ErrorKind::Usage, "nothing to export"));
        };
        let references = references.iter().map(|r| r.parse()).collect::<Result<Vec<ArtifactRef>>>()?;
        let to = PathBuf::from(to.strip_prefix("oci:").unwrap_or(to));
        let exported = transfer::export(&session.vyr, &references, &to)
            .await
            .map_err(|e| e.attempted(format_args!("export to {}", to.display())))?;
        session.printer.result(&exported, || exported.join("\n"))?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The OCI layout folder or tar, as a path or oci:PATH[:tag|@digest]
    from: String,
}

impl Import {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let (path, name) = match self.from.strip_prefix("oci:").map(|_| self.from.parse::<ArtifactRef>()).transpose()? {
            Some(ArtifactRef::Layout { path, name }) => (path, name),
            _ => (PathBuf::from(&self.from), None),
        };
        let imported = transfer::import(&session.vyr, &path, name.as_ref())
            .await
            .map_err(|e| e.attempted(format_args!("import {}", path.display())))?;
        session.printer.list(&imported, &["digest", "name"], |row| {
            vec![row.digest.clone(), row.name.clone().unwrap_or_default()]
        })?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// The artifact
    reference: ArtifactRef,
    /// When to ask the registry: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: PullMode,
}

impl Inspect {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let found = crate::ops::inspect::inspect(&session.vyr, &self.reference, self.pull)
            .await
            .map_err(|e| e.attempted(format_args!("inspect {}", self.reference)))?;
        session.printer.result(&found, || {
            let mut table = super::print::table();
            let mut row = |name: &str, value: String| {
                if !value.is_empty() {
                    table.add_row(vec![name.to_owned(), harmless(&value)]);
                }
            };
            // A line each, whatever its author put into it.
            let lines =
                |words: &mut dyn Iterator<Item = String>| words.map(|w| one_line(&w)).collect::<Vec<_>>().join("\n");
            row("digest", found.digest.clone());
            row("manifest", found.manifest.clone().filter(|m| *m != found.digest).unwrap_or_default());
            row("form", found.form.clone());
            row(
                "Wasm",
                match (found.kind, found.wasi, found.wasm_bytes) {
                    (Some(kind), Some(wasi), Some(bytes)) => format!("{kind}, {wasi}, {}", human(bytes)),
                    _ => String::new(),
                },
            );
            row("imports", lines(&mut found.imports.iter().cloned()));
            row("exports", lines(&mut found.exports.iter().cloned()));
            row("annotations", lines(&mut found.annotations.iter().map(|(k, v)| format!("{k}={v}"))));
            let s = found.signatures;
            let malformed = if s.malformed > 0 { format!(", {} malformed", s.malformed) } else { String::new() };
            row("signatures", format!("{} bundle, {} simple{malformed}", s.bundle, s.simple));
            row(
                "trusted",
                match (&found.acceptance, &found.refusal) {
                    (Some(acceptance), _) => format!("yes: {acceptance}"),
                    (None, Some(refusal)) => format!("no: {refusal}"),
                    _ => String::new(),
                },
            );
            if found.kind.is_some() {
                row("compiled", if found.compiled { "yes".to_owned() } else { "not yet".to_owned() });
            }
            if let Some(image) = &found.image {
                row("container", format!("{} {}", image.platform, image.manifest).trim().to_owned());
                let unpacked = if image.unpacked { "unpacked" } else { "not unpacked yet" };
                let layers = if image.layers == 1 { "layer" } else { "layers" };
                let held = format!("{} {layers}, {}, {unpacked}", image.layers, human(image.bytes));
                row("", if image.stored { held } else { "not in the store: it is fetched when it has to run".into() });
                let words = |words: &[String]| words.join(" ");
                row("entrypoint", words(&image.entrypoint));
                row("arguments", words(&image.cmd));
                row("user", image.user.clone());
                row("starts in", image.working_dir.clone());
                row("volumes", words(&image.volumes));
            }
            table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
        })?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Artifacts {
    /// List signatures and the manifests inside indexes too
    #[arg(long)]
    all: bool,
}

impl Artifacts {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let rows = transfer::artifacts(&session.vyr, self.all).await.map_err(|e| e.attempted("list the store"))?;
        session.printer.list(&rows, &["name", "digest", "size", "type", "last used"], |row| {
            vec![
                if row.tags.is_empty() { "-".to_owned() } else { row.tags.join("\n") },
                short(&row.digest),
                human(row.size),
                row.artifact_type.clone().unwrap_or_else(|| row.media_type.clone()),
                row.last_used.clone(),
            ]
        })?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Gc {
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    /// Also remove the artifacts used longest ago, until the store takes no more than this
    #[arg(long, value_name = "SIZE", value_parser = size)]
    budget: Option<u64>,
}

#[derive(Serialize)]
struct Gone {
    digest: String,
    bytes: u64,
    kind: &'static str,
}

#[derive(Serialize)]
struct Collected {
    dry_run: bool,
    removed: Vec<Gone>,
    in_use: Vec<String>,
    temporary_files: u64,
    freed_bytes: u64,
    kept_blobs: u64,
    kept_bytes: u64,
}

impl Gc {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let report = transfer::gc(&session.vyr, self.dry_run, self.budget)
            .await
            .map_err(|e| e.attempted("collect the store"))?;
        let collected = Collected {
            dry_run: self.dry_run,
            removed: report
                .removed
                .iter()
                .map(|r| Gone { digest: r.digest.to_string(), bytes: r.bytes, kind: r.kind.as_str() })
                .collect(),
            in_use: report.in_use.iter().map(ToString::to_string).collect(),
            temporary_files: report.temporary_files,
            freed_bytes: report.freed_bytes,
            kept_blobs: report.kept_blobs,
            kept_bytes: report.kept_bytes,
        };
        session.printer.result(&collected, || {
            let mut lines: Vec<String> =
                collected.removed.iter().map(|g| format!("{:8}  {}  {}", g.kind, g.digest, human(g.bytes))).collect();
            lines.extend(collected.in_use.iter().map(|d| format!("in use    {d}")));
            let would = if self.dry_run { "would free" } else { "freed" };
            lines.push(format!(
                "{would} {}, {} temporary files; {} blobs with {} stay",
                human(collected.freed_bytes),
                collected.temporary_files,
                collected.kept_blobs,
                human(collected.kept_bytes)
            ));
            lines.join("\n")
        })?;
        Ok(0)
    }
}
