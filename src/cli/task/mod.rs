//! Owns the verbs of the task cycle that change or await tasks: `vyr submit`, `wait`, `cancel`.

mod logs;
mod show;
mod view;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use futures_util::future::try_join_all;
use vyr_proto::v0::{
    Limits, OnInterrupt, PullPolicy, RetryOn, RetryPolicy, StreamLogsRequest, SubmitTaskRequest, Task, TaskSpec,
};

pub(super) use logs::Logs;
pub(super) use show::{Status, Tasks};

use super::Session;
use super::args::{Output, duration, pair, size};
use super::client::{Node, NodeArgs, empty, has_ended, proto_duration};
use super::run::interrupted;
use crate::engine::NetRule;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::ArtifactRef;
use crate::ops::resolve::PullMode;
use crate::task::{MAX_ATTEMPTS, MAX_STDIN_BYTES, TaskId, exit_code};
use view::TaskView;

/// How long an interrupted wait stays for the cancelled task's end.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Interrupted {
    /// It ends as lost
    Lose,
    /// It runs again, whatever it may have done
    RunAgain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Retry {
    /// It exited with a code other than 0, or trapped
    Failure,
    /// It reached a time limit
    Timeout,
    /// The artifact could not be had
    Unavailable,
}

#[derive(Debug, Args)]
pub(super) struct Submit {
    /// The artifact
    reference: ArtifactRef,
    /// Arguments of the guest, after --
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
    /// Set a variable in the guest's environment (repeatable); nothing is inherited
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Let the guest connect to an address (repeatable); without it there is no network
    #[arg(long, value_name = "HOST:PORT")]
    allow_net: Vec<NetRule>,
    /// The most linear memory [default: 1GiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
    /// The most wall-clock time of an attempt
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// The most CPU time of an attempt
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    cpu: Option<Duration>,
    /// How much of its output is kept [default: 4MiB]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    log_limit: Option<u64>,
    /// When to ask the registry: missing, always or never
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pull: PullMode,
    /// Run it although the trust policy refuses; recorded, and refused unless the node was started to accept it
    #[arg(long)]
    allow_unsigned: bool,
    /// A word for finding it again (repeatable)
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
    labels: Vec<(String, String)>,
    /// The guest's standard input, - for this command's; at most 1 MiB
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// Makes repeated submits with this key one task
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// What becomes of it if the node dies while it runs
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Interrupted::Lose)]
    on_interrupt: Interrupted,
    /// Try again so many times
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..i64::from(MAX_ATTEMPTS)))]
    retries: Option<u32>,
    /// What to try again for
    #[arg(
        long,
        value_name = "WHY",
        value_enum,
        value_delimiter = ',',
        requires = "retries",
        default_value = "failure"
    )]
    retry_on: Vec<Retry>,
    /// How long to wait before the second attempt; doubled for each further one [default: 1s]
    #[arg(long, value_name = "DURATION", value_parser = duration, requires = "retries")]
    retry_backoff: Option<Duration>,
    /// Wait for its end and exit as it did; Ctrl-C cancels it
    #[arg(long)]
    wait: bool,
    /// The same, passing its output through
    #[arg(long)]
    logs: bool,
    #[command(flatten)]
    node: NodeArgs,
}

impl Submit {
    pub(super) async fn execute(self: Box<Self>, session: &Session) -> Result<u8> {
        let reference = self.reference.to_string();
        let (wait, logs) = (self.wait || self.logs, self.logs);
        let submit = async {
            let request = self.request()?;
            let node = self.node.connect(session).await?;
            let answer = node.submit(request).await?;
            let task = answer.task.ok_or_else(empty)?;
            let id = task.id.parse::<TaskId>()?;
            if answer.existing {
                session.printer.note(&format!("the key has a task already: {id}"));
            }
            Ok((node, id, task))
        };
        tokio::pin!(submit);
        let failed = |e: Error| e.attempted(format_args!("submit {reference}"));
        if !wait {
            let (_, _, task) = submit.await.map_err(failed)?;
            session.printer.result(&TaskView::from(&task), || task.id.clone())?;
            return Ok(0);
        }
        let stop = interrupted();
        tokio::pin!(stop);
        let (node, id) = tokio::select! {
            biased;
            submitted = &mut submit => submitted.map(|(node, id, _)| (node, id)).map_err(failed)?,
            () = &mut stop => {
                let Ok(submitted) = tokio::time::timeout(CANCEL_WAIT, &mut submit).await else {
                    let error = Error::new(ErrorKind::Cancelled, "interrupted before the node answered");
                    return Err(failed(error.hint("`vyr tasks` says whether the task is there")));
                };
                let (node, id, _) = submitted.map_err(failed)?;
                return cancel_waited(session, &node, id, logs).await;
            }
        };
        if !logs && session.printer.output == Output::Text {
            session.printer.line(&id.to_string())?;
        }
        let ended = async {
            if logs {
                let request = StreamLogsRequest { id: id.to_string(), follow: true, ..StreamLogsRequest::default() };
                logs::pass_through(session, &node, request).await?;
            }
            node.ended(id).await
        };
        tokio::select! {
            biased;
            ended = ended => {
                let task = ended.map_err(|e| e.attempted(format_args!("wait for task {id}")))?;
                tell(session, &task);
                finish(session, &task, logs)?;
                Ok(code_of(&task))
            }
            () = &mut stop => cancel_waited(session, &node, id, logs).await,
        }
    }

