//! Makes container images of real software by real tools, sets Wasm beside them that can't start, and counts how often the
//! container then does what it should.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it finds")]
#![allow(clippy::disallowed_methods, reason = "it sets up its own environment")]

mod cache;
mod case;
mod check;
mod debian;
mod entries;
mod judge;
mod kit;
mod layers;
mod make;
mod oci;
mod programs;
mod registry;
mod tree;
mod wasm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::{Args, Parser, Subcommand};

use crate::cache::Cache;
use crate::case::Case;
use crate::kit::Kit;
use crate::make::Workshop;

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
const TOOLS: [&str; 5] = ["busybox", "crane", "crun", "skopeo", "umoci"];
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
    }
}

/// Does something with each case, and says how it went.
fn each(
    selection: &Selection,
    what: impl Fn(&Workshop<'_>, &Case) -> Result<Option<String>>,
) -> Result<ExitCode> {
    let cases = selection.cases()?;
    let kit = kit(selection)?;
    let cache = Cache::open()?;
    let workshop = Workshop::new(&cache, &kit);
    let mut bad = 0_usize;
    for case in &cases {
        let began = Instant::now();
        let outcome = what(&workshop, case).unwrap_or_else(|error| Some(format!("{error:#}")));
        let seconds = began.elapsed().as_secs_f64();
        match outcome {
            None => println!("✓ {} ({seconds:.1} s)", case.name),
            Some(words) => {
                bad += 1;
                println!("✗ {} ({seconds:.1} s): {words}", case.name);
            }
        }
    }
    println!("{} of {} cases pass", cases.len() - bad, cases.len());
    Ok(if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(dead_code, reason = "for the modules to come")]
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
