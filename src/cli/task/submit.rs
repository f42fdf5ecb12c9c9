//! `vyr submit`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tracing::Instrument as _;
use vyr_client::{Client, TaskExt as _};
use vyr_proto::v0::{
    Deterministic, Limits, OnBusy, OnInterrupt, PullPolicy, RetryOn, RetryPolicy, StateBinding, TaskSpec,
};

use super::view::TaskView;
use super::{code_of, finish, logs, tell};
use crate::cli::Session;
use crate::cli::args::{ContainerArgs, Output, duration, pair, size, state};
use crate::cli::client::{NodeArgs, patient};
use crate::cli::run::interrupted;
use crate::engine::NetRule;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::ArtifactRef;
use crate::ops::resolve::PullMode;
use crate::ops::state::Wish;
use crate::state;
use crate::task::{MAX_ATTEMPTS, MAX_STDIN_BYTES};
use crate::telemetry;

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
pub(in crate::cli) struct Submit {
    /// The artifact
    reference: ArtifactRef,
    /// Arguments of the guest, after --
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
    /// Set a variable in the guest's environment (repeatable); nothing is inherited
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Give the guest a state as the folder /state/ALIAS (repeatable); with :refuse it doesn't wait for another writer
    #[arg(long = "state", value_name = "ALIAS=NAME[:ro][:refuse]", value_parser = state)]
    states: Vec<Wish>,
    /// Let the guest connect to an address (repeatable); without it there is no network
    #[arg(long, value_name = "HOST:PORT")]
    allow_net: Vec<NetRule>,
    /// The most memory: of Wasm its linear memory, of a container all of it [default: 1GiB]
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
    /// Make time and chance from a seed, so that the output is the same each time and everywhere; no network
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true, default_missing_value = "0", conflicts_with = "allow_net")]
    deterministic: Option<u64>,
    /// Put the values of arguments and variables into its receipt, not their hashes alone
    #[arg(long)]
    receipt_values: bool,
    /// Wait for its end and exit as it did; Ctrl-C cancels it. With --output json, stdout is one document: the task as it
    /// ended (id, status, exit_code, end_reason, message, next, digest, trace_id, …)
    #[arg(long)]
    wait: bool,
    /// The same, passing its output through. With --output json all of that goes to stderr
    #[arg(long)]
    logs: bool,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    node: NodeArgs,
}

impl Submit {
    pub(in crate::cli) async fn execute(self: Box<Self>, session: &Session) -> Result<u8> {
        let reference = self.reference.to_string();
        let (wait, logs) = (self.wait || self.logs, self.logs);
        let submit = async {
            let spec = self.spec()?;
            let mut node = self.node.connect(session).await?;
            // The task goes on from this command's trace; without one the client knows that which the command is in.
            if let Some(context) = telemetry::current_traceparent() {
                node = node.with_traceparent(&context)?;
            }
            let mut submit = node.submit(spec);
            if let Some(key) = &self.key {
                submit = submit.key(key);
            }
            let answer = submit.send().await?;
            let task =
                answer.task.ok_or_else(|| Error::new(ErrorKind::Internal, "the node's answer lacks the task"))?;
            if answer.existing {
                session.printer.note(&format!("the key has a task already: {}", task.id));
            }
            Ok((node, task))
        };
        let submit = submit.instrument(tracing::info_span!("submit", otel.kind = "client", %reference));
        tokio::pin!(submit);
        let failed = |e: Error| e.attempted(format_args!("submit {reference}"));
        if !wait {
            let (_, task) = submit.await.map_err(failed)?;
            session.printer.result(&TaskView::from(&task), || task.id.clone())?;
            return Ok(0);
        }
        let stop = interrupted();
        tokio::pin!(stop);
        let (node, id) = tokio::select! {
            biased;
            submitted = &mut submit => submitted.map(|(node, task)| (node, task.id)).map_err(failed)?,
            () = &mut stop => {
                let Ok(submitted) = tokio::time::timeout(CANCEL_WAIT, &mut submit).await else {
                    let error = Error::new(ErrorKind::Cancelled, "interrupted before the node answered");
                    return Err(failed(error.hint("`vyr tasks` says whether the task is there")));
                };
                let (node, task) = submitted.map_err(failed)?;
                return cancel_waited(session, &node, &task.id).await;
            }
        };
        if !logs && session.printer.output == Output::Text {
            session.printer.line(&id)?;
        }
        let ended = async {
            let node = patient(&node);
            if logs {
                logs::pass_through(session, node.logs(&id).follow()).await?;
            }
            Ok(node.wait(&id, None).await?)
        };
        tokio::select! {
            biased;
            ended = ended => {
                let task = ended.map_err(|e: Error| e.attempted(format_args!("wait for task {id}")))?;
                tell(session, &task);
                finish(session, &task)?;
                Ok(code_of(&task))
            }
            () = &mut stop => cancel_waited(session, &node, &id).await,
        }
    }

