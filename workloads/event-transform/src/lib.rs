//! Event transform: a reference workload that runs as Wasm, as a native program and in a container. README.md is its contract.
//!
//! The way of a line: `input` → `event` (by `json`, `time`, `reference`) → `output` and `windows`; `transform` joins them.
//! `generate` makes the data, and knows what has to come of it from what it made, not from the transform's code.

#[cfg(all(target_os = "wasi", target_env = "p2"))]
mod ahead;
mod arguments;
mod bytes;
mod event;
mod failure;
mod generate;
mod input;
mod json;
mod output;
mod random;
mod reference;
mod time;
mod transform;
mod windows;

use std::process::ExitCode;

use arguments::Arguments;
use failure::{Failure, finish};

const TRANSFORM_HELP: &str = "event-transform [FILE…] --reference FILE --to FOLDER [--max-rows N]

Reads events, CloudEvents 1.0 in JSON, a line each, from files or stdin (no FILE, or `-`); writes into FOLDER
  enriched.ndjson  the good ones, with site and zone of their source
  windows.csv      count, sum, least and most by minute, site and type
  dead.ndjson      line, length and reason of each bad one
  dead.raw         the bad ones as they came
and at the end one line of JSON with the exact counts on stdout.

  --reference FILE  CSV with the header source,site,zone
  --to FOLDER       where to write; made if it isn't there
  --max-rows N      the most rows of windows.csv, which memory is held for [default: 1000000]
";

const GENERATE_HELP: &str = "event-generate --to FOLDER [--seed N] [--events N]

Writes into FOLDER
  events.ndjson  the events, about one in a hundred of them nasty
  devices.csv    the reference table
  expected.json  the counts, and size and SHA-256 of each file that event-transform has to make of them

  --to FOLDER    where to write; made if it isn't there
  --seed N       another seed makes other events [default: 7]
  --events N     how many lines [default: 1000000]
";

/// `event-transform`, with the words of its call.
#[must_use]
pub fn transform(words: impl IntoIterator<Item = String>) -> ExitCode {
    finish(transform_plan(words).and_then(|plan| match plan {
        Some(plan) => transform::run(&plan),
        None => Ok(TRANSFORM_HELP.into()),
    }))
}

fn transform_plan(words: impl IntoIterator<Item = String>) -> Result<Option<transform::Plan>, Failure> {
    let mut arguments = Arguments::new("event-transform", words);
    let (mut inputs, mut reference, mut to, mut most_rows) = (Vec::new(), None, None, 1_000_000);
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--help" => return Ok(None),
            "--reference" => reference = Some(arguments.value(&word)?),
            "--to" => to = Some(arguments.value(&word)?),
            "--max-rows" => most_rows = arguments.value(&word)?,
            unknown if unknown.starts_with("--") => {
                return Err(arguments.usage(format!("there is no option {unknown}")));
            }
            _ => inputs.push(word.into()),
        }
    }
    if inputs.is_empty() {
        inputs.push("-".into());
    }
    let reference = arguments.needed(reference, "--reference")?;
    let to = arguments.needed(to, "--to")?;
    Ok(Some(transform::Plan { inputs, reference, to, most_rows }))
}

/// `event-generate`, with the words of its call.
#[must_use]
pub fn generate(words: impl IntoIterator<Item = String>) -> ExitCode {
    finish(generate_plan(words).and_then(|plan| match plan {
        Some(plan) => generate::run(&plan),
        None => Ok(GENERATE_HELP.into()),
    }))
}

fn generate_plan(words: impl IntoIterator<Item = String>) -> Result<Option<generate::Plan>, Failure> {
    let mut arguments = Arguments::new("event-generate", words);
    let (mut seed, mut events, mut to) = (7, 1_000_000, None);
    while let Some(word) = arguments.next() {
        match word.as_str() {
            "--help" => return Ok(None),
            "--seed" => seed = arguments.value(&word)?,
            "--events" => events = arguments.value(&word)?,
            "--to" => to = Some(arguments.value(&word)?),
            _ => return Err(arguments.usage(format!("`{word}` is not understood"))),
        }
    }
    Ok(Some(generate::Plan { seed, events, to: arguments.needed(to, "--to")? }))
}
