//! `vyr doctor`.

use clap::Args;

use super::Session;
use super::print::{harmless, human};
use crate::error::{Error, Result};
use crate::node::Lock;
use crate::ops::doctor::{State, examine};
use crate::ops::repair::{Database, Fate, Outcome, Report, Wish, repair};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Repair what is damaged in the data folder: databases by what can be read of them, blobs from the repositories they came from
    #[arg(long)]
    repair: bool,
    /// With --repair: only say what would be done
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// Don't read the blobs and the compiled code; only look whether they are there
    #[arg(long)]
    quick: bool,
}

impl Doctor {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        if self.repair {
            return self.mend(session).await;
        }
        let found = repair(&session.vyr, Wish::Look, !self.quick, None).await;
        let checks = examine(&session.vyr, found).await;
        session.printer.list(&checks, &["check", "", "found"], |check| {
            let mark = match check.state {
                State::Ok => "ok",
                State::Note => "note",
                State::Fail => "FAIL",
            };
            let found = match &check.next {
                Some(next) => format!("{}\n→ {next}", check.found),
                None => check.found.clone(),
            };
            vec![check.name.to_owned(), mark.to_owned(), found]
        })?;
        Ok(if checks.iter().any(|c| c.state == State::Fail) { 125 } else { 0 })
    }

    async fn mend(&self, session: &Session) -> Result<u8> {
        let attempted = |e: Error| e.attempted("repair the data folder");
        let wish = if self.dry_run { Wish::DryRun } else { Wish::Repair };
        // No node begins while its databases are made anew; one that is there keeps them.
        let lock = match session.vyr.config().home.root().is_dir() {
            true if wish == Wish::Repair => Some(Lock::acquire(&session.vyr.config().home)),
            _ => None,
        };
        let served = lock.as_ref().and_then(|lock| lock.as_ref().err());
        let report = repair(&session.vyr, wish, !self.quick, served).await.map_err(attempted)?;
        session.printer.result(&report, || tell(&report))?;
        Ok(if report.broken == 0 { 0 } else { 125 })
    }
}

fn tell(report: &Report) -> String {
    let mut lines: Vec<String> =
        report.databases.iter().filter(|d| !d.complaints.is_empty()).map(tell_database).collect();
    for blob in &report.content.wrong {
        let of = if blob.of.is_empty() { String::new() } else { format!(" (of {})", blob.of.join(", ")) };
        let mut line = format!("{}{of}: {}; {}", blob.digest, blob.found, blob.fate.outcome.as_str());
        if let Some(from) = &blob.from {
            line.push_str(&format!(", fetched from {from}"));
        }
        lines.push(line);
        lines.extend(tell_fate(&blob.fate));
    }
    if report.compiled.damaged > 0 {
        let (damaged, would) = (report.compiled.damaged, if report.dry_run { "would be dropped" } else { "dropped" });
        lines.push(format!(
            "compiled code: {damaged} entries are not what was sealed; {would}, and compiled anew at need"
        ));
    }
    let content = &report.content;
    lines.push(format!(
        "looked at {} databases, {} blobs with {}, {} compiled; {} broken{}",
        report.databases.len(),
        content.checked,
        human(content.bytes),
        report.compiled.checked,
        report.broken,
        if report.dry_run { " (nothing was changed)" } else { "" }
    ));
    harmless(&lines.join("\n"))
}

fn tell_database(database: &Database) -> String {
    let complaint = database.complaints.first().map(String::as_str).unwrap_or_default();
    let mut lines = vec![format!("{}: {complaint}; {}", database.name, database.fate.outcome.as_str())];
    if database.fate.outcome == Outcome::Repaired {
        lines.extend(database.carried.iter().map(|table| {
            let lost = match (table.whole, table.lost) {
                (true, _) => "all of them".to_owned(),
                (false, Some(lost)) => format!("{lost} lost"),
                (false, None) => "how many are lost can't be told".to_owned(),
            };
            format!("  {}: {} rows carried over, {lost}", table.table, table.rows)
        }));
        if database.carried.is_empty() {
            lines.push("  nothing of it could be read".to_owned());
        }
    }
    lines.extend(tell_fate(&database.fate));
    lines.join("\n")
}

fn tell_fate(fate: &Fate) -> impl Iterator<Item = String> {
    let why = fate.why.iter().map(|why| format!("  why: {why}"));
    let aside = fate.aside.iter().map(|path| format!("  put aside: {}", path.display()));
    why.chain(aside).chain(fate.next.iter().map(|next| format!("  next: {next}")))
}
