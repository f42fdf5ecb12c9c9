//! `vyr tasks` and `vyr status`.

use std::time::{Duration, SystemTime};

use clap::Args;
use vyr_client::Client;
use vyr_proto::v0::TaskStatus;

use super::view::{Shown as _, TaskView, rfc3339, span};
use crate::cli::Session;
use crate::cli::args::{Output, pair};
use crate::cli::client::{NodeArgs, patient};
use crate::cli::print::{harmless, human, table};
use crate::error::{Error, Result};
use crate::task::{StatusExt as _, TaskId};

#[derive(Debug, Args)]
pub(in crate::cli) struct Tasks {
    /// Only tasks in this status (repeatable): queued, preparing, running, succeeded, failed, cancelled, timed_out,
    /// refused or lost
    #[arg(long = "status", value_name = "STATUS", value_parser = status)]
    statuses: Vec<TaskStatus>,
    /// Only tasks with this label (repeatable: with all of them)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// All of them
    #[arg(long, conflicts_with = "limit")]
    all: bool,
    #[command(flatten)]
    node: NodeArgs,
}

/// Parses a status's word.
fn status(text: &str) -> Result<TaskStatus, String> {
    let word = text.replace('-', "_");
    (1..=9)
        .filter_map(|value| TaskStatus::try_from(value).ok())
        .find(|status| status.word() == word)
        .ok_or_else(|| format!("`{text}` is not a status of a task"))
}

impl Tasks {
    pub(in crate::cli) async fn execute(self, session: &Session) -> Result<u8> {
        let rows = self.rows(session).await.map_err(|e| e.attempted("list tasks"))?;
        let head = ["id", "status", "age", "took", "exit/end", "artifact"];
        session.printer.list_dressed(
            &rows,
            &head,
            |row| vec![row.id.clone(), row.status.to_owned(), row.age(), row.took(), row.outcome(), row.artifact()],
            // An id is hex digits, which no status is: the first place where the word stands is its column.
            |row, line| line.replacen(row.status, &session.printer.tint(row.color(), row.status), 1),
        )?;
        Ok(0)
    }

