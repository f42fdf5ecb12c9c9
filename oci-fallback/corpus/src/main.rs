//! Makes container images of real software by real tools, sets Wasm beside them that can't start, and counts how often the
//! container then does what it should.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it finds")]
#![allow(clippy::disallowed_methods, reason = "it sets up its own environment")]

mod bad;
mod cache;
mod case;
mod check;
mod debian;
mod entries;
mod explain;
mod judge;
mod kit;
mod layers;
mod make;
mod oci;
mod plot;
mod programs;
mod registry;
mod report;
mod row;
mod run;
mod stats;
mod tree;
mod vyr;
mod wasm;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::cache::Cache;
use crate::case::Case;
use crate::kit::Kit;
use crate::make::Workshop;
use crate::row::Rows;
use crate::vyr::{Engine, Rights};

/// The corpus of container images
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the cases
    List(Selection),
    /// Make the images
    Build(Selection),
    /// Run each image by the reference, umoci and crun: a case that fails here is wrong
    Check(Selection),
    /// Run each by a node, and write what came of it
    Run(Measure),
    /// Run images that must fail, and see how
    Bad(Measure),
    /// Write the page of the results; fails where a failure has no reason yet
    Report(Selection),
}

#[derive(Debug, Args)]
struct Selection {
    /// A few small cases, which fetch no packages
    #[arg(long)]
    quick: bool,
    /// Only cases that have each of these words in name, software, maker, Wasm or features
    #[arg(long, num_args = 1..)]
    only: Vec<String>,
    /// The folder of the cases
    #[arg(long, default_value = "oci-fallback/corpus/cases")]
    cases: PathBuf,
    /// The folder of the raw results
    #[arg(long, default_value = "oci-fallback/corpus/results")]
    results: PathBuf,
}

#[derive(Debug, Args)]
struct Measure {
    #[command(flatten)]
    selection: Selection,
    /// The vyr to try [default: the one built beside this program]
    #[arg(long)]
    vyr: Option<PathBuf>,
    /// Only this engine
    #[arg(long)]
    engine: Option<Engine>,
    /// Only with these rights
    #[arg(long)]
    rights: Option<Rights>,
    /// Only what the results don't have: goes on with a run that was ended
    #[arg(long)]
    missing: bool,
    /// Of bad images: make them, see what umoci does with them, and run none
    #[arg(long)]
    make: bool,
}

impl Measure {
    /// The engines and rights to try; the quick form has one.
    fn places(&self) -> Vec<(Engine, Rights)> {
        let mut all = Vec::new();
        for rights in [Rights::Root, Rights::Rootless] {
            for engine in [Engine::Libcontainer, Engine::Crun] {
                let first = (engine, rights) == (Engine::Libcontainer, Rights::Root);
                let named = self.engine.is_some() || self.rights.is_some();
                let asked = self.engine.is_none_or(|one| one == engine) && self.rights.is_none_or(|one| one == rights);
                if asked && (first || named || !self.selection.quick) {
                    all.push((engine, rights));
                }
            }
        }
        all
    }

    fn vyr(&self) -> Result<PathBuf> {
        let beside = std::env::current_exe()?.with_file_name("vyr");
        let path = std::path::absolute(self.vyr.as_ref().unwrap_or(&beside))?;
        ensure!(path.exists(), "{} is missing; build it, or name one by --vyr", path.display());
        Ok(path)
    }

    /// The results so far, to which a run of some cases adds.
    fn rows(&self, kit: &Kit, vyr: &Path, file: &str) -> Result<Rows> {
        let mut versions = kit.versions();
        let output = Command::new(vyr).arg("--version").output().with_context(|| vyr.display().to_string())?;
        let said = String::from_utf8_lossy(&output.stdout).split_whitespace().last().unwrap_or("unknown").to_owned();
        versions.insert("vyr".into(), said);
        // Makers that a small run doesn't ask for are the same ones nevertheless.
        versions.retain(|name, _| !MORE.contains(&name.as_str()));
        std::fs::create_dir_all(&self.selection.results)?;
        let name = if self.selection.quick { "quick.jsonl" } else { file };
        Rows::open(&self.selection.results.join(name), row::facts(versions))
    }
}

impl Selection {
    fn cases(&self) -> Result<Vec<Case>> {
        let mut cases = case::all(&self.cases)?;
        cases.retain(|case| (!self.quick || case.quick) && case.fits(&self.only));
        ensure!(!cases.is_empty(), "no case fits");
        Ok(cases)
    }
}

/// The tools that small cases need, and those of all.
const TOOLS: [&str; 4] = ["busybox", "crane", "crun", "umoci"];
const MORE: [&str; 2] = ["buildah", "mmdebstrap"];

