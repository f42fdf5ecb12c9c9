//! Owns replays: an execution that a receipt states, done again from the same inputs, and where it went another way.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::prepare::{Wanted, prepare};
use super::receipt::verify;
use super::resolve::PullMode;
use super::run::{Guest, execute};
use super::{Vyr, blocking};
use crate::engine::{CancellationToken, Captured, Deterministic, DirSpec, Input, Limits, Outcome, Output};
use crate::error::{Error, ErrorKind, Result};
use crate::fallback::PathChoice;
use crate::oci::ArtifactRef;
use crate::receipt::{OutputFacts, Predicate, Receipt, StreamFacts, Word, digest_of};
use crate::state::content_digest;
use crate::trust::VerifyingKey;

/// What a replay may write beyond what was recorded, in bytes, before it is stopped.
const MORE: u64 = 1 << 20;
/// The most output of one stream that is replayed, in bytes.
const MOST: u64 = 1 << 30;

/// What to replay, and what the receipt has only hashes of.
#[derive(Debug, Default)]
pub struct ReplayRequest<'a> {
    /// The receipt's bundle.
    pub bundle: &'a [u8],
    /// Whose signature makes it genuine, and what that key is called; else the trust policy says.
    pub key: Option<(&'a VerifyingKey, &'a str)>,
    /// The arguments, where the receipt doesn't have them.
    pub args: Vec<String>,
    /// Variables.
    pub env: Vec<(String, String)>,
    /// The standard input.
    pub stdin: Option<Vec<u8>>,
    /// Copies of states as they were before, by alias. They are copied again: the replay changes nothing.
    pub states: Vec<(String, PathBuf)>,
    /// What was written to standard output and error, where somebody still has it: then a difference has a place.
    pub recorded: Option<(Vec<u8>, Vec<u8>)>,
    /// Run it although the trust policy refuses the artifact.
    pub allow_unsigned: bool,
}

/// What came of it. The field names are stable.
#[derive(Debug, Clone, Serialize)]
pub struct Replay {
    /// The task whose receipt it is.
    pub task: String,
    /// The artifact.
    pub subject: String,
    /// It went the same way.
    pub matches: bool,
    /// The task was run with made time and chance: then it has to.
    pub deterministic: bool,
    /// Where it went another way.
    pub differences: Vec<Difference>,
}

/// One way in which a replay went another way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// `stdout`, `stderr`, `end` or `state <alias>`.
    pub what: String,
    /// What the receipt says.
    pub recorded: String,
    /// What the replay gave.
    pub replayed: String,
    /// The first byte that differs, where the recorded output is there to look.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub byte: Option<usize>,
    /// The line that it is in, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
}

fn gone(what: &str, hint: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("its input is gone: the receipt has only the hash of {what}")).hint(hint)
}

fn other(what: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("{what} is not what was recorded"))
        .hint("give exactly what the task was given")
}

