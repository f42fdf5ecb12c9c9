//! Owns the microbenchmarks' record: Criterion measures (`benches/hot.rs`), what it found is kept and compared with what was
//! recorded last.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use super::samples;
use super::since::{self, Since};
use super::stage::{Stage, version};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Measured {
    case: String,
    median_ns: f64,
    /// The ends of the 95 % interval of the median.
    from_ns: f64,
    to_ns: f64,
    /// What the record before said.
    #[serde(default)]
    last_ns: Option<f64>,
}

/// What Criterion writes of a benchmark, as far as it's read here.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}
#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}
#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}
#[derive(Deserialize)]
struct Named {
    full_id: String,
}

/// Runs them. A quick run does each once and keeps nothing.
pub(crate) fn measure(stage: &Stage) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["bench", "--locked", "--bench", "hot"]).env("CRITERION_HOME", folder.path());
    if stage.quick {
        // Of the profile and the features that the rest of the tests is built with.
        command.args(["--workspace", "--profile", "dev", "--", "--test"]);
    } else {
        command.args(["--package", "bench"]);
    }
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?} ended with {status}");
    if stage.quick {
        return Ok(());
    }
    let mut measured = Vec::new();
    collect(folder.path(), &mut measured)?;
    ensure!(!measured.is_empty(), "Criterion has left nothing in {}", folder.path().display());
    measured.sort_by(|a, b| a.case.cmp(&b.case));

    let path = stage.results.join("micro.jsonl");
    let before: Vec<Measured> = samples::read(&path).map(|(_, all)| all).unwrap_or_default();
    for now in &mut measured {
        now.last_ns = before.iter().find(|b| b.case == now.case).map(|b| b.median_ns);
    }
    println!("{}", since::table(&measured));
    let note = "median of one call and its 95 % interval, by Criterion: 100 samples over 3 s each";
    stage.keep("micro", vec![version(&stage.vyr, "--version")?, "criterion 0.8".into()], note, &measured)
}

impl Since for Measured {
    const NAME: &str = "micro";
    const HEADER: &[&str] = &["µs, median", "now", "95 %", "last", "change"];

    fn row(&self) -> Vec<String> {
        let micro = |ns: f64| format!("{:.2}", ns / 1e3);
        let last = self.last_ns.map_or_else(String::new, micro);
        let interval = format!("{} – {}", micro(self.from_ns), micro(self.to_ns));
        vec![self.case.clone(), micro(self.median_ns), interval, last, since::change(self.median_ns, self.last_ns)]
    }
}

/// Criterion keeps a folder for each benchmark, in a folder of its group where it has one.
fn collect(folder: &Path, into: &mut Vec<Measured>) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        if !path.ends_with("new") {
            collect(&path, into)?;
            continue;
        }
        let Estimates { median } = read(&path.join("estimates.json"))?;
        let Named { full_id } = read(&path.join("benchmark.json"))?;
        into.push(Measured {
            case: full_id,
            median_ns: median.point_estimate,
            from_ns: median.confidence_interval.lower_bound,
            to_ns: median.confidence_interval.upper_bound,
            last_ns: None,
        });
    }
    Ok(())
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| format!("Criterion's {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("Criterion's {}", path.display()))
}
