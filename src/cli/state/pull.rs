//! `vyr state pull`.

use std::path::PathBuf;

use clap::Args;

use super::{Kind, segments};
use crate::cli::Session;
use crate::cli::print::human;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::state::{self, PullRequest, PullTo};

#[derive(Debug, Args)]
pub(in crate::cli) struct Pull {
    /// The repository that the state syncs to: host[:port]/repository
    #[arg(value_name = "REPO")]
    repository: String,
    /// Make a synced state of this name, which goes on from there
    #[arg(long, value_name = "NAME", conflicts_with = "to", required_unless_present = "to")]
    name: Option<String>,
    /// Only write its files into this folder, which is empty or not there
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
    /// What that state holds, as it was created
    #[arg(long, value_enum, default_value_t = Kind::Files, conflicts_with = "to")]
    kind: Kind,
    /// Pull it although the trust policy refuses it
    #[arg(long)]
    allow_unsigned: bool,
}

impl Pull {
    pub(in crate::cli) async fn execute(self, session: &Session) -> Result<u8> {
        let to = match (self.name, self.to) {
            (Some(name), _) => PullTo::State(name.parse()?),
            (None, Some(folder)) => PullTo::Folder(folder),
            (None, None) => return Err(Error::new(ErrorKind::Usage, "neither --name nor --to says where to")),
        };
        let request = PullRequest {
            repository: self.repository.clone(),
            to,
            kind: self.kind.into(),
            allow_unsigned: self.allow_unsigned,
        };
        let report = state::pull(&session.vyr, request)
            .await
            .map_err(|e| e.attempted(format_args!("pull the state in {}", self.repository)))?;
        session.printer.result(&report, || {
            let mut lines = vec![format!(
                "{}, {} of them records, {} in files",
                segments(report.segments),
                report.records,
                human(report.bytes)
            )];
            for part in &report.writers {
                lines.push(format!(
                    "writer {}: {} to {}, {}",
                    part.writer,
                    segments(part.segments),
                    part.head,
                    part.accepted
                ));
            }
            if report.unsigned > 0 {
                lines.push(format!("left: {} not signed yet", segments(report.unsigned)));
            }
            lines.extend(report.lost.iter().map(|l| format!("lost: segments {} to {} of {}", l.from, l.to, l.writer)));
            for fork in &report.forks {
                let writers: Vec<&str> = fork.writers.iter().map(|writer| writer.as_str()).collect();
                lines.push(format!("fork after segment {}: {}", fork.after, writers.join(", ")));
            }
            lines.join("\n")
        })?;
        Ok(0)
    }
}