    fn spec(&self) -> Result<TaskSpec> {
        let retry = self.retries.filter(|retries| *retries > 0).map(|retries| RetryPolicy {
            max_attempts: retries + 1,
            on: self.retry_on.iter().map(|on| retry_on(*on).into()).collect(),
            initial_backoff: self.retry_backoff.and_then(proto_duration),
            max_backoff: None,
        });
        Ok(TaskSpec {
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
            states: self.states.iter().map(binding).collect(),
            labels: self.labels.iter().cloned().collect(),
            // The call's own context says it.
            traceparent: String::new(),
            receipt_values: self.receipt_values,
            deterministic: self.deterministic.map(|seed| Deterministic { seed, start: None }),
            path: self.container.way().into(),
            container: self.container.proto(),
        })
    }
}

/// As the interface has it; `None` for what it can't express.
fn proto_duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}

fn binding(wish: &Wish) -> StateBinding {
    StateBinding {
        state: wish.state.clone(),
        alias: wish.alias.clone(),
        read_only: wish.read_only,
        on_busy: match wish.on_busy {
            state::OnBusy::Wait => OnBusy::Wait,
            state::OnBusy::Refuse => OnBusy::Refuse,
        }
        .into(),
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
async fn cancel_waited(session: &Session, node: &Client, id: &str) -> Result<u8> {
    let failed = |e| Error::from(e).attempted(format_args!("cancel task {id}")).hint(format_args!("`vyr cancel {id}`"));
    let task = node.cancel(id, Some(CANCEL_WAIT)).await.map_err(failed)?;
    if task.has_ended() {
        tell(session, &task);
    } else {
        session.printer.note(&format!("the task is told to end, and hasn't yet: {id}"));
    }
    finish(session, &task)?;
    Ok(ErrorKind::Cancelled.exit_code())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

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
        let words = submit(&words).unwrap();
        assert_eq!(words.key.as_deref(), Some("k"));
        let spec = words.spec().unwrap();
        assert_eq!(spec.args, ["-v", "arg"]);
        assert_eq!((spec.env["A"].as_str(), spec.labels["x"].as_str()), ("b=c", "y"));
        assert_eq!((spec.on_interrupt(), spec.pull()), (OnInterrupt::RunAgain, PullPolicy::Never));
        assert_eq!(spec.limits.unwrap().memory_bytes, 64 << 20);
        let retry = spec.retry.unwrap();
        assert_eq!(retry.max_attempts, 3);
        assert_eq!(retry.on().collect::<Vec<_>>(), [RetryOn::Failure, RetryOn::Timeout]);

        let plain = submit(&[]).unwrap().spec().unwrap();
        assert_eq!(
            (plain.retry.is_none(), plain.on_interrupt(), plain.pull()),
            (true, OnInterrupt::Lose, PullPolicy::Missing)
        );
        let retry = submit(&["--retries", "1"]).unwrap().spec().unwrap().retry.unwrap();
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
}
