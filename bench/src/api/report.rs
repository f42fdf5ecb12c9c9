//! Owns the section "Through the API" of the report: its targets, met or not, and every case's figures.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use comfy_table::Table;

use super::measured::{Measured, values};
use super::receipts;
use super::telemetry::share;
use crate::report::time;
use crate::samples::{Facts, quantile, read};

const PARTS: [&str; 7] =
    ["api-latency", "api-throughput", "api-memory", "api-cancel", "api-telemetry", "api-receipts", "api-soak"];

/// What a target demands.
#[derive(Clone, Copy)]
enum Bound {
    Below(f64),
    AtMost(f64),
    AtLeast(f64),
}

struct Target {
    part: &'static str,
    what: &'static str,
    measured: fn(&[Measured]) -> f64,
    bound: Bound,
    unit: &'static str,
}

const fn target(
    part: &'static str,
    what: &'static str,
    bound: Bound,
    unit: &'static str,
    measured: fn(&[Measured]) -> f64,
) -> Target {
    Target { part, what, measured, bound, unit }
}

fn at(samples: &[Measured], case: &str, q: f64) -> f64 {
    quantile(&values(samples, case), q)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap_or(u32::MAX))
}

const CYCLES: &str = "32 connections: cycles";

fn with_history(samples: &[Measured]) -> f64 {
    let long: Vec<f64> =
        samples.iter().filter(|s| s.case.starts_with("32 connections: cycles, ")).map(|s| s.value).collect();
    mean(&long) / mean(&values(samples, CYCLES))
}

const TARGETS: &[Target] = &[
    target("api-latency", "S3, submit to first instruction, P50 ÷ echo's P50", Bound::AtMost(3.0), "×", |s| {
        at(s, "S3: first instruction", 0.5) / at(s, "S3: echo", 0.5)
    }),
    target("api-latency", "S3, submit to first instruction, P50", Bound::Below(400.0), "us", |s| {
        at(s, "S3: first instruction", 0.5)
    }),
    target("api-latency", "S3, submit to first instruction, P99", Bound::Below(2000.0), "us", |s| {
        at(s, "S3: first instruction", 0.99)
    }),
    target("api-latency", "S2, submit to first instruction, P50", Bound::Below(2000.0), "us", |s| {
        at(s, "S2: first instruction", 0.5)
    }),
    target("api-latency", "S1, submit_to_start of the node, P50", Bound::Below(100_000.0), "us", |s| {
        at(s, "S1: submit_to_start", 0.5)
    }),
    target("api-latency", "S1, submit_to_start of the node, P99", Bound::Below(400_000.0), "us", |s| {
        at(s, "S1: submit_to_start", 0.99)
    }),
    target("api-throughput", "durable cycles, mean, 32 connections", Bound::AtLeast(10_000.0), "per second", |s| {
        mean(&values(s, CYCLES))
    }),
    target("api-throughput", "the same with a long history ÷ with a short one", Bound::AtLeast(0.8), "×", with_history),
    target(
        "api-telemetry",
        "cycles with everything sent to a live collector ÷ without",
        Bound::AtLeast(0.9),
        "×",
        share,
    ),
    target(
        "api-receipts",
        "what a receipt adds to a task's latency, P50",
        Bound::Below(200.0),
        "us",
        receipts::latency,
    ),
    target("api-receipts", "cycles with receipts ÷ without", Bound::AtLeast(0.0), "×", receipts::share),
    target(
        "api-receipts",
        "what 10,000 receipts take on disk beside their statements, each",
        Bound::Below(1024.0),
        "B",
        receipts::beside,
    ),
    target("api-memory", "idle node, RSS, most of all rounds", Bound::Below(60.0 * 1024.0), "KiB", |s| {
        at(s, "node: idle, RSS", 1.0)
    }),
    target("api-memory", "each waiting task, RSS, most of all rounds", Bound::Below(8.0), "KiB", |s| {
        at(s, "waiting: each task, RSS", 1.0)
    }),
    target(
        "api-memory",
        "each running instance, RSS less its memory, most of all rounds",
        Bound::Below(256.0),
        "KiB",
        |s| at(s, "running: each instance, RSS", 1.0),
    ),
    target("api-soak", "soak: RSS, end ÷ beginning", Bound::AtMost(1.1), "×", |s| grown(s, "soak: RSS")),
    target("api-soak", "soak: open files, end ÷ beginning", Bound::AtMost(1.1), "×", |s| {
        grown(s, "soak: open files")
    }),
    target("api-soak", "soak: hello cycle P50, end ÷ beginning", Bound::AtMost(1.2), "×", |s| {
        grown(s, "soak: hello, P50")
    }),
    target("api-cancel", "cancel of a tight loop, sent to answer, P99", Bound::Below(20_000.0), "us", |s| {
        at(s, "cancel: sent to answer", 0.99)
    }),
];

