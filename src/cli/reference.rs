//! Owns the reference pages that are made of the code: `docs/reference/{cli,exit-codes,environment,errors}.md`. Each test
//! compares a page with what the code says; `VYR_DOCS_WRITE=1` writes the pages anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;

use super::Cli;
use super::codes::CODES;
use crate::error::ErrorKind;

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a page with what it should be, or writes it.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "a switch of these tests alone")]
fn page(name: &str, text: &str) {
    let path = project().join("docs/reference").join(name);
    if std::env::var_os("VYR_DOCS_WRITE").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == text,
        "docs/reference/{name} isn't what the code says: `VYR_DOCS_WRITE=1 cargo test -p vyr --lib reference` writes it"
    );
}

fn verbs(text: &mut String, command: &mut clap::Command) {
    let mut names: Vec<String> = Vec::new();
    for verb in command.get_subcommands_mut() {
        if verb.is_hide_set() || verb.get_name() == "help" {
            continue;
        }
        let name = verb.get_bin_name().unwrap_or(verb.get_name()).to_owned();
        let help = verb.render_long_help().to_string();
        let help: Vec<&str> = help.lines().map(str::trim_end).collect();
        write!(text, "## {name}\n\n```text\n{}\n```\n\n", help.join("\n").trim_end()).unwrap();
        names.push(name);
        verbs(text, verb);
    }
}

#[test]
fn the_command_line_is_as_its_page_says() {
    let mut command = Cli::command().term_width(100);
    command.build();
    let mut text = String::from(
        "# The command line\n\nWhat `vyr VERB --help` says, verb by verb. `vyr help VERB` is the same in a terminal, `man vyr-VERB` \
         where the package is installed.\n\n",
    );
    let help = command.render_long_help().to_string();
    let help: Vec<&str> = help.lines().map(str::trim_end).collect();
    write!(text, "## vyr\n\n```text\n{}\n```\n\n", help.join("\n").trim_end()).unwrap();
    verbs(&mut text, &mut command);
    page("cli.md", &format!("{}\n", text.trim_end()));
}

/// What each kind is about. A kind that is new has no page until it is said here.
fn meaning(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Usage => "the call itself makes no sense: a flag, a reference, a field of a request, a setting",
        ErrorKind::NotFound => "no such artifact, blob, tag, key, rule, task or state",
        ErrorKind::Refused => "a digest, a signature or the trust policy says no",
        ErrorKind::Unauthorized => "no credential was shown, or not a known one",
        ErrorKind::Unavailable => "the other side can't be reached, hangs or is stopping: a later try may work",
        ErrorKind::InvalidContent => {
            "the content is what its digest says, and not what it should be: not Wasm, no manifest"
        }
        ErrorKind::CannotStart => {
            "the guest can't be started here: an import nobody provides, a limit that can't be met"
        }
        ErrorKind::Storage => "the disk or the database of this machine failed",
        ErrorKind::Exhausted => "there is no room for more now: a full queue, a full disk. A later try may work",
        ErrorKind::Conflict => "it is there already, and is something else",
        ErrorKind::Forbidden => "the caller isn't allowed to",
        ErrorKind::TimedOut => "a time limit has passed",
        ErrorKind::Cancelled => "somebody ended it",
        ErrorKind::Internal => "a fault of VYR's own",
    }
}

