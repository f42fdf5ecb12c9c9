//! `docs/benchmarks.md` and its pictures, from the raw files and from nothing else.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::samples::{self, Facts, Sample, quantile, ratio, read, walls};
use super::stage::Stage;

/// A promise: the case, held against a peer by ratio or against a number of microseconds at a quantile.
struct Target {
    part: &'static str,
    what: &'static str,
    measured: fn(&[Sample]) -> f64,
    limit: f64,
    unit: &'static str,
}

fn us(samples: &[Sample], case: &str, q: f64) -> f64 {
    quantile(&walls(samples, case), q)
}

fn peak_mib(samples: &[Sample], case: &str) -> f64 {
    let peak = samples.iter().filter(|s| s.case == case).filter_map(|s| s.peak_kib).max();
    peak.map_or(f64::NAN, |kib| f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0)
}

const TARGETS: &[Target] = &[
    Target {
        part: "run-process",
        what: "`vyr run` ÷ `wasmtime run`, whole process",
        measured: |s| ratio(s, "vyr run", "wasmtime run"),
        limit: 1.5,
        unit: "×",
    },
    Target {
        part: "run-process",
        what: "`vyr run` ÷ `crun run`, whole process",
        measured: |s| ratio(s, "vyr run", "crun run"),
        limit: 0.5,
        unit: "×",
    },
    Target {
        part: "in-process",
        what: "S3, hello module, P50",
        measured: |s| us(s, "S3 hello-p1", 0.5),
        limit: 30.0,
        unit: "µs",
    },
    Target {
        part: "in-process",
        what: "S3, hello module, P99",
        measured: |s| us(s, "S3 hello-p1", 0.99),
        limit: 150.0,
        unit: "µs",
    },
    Target {
        part: "in-process",
        what: "S2, hello module, P50",
        measured: |s| us(s, "S2 hello-p1", 0.5),
        limit: 300.0,
        unit: "µs",
    },
    Target {
        part: "in-process",
        what: "S2, 18 MB Python component, start to end, P50",
        measured: |s| us(s, "S2 py-hello", 0.5),
        limit: 6000.0,
        unit: "µs",
    },
    Target {
        part: "pull",
        what: "`vyr pull` ÷ `oras pull`, 512 MiB",
        measured: |s| ratio(s, "vyr pull 512 MiB", "oras pull 512 MiB"),
        limit: 0.9,
        unit: "×",
    },
    Target {
        part: "pull",
        what: "memory of `vyr pull`, 512 MiB",
        measured: |s| peak_mib(s, "vyr pull 512 MiB"),
        limit: 32.0,
        unit: "MiB",
    },
    Target {
        part: "pull",
        what: "memory of `vyr pull`, 2 GiB",
        measured: |s| peak_mib(s, "vyr pull 2 GiB"),
        limit: 32.0,
        unit: "MiB",
    },
    Target {
        part: "store-size",
        what: "`vyr run` with 100,000 artifacts ÷ with one",
        measured: |s| ratio(s, "run, 100000 artifacts", "run, 1 artifact"),
        limit: 1.1,
        unit: "×",
    },
    Target {
        part: "registry",
        what: "push of 512 MiB by oras, node ÷ docker-registry",
        measured: |s| ratio(s, "vyr serve: push 512 MiB", "docker-registry: push 512 MiB"),
        limit: 0.8,
        unit: "×",
    },
    Target {
        part: "registry",
        what: "pull of 512 MiB by oras, node ÷ docker-registry",
        measured: |s| ratio(s, "vyr serve: pull 512 MiB", "docker-registry: pull 512 MiB"),
        limit: 0.8,
        unit: "×",
    },
    Target {
        part: "registry",
        what: "push of 2,000 blobs of 4 KiB by oras, node ÷ docker-registry",
        measured: |s| ratio(s, "vyr serve: push 2,000 × 4 KiB", "docker-registry: push 2,000 × 4 KiB"),
        limit: 0.8,
        unit: "×",
    },
    Target {
        part: "registry",
        what: "pull of 2,000 blobs of 4 KiB by oras, node ÷ docker-registry",
        measured: |s| ratio(s, "vyr serve: pull 2,000 × 4 KiB", "docker-registry: pull 2,000 × 4 KiB"),
        limit: 0.8,
        unit: "×",
    },
    Target {
        part: "state-folder",
        what: "10,000 writes of a module in a state ÷ in a plain folder",
        measured: |s| ratio(s, "state, module: 10,000 writes of 1 kB", "--dir, module: 10,000 writes of 1 kB"),
        limit: 1.05,
        unit: "×",
    },
    Target {
        part: "state-folder",
        what: "the same of a component",
        measured: |s| ratio(s, "state, component: 10,000 writes of 1 kB", "--dir, component: 10,000 writes of 1 kB"),
        limit: 1.05,
        unit: "×",
    },
    Target {
        part: "state-folder",
        what: "10 MB read by a module in a state ÷ in a plain folder",
        measured: |s| ratio(s, "state, module: read of 10 MB", "--dir, module: read of 10 MB"),
        limit: 1.05,
        unit: "×",
    },
    Target {
        part: "state-folder",
        what: "1,000 files made by a module in a state ÷ in a plain folder",
        measured: |s| ratio(s, "state, module: 1,000 files made", "--dir, module: 1,000 files made"),
        limit: 1.05,
        unit: "×",
    },
    Target {
        part: "state-list",
        what: "a page of 100 of 10,000 states, P99",
        measured: |s| us(s, "a page of 100", 0.99),
        limit: 10_000.0,
        unit: "µs",
    },
    Target {
        part: "state-list",
        what: "a page of 1000 of 10,000 states, P50",
        measured: |s| us(s, "a page of 1000", 0.5),
        limit: 10_000.0,
        unit: "µs",
    },
    Target {
        part: "state-kv",
        what: "a set from a component, class `node`, new keys, P50 over series",
        measured: |s| us(s, "set, new keys", 0.5),
        limit: 100.0,
        unit: "µs",
    },
    Target {
        part: "state-kv",
        what: "a set from a component, class `node`, 1000 keys, P50 over series",
        measured: |s| us(s, "set, 1000 keys", 0.5),
        limit: 100.0,
        unit: "µs",
    },
    Target {
        part: "state-kv",
        what: "a get from a component, P50 over series",
        measured: |s| us(s, "get", 0.5),
        limit: 10.0,
        unit: "µs",
    },
    Target {
        part: "containers",
        what: "busybox by libcontainer ÷ `crun run`, start to exit",
        measured: |s| ratio(s, "by libcontainer", "crun run"),
        limit: 1.1,
        unit: "×",
    },
    Target {
        part: "containers",
        what: "busybox by crun ÷ `crun run`, start to exit",
        measured: |s| ratio(s, "by crun", "crun run"),
        limit: 1.1,
        unit: "×",
    },
    Target {
        part: "containers",
        what: "busybox by libcontainer ÷ `youki run`, start to exit",
        measured: |s| ratio(s, "by libcontainer", "youki run"),
        limit: 1.0,
        unit: "×",
    },
    Target {
        part: "fallback-decision",
        what: "deciding to fall back, limit found at the start, P50",
        measured: |s| added(s, "limit: fell back"),
        limit: 2000.0,
        unit: "µs",
    },
    Target {
        part: "fallback-decision",
        what: "deciding to fall back, import known to be missing, P50",
        measured: |s| added(s, "unknown_import: fell back"),
        limit: 2000.0,
        unit: "µs",
    },
    Target {
        part: "unpack",
        what: "300 MiB in five layers, by overlay ÷ `umoci unpack`",
        measured: |s| ratio(s, "unpack, overlay", "umoci unpack"),
        limit: 1.0,
        unit: "×",
    },
    Target {
        part: "unpack",
        what: "300 MiB in five layers, flat ÷ `umoci unpack`",
        measured: |s| ratio(s, "unpack, flat", "umoci unpack"),
        limit: 1.0,
        unit: "×",
    },
];

