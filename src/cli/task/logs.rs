//! `vyr logs`, and passing a task's output through.

use std::io::{IsTerminal as _, Write as _};
use std::time::SystemTime;

use clap::Args;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use vyr_client::{Client, Logs as Stream};
use vyr_proto::v0::{LogEntry, LogStream};

use super::view::{LogView, rfc3339, time};
use crate::cli::Session;
use crate::cli::args::Output;
use crate::cli::client::{NodeArgs, patient};
use crate::cli::print::gone_or_failed;
use crate::error::{Error, Result};
use crate::task::TaskId;

#[derive(Debug, Args)]
pub(in crate::cli) struct Logs {
    /// The task
    task: TaskId,
    /// Go on until the task has ended
    #[arg(long, short)]
    follow: bool,
    /// Begin each line with the time when it was written
    #[arg(long)]
    timestamps: bool,
    /// Only what it wrote to stdout
    #[arg(long, conflicts_with = "stderr")]
    stdout: bool,
    /// Only what it wrote to stderr
    #[arg(long)]
    stderr: bool,
    #[command(flatten)]
    node: NodeArgs,
}

fn is_stderr(entry: &LogEntry) -> bool {
    entry.stream() == LogStream::Stderr
}

impl Logs {
    pub(in crate::cli) async fn execute(self, session: &Session) -> Result<u8> {
        let work = async {
            let node = self.node.connect(session).await?;
            self.print(session, &node).await
        };
        work.await.map_err(|e: Error| e.attempted(format_args!("read the output of task {}", self.task)))?;
        Ok(0)
    }

    async fn print(&self, session: &Session, node: &Client) -> Result<()> {
        let stream = match (self.stdout, self.stderr) {
            (true, _) => LogStream::Stdout,
            (_, true) => LogStream::Stderr,
            _ => LogStream::Unspecified,
        };
        let mut logs = patient(node).logs(self.task.to_string()).stream(stream);
        if self.follow {
            logs = logs.follow();
        }
        let mut gathered = Vec::new();
        let mut streams = Streams::new(self.timestamps);
        while let Some(entries) = logs.next_many().await.transpose()? {
            match session.printer.output {
                Output::Text => {
                    if !streams.write(&entries).await? {
                        return Ok(());
                    }
                }
                Output::Json => gathered.extend(entries.iter().map(LogView::from)),
                Output::Jsonl => {
                    for entry in &entries {
                        if !session.printer.document(&LogView::from(entry))? {
                            return Ok(());
                        }
                    }
                }
            }
        }
        if session.printer.output == Output::Json {
            session.printer.list(&gathered, &[], |_| Vec::new())?;
        }
        note_dropped(session, logs.dropped_bytes(), streams.within_line);
        Ok(())
    }
}

/// `within_line`: what was written last on the terminal did not end its line.
fn note_dropped(session: &Session, dropped: u64, within_line: bool) {
    if dropped > 0 {
        if within_line {
            drop(writeln!(std::io::stderr()));
        }
        session.printer.note(&format!("{dropped} bytes came after the limit of the output and were dropped"));
    }
}

/// Writes a task's output as the guest did, until there is no more. It goes on for the other stream's reader when one
/// has gone away. Where stdout is a document's, all of it goes to stderr.
pub(super) async fn pass_through(session: &Session, mut logs: Stream) -> Result<()> {
    let text = session.printer.output == Output::Text;
    let mut streams = Streams::new(false);
    streams.all_to_stderr = !text;
    while let Some(entries) = logs.next_many().await.transpose()? {
        streams.write(&entries).await?;
    }
    if text {
        note_dropped(session, logs.dropped_bytes(), streams.within_line);
    }
    Ok(())
}

/// This process's two outputs. Written to by another thread, so that a reader that stands still doesn't keep an
/// interrupt from being heard.
struct Streams {
    /// `None` when the reader has gone away.
    stdout: Option<tokio::io::Stdout>,
    stderr: Option<tokio::io::Stderr>,
    /// With the time before each line: whether stdout and stderr are at the beginning of one.
    timestamps: Option<[bool; 2]>,
    all_to_stderr: bool,
    /// What was written last where stderr is seen too did not end its line.
    within_line: bool,
}

impl Streams {
    fn new(timestamps: bool) -> Self {
        Self {
            stdout: Some(tokio::io::stdout()),
            stderr: Some(tokio::io::stderr()),
            timestamps: timestamps.then_some([true; 2]),
            all_to_stderr: false,
            within_line: false,
        }
    }

    /// Writes entries in their order; says whether both readers are still there.
    async fn write(&mut self, entries: &[LogEntry]) -> Result<bool> {
        for run in entries.chunk_by(|a, b| is_stderr(a) == is_stderr(b)) {
            let to_stderr = run.first().is_some_and(is_stderr);
            let bytes = match &mut self.timestamps {
                None => run.iter().flat_map(|entry| entry.data.iter().copied()).collect(),
                Some(fresh) => stamped(run, &mut fresh[usize::from(to_stderr)]),
            };
            let to_stderr = to_stderr || self.all_to_stderr;
            if to_stderr || std::io::stdout().is_terminal() {
                self.within_line = bytes.last().is_some_and(|last| *last != b'\n');
            }
            if to_stderr {
                write(&mut self.stderr, &bytes).await?;
            } else {
                write(&mut self.stdout, &bytes).await?;
            }
        }
        Ok(self.stdout.is_some() && self.stderr.is_some())
    }
}

async fn write<W: AsyncWrite + Unpin>(to: &mut Option<W>, bytes: &[u8]) -> Result<()> {
    let Some(writer) = to else { return Ok(()) };
    let written = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    if let Err(e) = written.await {
        gone_or_failed(&e)?;
        *to = None;
    }
    Ok(())
}

/// The entries' bytes with the time before each line; `fresh` says whether one begins.
fn stamped(entries: &[LogEntry], fresh: &mut bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        let at = time(entry.time).unwrap_or(SystemTime::UNIX_EPOCH);
        for line in entry.data.split_inclusive(|b| *b == b'\n') {
            if *fresh {
                bytes.extend_from_slice(rfc3339(at).as_bytes());
                bytes.push(b' ');
            }
            bytes.extend_from_slice(line);
            *fresh = line.ends_with(b"\n");
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(data: &[u8], seconds: i64) -> LogEntry {
        LogEntry {
            stream: LogStream::Stdout.into(),
            time: Some(prost_types::Timestamp { seconds, nanos: 0 }),
            data: data.to_vec().into(),
            attempt: 1,
        }
    }

    #[test]
    fn a_time_stands_before_each_line_and_not_before_each_write() {
        let mut fresh = true;
        let bytes = stamped(&[entry(b"a", 1), entry(b"b\nc\n", 2), entry(b"\xff", 3)], &mut fresh);
        let wanted = [
            b"1970-01-01T00:00:01.000000Z ab\n1970-01-01T00:00:02.000000Z c\n".as_slice(),
            b"1970-01-01T00:00:03.000000Z \xff",
        ]
        .concat();
        assert_eq!(bytes, wanted);
        assert!(!fresh);
    }
}
