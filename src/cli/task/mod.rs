//! Owns the verbs of the task cycle, and what those that await tasks have in common; `vyr wait` and `vyr cancel`.

mod logs;
mod show;
mod submit;
mod trace;
mod view;

use std::time::Duration;

use clap::Args;
use futures_util::future::try_join_all;
use vyr_client::TaskExt as _;
use vyr_proto::v0::Task;

pub(super) use logs::Logs;
pub(super) use show::{Status, Tasks};
pub(super) use submit::Submit;
pub(super) use trace::Trace;

use super::Session;
use super::args::{Output, duration};
use super::client::{NodeArgs, patient};
use crate::error::{Error, ErrorKind, Result};
use crate::task::TaskId;
use view::{Shown as _, TaskView};

/// The task for programs: the one document on stdout.
fn finish(session: &Session, task: &Task) -> Result<()> {
    if session.printer.output == Output::Text {
        return Ok(());
    }
    session.printer.result(&TaskView::from(task), String::new)
}

/// What the exit code alone doesn't say.
fn tell(session: &Session, task: &Task) {
    let view = TaskView::from(task);
    if session.printer.output != Output::Text {
        return;
    }
    for note in &view.notes {
        session.printer.note(note);
    }
    if view.end_reason.as_deref() == Some("exited") {
        return;
    }
    let mut text = view.message.unwrap_or_else(|| format!("the task ended as {}", view.status));
    if let Some(backtrace) = view.trap.and_then(|trap| trap.backtrace) {
        text.push('\n');
        text.push_str(backtrace.trim_end());
    }
    if let Some(next) = view.next {
        text.push_str(&format!("\n  next: {next}"));
    }
    session.printer.warning(&text);
}

/// The exit code that stands for a task that has ended.
fn code_of(task: &Task) -> u8 {
    task.exit_code().unwrap_or(ErrorKind::Internal.exit_code())
}

#[derive(Debug, Args)]
pub(super) struct Wait {
    /// The tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<TaskId>,
    /// Wait no longer than this; the tasks go on
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    node: NodeArgs,
}

impl Wait {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let attempted = |e: Error| match self.tasks.as_slice() {
            [one] => e.attempted(format_args!("wait for task {one}")),
            many => e.attempted(format_args!("wait for {} tasks", many.len())),
        };
        let all = async {
            let node = patient(&self.node.connect(session).await?);
            Ok(try_join_all(self.tasks.iter().map(|id| node.wait(id.to_string(), None))).await?)
        };
        let tasks = match self.timeout {
            None => all.await,
            Some(limit) => tokio::time::timeout(limit, all).await.unwrap_or_else(|_| {
                let limit = humantime::format_duration(limit);
                Err(Error::new(ErrorKind::TimedOut, format!("{limit} passed before the end"))
                    .hint("the tasks go on; `vyr cancel` ends one"))
            }),
        }
        .map_err(attempted)?;
        tasks.iter().for_each(|task| tell(session, task));
        print_short(session, &tasks)?;
        Ok(tasks.iter().map(code_of).find(|code| *code != 0).unwrap_or(0))
    }
}

/// A line for each task: which, and where it is in its life.
fn print_short(session: &Session, tasks: &[Task]) -> Result<()> {
    let views: Vec<TaskView> = tasks.iter().map(TaskView::from).collect();
    if session.printer.output != Output::Text {
        return session.printer.list(&views, &[], |_| Vec::new());
    }
    for view in &views {
        session.printer.line(&format!("{}  {}", view.id, session.printer.tint(view.color(), view.status)))?;
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct Cancel {
    /// The tasks
    #[arg(required = true, value_name = "TASK")]
    tasks: Vec<TaskId>,
    /// Wait until they have ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    node: NodeArgs,
}

impl Cancel {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let node = self.node.connect(session).await.map_err(|e| e.attempted("cancel tasks"))?;
        let (mut cancelled, mut code) = (Vec::new(), 0);
        for id in &self.tasks {
            match node.cancel(id.to_string(), None).await.map_err(Error::from) {
                Ok(task) => cancelled.push(task),
                // The others are ended all the same.
                Err(e) => {
                    let e = e.attempted(format_args!("cancel task {id}"));
                    session.printer.error(&e);
                    code = if code == 0 { e.kind().exit_code() } else { code };
                }
            }
        }
        if self.wait {
            let node = patient(&node);
            cancelled = try_join_all(cancelled.iter().map(|task| node.wait(&task.id, None)))
                .await
                .map_err(|e| Error::from(e).attempted("wait for the end of what was cancelled"))?;
        }
        print_short(session, &cancelled)?;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use vyr_proto::v0::{EndReason, TaskEnd, TaskStatus};

    use super::*;

    #[test]
    fn the_exit_code_is_the_end_s() {
        let end = TaskEnd { reason: EndReason::Exited.into(), exit_code: Some(7), ..TaskEnd::default() };
        let ended = Task { status: TaskStatus::Failed.into(), end: Some(end), ..Task::default() };
        assert_eq!(code_of(&ended), 7);
        assert_eq!(code_of(&Task::default()), 125);
    }
}
