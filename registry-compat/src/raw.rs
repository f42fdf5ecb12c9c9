//! Owns the raw results: one line with the versions, then a cell a line.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::explain;
use crate::matrix::Cell;

#[derive(Debug, Serialize, Deserialize)]
struct First {
    versions: BTreeMap<String, String>,
}

/// The results of one run, or of several with the same versions.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) versions: BTreeMap<String, String>,
    pub(crate) cells: Vec<Cell>,
}

impl Raw {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut lines = text.lines();
        let First { versions } = serde_json::from_str(lines.next().context("the results are empty")?)?;
        let mut cells: Vec<Cell> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        cells.iter_mut().for_each(explain::apply);
        Ok(Self { versions, cells })
    }

    /// Takes the place of the cells that were run again.
    pub(crate) fn take(&mut self, newer: Self) -> Result<()> {
        ensure!(self.versions == newer.versions, "other versions were at work: run the whole matrix");
        for cell in newer.cells {
            match self.cells.iter_mut().find(|old| old.key() == cell.key()) {
                Some(old) => *old = cell,
                None => self.cells.push(cell),
            }
        }
        Ok(())
    }

    /// One cell more, on disk at once.
    pub(crate) fn add(&mut self, cell: Cell, path: &Path) -> Result<()> {
        let mut file = std::fs::OpenOptions::new().append(true).open(path)?;
        writeln!(file, "{}", serde_json::to_string(&cell)?)?;
        self.cells.push(cell);
        Ok(())
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let mut text = serde_json::to_string(&First { versions: self.versions.clone() })? + "\n";
        for cell in &self.cells {
            text += &serde_json::to_string(cell)?;
            text.push('\n');
        }
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}
