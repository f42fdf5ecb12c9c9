//! Keeps the documentation true: runs the commands of its pages and compares what they print, follows its links, makes the
//! API's reference out of the protocol files, and builds the site.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it finds")]
#![allow(clippy::disallowed_methods, reason = "it sets up its own environment")]

mod api;
mod compare;
mod kit;
mod links;
mod markdown;
mod page;
mod run;
mod session;
mod site;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// The documentation's checks
#[derive(Debug, Parser)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run every `console` block of the tutorial, the how-tos and the claims, each page in a session and a network of its own
    Run(run::Options),
    /// Follow the links of all Markdown files
    Links(links::Options),
    /// Build the site and follow its links
    Site(site::Options),
    /// Compare docs/reference/api.md with what the protocol files say
    Api(api::Options),
}

fn main() -> Result<ExitCode> {
    let good = match Options::parse().command {
        Command::Run(options) => run::run(&options)?,
        Command::Links(options) => links::run(&options)?,
        Command::Site(options) => site::run(&options)?,
        Command::Api(options) => api::run(&options)?,
    };
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder of this checkout.
fn project() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().with_context(|| root.display().to_string())
}

/// A path as messages name it: below the project, where it is.
fn shown(path: &Path) -> String {
    let root = project().unwrap_or_default();
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}
