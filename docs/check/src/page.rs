//! Owns what a page asks for: its commands in order, each with its place and the output written below it.
//!
//! ````markdown
//! <!-- run: cp "$GUESTS/hello.wasm" . -->          not shown to the reader; has to succeed
//!
//! ```console
//! $ vyr run hello.wasm                             a command, up to where the shell would take it
//! error: …                                         what it prints
//! (exit code 125)                                  unless it ends with 0
//! $ vyr serve &                                    goes on; its output is waited for
//! note: listening on …
//! $ vyr logs -f $task                              ends by Ctrl-C once what stands before it was printed
//! one line
//! ^C
//! ```
//!
//! ```console norun="needs systemd"                 counted, not run
//! ````

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

/// A page and its blocks.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) path: PathBuf,
    pub(crate) text: String,
    pub(crate) blocks: Vec<Block>,
}

#[derive(Debug)]
pub(crate) enum Block {
    /// What the reader sees.
    Console(Vec<Step>),
    /// What is set up behind the scenes.
    SetUp(Step),
    /// What can't run here, and why.
    NotRun(String),
}

/// One command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// The line of its `$`, from 1.
    pub(crate) line: usize,
    pub(crate) command: String,
    /// The lines of the page that have its output, from 0; the exit code and `^C` are among them.
    pub(crate) lines: std::ops::Range<usize>,
    pub(crate) output: String,
    pub(crate) exit: i32,
    /// It is ended by Ctrl-C.
    pub(crate) interrupt: bool,
    /// The reader sees it; its output counts.
    pub(crate) shown: bool,
}

impl Step {
    /// Whether the session goes on while it runs.
    pub(crate) fn in_background(&self) -> bool {
        let command = self.command.trim_end();
        command.ends_with('&') && !command.ends_with("&&")
    }
}

impl Page {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let blocks = blocks(&text).with_context(|| crate::shown(path))?;
        Ok(Self { path: path.to_owned(), text, blocks })
    }

    /// Why some of it isn't run.
    pub(crate) fn reasons(&self) -> BTreeSet<&str> {
        let mut reasons = BTreeSet::new();
        for block in &self.blocks {
            if let Block::NotRun(why) = block {
                reasons.insert(why.as_str());
            }
        }
        reasons
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = &Step> {
        self.blocks.iter().flat_map(|block| match block {
            Block::Console(steps) => steps.as_slice(),
            Block::SetUp(step) => std::slice::from_ref(step),
            Block::NotRun(_) => &[],
        })
    }
}

fn blocks(text: &str) -> Result<Vec<Block>> {
    let lines: Vec<&str> = text.lines().collect();
    let line_of = |offset: usize| text[..offset].matches('\n').count();
    let mut blocks = Vec::new();
    let mut comment = None;
    for (event, range) in Parser::new(text).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                let Some(rest) = info.strip_prefix("console") else { continue };
                let first = line_of(range.start);
                ensure!(
                    lines[first].starts_with("```"),
                    "line {}: a console block inside of a list or quote can't be compared; move it out",
                    first + 1
                );
                if let Some(why) = not_run(rest).with_context(|| format!("line {}", first + 1))? {
                    blocks.push(Block::NotRun(why));
                    continue;
                }
                let last = line_of(range.end.saturating_sub(1));
                blocks.push(Block::Console(steps(&lines, first + 1..last)?));
            }
            Event::Start(Tag::HtmlBlock) => comment = Some((line_of(range.start), String::new())),
            Event::Html(html) => {
                if let Some((_, whole)) = &mut comment {
                    whole.push_str(&html);
                }
            }
            Event::End(TagEnd::HtmlBlock) => {
                let Some((line, whole)) = comment.take() else { continue };
                let inner = whole.trim().strip_prefix("<!-- run:").and_then(|rest| rest.strip_suffix("-->"));
                let Some(inner) = inner else { continue };
                blocks.push(Block::SetUp(Step {
                    line: line + 1,
                    command: inner.trim().to_owned(),
                    lines: line..line,
                    output: String::new(),
                    exit: 0,
                    interrupt: false,
                    shown: false,
                }));
            }
            _ => {}
        }
    }
    Ok(blocks)
}

