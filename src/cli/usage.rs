//! Owns what is said of a command line that can't be read: the parser's own words where it knows best, the reason of a value
//! that can't be one in the form of every other error.

use std::error::Error as _;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind as Kind};

use super::args::Output;
use super::print::Printer;
use crate::error::{Error, ErrorKind};

/// Says what is wrong, or prints the help that was asked for.
pub(super) fn explain(error: &clap::Error) -> ExitCode {
    let printer = Printer::new(output());
    if !error.use_stderr() {
        // Help and version. A reader that has gone away isn't an error.
        drop(error.print());
        return ExitCode::SUCCESS;
    }
    match reason(error) {
        Some(reason) => printer.error(&reason),
        // The whole help, since nothing was typed.
        None if error.kind() == Kind::DisplayHelpOnMissingArgumentOrSubcommand => drop(error.print()),
        None if printer.output != Output::Text => printer.error(&for_programs(error)),
        None => {
            drop(error.print());
            if takes_arguments(error) {
                printer.note(ARGUMENTS);
            }
        }
    }
    ExitCode::from(ErrorKind::Usage.exit_code())
}

/// How results are to be printed: the line that says it couldn't be read.
fn output() -> Output {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    let words: Vec<String> = words.take_while(|word| word != "--").collect();
    let after = |(at, word): (usize, &String)| match word.strip_prefix("--output") {
        Some("") => words.get(at + 1).cloned(),
        Some(rest) => rest.strip_prefix('=').map(str::to_owned),
        None => None,
    };
    match words.iter().enumerate().find_map(after).as_deref() {
        Some("json") => Output::Json,
        Some("jsonl") => Output::Jsonl,
        _ => Output::Text,
    }
}

/// Why a value can't be one, where the value's own parser said that.
fn reason(error: &clap::Error) -> Option<Error> {
    if error.kind() != Kind::ValueValidation {
        return None;
    }
    let source = error.source()?;
    let (why, next) = match source.downcast_ref::<Error>() {
        Some(own) => (own.why().to_owned(), own.next().map(str::to_owned)),
        None => {
            let words = source.to_string();
            match words.split_once("; ") {
                Some((why, next)) => (why.to_owned(), Some(next.to_owned())),
                None => (words, None),
            }
        }
    };
    let reason = Error::new(ErrorKind::Usage, why);
    let reason = match next {
        Some(next) => reason.hint(next),
        None => reason,
    };
    Some(match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(argument)) => reason.attempted(format_args!("read {argument}")),
        _ => reason,
    })
}

/// Where words that were too many belong.
const ARGUMENTS: &str = "what the guest is to be given follows --, as in vyr run REF -- one two";

/// The parser's own words without what surrounds them.
fn for_programs(error: &clap::Error) -> Error {
    let text = error.to_string();
    let paragraphs = text.split("\n\n").filter(|part| !part.starts_with("Usage:") && !part.starts_with("For more"));
    let words = paragraphs.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ");
    let words = words.trim_start_matches("error: ");
    match words.split_once(" tip: ") {
        _ if takes_arguments(error) => Error::new(ErrorKind::Usage, words).hint(ARGUMENTS),
        Some((why, tip)) => Error::new(ErrorKind::Usage, why).hint(tip.replace(" tip: ", "; ")),
        None => Error::new(ErrorKind::Usage, words),
    }
}

/// Whether words were too many for a verb that hands words on.
fn takes_arguments(error: &clap::Error) -> bool {
    error.kind() == Kind::UnknownArgument
        && matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(word)) if !word.starts_with('-'))
        && matches!(error.get(ContextKind::Usage), Some(ContextValue::StyledStr(usage)) if usage.to_string().contains("[-- <ARG>...]"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::super::Cli;
    use super::*;

    fn error(words: &[&str]) -> clap::Error {
        Cli::try_parse_from(words).err().unwrap_or_else(|| panic!("{words:?} can be read"))
    }

    #[test]
    fn a_value_that_can_not_be_one_is_told_as_every_error_is() {
        let told = reason(&error(&["vyr", "run", "--memory", "lots", "localhost:5000/a:v1"])).unwrap();
        assert_eq!(
            told.to_string(),
            "could not read --memory <SIZE>: `lots` is not a size; write it as 64MiB, or in bytes"
        );
        let told = reason(&error(&["vyr", "run", "localhost:5000/A:v1"])).unwrap();
        assert_eq!((told.kind(), told.what()), (ErrorKind::Usage, Some("read <REFERENCE>")));
        assert!(told.next().is_some_and(|next| next.contains("lower case")), "{told}");
        assert!(reason(&error(&["vyr", "run"])).is_none());
    }

    #[test]
    fn what_the_parser_knows_best_is_one_line_for_programs() {
        let told = for_programs(&error(&["vyr", "rum"]));
        assert_eq!(told.to_string(), "unrecognized subcommand 'rum'; a similar subcommand exists: 'run'");
        assert!(!for_programs(&error(&["vyr", "run"])).why().contains("Usage"));
        assert_eq!(for_programs(&error(&["vyr", "run", "localhost:5000/a:v1", "one"])).next(), Some(ARGUMENTS));
    }

    #[test]
    fn words_for_the_guest_are_recognised() {
        assert!(takes_arguments(&error(&["vyr", "run", "localhost:5000/a:v1", "one"])));
        assert!(!takes_arguments(&error(&["vyr", "run", "--memry", "1G", "localhost:5000/a:v1"])));
        assert!(!takes_arguments(&error(&["vyr", "doctor", "one"])));
    }
}
