//! `vyr replay`.

use std::path::PathBuf;

use clap::Args;
use vyr_proto::v0::LogStream;

use super::Session;
use super::args::pair;
use super::client::NodeArgs;
use super::run::interrupted;
use crate::engine::CancellationToken;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::replay::{Replay, ReplayRequest, replay};
use crate::task::TaskId;
use crate::trust::VerifyingKey;

/// The exit code of a replay that went another way.
const DIFFERS: u8 = 1;

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    of: super::receipt::Of,
    /// The arguments that the task had, where its receipt has only their hashes
    #[arg(last = true, value_name = "ARG")]
    args: Vec<String>,
    /// A variable that the task had (repeatable), where its receipt has only the hash
    #[arg(long, short, value_name = "KEY=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// The standard input that the task had
    #[arg(long, value_name = "FILE")]
    stdin: Option<PathBuf>,
    /// A copy of a state as the task found it (repeatable); it is not changed
    #[arg(long = "state", value_name = "ALIAS=FOLDER", value_parser = pair)]
    states: Vec<(String, String)>,
    /// Take this public key's signature of the receipt alone [default: what the trust policy takes]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Run the artifact although the trust policy refuses it; recorded
    #[arg(long)]
    allow_unsigned: bool,
}

impl ReplayArgs {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let what = format!("replay {}", self.of.receipt);
        let replay = self.replay(session).await.map_err(|e| e.attempted(what))?;
        session.printer.result(&replay, || page(&replay))?;
        Ok(if replay.matches { 0 } else { DIFFERS })
    }

    async fn replay(self, session: &Session) -> Result<Replay> {
        let bundle = self.of.bundle(session).await?;
        let key = self.key.as_deref().map(super::receipt::read_key).transpose()?;
        let stdin = match &self.stdin {
            Some(path) => Some(std::fs::read(path).map_err(|e| {
                Error::new(ErrorKind::Usage, format!("the standard input {} can't be read: {e}", path.display()))
            })?),
            None => None,
        };
        let recorded = match self.of.receipt.parse::<TaskId>() {
            Ok(id) => recorded(session, &self.of.node, id).await,
            Err(_) => None,
        };
        let key: Option<(&VerifyingKey, &str)> = key.as_ref().map(|(key, listed)| (key, listed.as_str()));
        let request = ReplayRequest {
            bundle: &bundle,
            key,
            args: self.args,
            env: self.env,
            stdin,
            states: self.states.into_iter().map(|(alias, folder)| (alias, folder.into())).collect(),
            recorded,
            allow_unsigned: self.allow_unsigned,
        };
        let cancel = CancellationToken::new();
        let work = replay(&session.vyr, request, &cancel);
        tokio::pin!(work);
        tokio::select! {
            biased;
            done = &mut work => done,
            () = interrupted() => {
                cancel.cancel();
                work.await
            }
        }
    }
}

/// What the task's node still has of its output; `None` where it can't be had.
async fn recorded(session: &Session, node: &NodeArgs, id: TaskId) -> Option<(Vec<u8>, Vec<u8>)> {
    let node = node.connect(session).await.ok()?;
    let mut logs = node.logs(id.to_string());
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut attempt = 0;
    while let Some(entry) = logs.next().await.transpose().ok()? {
        // A receipt is of the last attempt.
        if entry.attempt > attempt {
            attempt = entry.attempt;
            stdout.clear();
            stderr.clear();
        }
        match entry.stream() {
            LogStream::Stderr => stderr.extend_from_slice(&entry.data),
            LogStream::Stdout | LogStream::Unspecified => stdout.extend_from_slice(&entry.data),
        }
    }
    Some((stdout, stderr))
}

fn page(replay: &Replay) -> String {
    if replay.matches {
        return format!("match: task {} of {} went the same way again", replay.task, replay.subject);
    }
    let mut lines = vec![format!("task {} of {} went another way this time", replay.task, replay.subject)];
    for difference in &replay.differences {
        let place = match (difference.byte, difference.line) {
            (Some(byte), Some(line)) => format!(" from byte {byte} (line {line}) on"),
            _ => String::new(),
        };
        lines.push(format!("  {}{place}", difference.what));
        lines.push(format!("    recorded: {}", difference.recorded));
        lines.push(format!("    replayed: {}", difference.replayed));
    }
    if !replay.deterministic {
        lines.push("it was not run with --deterministic: what depends on time or chance differs".into());
    }
    lines.join("\n")
}
