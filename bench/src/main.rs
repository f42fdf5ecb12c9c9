//! Measures `vyr` against what a user would pick instead. Each comparison is a ratio of interleaved runs on one machine,
//! and each sample is kept in `bench/results/`; `docs/benchmarks.md` is made from those files by `report`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it measures")]
#![allow(clippy::disallowed_methods, reason = "it sets up its own environment")]

mod api;
mod beside;
mod fallback;
mod inside;
mod instructions;
mod micro;
mod process;
mod pull;
mod registry;
mod report;
mod samples;
mod since;
mod stage;
mod state;
mod store;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Benchmarks of vyr
#[derive(Debug, Parser)]
struct Bench {
    /// A few samples only: shows that the harness works, says nothing about speed
    #[arg(long, global = true)]
    quick: bool,
    /// The folder for raw samples
    #[arg(long, global = true, default_value = "bench/results")]
    results: PathBuf,
    /// The vyr to measure [default: the one built beside this program]
    #[arg(long, global = true)]
    vyr: Option<PathBuf>,
    /// The wasmtime to compare with [default: the one that `install` made, else on the PATH]
    #[arg(long, global = true)]
    wasmtime: Option<PathBuf>,
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Build the wasmtime command to compare with, once, from its source
    Install,
    /// Whole process: vyr run, wasmtime run, crun run
    RunProcess,
    /// In process: S3 and S2 starts against bare Wasmtime
    InProcess,
    /// Pull of 512 MiB: vyr pull, oras pull
    Pull,
    /// vyr run with 100,000 artifacts in the store, against an empty one
    StoreSize,
    /// The node as a registry: pushes and pulls by oras, against docker-registry
    Registry,
    /// Through the Control API: a node of its own on loopback, against a bare tonic echo
    Api {
        /// One of its measurements alone
        #[arg(long, value_enum)]
        only: Option<api::Only>,
    },
    /// Synced states: how fast what waits is pushed
    State {
        /// One of its measurements alone
        #[arg(long, value_enum)]
        only: Option<state::Only>,
        /// How many segments
        #[arg(long)]
        count: Option<usize>,
    },
    /// Containers: busybox start to exit, against crun run and youki run of the same bundle
    Containers,
    /// What deciding to fall back adds to a failed start
    Decision,
    /// Unpacking an image, against umoci unpack
    Unpack,
    /// Ten minutes of all kinds of guests at once: what the node holds must not grow
    Soak {
        /// How long
        #[arg(long, default_value_t = 10)]
        minutes: u64,
    },
    /// Kubernetes, vyr and what else starts a program, in the same rounds; as root, half an hour
    Kubernetes {
        /// The package: the time from a Debian without it to a first result is measured too
        #[arg(long)]
        deb: Option<PathBuf>,
        /// Options of bench/baseline/measure, after `--`: --rounds, --wash, --wasm-shim, --argo, …
        #[arg(last = true)]
        more: Vec<std::ffi::OsString>,
    },
    /// What vyr costs as tasks, artifacts, modules and concurrency grow, and how much fits in a machine
    Growth,
    /// Instructions a step of the way to a guest, by callgrind, against those recorded last
    Instructions,
    /// Microbenchmarks of the steps of a start, by Criterion, against those recorded last
    Micro,
    /// What `instructions` counts
    #[command(hide = true)]
    Hot {
        /// What
        step: instructions::Step,
        /// How often
        times: u64,
    },
    /// The peer of `api`: answers and does nothing else
    #[command(hide = true)]
    EchoServer {
        /// Where to write its address when it's ready
        #[arg(long)]
        address_file: PathBuf,
    },
    /// Write docs/benchmarks.md and docs/results-h2.md from the raw samples
    Report,
    /// All of the above but install
    All,
}

fn main() -> Result<()> {
    // Containers are kept by this program, started once more.
    vyr_oci_fallback::keeper::run_if_asked();
    let bench = Bench::parse();
    if let Part::EchoServer { address_file } = &bench.part {
        return api::serve_echo(address_file);
    }
    if let Part::Hot { step, times } = bench.part {
        return instructions::repeat(step, times);
    }
    let stage = stage::Stage::new(&bench)?;
    match bench.part {
        Part::Install => stage::install_wasmtime(),
        Part::RunProcess => process::measure(&stage),
        Part::InProcess => inside::measure(&stage),
        Part::Pull => pull::measure(&stage),
        Part::StoreSize => store::measure(&stage),
        Part::Registry => registry::measure(&stage),
        Part::Api { only } => api::measure(&stage, only),
        Part::State { only, count } => state::measure(&stage, only, count),
        Part::Containers => fallback::containers(&stage),
        Part::Decision => fallback::decision(&stage),
        Part::Unpack => fallback::unpack(&stage),
        Part::Soak { minutes } => api::soak(&stage, minutes),
        Part::Instructions => instructions::measure(&stage),
        Part::Micro => micro::measure(&stage),
        Part::Hot { .. } | Part::EchoServer { .. } => Ok(()),
        Part::Kubernetes { deb, more } => beside::kubernetes(&stage, deb.as_deref(), &more),
        Part::Growth => beside::growth(&stage),
        Part::Report => {
            report::write(&stage)?;
            beside::report()
        }
        Part::All => {
            process::measure(&stage)?;
            inside::measure(&stage)?;
            instructions::measure(&stage)?;
            micro::measure(&stage)?;
            pull::measure(&stage)?;
            store::measure(&stage)?;
            registry::measure(&stage)?;
            api::measure(&stage, None)?;
            state::measure(&stage, None, None)?;
            fallback::containers(&stage)?;
            fallback::decision(&stage)?;
            fallback::unpack(&stage)?;
            beside::kubernetes(&stage, None, &[])?;
            beside::growth(&stage)?;
            report::write(&stage)?;
            beside::report()
        }
    }
}