/// Of a pair of cases by the node's own clock: what the one takes longer at the median, in microseconds.
fn added(samples: &[Sample], case: &str) -> f64 {
    us(samples, case, 0.5) - us(samples, &format!("{case}, peer: asked for"), 0.5)
}

pub(crate) fn write(stage: &Stage) -> Result<()> {
    let mut page = String::from(
        "# Benchmarks\n\nMade by `cargo run --release -p bench -- report` from the raw samples in `bench/results/`; do not edit. \
         `bench -- install` builds the `wasmtime` command once, `bench -- all` measures everything again (as root, for crun).\n\n\
         Ratios are medians over rounds: in each round the two ran one after the other.\n\n",
    );
    let mut targets = comfy_table::Table::new();
    targets.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header(["target", "at most", "measured", "met"]);
    let mut parts = Vec::new();
    for part in [
        "run-process",
        "in-process",
        "pull",
        "store-size",
        "registry",
        "state-folder",
        "state-list",
        "state-kv",
        "containers",
        "fallback-decision",
        "unpack",
    ] {
        let path = stage.results.join(format!("{part}.jsonl"));
        if !path.exists() {
            println!("no {}", path.display());
            continue;
        }
        let (facts, samples) = read(&path)?;
        for target in TARGETS.iter().filter(|t| t.part == part) {
            let value = (target.measured)(&samples);
            let met = if value.is_nan() {
                "not measured"
            } else if value <= target.limit {
                "yes"
            } else {
                "**no**"
            };
            targets.add_row([
                target.what.to_owned(),
                format!("{} {}", target.limit, target.unit),
                format!("{value:.2} {}", target.unit),
                met.to_owned(),
            ]);
        }
        parts.push((facts, samples));
    }
    println!("{targets}");
    write!(page, "## Targets\n\n{targets}\n\n")?;
    for (facts, samples) in &parts {
        section(&mut page, facts, samples)?;
        std::fs::create_dir_all("docs/img")?;
        std::fs::write(Path::new("docs/img").join(format!("bench-{}.svg", facts.part)), picture(samples))?;
    }
    page.push_str(&super::since::section::<super::instructions::Counted>(&stage.results)?);
    page.push_str(&super::since::section::<super::micro::Measured>(&stage.results)?);
    page.push_str(&super::api::report(&stage.results)?);
    Ok(std::fs::write("docs/benchmarks.md", page)?)
}