fn kit(selection: &Selection) -> Result<Kit> {
    if selection.quick { Kit::find(&TOOLS) } else { Kit::find(&[&TOOLS[..], &MORE].concat()) }
}

fn main() -> Result<ExitCode> {
    match Options::parse().verb {
        Verb::List(selection) => {
            for case in selection.cases()? {
                let features = case.features().into_iter().collect::<Vec<_>>().join(", ");
                println!("{} | {} | {} | {} | {features}", case.name, case.software, case.maker.name(), case.wasm);
            }
            Ok(ExitCode::SUCCESS)
        }
        Verb::Build(selection) => each(&selection, |workshop, case| workshop.image(case).map(|_| None)),
        Verb::Check(selection) => each(&selection, check::check),
        Verb::Run(options) => measure(&options),
        Verb::Bad(options) => bad(&options),
        Verb::Report(selection) => write_report(&selection),
    }
}

/// Does something with each case, and says how it went.
fn each(selection: &Selection, what: impl Fn(&Workshop<'_>, &Case) -> Result<Option<String>>) -> Result<ExitCode> {
    let cases = selection.cases()?;
    let kit = kit(selection)?;
    let cache = Cache::open()?;
    let workshop = Workshop::new(&cache, &kit);
    let mut bad = 0_usize;
    // On a terminal alone; elsewhere the lines are enough.
    let bar = ProgressBar::new(cases.len() as u64);
    bar.set_style(ProgressStyle::with_template("{pos}/{len} {msg} {elapsed}")?);
    for case in &cases {
        bar.set_message(case.name.clone());
        let began = Instant::now();
        let outcome = what(&workshop, case).unwrap_or_else(|error| Some(format!("{error:#}")));
        let seconds = began.elapsed().as_secs_f64();
        bar.suspend(|| match outcome {
            None => println!("✓ {} ({seconds:.1} s)", case.name),
            Some(words) => {
                bad += 1;
                println!("✗ {} ({seconds:.1} s): {words}", case.name);
            }
        });
        bar.inc(1);
    }
    bar.finish_and_clear();
    println!("{} of {} cases pass", cases.len() - bad, cases.len());
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure(measure: &Measure) -> Result<ExitCode> {
    let cases = measure.selection.cases()?;
    let kit = kit(&measure.selection)?;
    let cache = Cache::open()?;
    let workshop = Workshop::new(&cache, &kit);
    let vyr = measure.vyr()?;
    let mut rows = measure.rows(&kit, &vyr, "cases.jsonl")?;
    let places = measure.places();
    if measure.selection.only.is_empty() && !measure.missing {
        // What an older vyr did must not stand among what this one does.
        rows.rows.retain(|row| !places.contains(&(row.engine, row.rights)));
    }
    for (engine, rights) in places {
        let known = |case: &Case| rows.rows.iter().any(|row| row.is_of(&case.name, engine, rights));
        let wanted: Vec<Case> = cases.iter().filter(|case| !(measure.missing && known(case))).cloned().collect();
        if !wanted.is_empty() {
            run::run(&workshop, &vyr, engine, rights, &wanted, &mut rows)?;
        }
    }
    println!("{}", report::summary(&rows, &cases));
    Ok(if rows.rows.iter().all(|row| row.ok || row.why.is_some()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bad(measure: &Measure) -> Result<ExitCode> {
    let kit = Kit::find(&TOOLS)?;
    let cache = Cache::open()?;
    if measure.make {
        bad::build(&cache, &kit)?;
        bad::check(&cache, &kit)?;
        return Ok(ExitCode::SUCCESS);
    }
    let vyr = measure.vyr()?;
    let mut rows = measure.rows(&kit, &vyr, "bad.jsonl")?;
    let mut all: Vec<Rights> = measure.places().into_iter().map(|(_, rights)| rights).collect();
    all.dedup();
    for rights in all {
        bad::run(&cache, &kit, &vyr, rights, &measure.selection.only, &mut rows)?;
    }
    Ok(if rows.rows.iter().all(|row| row.ok || row.why.is_some()) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn write_report(selection: &Selection) -> Result<ExitCode> {
    let cases = case::all(&selection.cases)?;
    let rows = Rows::read(&selection.results.join("cases.jsonl")).context("run the cases first")?;
    let bad = Rows::read(&selection.results.join("bad.jsonl")).ok();
    let results = report::Results { cases: &cases, rows: &rows, bad: bad.as_ref() };
    results.write(Path::new("docs/oci-fallback.md"), Path::new("docs/img/oci-fallback.svg"))?;
    println!("{}", report::summary(&rows, &cases));
    let complaints = results.complaints();
    complaints.iter().for_each(|line| println!("{line}"));
    Ok(if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
