//! Owns samples: raw in a file, summed up for people.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// One measured run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// What ran.
    pub(crate) case: String,
    /// Which round: samples of one round ran next to each other.
    pub(crate) round: usize,
    /// Wall time in microseconds.
    pub(crate) wall_us: f64,
    /// The most memory it held, in KiB, where that was looked at.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) peak_kib: Option<u64>,
}

/// The machine that samples were taken on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) part: String,
    pub(crate) date: String,
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) versions: Vec<String>,
    pub(crate) quick: bool,
    pub(crate) note: String,
}

/// Writes a file of facts and samples.
pub(crate) fn write<T: Serialize>(path: &Path, facts: &Facts, samples: &[T]) -> Result<()> {
    let mut out = BufWriter::new(File::create(path).with_context(|| format!("creating {}", path.display()))?);
    serde_json::to_writer(&mut out, facts)?;
    out.write_all(b"\n")?;
    for sample in samples {
        serde_json::to_writer(&mut out, sample)?;
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

/// Reads it back.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<(Facts, Vec<T>)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let mut lines = text.lines();
    let facts = serde_json::from_str(lines.next().context("the file is empty")?)?;
    let samples = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok((facts, samples))
}

/// The value below which the share `q` of `values` lies (nearest rank).
pub(crate) fn quantile(values: &[f64], q: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a rank within the samples"
    )]
    let rank = ((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len().max(1));
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// The wall times of one case.
pub(crate) fn walls(samples: &[Sample], case: &str) -> Vec<f64> {
    samples.iter().filter(|s| s.case == case).map(|s| s.wall_us).collect()
}

/// In how many rounds the case took longer than its peer.
pub(crate) fn slower(samples: &[Sample], case: &str, peer: &str) -> usize {
    samples
        .iter()
        .filter(|s| s.case == case)
        .filter(|s| samples.iter().any(|p| p.case == peer && p.round == s.round && p.wall_us < s.wall_us))
        .count()
}

/// The median over rounds of the ratio of two cases of the same round.
pub(crate) fn ratio(samples: &[Sample], case: &str, peer: &str) -> f64 {
    let ratios: Vec<f64> = samples
        .iter()
        .filter(|s| s.case == case)
        .filter_map(|s| Some(s.wall_us / samples.iter().find(|p| p.case == peer && p.round == s.round)?.wall_us))
        .collect();
    quantile(&ratios, 0.5)
}

/// Microseconds.
pub(crate) fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