#[test]
fn exit_codes_and_kinds_are_as_their_page_says() {
    let mut text = String::from(
        "# Exit codes\n\n`vyr run`, `vyr wait` and `vyr submit --wait` exit with the guest's own code: what a program in the same \
         place would, its low 8 bits. Where those are 0 and the code isn't, as for 256, it is 1; the report and the receipt have the \
         guest's own number. `vyr wait` of several tasks has that of the first that isn't 0. All other codes are VYR's:\n\n\
         | code | meaning |\n| --- | --- |\n| 0 | done |\n",
    );
    for (code, meaning) in CODES {
        writeln!(text, "| {code} | {meaning} |").unwrap();
    }
    text.push_str(
        "\nA container that a signal ended has 128 and the signal's number, as in a shell.\n\n## Kinds of errors\n\nEvery error has a kind. \
         With `--output json` it is in the one document on stderr, over gRPC in `ErrorInfo.metadata[\"kind\"]`, in the SDKs \
         `error.kind`.\n\n| kind | exit code | gRPC code | what it is |\n| --- | --- | --- | --- |\n",
    );
    for kind in ErrorKind::ALL {
        let (word, code, grpc) = (kind.as_str(), kind.exit_code(), crate::server::grpc_code(kind));
        // `FailedPrecondition` as protocols write it.
        let grpc = format!("{grpc:?}").chars().fold(String::new(), |mut word, c| {
            if c.is_uppercase() && !word.is_empty() {
                word.push('_');
            }
            word.extend(c.to_uppercase());
            word
        });
        writeln!(text, "| `{word}` | {code} | `{grpc}` | {} |", meaning(kind)).unwrap();
        assert!(CODES.iter().any(|(known, _)| *known == code), "{word}");
    }
    page("exit-codes.md", &text);
}

#[test]
fn variables_are_as_their_page_says() {
    let mut text = String::from(
        "# Environment variables\n\nWhat `vyr` reads. A flag goes before a variable, a variable before \
         [`config.toml`](../configuration.md). An empty one counts as unset. A guest is given none of them, but a \
         `TRACEPARENT` of its own where its trace [goes on](../telemetry.md#traces).\n\n\
         | variable | what it says |\n| --- | --- |\n",
    );
    let mut said: Vec<&str> = Vec::new();
    for line in include_str!("../config/mod.rs").lines().map(str::trim) {
        match line.strip_prefix("/// ") {
            Some(words) => said.push(words),
            None => {
                let constant = line.strip_prefix("pub const ").and_then(|rest| rest.split_once(": &'static str = \""));
                if let Some((_, value)) = constant {
                    writeln!(text, "| `{}` | {} |", value.trim_end_matches("\";"), said.join(" ")).unwrap();
                }
                said.clear();
            }
        }
    }
    assert!(text.contains("| `VYR_HOME` | The data folder."), "{text}");
    page("environment.md", &text);
}

/// The transcripts of a kind of trouble, in their order.
fn transcripts() -> Vec<PathBuf> {
    let folder = std::fs::read_dir(project().join("tests/e2e/newcomer")).unwrap();
    let mut files: Vec<PathBuf> =
        folder.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "txt")).collect();
    files.sort();
    files
}

#[test]
fn the_errors_of_the_first_hour_are_as_their_page_says() {
    let mut text = String::from(
        "# Errors and what to do\n\nWhat goes wrong in the first hours, as it is really said: a test types each of these and compares. \
         An error says what was attempted, why it failed, and what to do next. The codes are in [exit codes](exit-codes.md).\n",
    );
    let groups = [
        ("words", "The command line"),
        ("registry", "Registries"),
        ("trust", "Signatures and trust"),
        ("wasm", "The Wasm"),
        ("guest", "While it runs"),
        ("node", "The node"),
        ("state", "State"),
        ("machine", "The machine"),
    ];
    let files = transcripts();
    for (group, title) in groups {
        write!(text, "\n## {title}\n").unwrap();
        for file in &files {
            if file.file_stem().unwrap().to_string_lossy().split('-').next() != Some(group) {
                continue;
            }
            let transcript = std::fs::read_to_string(file).unwrap();
            let (title, rest) = transcript.split_once('\n').unwrap();
            let title = title.strip_prefix("# ").unwrap();
            write!(text, "\n### {title}\n\n```text\n{}\n```\n", rest.trim_end()).unwrap();
        }
    }
    assert_eq!(text.matches("\n### ").count(), files.len(), "a transcript of no group");
    page("errors.md", &text);
}
