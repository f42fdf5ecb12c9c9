//! Owns the raw results: a line about the machine and the versions, then a line for each run.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::explain;
use crate::vyr::{Engine, Rights};

/// What ran, and on what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) kernel: String,
    pub(crate) cpus: usize,
    pub(crate) cgroups: String,
    pub(crate) debian: String,
    pub(crate) versions: BTreeMap<String, String>,
}

/// One run of one case, or of one bad image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) engine: Engine,
    pub(crate) rights: Rights,
    pub(crate) ok: bool,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) said: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prepare_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start_us: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run_us: Option<u64>,
    /// Why, as far as it is known; not in the file but found anew each time.
    #[serde(skip)]
    pub(crate) why: Option<&'static str>,
}

impl Row {
    /// Whether it tells of that run.
    pub(crate) fn is_of(&self, case: &str, engine: Engine, rights: Rights) -> bool {
        (self.case.as_str(), self.engine, self.rights) == (case, engine, rights)
    }
}

/// The results of one or several runs with the same versions.
#[derive(Debug)]
pub(crate) struct Rows {
    path: PathBuf,
    pub(crate) facts: Facts,
    pub(crate) rows: Vec<Row>,
}

impl Rows {
    /// The rows of a file; none where it isn't there or tells of other versions.
    pub(crate) fn open(path: &Path, facts: Facts) -> Result<Self> {
        if let Ok(old) = Self::read(path)
            && old.facts == facts
        {
            return Ok(old);
        }
        let new = Self { path: path.to_owned(), facts, rows: Vec::new() };
        new.write()?;
        Ok(new)
    }

    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let mut lines = text.lines();
        let facts = serde_json::from_str(lines.next().context("the results are empty")?)?;
        let mut rows: Vec<Row> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        rows.iter_mut().for_each(explain::apply);
        Ok(Self { path: path.to_owned(), facts, rows })
    }

    fn write(&self) -> Result<()> {
        let mut text = serde_json::to_vec(&self.facts)?;
        for row in &self.rows {
            text.push(b'\n');
            serde_json::to_writer(&mut text, row)?;
        }
        text.push(b'\n');
        let mut file = std::fs::File::create(&self.path).with_context(|| self.path.display().to_string())?;
        Ok(file.write_all(&text)?)
    }

    /// One row more, in place of an older one of the same run, and on disk at once.
    pub(crate) fn put(&mut self, mut row: Row) -> Result<()> {
        explain::apply(&mut row);
        match self.rows.iter().position(|old| old.is_of(&row.case, row.engine, row.rights)) {
            Some(at) => self.rows[at] = row,
            None => self.rows.push(row),
        }
        self.write()
    }
}

/// This machine, and the versions of what runs on it.
pub(crate) fn facts(versions: BTreeMap<String, String>) -> Facts {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let cgroups =
        match (Path::new("/sys/fs/cgroup/cgroup.controllers").exists(), Path::new("/sys/fs/cgroup/unified").exists()) {
            (true, _) => "version 2",
            (false, true) => "version 1 with a version 2 hierarchy beside it",
            (false, false) => "version 1",
        };
    Facts {
        kernel: text("/proc/sys/kernel/osrelease"),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        cgroups: cgroups.to_owned(),
        debian: text("/etc/debian_version"),
        versions,
    }
}