    async fn rows(&self, session: &Session) -> Result<Vec<TaskView>> {
        let node = self.node.connect(session).await?;
        let most = if self.all { usize::MAX } else { usize::try_from(self.limit).unwrap_or(usize::MAX) };
        let list = node.list_tasks().statuses(self.statuses.iter().copied()).limit(most);
        let list = self.labels.iter().fold(list, |list, (key, value)| list.label(key, value));
        Ok(list.await?.iter().map(TaskView::from).collect())
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Status {
    /// The task
    task: TaskId,
    /// Print each change of its status until its end
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    node: NodeArgs,
}

impl Status {
    pub(in crate::cli) async fn execute(self, session: &Session) -> Result<u8> {
        let work = async {
            let node = self.node.connect(session).await?;
            if self.watch {
                return self.watch(session, &node).await;
            }
            let view = TaskView::from(&node.get_task(self.task.to_string(), None).await?);
            session.printer.result(&view, || full(session, &view))
        };
        work.await.map_err(|e: Error| {
            let verb = if self.watch { "watch" } else { "show" };
            e.attempted(format_args!("{verb} task {}", self.task))
        })?;
        Ok(0)
    }

    async fn watch(&self, session: &Session, node: &Client) -> Result<()> {
        let mut changes = patient(node).watch(self.task.to_string());
        while let Some(task) = changes.next().await.transpose()? {
            let view = TaskView::from(&task);
            let is_read = if session.printer.output == Output::Text {
                session.printer.line_read(&change_line(session, &view))?
            } else {
                session.printer.document(&view)?
            };
            if !is_read {
                break;
            }
        }
        Ok(())
    }
}

/// One change: when, what, and what else there is to say.
fn change_line(session: &Session, view: &TaskView) -> String {
    // The node says when three of them were; the others are as of now.
    let at = match view.status {
        "queued" if view.attempt <= 1 => view.submitted_at.clone(),
        "running" => view.started_at.clone(),
        _ => view.ended_at.clone(),
    };
    let at = at.unwrap_or_else(|| rfc3339(SystemTime::now()));
    let mut line = format!("{at}  {}", session.printer.tint(view.color(), view.status));
    if view.attempt > 1 {
        line.push_str(&format!("  attempt {}", view.attempt));
    }
    if let Some(message) = &view.message {
        line.push_str(&format!("  {}", harmless(message)));
    }
    line
}

/// A task in full, for people.
fn full(session: &Session, view: &TaskView) -> String {
    let mut table = table();
    let mut row = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|v| !v.is_empty()) {
            table.add_row(vec![name.to_owned(), harmless(&value)]);
        }
    };
    let took = |us: Option<u64>| us.map(|us| span(Duration::from_micros(us)));
    row("id", Some(view.id.clone()));
    row("status", Some(view.status.to_owned()));
    row("message", view.message.clone());
    row("next", view.next.clone());
    row("exit code", view.exit_code.map(|code| code.to_string()));
    row("end", view.end_reason.clone().filter(|reason| reason != "exited"));
    row("trap", view.trap.as_ref().map(|trap| trap.kind.clone()));
    row("backtrace", view.trap.as_ref().and_then(|trap| trap.backtrace.as_deref()).map(|b| b.trim_end().to_owned()));
    row("reference", Some(view.reference.clone()));
    row("digest", view.digest.clone());
    row("manifest", view.manifest.clone().filter(|manifest| Some(manifest) != view.digest.as_ref()));
    let ran = if view.kind.as_deref() == Some("image") { "image" } else { "Wasm" };
    row(ran, view.code.clone().map(|code| format!("{} {code}", view.kind.as_deref().unwrap_or("")).trim().to_owned()));
    row("form", view.form.clone());
    row("trusted", view.acceptance.clone());
    row("arguments", Some(view.args.join(" ")));
    row("labels", Some(view.labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("\n")));
    row("submitter", Some(view.submitter.clone()));
    row("key", view.idempotency_key.clone());
    row("trace", view.trace_id.clone());
    row("attempt", Some(view.attempt.to_string()));
    row("submitted", view.submitted_at.clone());
    row("started", view.started_at.clone());
    row("ended", view.ended_at.clone());
    row("path", view.path.clone());
    let why = view.fallback_message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    row("fallback", view.fallback_reason.as_ref().map(|reason| format!("{reason}{why}")));
    row("engine", view.engine.clone());
    row("notes", Some(view.notes.join("\n")));
    row("start tier", view.tier.clone());
    row("queued for", took(view.queued_us));
    row("prepared in", took(view.prepare_us));
    row("instantiated in", took(view.instantiate_us));
    row("submit to start", took(view.submit_to_start_us));
    row("ran for", took(view.run_us));
    row("CPU time", took(view.cpu_us));
    row("cancelled in", took(view.cancel_latency_us));
    row("peak memory", view.peak_memory_bytes.map(human));
    let logs = &view.logs;
    let dropped =
        if logs.dropped_bytes > 0 { format!(", {} dropped", human(logs.dropped_bytes)) } else { String::new() };
    row("output", Some(format!("{} stdout, {} stderr{dropped}", human(logs.stdout_bytes), human(logs.stderr_bytes))));
    let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
    if let Some(line) = lines.get_mut(1) {
        *line = line
            .replace(&format!(" {}", view.status), &format!(" {}", session.printer.tint(view.color(), view.status)));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_given_by_their_words() {
        assert_eq!(status("queued"), Ok(TaskStatus::Queued));
        assert_eq!(status("timed_out"), Ok(TaskStatus::TimedOut));
        assert_eq!(status("timed-out"), Ok(TaskStatus::TimedOut));
        assert_eq!(status("lost"), Ok(TaskStatus::Lost));
        assert!(status("unknown").is_err() && status("").is_err());
    }
}
