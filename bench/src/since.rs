//! Owns what the sections of benchmarks have in common that are held against what was recorded of them last.

use std::path::Path;

use anyhow::Result;
use comfy_table::Table;
use serde::de::DeserializeOwned;

use super::samples;

/// One case of such a benchmark.
pub(crate) trait Since {
    /// Of the section, and of its raw file.
    const NAME: &str;
    /// The table's columns.
    const HEADER: &[&str];

    /// The case in them.
    fn row(&self) -> Vec<String>;
}

/// The section of the page, from the raw file; nothing where there is none.
pub(crate) fn section<T: Since + DeserializeOwned>(results: &Path) -> Result<String> {
    let path = results.join(format!("{}.jsonl", T::NAME));
    if !path.exists() {
        return Ok(String::new());
    }
    let (facts, cases) = samples::read::<T>(&path)?;
    let (name, table, note, versions) = (T::NAME, table(&cases), facts.note, facts.versions.join(", "));
    Ok(format!("## {name}\n\n{note}. {versions}; {}. Raw: `{}`.\n\n{table}\n\n", facts.date, path.display()))
}

pub(crate) fn table<T: Since>(cases: &[T]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::ASCII_MARKDOWN);
    table.set_header(T::HEADER);
    table.add_rows(cases.iter().map(Since::row));
    table
}

/// By how much it has changed, in percent; nothing where there is no earlier figure.
pub(crate) fn change(now: f64, last: Option<f64>) -> String {
    let last = last.filter(|last| *last > 0.0);
    last.map_or_else(String::new, |last| format!("{:+.1} %", (now / last - 1.0) * 100.0))
}