/// The median of the soak's last fifth by that of its second fifth: the first is warming up.
fn grown(samples: &[Measured], case: &str) -> f64 {
    let all = values(samples, case);
    let fifth = (all.len() / 5).max(1);
    let part = |from: usize| quantile(all.get(from..(from + fifth).min(all.len())).unwrap_or_default(), 0.5);
    part(all.len().saturating_sub(fifth)) / part(fifth.min(all.len() - 1))
}

/// The section, from the raw files that are there; empty where none is.
pub(crate) fn report(results: &Path) -> Result<String> {
    let mut targets = table(["target", "demanded", "measured", "met"]);
    let mut details = String::new();
    let mut any = false;
    for part in PARTS {
        let path = results.join(format!("{part}.jsonl"));
        let samples = if path.exists() {
            any = true;
            let (facts, samples) = read(&path)?;
            detail(&mut details, &facts, &samples)?;
            if part == "api-soak" {
                std::fs::write("docs/img/bench-soak.svg", super::plot::soak(&samples))?;
                details.push_str("![the soak over time](img/bench-soak.svg)\n\n");
            }
            samples
        } else {
            println!("no {}", path.display());
            Vec::new()
        };
        for target in TARGETS.iter().filter(|t| t.part == part) {
            let value = if samples.is_empty() { f64::NAN } else { (target.measured)(&samples) };
            targets.add_row(verdict(target, value));
        }
    }
    if !any {
        return Ok(String::new());
    }
    println!("{targets}");
    Ok(format!(
        "## Through the API\n\nA node as a child process, its Control API over loopback gRPC, beside a bare tonic echo in \
         the same run.\n\n{targets}\n\n{details}"
    ))
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header(header);
    table
}

fn verdict(target: &Target, value: f64) -> [String; 4] {
    let (sign, limit, met) = match target.bound {
        Bound::Below(limit) => ("<", limit, value < limit),
        Bound::AtMost(limit) => ("≤", limit, value <= limit),
        Bound::AtLeast(limit) => ("≥", limit, value >= limit),
    };
    let (measured, met) = match (value.is_nan(), met) {
        (true, _) => ("not measured".to_owned(), ""),
        (false, true) => (show(value, target.unit), "✓"),
        (false, false) => (show(value, target.unit), "✗"),
    };
    [target.what.to_owned(), format!("{sign} {}", show(limit, target.unit)), measured, met.to_owned()]
}

fn show(value: f64, unit: &str) -> String {
    match unit {
        "us" if value >= 0.0 => time(value),
        "us" => format!("{value:.1} µs"),
        "KiB" if value.abs() >= 1024.0 => format!("{:.1} MiB", value / 1024.0),
        "KiB" => format!("{value:.1} KiB"),
        "per second" => format!("{value:.0} /s"),
        _ => format!("{value:.2} {unit}"),
    }
}

/// The case that a group is held against.
fn peer<'a>(samples: &'a [Measured], case: &str) -> Option<&'a str> {
    let (group, what) = case.split_once(": ")?;
    let is_peer = |c: &str| c.split_once(": ").is_some_and(|(g, w)| g == group && w == "echo");
    samples.iter().map(|s| s.case.as_str()).find(|c| what != "echo" && is_peer(c))
}

fn detail(page: &mut String, facts: &Facts, samples: &[Measured]) -> Result<()> {
    let quick =
        if facts.quick { " **A quick run: it shows that the harness works, not how fast anything is.**" } else { "" };
    writeln!(page, "### {}\n\n{}.{quick}\n", facts.part, facts.note)?;
    writeln!(
        page,
        "{}, {} cores, {} GiB, Linux {}; {}; {}. Raw: `bench/results/{}.jsonl`.\n",
        facts.cpu,
        facts.cores,
        facts.memory_gib,
        facts.kernel,
        facts.versions.join(", "),
        facts.date,
        facts.part
    )?;
    let mut figures = table(["case", "n", "P50", "P90", "P99", "max", "P50 ÷ echo's P50"]);
    let mut seen: Vec<&str> = Vec::new();
    for sample in samples {
        let case = sample.case.as_str();
        if seen.contains(&case) {
            continue;
        }
        seen.push(case);
        let all = values(samples, case);
        let shown = |q| show(quantile(&all, q), &sample.unit);
        let ratio = peer(samples, case)
            .map_or_else(String::new, |peer| format!("{:.2} ×", quantile(&all, 0.5) / at(samples, peer, 0.5)));
        figures.add_row([
            case.to_owned(),
            all.len().to_string(),
            shown(0.5),
            shown(0.9),
            shown(0.99),
            shown(1.0),
            ratio,
        ]);
    }
    Ok(writeln!(page, "{figures}\n")?)
}
