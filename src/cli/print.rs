//! Owns what reaches the terminal: results on stdout, notes, errors and bars on stderr.

use std::io::{self, IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::args::Output;
use crate::config::EnvVars;
use crate::error::{Error, ErrorKind, Result};

/// Prints results in the format that was asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Printer {
    pub(crate) output: Output,
    color: bool,
    results_color: bool,
}

impl Printer {
    /// A printer for `output`; colour only on a terminal, and never with `NO_COLOR`.
    pub(crate) fn new(output: Output) -> Self {
        let wanted = EnvVars::get(EnvVars::NO_COLOR).is_none();
        Self {
            output,
            color: wanted && io::stderr().is_terminal(),
            results_color: wanted && output == Output::Text && io::stdout().is_terminal(),
        }
    }

    /// Whether stderr takes colour.
    pub(crate) fn color(self) -> bool {
        self.color
    }

    /// One result: as JSON where that was asked for, else as `text` says.
    pub(crate) fn result<T: Serialize>(self, value: &T, text: impl FnOnce() -> String) -> Result<()> {
        match self.output {
            Output::Text => self.line(&text()),
            Output::Json => self.line(&pretty(value)?),
            Output::Jsonl => self.line(&compact(value)?),
        }
    }

    /// A listing: one document, a line each, or a table.
    pub(crate) fn list<T: Serialize>(self, rows: &[T], head: &[&str], cells: impl Fn(&T) -> Vec<String>) -> Result<()> {
        self.list_dressed(rows, head, cells, |_, line| line)
    }

    /// The same, where each row of the table is one line, which `dress` may colour once it is aligned.
    pub(crate) fn list_dressed<T: Serialize>(
        self,
        rows: &[T],
        head: &[&str],
        cells: impl Fn(&T) -> Vec<String>,
        dress: impl Fn(&T, String) -> String,
    ) -> Result<()> {
        match self.output {
            Output::Json => self.line(&pretty(&rows)?),
            Output::Jsonl => {
                for row in rows {
                    self.line(&compact(row)?)?;
                }
                Ok(())
            }
            Output::Text => {
                let mut table = table();
                table.set_header(head.iter().map(|h| h.to_uppercase()));
                for row in rows {
                    table.add_row(cells(row));
                }
                let mut lines: Vec<String> = table.lines().map(|line| line.trim_end().to_owned()).collect();
                if lines.len() == rows.len() + 1 {
                    for (line, row) in lines.iter_mut().skip(1).zip(rows) {
                        *line = dress(row, std::mem::take(line));
                    }
                }
                self.line(&lines.join("\n"))
            }
        }
    }

    /// A line on stdout. A reader that has gone away isn't an error: `vyr artifacts | head` ends quietly.
    pub(crate) fn line(self, text: &str) -> Result<()> {
        self.line_read(text).map(drop)
    }

    /// The same, saying whether the reader is still there: what has no end of its own ends then.
    pub(crate) fn line_read(self, text: &str) -> Result<bool> {
        let mut out = io::stdout().lock();
        match writeln!(out, "{text}").and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(e) => gone_or_failed(&e),
        }
    }

    /// One document of a stream, in one line; says whether the reader is still there.
    pub(crate) fn document<T: Serialize>(self, value: &T) -> Result<bool> {
        self.line_read(&compact(value)?)
    }

    /// `text` in a colour of the terminal, where results are coloured.
    pub(crate) fn tint(self, color: &str, text: &str) -> String {
        if self.results_color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A remark on stderr.
    pub(crate) fn note(self, text: &str) {
        self.say("note", "36", &harmless(text));
    }

    /// A warning on stderr.
    pub(crate) fn warning(self, text: &str) {
        self.say("warning", "33", &harmless(text));
    }

    /// The error, once: attempted, why, next. What an artifact says of itself may be in each.
    pub(crate) fn error(self, error: &Error) {
        if self.output == Output::Text {
            self.say("error", "1;31", &self.told(error));
        } else {
            let document = serde_json::json!({"error": {
                "kind": error.kind().as_str(), "exit_code": error.kind().exit_code(),
                "attempted": error.what(), "why": error.why(), "next": error.next(),
            }});
            drop(writeln!(io::stderr().lock(), "{document}"));
        }
    }

    /// An error in lines for people. Names and reasons are what registries, artifacts and nodes say.
    fn told(self, error: &Error) -> String {
        let mut text = String::new();
        if let Some(what) = error.what() {
            text.push_str(&format!("could not {}\n  ", harmless(what)));
            text.push_str(&self.paint("2", "why: "));
        }
        // A file's own lines may be in it.
        text.push_str(&harmless(error.why()).replace('\n', "\n       "));
        if let Some(next) = error.next() {
            text.push_str(&format!("\n  {}{}", self.paint("2", "next: "), harmless(next)));
        }
        text
    }

    fn say(self, label: &str, color: &str, text: &str) {
        // Nothing is left to tell when stderr itself is gone.
        drop(writeln!(io::stderr().lock(), "{} {text}", self.paint(color, &format!("{label}:"))));
    }

    fn paint(self, color: &str, text: &str) -> String {
        if self.color { format!("\x1b[{color}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// `false` for a reader that has gone away, which isn't an error; the error for anything else.
pub(crate) fn gone_or_failed(e: &io::Error) -> Result<bool> {
    if e.kind() == io::ErrorKind::BrokenPipe {
        return Ok(false);
    }
    Err(Error::new(ErrorKind::Storage, format!("the output can't be written: {e}")))
}

/// A table without borders, as wide as it needs to be.
pub(crate) fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table
}

fn pretty<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("the result can't be written as JSON: {e}")))
}

fn compact<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::new(ErrorKind::Internal, format!("the result can't be written as JSON: {e}")))
}

/// Words that somebody else chose, so that they can't steer the terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() && c != '\n' && c != '\t' { c.escape_default().to_string() } else { c.to_string() })
        .collect()
}

/// The same for what may be no more than a line.
pub(crate) fn one_line(text: &str) -> String {
    harmless(text).replace('\n', "\\n")
}

/// A size for people: `1.5 MiB`.
pub(crate) fn human(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).display().iec().to_string()
}

/// A digest cut for a table: enough to tell and to paste.
pub(crate) fn short(digest: &str) -> String {
    match digest.split_once(':') {
        Some((algorithm, hex)) => format!("{algorithm}:{}", hex.get(..12).unwrap_or(hex)),
        None => digest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_steers_the_terminal() {
        let printer = Printer { output: Output::Text, color: false, results_color: false };
        // As a manifest's media type can have it: the JSON says \\u001b.
        let error = Error::new(ErrorKind::InvalidContent, "it is a \u{1b}]0;title\u{7}\u{1b}[2J\r,\nand no image")
            .attempted("pull x\u{1b}[8m")
            .hint("ask \u{9b}1m");
        let told = printer.told(&error);
        assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{told:?}");
        assert!(told.contains("\\u{1b}[2J") && told.contains("and no image"), "{told:?}");
    }
}
