//! Runs pages, tells where one isn't what happens, and counts what was run.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use comfy_table::{CellAlignment, Table, presets};
use regex::Regex;

use crate::compare;
use crate::kit::Kit;
use crate::page::{Block, Page, Step};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The vyr to run [default: the one built beside this program]
    #[arg(long)]
    vyr: Option<PathBuf>,
    /// Only pages whose path has one of these words
    #[arg(long)]
    only: Vec<String>,
    /// Write what was printed into the pages
    #[arg(long)]
    write: bool,
    /// How many pages run at once
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// How many seconds a command may take
    #[arg(long, default_value_t = 60)]
    timeout: u64,
    /// The pages [default: docs/tutorial.md and those in docs/how-to and docs/claims]
    pages: Vec<PathBuf>,
}

/// What became of a page.
#[derive(Debug, Default)]
struct Outcome {
    failures: Vec<String>,
    /// New output, by the lines of the page that it takes the place of.
    changes: Vec<(std::ops::Range<usize>, String)>,
    took: Duration,
}

pub(crate) fn run(options: &Options) -> Result<bool> {
    let paths = if options.pages.is_empty() { usual()? } else { options.pages.clone() };
    let wanted = |path: &&PathBuf| {
        options.only.is_empty() || options.only.iter().any(|word| path.to_string_lossy().contains(word))
    };
    let pages = paths.iter().filter(wanted).map(|path| Page::read(path)).collect::<Result<Vec<_>>>()?;
    ensure!(!pages.is_empty(), "no such page among {paths:?}");
    let kit = Kit::find(options.vyr.as_deref(), &guests(&pages)?)?;

    let outcomes: Vec<Mutex<Option<Result<Outcome>>>> = pages.iter().map(|_| Mutex::new(None)).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..options.jobs.max(1) {
            scope.spawn(|| {
                while let Some(page) = pages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = one(&kit, page, Duration::from_secs(options.timeout));
                    let at = pages.iter().position(|other| std::ptr::eq(other, page)).unwrap_or_default();
                    *outcomes[at].lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(outcome);
                }
            });
        }
    });

    let mut good = true;
    let mut rows = Vec::new();
    for (page, outcome) in pages.iter().zip(outcomes) {
        let outcome = outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        let outcome = outcome.context("each page was run")?.with_context(|| crate::shown(&page.path))?;
        for failure in &outcome.failures {
            println!("{failure}");
        }
        good &= outcome.failures.is_empty();
        if options.write && !outcome.changes.is_empty() {
            std::fs::write(&page.path, changed(&page.text, &outcome.changes))?;
            println!("{}: written anew, {} outputs", crate::shown(&page.path), outcome.changes.len());
        }
        rows.push(outcome);
    }
    for page in &pages {
        for why in page.reasons() {
            println!("not run in {}: {why}", crate::shown(&page.path));
        }
    }
    println!("{}", table(&pages, &rows));
    Ok(good)
}

/// The tutorial, the how-tos and what shows the claims, in the order of their names.
fn usual() -> Result<Vec<PathBuf>> {
    let docs = crate::project()?.join("docs");
    let mut pages = vec![docs.join("tutorial.md")];
    for folder in ["how-to", "claims"] {
        let entries = std::fs::read_dir(docs.join(folder))?;
        let mut names: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        names.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
        names.sort();
        pages.append(&mut names);
    }
    Ok(pages)
}

/// The guests that pages take behind the scenes, as `$GUESTS/NAME.wasm`.
fn guests(pages: &[Page]) -> Result<Vec<String>> {
    let named = Regex::new(r"\$GUESTS/([a-z0-9-]+)\.wasm")?;
    let commands = pages.iter().flat_map(Page::steps).map(|step| &step.command);
    let names: BTreeSet<String> =
        commands.flat_map(|command| named.captures_iter(command)).map(|found| found[1].to_owned()).collect();
    Ok(names.into_iter().collect())
}

fn one(kit: &Kit, page: &Page, limit: Duration) -> Result<Outcome> {
    let started = Instant::now();
    let mut outcome = Outcome::default();
    let mut session = Session::start(kit, limit)?;
    for step in page.steps() {
        let place = format!("{}:{}", crate::shown(&page.path), step.line);
        let done = match session.run(step, |output| compare::difference(&step.output, output).is_none()) {
            Ok(done) => done,
            Err(error) => {
                // The commands after it would wait for it, or fail for its sake.
                outcome
                    .failures
                    .push(format!("{place}: $ {}\n{error:#}\nthe rest of the page was not run\n", step.command));
                break;
            }
        };
        if let Some(failure) = failure(step, &done.output, done.exit) {
            outcome.failures.push(format!("{place}: $ {}\n{failure}", step.command));
            if step.shown {
                outcome.changes.push((step.lines.clone(), written(step, &done.output, done.exit)));
            }
        }
    }
    session.end()?;
    outcome.took = started.elapsed();
    Ok(outcome)
}

fn failure(step: &Step, output: &str, exit: i32) -> Option<String> {
    let mut failure = String::new();
    // Nothing is written of what a page doesn't show; what it says counts when it fails.
    if let Some(difference) = compare::difference(&step.output, output).filter(|_| step.shown || exit != step.exit) {
        failure.push_str(&difference);
    }
    if exit != step.exit {
        let _ = writeln!(failure, "exit code {exit}, not {}", step.exit);
    }
    (!failure.is_empty()).then_some(failure)
}

/// What a page should have below a command.
fn written(step: &Step, output: &str, exit: i32) -> String {
    let mut text = compare::rewritten(&step.output, output);
    if step.interrupt {
        text.push_str("^C\n");
    }
    if exit != 0 {
        let _ = writeln!(text, "(exit code {exit})");
    }
    text
}

fn changed(text: &str, changes: &[(std::ops::Range<usize>, String)]) -> String {
    let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
    for (range, new) in changes.iter().rev() {
        lines.splice(range.clone(), [new.clone()]);
    }
    lines.concat()
}

fn table(pages: &[Page], outcomes: &[Outcome]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["page", "blocks run", "commands", "behind the scenes", "not run", "s", ""]);
    let mut sums = [0; 4];
    for (page, outcome) in pages.iter().zip(outcomes) {
        let mut counts = [0; 4];
        for block in &page.blocks {
            match block {
                Block::Console(steps) => {
                    counts[0] += 1;
                    counts[1] += steps.len();
                }
                Block::SetUp(_) => counts[2] += 1,
                Block::NotRun(_) => counts[3] += 1,
            }
        }
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
        let name = crate::shown(&page.path);
        let [blocks, commands, behind, not_run] = counts.map(|count| count.to_string());
        let end = if outcome.failures.is_empty() { "as written" } else { "DIFFERENT" };
        let took = format!("{:.1}", outcome.took.as_secs_f64());
        table.add_row([&name, &blocks, &commands, &behind, &not_run, &took, end]);
    }
    let [blocks, commands, behind, not_run] = sums.map(|sum| sum.to_string());
    table.add_row(["together", &blocks, &commands, &behind, &not_run, "", ""]);
    for column in 1..=5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_output_takes_the_place_of_the_old() {
        let text = "a\nold\nolder\nb\nc\n";
        let changes = [(1..3, "new\n".to_owned()), (4..4, "more\n(exit code 1)\n".to_owned())];
        assert_eq!(changed(text, &changes), "a\nnew\nb\nmore\n(exit code 1)\nc\n");
    }
}
