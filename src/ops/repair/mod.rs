//! Owns `vyr doctor`'s look at what the data folder holds, and `--repair`: databases that can be read, blobs that are what
//! their digests say, compiled code that is what was sealed.
//!
//! Databases come first, since they say which blobs there have to be. What is damaged is put aside (`aside/` in the data
//! folder) and not deleted; a blob that was fetched again has proven by its digest that it is the one.

mod content;
mod databases;

use std::path::PathBuf;

use serde::Serialize;

pub use content::{Blob, Wrong};
pub use databases::Database;

use super::{Vyr, blocking};
use crate::error::{Error, ErrorKind, Result};

/// What to do with what is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Only say what is wrong.
    Look,
    /// Say what would be done.
    DryRun,
    /// Do it.
    Repair,
}

/// What became of something that isn't as it should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was looked for alone.
    #[default]
    Found,
    /// It would be repaired, or its repair would be tried.
    WouldRepair,
    /// It is repaired.
    Repaired,
    /// It couldn't be; `why` and `next` say more.
    Left,
    /// Nothing needs it.
    Unused,
}

impl Outcome {
    /// In words, for people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Found => "found",
            Self::WouldRepair => "would be repaired",
            Self::Repaired => "repaired",
            Self::Left => "left",
            Self::Unused => "unused",
        }
    }
}

/// What became of something that isn't as it should be.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Fate {
    /// In a word.
    pub outcome: Outcome,
    /// Where what was damaged is now, as it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aside: Option<PathBuf>,
    /// Why it is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// The blobs of the store.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Content {
    /// How many were looked at.
    pub checked: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are damaged or missing.
    pub wrong: Vec<Blob>,
}

/// The cache of compiled code.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Compiled {
    /// How many entries were looked at.
    pub checked: u64,
    /// How many of them aren't what was sealed.
    pub damaged: u64,
    /// How many were dropped: they are compiled anew when they are needed.
    pub dropped: u64,
}

/// What was found, and what became of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// Nothing was changed.
    pub dry_run: bool,
    /// The content of blobs and of compiled code wasn't read.
    pub quick: bool,
    /// Each database.
    pub databases: Vec<Database>,
    /// The store's content.
    pub content: Content,
    /// Compiled code.
    pub compiled: Compiled,
    /// The folder of what was put aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aside: Option<PathBuf>,
    /// How much isn't as it should be now.
    pub broken: u64,
}

impl Report {
    fn count(&mut self) {
        let is_open = |outcome: Outcome| !matches!(outcome, Outcome::Repaired | Outcome::Unused);
        let databases = self.databases.iter().filter(|d| !d.is_sound()).count();
        let blobs = self.content.wrong.iter().filter(|blob| is_open(blob.fate.outcome)).count();
        self.broken = databases as u64 + blobs as u64 + self.compiled.damaged - self.compiled.dropped;
    }
}

/// Looks at databases, blobs and compiled code, and repairs what can be. Where not `thorough`, the content of blobs and of
/// compiled code isn't read. `served` is why the databases can't be had alone, if they can't.
///
/// A node may serve the folder meanwhile: its databases are left then. Nothing is collected from the store for so long.
///
/// # Errors
/// What keeps it from looking, or from putting something aside.
#[tracing::instrument(skip_all)]
pub async fn repair(vyr: &Vyr, wish: Wish, thorough: bool, served: Option<&Error>) -> Result<Report> {
    let mut report = Report { dry_run: wish != Wish::Repair, quick: !thorough, ..Report::default() };
    if !vyr.config().home.root().is_dir() {
        return Ok(report);
    }
    report.databases = databases::all(vyr, wish, thorough, served).await?;
    content::all(vyr, wish, thorough, &mut report).await?;
    if thorough {
        let (cache, drop_them) = (vyr.code_cache()?, wish == Wish::Repair);
        let checked = blocking(move || {
            cache.check(drop_them).map_err(|e| {
                Error::new(ErrorKind::Storage, format!("the cache of compiled code can't be looked at: {e}"))
            })
        })
        .await?;
        let dropped = if drop_them { checked.damaged } else { 0 };
        report.compiled = Compiled { checked: checked.entries, damaged: checked.damaged, dropped };
    }
    let asides = report.databases.iter().filter_map(|d| d.fate.aside.clone());
    report.aside = asides.chain(report.content.wrong.iter().filter_map(|b| b.fate.aside.clone())).next();
    report.count();
    Ok(report)
}