fn cases(samples: &[Sample]) -> Vec<&str> {
    let mut cases: Vec<&str> = Vec::new();
    for sample in samples {
        if !cases.contains(&sample.case.as_str()) {
            cases.push(&sample.case);
        }
    }
    cases
}

fn section(page: &mut String, facts: &Facts, samples: &[Sample]) -> Result<()> {
    let quick =
        if facts.quick { " **A quick run: it shows that the harness works, not how fast anything is.**" } else { "" };
    writeln!(page, "## {}\n\n{}.{quick}\n", facts.part, facts.note)?;
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
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN).set_header([
        "case",
        "n",
        "P50",
        "P90",
        "P99",
        "max",
        "peak memory",
    ]);
    for case in cases(samples) {
        let values = walls(samples, case);
        let memory = peak_mib(samples, case);
        let memory = if memory > 0.0 { format!("{memory:.1} MiB") } else { String::new() };
        let at = |q| time(quantile(&values, q));
        table.add_row([case.to_owned(), values.len().to_string(), at(0.5), at(0.9), at(0.99), at(1.0), memory]);
    }
    for (case, peer) in
        [("vyr run", "wasmtime run"), ("vyr run", "crun run"), ("vyr pull 512 MiB", "oras pull 512 MiB")]
    {
        let rounds = walls(samples, case).len();
        if rounds > 0 {
            let slower = samples::slower(samples, case, peer);
            writeln!(page, "`{case}` was slower than `{peer}` in {slower} of {rounds} rounds.\n")?;
        }
    }
    writeln!(page, "{table}\n\n![{0}](img/bench-{0}.svg)\n", facts.part)?;
    Ok(())
}

/// Microseconds in the unit that suits them.
pub(crate) fn time(us: f64) -> String {
    match us {
        us if us < 1e3 => format!("{us:.1} µs"),
        us if us < 1e6 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Each case as a bar from P50 to P99 with its median marked, on a logarithmic axis.
fn picture(samples: &[Sample]) -> String {
    let cases = cases(samples);
    let all: Vec<f64> = samples.iter().map(|s| s.wall_us.max(0.1)).collect();
    let (low, high) = (quantile(&all, 0.0).log10().floor(), quantile(&all, 1.0).log10().ceil());
    let (left, width, row) = (230.0, 520.0, 26.0);
    let x = |us: f64| left + width * (us.max(0.1).log10() - low) / (high - low).max(1.0);
    let mut svg = String::new();
    let height = f64::from(u32::try_from(cases.len()).unwrap_or(1)) * row + 50.0;
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 790 {height}\" font-family=\"sans-serif\" font-size=\"12\"><rect width=\"790\" height=\"{height}\" fill=\"#ffffff\"/>"
    );
    let mut decade = low;
    while decade <= high {
        let at = x(10_f64.powf(decade));
        let _ = write!(
            svg,
            "<line x1=\"{at:.1}\" y1=\"10\" x2=\"{at:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#555555\">{}</text>",
            height - 34.0,
            height - 18.0,
            time(10_f64.powf(decade))
        );
        decade += 1.0;
    }
    for (i, case) in cases.iter().enumerate() {
        let y = 14.0 + row * f64::from(u32::try_from(i).unwrap_or(0));
        let values = walls(samples, case);
        let (first, median, last) = (x(quantile(&values, 0.01)), x(quantile(&values, 0.5)), x(quantile(&values, 0.99)));
        let fill = if !["wasmtime", "crun", "youki", "umoci", "oras", "bare", "docker-registry"]
            .iter()
            .any(|peer| case.starts_with(peer))
        {
            "#2f7d6b"
        } else {
            "#9a9a9a"
        };
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#222222\">{case}</text><rect x=\"{first:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"14\" rx=\"2\" fill=\"{fill}\" opacity=\"0.45\"/><rect x=\"{:.1}\" y=\"{:.1}\" width=\"3\" height=\"18\" fill=\"{fill}\"/><text x=\"{:.1}\" y=\"{:.1}\" fill=\"#222222\">{}</text>",
            left - 10.0,
            y + 11.0,
            (last - first).max(2.0),
            median - 1.5,
            y - 2.0,
            last + 6.0,
            y + 11.0,
            time(quantile(&values, 0.5))
        );
    }
    let _ = write!(
        svg,
        "<text x=\"{left}\" y=\"{:.1}\" fill=\"#777777\">wall time, log scale; bar P1 to P99, mark and number P50</text></svg>",
        height - 4.0
    );
    svg
}