/// The reason of `norun="…"` in what follows the word `console` of a fence.
fn not_run(rest: &str) -> Result<Option<String>> {
    let rest = rest.trim();
    if rest.is_empty() {
        return Ok(None);
    }
    let why = rest.strip_prefix("norun=\"").and_then(|rest| rest.strip_suffix('"')).map(str::trim);
    match why {
        Some(why) if !why.is_empty() => Ok(Some(why.to_owned())),
        _ => bail!("`console {rest}` means nothing; a block that can't run is `console norun=\"REASON\"`"),
    }
}

fn steps(lines: &[&str], range: std::ops::Range<usize>) -> Result<Vec<Step>> {
    let mut steps: Vec<Step> = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let Some(first) = lines[at].strip_prefix("$ ") else {
            let step = steps.last_mut();
            let step = step.with_context(|| format!("line {}: output without a command before it", at + 1))?;
            step.lines.end = at + 1;
            at += 1;
            continue;
        };
        let (line, mut command) = (at + 1, first.to_owned());
        at += 1;
        while !complete(&command)? {
            ensure!(at < range.end, "line {line}: the command has no end: {command}");
            command = format!("{command}\n{}", lines[at]);
            at += 1;
        }
        steps.push(Step {
            line,
            command,
            lines: at..at,
            output: String::new(),
            exit: 0,
            interrupt: false,
            shown: true,
        });
    }
    for step in &mut steps {
        let mut output: Vec<&str> = lines[step.lines.clone()].to_vec();
        let code = output.last().and_then(|last| last.strip_prefix("(exit code ")?.strip_suffix(')'));
        if let Some(code) = code {
            step.exit = code.parse().with_context(|| format!("line {}: {code} is no exit code", step.lines.end))?;
            output.pop();
        }
        if output.last() == Some(&"^C") {
            step.interrupt = true;
            output.pop();
        }
        step.output = output.into_iter().map(|line| format!("{line}\n")).collect();
    }
    Ok(steps)
}

/// Whether the shell would begin to run this, by its own grammar: quotes, here-documents and braces are closed.
fn complete(command: &str) -> Result<bool> {
    if command.ends_with('\\') {
        return Ok(false);
    }
    // Most commands have none of what spans lines.
    if !command.contains(['\'', '"', '`', '{', '(', '<', '\n']) && !command.ends_with(['|', '&']) {
        return Ok(true);
    }
    let output = Command::new("bash").args(["-n", "-c", command]).output().context("bash")?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(!["unexpected EOF", "unexpected end of file", "delimited by end-of-file"].iter().any(|word| said.contains(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_end_where_the_shell_has_them_end() {
        let text = "# Page\n\n```console\n$ echo one \\\n    two\none two\n$ cat <<EOF\n$ x\nEOF\n$ x\n$ echo 'a\nb' && false\na\n\
                    b\n(exit code 1)\n$ tail -f x\nline\n^C\n(exit code 130)\n```\n";
        let blocks = blocks(text).unwrap();
        let [Block::Console(steps)] = &blocks[..] else { panic!("{blocks:?}") };
        let found: Vec<_> =
            steps.iter().map(|s| (s.line, &s.command[..], &s.output[..], s.exit, s.interrupt)).collect();
        assert_eq!(
            found,
            [
                (4, "echo one \\\n    two", "one two\n", 0, false),
                (7, "cat <<EOF\n$ x\nEOF", "", 0, false),
                (10, "x", "", 0, false),
                (11, "echo 'a\nb' && false", "a\nb\n", 1, false),
                (16, "tail -f x", "line\n", 130, true),
            ]
        );
    }

    #[test]
    fn what_is_not_shown_is_run_and_what_cannot_run_says_why() {
        let text = "<!-- run: cp a b -->\n\n```console norun=\"needs systemd\"\n# systemctl start vyr\n```\n\n<!-- a note -->\n";
        let blocks = blocks(text).unwrap();
        let [Block::SetUp(step), Block::NotRun(why)] = &blocks[..] else { panic!("{blocks:?}") };
        assert_eq!((step.line, &step.command[..], &why[..]), (1, "cp a b", "needs systemd"));
    }

    #[test]
    fn mistakes_are_named_by_their_line() {
        let error = |text: &str| format!("{:#}", blocks(text).unwrap_err());
        assert!(error("```console\nno command\n```\n").contains("line 2: output without a command"));
        assert!(error("```console\n$ echo 'a\n```\n").contains("line 2: the command has no end"));
        assert!(error("```console norun\n$ x\n```\n").contains("norun=\"REASON\""));
        assert!(error("- item\n\n  ```console\n  $ x\n  ```\n").contains("line 3: a console block inside of a list"));
    }
}