    fn request(&self) -> Result<SubmitTaskRequest> {
        let retry = self.retries.filter(|retries| *retries > 0).map(|retries| RetryPolicy {
            max_attempts: retries + 1,
            on: self.retry_on.iter().map(|on| retry_on(*on).into()).collect(),
            initial_backoff: self.retry_backoff.and_then(proto_duration),
            max_backoff: None,
        });
        let spec = TaskSpec {
            reference: self.reference.to_string(),
            args: self.args.clone(),
            env: self.env.iter().cloned().collect(),
            stdin: self.stdin.as_deref().map(read_stdin).transpose()?.unwrap_or_default().into(),
            limits: Some(Limits {
                memory_bytes: self.memory.unwrap_or(0),
                timeout: self.timeout.and_then(proto_duration),
                cpu: self.cpu.and_then(proto_duration),
                log_bytes: self.log_limit.unwrap_or(0),
            }),
            on_interrupt: match self.on_interrupt {
                Interrupted::Lose => OnInterrupt::Lose,
                Interrupted::RunAgain => OnInterrupt::RunAgain,
            }
            .into(),
            retry,
            pull: match self.pull {
                PullMode::Missing => PullPolicy::Missing,
                PullMode::Always => PullPolicy::Always,
                PullMode::Never => PullPolicy::Never,
            }
            .into(),
            allow_unsigned: self.allow_unsigned,
            allow_net: self.allow_net.iter().map(ToString::to_string).collect(),
            states: Vec::new(),
            labels: self.labels.iter().cloned().collect(),
        };
        Ok(SubmitTaskRequest { spec: Some(spec), idempotency_key: self.key.clone().unwrap_or_default(), wait: None })
    }
}

fn retry_on(on: Retry) -> RetryOn {
    match on {
        Retry::Failure => RetryOn::Failure,
        Retry::Timeout => RetryOn::Timeout,
        Retry::Unavailable => RetryOn::Unavailable,
    }
}

fn read_stdin(path: &Path) -> Result<Vec<u8>> {
    let unreadable = |e| Error::new(ErrorKind::Usage, format!("{} can't be read: {e}", path.display()));
    let most = u64::try_from(MAX_STDIN_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin().lock().take(most).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(unreadable)?;
    }
    if bytes.len() > MAX_STDIN_BYTES {
        return Err(Error::new(
            ErrorKind::Usage,
            format!(
                "{} is longer than the {MAX_STDIN_BYTES} bytes that a task's standard input may have",
                path.display()
            ),
        )
        .hint("put larger data where the guest can fetch it, and allow that with --allow-net"));
    }
    Ok(bytes)
}

/// Ends the task that was waited for, since its waiter goes.
async fn cancel_waited(session: &Session, node: &Node, id: TaskId, logs: bool) -> Result<u8> {
    let task = node
        .cancel(id, Some(CANCEL_WAIT))
        .await
        .map_err(|e| e.attempted(format_args!("cancel task {id}")).hint(format_args!("`vyr cancel {id}`")))?;
    if has_ended(&task) {
        tell(session, &task);
    } else {
        session.printer.note(&format!("the task is told to end, and hasn't yet: {id}"));
    }
    finish(session, &task, logs)?;
    Ok(ErrorKind::Cancelled.exit_code())
}

