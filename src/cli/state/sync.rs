//! `vyr state sync`.

use clap::Args;

use super::segments;
use crate::cli::Session;
use crate::cli::print::human;
use crate::error::Result;
use crate::ops::state;

#[derive(Debug, Args)]
pub(in crate::cli) struct Sync {
    /// The state's name or id
    name: String,
}

impl Sync {
    pub(in crate::cli) async fn execute(self, session: &Session) -> Result<u8> {
        let report = state::sync(&session.vyr, &self.name)
            .await
            .map_err(|e| e.attempted(format_args!("sync the state {}", self.name)))?;
        session.printer.result(&report, || {
            let mut text = format!(
                "pushed {} ({}) to {}, {} pending",
                segments(report.pushed),
                human(report.pushed_bytes),
                report.target,
                report.pending
            );
            if let Some((from, to)) = report.lost {
                text.push_str(&format!("\nlost: segments {from} to {to}"));
            }
            for fork in &report.forks {
                text.push_str(&format!("\nfork: {} after segment {}", fork.writer, fork.after));
            }
            text
        })?;
        Ok(0)
    }
}