/// Runs again what a receipt states.
///
/// # Errors
/// [`ErrorKind::Refused`]: the receipt isn't genuine, or what was given isn't what was recorded.
/// [`ErrorKind::NotFound`]: an input is gone. [`ErrorKind::Usage`]: it can't be replayed. What a run fails with.
pub async fn replay(vyr: &Vyr, request: ReplayRequest<'_>, cancel: &CancellationToken) -> Result<Replay> {
    let Receipt { subject, name, predicate } = verify(vyr, request.bundle, request.key)?.receipt;
    let outputs = check(&predicate)?;
    let reference: ArtifactRef =
        if name.contains('/') { format!("{name}@{subject}").parse()? } else { subject.to_string().parse()? };
    let made = made(&predicate)?;
    let folder = tempfile::tempdir()
        .map_err(|e| Error::new(ErrorKind::Storage, format!("no temporary folder for the states: {e}")))?;
    let dirs = states(&predicate, &request, folder.path()).await?;
    let (stdout, said) = Output::capture(room(&outputs.stdout)?);
    let (stderr, complained) = Output::capture(room(&outputs.stderr)?);
    let guest = Guest {
        args: args(&predicate, &request.args)?,
        env: env(&predicate, &request.env)?,
        dirs: dirs.clone(),
        limits: Limits { memory_bytes: predicate.limits.memory_bytes, ..Limits::default() },
        stdin: stdin(&predicate, request.stdin.as_deref())?,
        stdout,
        stderr,
        deterministic: Some(made),
        ..Guest::default()
    };
    let wanted = Wanted {
        reference,
        pull: PullMode::Missing,
        allow_unsigned: request.allow_unsigned,
        compiled_only: false,
        deterministic: predicate.engine.deterministic.is_some(),
        path: PathChoice::Wasm,
        asked_by: None,
    };
    let ready = prepare(vyr, &wanted).await?;
    let execution = execute(&ready, guest, cancel).await?;
    if execution.outcome == Outcome::Cancelled {
        return Err(Error::new(ErrorKind::Cancelled, "interrupted before the replay's end"));
    }
    let recorded = request.recorded.as_ref();
    let mut differences = Vec::new();
    differences.extend(end(&predicate, &execution.outcome));
    differences.extend(stream("stdout", &outputs.stdout, &said, recorded.map(|r| &r.0)));
    differences.extend(stream("stderr", &outputs.stderr, &complained, recorded.map(|r| &r.1)));
    for (facts, dir) in predicate.inputs.states.iter().zip(dirs) {
        let Some(after) = facts.after.clone() else { continue };
        let replayed = blocking(move || Ok(content_digest(&dir.host)?)).await?;
        if replayed != after {
            let what = format!("state {}", facts.alias);
            differences.push(Difference { what, recorded: after, replayed, byte: None, line: None });
        }
    }
    Ok(Replay {
        task: predicate.task.id,
        subject: subject.to_string(),
        matches: differences.is_empty(),
        deterministic: predicate.engine.deterministic.is_some(),
        differences,
    })
}

/// What came out, of a receipt whose execution can come about again.
fn check(predicate: &Predicate) -> Result<&OutputFacts> {
    let cannot = |why: String| {
        Err(Error::new(ErrorKind::Usage, format!("it can't be replayed: {why}"))
            .hint("replay a task that came to its end by itself, as Wasm"))
    };
    if predicate.artifact.path != "wasm" {
        return cannot("its guest did not run as Wasm".into());
    }
    if !matches!(predicate.end.reason.as_str(), "exited" | "trapped") {
        return cannot(format!("it ended by {}, and when that comes is not the guest's doing", predicate.end.reason));
    }
    if !predicate.inputs.allow_net.is_empty() {
        return cannot("it had the network, and what came over that isn't recorded".into());
    }
    predicate.outputs.as_ref().map_or_else(|| cannot("what it wrote isn't recorded".into()), Ok)
}

/// What the guest's time and chance were made from; for one that had the machine's, its start and seed 0.
fn made(predicate: &Predicate) -> Result<Deterministic> {
    let time = |text: &str| {
        humantime::parse_rfc3339(text)
            .map_err(|e| Error::new(ErrorKind::InvalidContent, format!("the receipt's time `{text:.100}`: {e}")))
    };
    Ok(match &predicate.engine.deterministic {
        Some(made) => Deterministic { seed: made.seed, start: time(&made.start)? },
        None => match &predicate.start.started {
            Some(started) => Deterministic { start: time(started)?, ..Deterministic::default() },
            None => Deterministic::default(),
        },
    })
}

fn args(predicate: &Predicate, given: &[String]) -> Result<Vec<String>> {
    let recorded = &predicate.inputs.args;
    if given.is_empty() {
        let values = recorded.iter().map(|word| match word {
            Word::Value { value } => Ok(value.clone()),
            Word::Hash(_) => Err(gone("its arguments", "give them after --, as the task had them")),
        });
        return values.collect();
    }
    if given.len() != recorded.len() {
        return Err(other(&format!("the number of arguments, {},", given.len())));
    }
    for (n, (word, value)) in recorded.iter().zip(given).enumerate() {
        if !word.is(value) {
            return Err(other(&format!("argument {}", n + 1)));
        }
    }
    Ok(given.to_vec())
}

fn env(predicate: &Predicate, given: &[(String, String)]) -> Result<Vec<(String, String)>> {
    let recorded = &predicate.inputs.env;
    if let Some((name, _)) = given.iter().find(|(name, _)| !recorded.contains_key(name)) {
        return Err(other(&format!("the variable {name}")));
    }
    recorded
        .iter()
        .map(|(name, word)| {
            let given = given.iter().find(|(known, _)| known == name).map(|(_, value)| value);
            match (word, given) {
                (word, Some(value)) if word.is(value) => Ok((name.clone(), value.clone())),
                (_, Some(_)) => Err(other(&format!("the variable {name}"))),
                (Word::Value { value }, None) => Ok((name.clone(), value.clone())),
                (Word::Hash(_), None) => {
                    Err(gone(&format!("the variable {name}"), "give it with --env NAME=VALUE, as the task had it"))
                }
            }
        })
        .collect()
}