/// The task for programs: on stdout, unless that is the guest's.
fn finish(session: &Session, task: &Task, logs: bool) -> Result<()> {
    if session.printer.output == Output::Text {
        return Ok(());
    }
    let view = TaskView::from(task);
    if !logs {
        return session.printer.result(&view, String::new);
    }
    let text = serde_json::to_string(&view).map_err(|e| Error::new(ErrorKind::Internal, e))?;
    drop(std::io::Write::write_all(&mut std::io::stderr(), format!("{text}\n").as_bytes()));
    Ok(())
}

/// What the exit code alone doesn't say.
fn tell(session: &Session, task: &Task) {
    let view = TaskView::from(task);
    if session.printer.output != Output::Text || view.end_reason.as_deref() == Some("exited") {
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
    task.end.as_ref().map_or(ErrorKind::Internal.exit_code(), exit_code)
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
            let node = self.node.connect(session).await?;
            try_join_all(self.tasks.iter().map(|id| node.ended(*id))).await
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
            match node.cancel(*id, None).await {
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
            let ids = cancelled.iter().map(|task| task.id.parse()).collect::<Result<Vec<TaskId>>>()?;
            cancelled = try_join_all(ids.into_iter().map(|id| node.ended(id)))
                .await
                .map_err(|e| e.attempted("wait for the end of what was cancelled"))?;
        }
        print_short(session, &cancelled)?;
        Ok(code)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use vyr_proto::v0::{EndReason, TaskEnd};

    use super::*;

    #[derive(Debug, Parser)]
    struct Words {
        #[command(flatten)]
        submit: Submit,
    }

    fn submit(words: &[&str]) -> Result<Submit, clap::Error> {
        let reference = "localhost:5000/app:v1";
        Words::try_parse_from(["submit", reference].iter().chain(words)).map(|words| words.submit)
    }

    #[test]
    fn the_words_become_the_request() {
        let words = [
            "--env",
            "A=b=c",
            "--label",
            "x=y",
            "--retries",
            "2",
            "--retry-on",
            "failure,timeout",
            "--retry-backoff",
            "2s",
            "--on-interrupt",
            "run-again",
            "--pull",
            "never",
            "--key",
            "k",
            "--memory",
            "64MiB",
            "--",
            "-v",
            "arg",
        ];
        let request = submit(&words).unwrap().request().unwrap();
        assert_eq!(request.idempotency_key, "k");
        let spec = request.spec.unwrap();
        assert_eq!(spec.args, ["-v", "arg"]);
        assert_eq!((spec.env["A"].as_str(), spec.labels["x"].as_str()), ("b=c", "y"));
        assert_eq!((spec.on_interrupt(), spec.pull()), (OnInterrupt::RunAgain, PullPolicy::Never));
        assert_eq!(spec.limits.unwrap().memory_bytes, 64 << 20);
        let retry = spec.retry.unwrap();
        assert_eq!(retry.max_attempts, 3);
        assert_eq!(retry.on().collect::<Vec<_>>(), [RetryOn::Failure, RetryOn::Timeout]);

        let plain = submit(&[]).unwrap().request().unwrap().spec.unwrap();
        assert_eq!((plain.retry, plain.on_interrupt(), plain.pull()), (None, OnInterrupt::Lose, PullPolicy::Missing));
        let retry = submit(&["--retries", "1"]).unwrap().request().unwrap().spec.unwrap().retry.unwrap();
        assert_eq!(retry.on().collect::<Vec<_>>(), [RetryOn::Failure]);
        assert!(submit(&["--retries", "100"]).is_err(), "more attempts than a node takes");
        assert!(submit(&["--retry-on", "timeout"]).is_err(), "nothing to be retried");
        assert!(submit(&["--node-cert", "a.pem"]).is_err(), "a certificate without its key");
    }

    #[test]
    fn standard_input_has_its_bound() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_STDIN_BYTES as u64).unwrap();
        assert_eq!(read_stdin(file.path()).unwrap().len(), MAX_STDIN_BYTES);
        file.as_file().set_len(MAX_STDIN_BYTES as u64 + 1).unwrap();
        assert_eq!(read_stdin(file.path()).unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn the_exit_code_is_the_end_s() {
        let end = TaskEnd { reason: EndReason::Exited.into(), exit_code: Some(7), ..TaskEnd::default() };
        assert_eq!(code_of(&Task { end: Some(end), ..Task::default() }), 7);
        assert_eq!(code_of(&Task::default()), 125);
    }
}
