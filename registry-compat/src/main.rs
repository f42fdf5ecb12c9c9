//! Tries registries × operations × clients, all real programs, and writes what works, what doesn't and why.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it finds")]
#![allow(clippy::disallowed_methods, reason = "it sets up its own environment")]

mod client;
mod ctx;
mod explain;
mod form;
mod keys;
mod kit;
mod matrix;
mod op;
mod place;
mod proxy;
mod raw;
mod report;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;

use crate::form::Forms;
use crate::kit::Kit;
use crate::matrix::{Cell, Outcome, Selection};
use crate::place::Kind;
use crate::raw::Raw;

/// The matrix of registries and clients
#[derive(Debug, Parser)]
struct Options {
    /// VYR's own registry and docker-registry, small blobs, the clients that tests use: shows that the harness works
    #[arg(long)]
    quick: bool,
    /// The vyr to try [default: the one built beside this program]
    #[arg(long)]
    vyr: Option<PathBuf>,
    /// The folder of the raw results
    #[arg(long, default_value = "registry-compat/results")]
    results: PathBuf,
    /// The page to write
    #[arg(long, default_value = "docs/registry-compat.md")]
    page: PathBuf,
    /// Only cells whose registry, client or operation has each of these words; they take their old ones' place
    #[arg(long)]
    only: Vec<String>,
    /// Only cells that the raw results don't have: goes on with a run that was ended
    #[arg(long)]
    missing: bool,
    /// Run nothing: explain the raw results again and write the page
    #[arg(long)]
    report: bool,
}

const MIB: u64 = 1 << 20;

/// The tools of `envs/tools` that a run takes.
const TOOLS: [&str; 7] = ["docker-registry", "oras", "crane", "cosign", "cosign-older", "umoci", "busybox"];
/// And those of a full one.
const MORE: [&str; 6] = ["distribution", "ferro", "oras-older", "skopeo", "python-oras", "wkg"];

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.results)?;
    let whole = options.results.join("matrix.jsonl");
    let part = options.missing || !options.only.is_empty();
    let wanted = options.report || (part && !options.quick);
    let mut raw = if wanted && whole.exists() { Some(Raw::read(&whole)?) } else { None };
    if !options.report {
        // Written as it goes: a run of the whole takes a quarter of an hour.
        let going = match (options.quick, part) {
            (true, _) => options.results.join("quick.jsonl"),
            (false, true) => options.results.join("going.jsonl"),
            (false, false) => whole.clone(),
        };
        let ran = run(&options, raw.as_ref(), &going)?;
        match &mut raw {
            Some(raw) => raw.take(ran)?,
            None => raw = Some(ran),
        }
    }
    let raw = raw.with_context(|| format!("{} isn't there: run the matrix first", whole.display()))?;
    if !options.quick {
        raw.write(&whole)?;
        std::fs::write(&options.page, report::page(&raw)).with_context(|| options.page.display().to_string())?;
    }
    println!("{}", report::summary(&raw.cells));
    let stale = explain::stale(&raw.cells, options.quick);
    for line in &stale {
        println!("stale: {line}");
    }
    let unexplained = raw.cells.iter().any(|cell| cell.outcome == Outcome::Fail && cell.why.is_none());
    let good = !unexplained && stale.is_empty() && !raw.cells.is_empty();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(options: &Options, known: Option<&Raw>, going: &Path) -> Result<Raw> {
    let (kinds, set, names) = if options.quick {
        (vec![Kind::Vyr, Kind::DockerRegistry], "all", TOOLS.to_vec())
    } else {
        (Kind::ALL.to_vec(), "compat", [&TOOLS[..], &MORE].concat())
    };
    let kit = Kit::find(options.vyr.clone(), &names, set)?;
    let huge = !options.quick && (options.only.is_empty() || options.only.iter().any(|word| word.contains("huge")));
    let forms = Forms::make(&kit, if options.quick { 8 } else { 64 } * MIB, huge.then_some(1024 * MIB))?;
    let known = known.filter(|_| options.missing);
    let known = known.map_or_else(Vec::new, |raw| raw.cells.iter().map(Cell::key).collect());
    let selection = Selection { kinds, quick: options.quick, only: options.only.clone(), known };
    let mut raw = Raw { versions: kit.versions(), cells: Vec::new() };
    raw.write(going)?;
    matrix::run(&kit, &forms, &selection, |cell| {
        raw.add(cell.clone(), going)?;
        let sign = match cell.outcome {
            Outcome::Pass => "✓",
            Outcome::Fail if cell.why.is_some() => "✗",
            Outcome::Fail => "✗ UNEXPLAINED",
            Outcome::None => return Ok(()),
        };
        let words = cell.said.as_deref().or(cell.why.as_deref()).unwrap_or_default();
        let op = cell.op.id();
        println!("{sign} {} × {} × {op} ({} ms) {words}", cell.registry, cell.client, cell.milliseconds);
        Ok(())
    })?;
    Ok(raw)
}