fn stdin(predicate: &Predicate, given: Option<&[u8]>) -> Result<Input> {
    let recorded = &predicate.inputs.stdin;
    match given {
        Some(bytes) if digest_of(bytes) == *recorded => Ok(Input::bytes(bytes.to_vec())),
        Some(_) => Err(other("the standard input")),
        None if digest_of(b"") == *recorded => Ok(Input::Null),
        None => Err(gone("its standard input", "give it with --stdin FILE")),
    }
}

/// Copies of the states as they were before, as folders of the guest.
async fn states(predicate: &Predicate, request: &ReplayRequest<'_>, to: &Path) -> Result<Vec<DirSpec>> {
    let mut dirs = Vec::new();
    for facts in &predicate.inputs.states {
        let alias = facts.alias.clone();
        let Some(before) = facts.before.clone() else {
            return Err(gone(&format!("nothing: what the state {alias} held is not stated"), "it can't be replayed"));
        };
        let copy = to.join(&alias);
        let given = request.states.iter().find(|(known, _)| *known == alias).map(|(_, folder)| folder.clone());
        let empty = before == digest_of(b"");
        let Some(from) = given.map(Some).or(empty.then_some(None)) else {
            return Err(gone(
                &format!("the state {alias} before"),
                "give a copy of it with --state ALIAS=FOLDER, as `vyr state export` makes one",
            ));
        };
        let read_only = facts.read_only;
        let host = copy.clone();
        blocking(move || {
            match &from {
                Some(from) => {
                    if content_digest(from)? != before {
                        return Err(other(&format!("the copy of the state {alias}")));
                    }
                    copy_folder(from, &copy)
                }
                None => std::fs::create_dir_all(&copy),
            }
            .map_err(|e| Error::new(ErrorKind::Storage, format!("the state can't be copied: {e}")))
        })
        .await?;
        dirs.push(DirSpec { host, guest: format!("/state/{}", facts.alias), read_only });
    }
    Ok(dirs)
}

fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for item in std::fs::read_dir(from)? {
        let item = item?;
        let (kind, place) = (item.file_type()?, to.join(item.file_name()));
        if kind.is_dir() {
            copy_folder(&item.path(), &place)?;
        } else if kind.is_file() {
            std::fs::copy(item.path(), &place)?;
        }
    }
    Ok(())
}

fn room(facts: &StreamFacts) -> Result<usize> {
    let room = facts.bytes.saturating_add(MORE);
    usize::try_from(room).ok().filter(|_| facts.bytes <= MOST).ok_or_else(|| {
        Error::new(ErrorKind::Usage, format!("it wrote {} bytes; at most {MOST} are replayed", facts.bytes))
    })
}

fn end(predicate: &Predicate, outcome: &Outcome) -> Option<Difference> {
    let replayed = match outcome {
        Outcome::Exited(code) => format!("exited with code {code}"),
        Outcome::Trapped(_) => "trapped".to_owned(),
        _ => outcome.as_str().to_owned(),
    };
    let recorded = match predicate.end.exit_code {
        Some(code) => format!("exited with code {code}"),
        None => predicate.end.reason.clone(),
    };
    (recorded != replayed).then(|| Difference { what: "end".into(), recorded, replayed, byte: None, line: None })
}

fn stream(what: &str, recorded: &StreamFacts, captured: &Captured, kept: Option<&Vec<u8>>) -> Option<Difference> {
    let bytes = captured.contents();
    let replayed = StreamFacts { digest: digest_of(&bytes), bytes: bytes.len() as u64 };
    if replayed.digest == recorded.digest {
        return None;
    }
    let words = |facts: &StreamFacts| format!("{} bytes, {}", facts.bytes, facts.digest);
    let byte = kept.map(|kept| kept.iter().zip(bytes.iter()).take_while(|(a, b)| a == b).count());
    let line = byte.zip(kept).map(|(byte, kept)| kept.iter().take(byte).filter(|b| **b == b'\n').count() + 1);
    Some(Difference { what: what.to_owned(), recorded: words(recorded), replayed: words(&replayed), byte, line })
}
