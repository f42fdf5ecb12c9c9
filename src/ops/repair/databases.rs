//! Owns the three databases of a data folder: what is wrong with each, and what is carried over from a damaged one.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::super::Vyr;
use super::{Fate, Outcome, Wish};
use crate::error::{Error, Result};
use crate::sqlite::{Carried, Repair, SqliteError, complaints};
use crate::store::mend_database;

/// One database.
#[derive(Debug, Clone, Serialize)]
pub struct Database {
    /// `tasks.sqlite`, `state.sqlite` or `vyr.sqlite`.
    pub name: &'static str,
    /// What SQLite says is wrong; nothing for one that is sound.
    pub complaints: Vec<String>,
    /// What was carried over into a new one, table by table.
    pub carried: Vec<Carried>,
    /// What became of it.
    #[serde(flatten)]
    pub fate: Fate,
}

impl Database {
    /// Whether it is as it should be, now.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.complaints.is_empty() || self.fate.outcome == Outcome::Repaired
    }
}

const RESTORE: &str = "what is lost is in a copy by `vyr backup`, if there is one";

/// What has to go where what it belongs to is lost.
const TASKS: &[&str] = &[
    // Of a page that was overwritten by something that reads as rows.
    "DELETE FROM task WHERE length(id) <> 16",
    "DELETE FROM receipt WHERE seq NOT IN (SELECT seq FROM task)",
];
const STATES: &[&str] = &[
    "DELETE FROM state WHERE length(id) <> 16",
    "DELETE FROM binding WHERE state NOT IN (SELECT id FROM state)",
    "DELETE FROM chain WHERE state NOT IN (SELECT id FROM state)",
    "DELETE FROM segment WHERE state NOT IN (SELECT id FROM state)",
];

fn has_entries(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some())
}

pub(super) async fn all(vyr: &Vyr, wish: Wish, thorough: bool, served: Option<&Error>) -> Result<Vec<Database>> {
    let home = vyr.config().home.root();
    let mut all = Vec::new();
    for name in ["tasks.sqlite", "state.sqlite", "vyr.sqlite"] {
        let path = home.join("db").join(name);
        // The store's is made of the layout where there is none.
        let used = match name {
            "tasks.sqlite" => has_entries(&home.join("logs")),
            "state.sqlite" => has_entries(&home.join("state")),
            _ => false,
        };
        let complaints = complaints(&path, used, thorough).await?;
        let mut found = Database { name, complaints, carried: Vec::new(), fate: Fate::default() };
        if !found.complaints.is_empty() {
            match (wish, served) {
                (Wish::Look, _) => {}
                (Wish::DryRun, _) => found.fate.outcome = Outcome::WouldRepair,
                (Wish::Repair, Some(served)) => {
                    found.fate.outcome = Outcome::Left;
                    found.fate.why = Some(served.why().to_owned());
                    found.fate.next = Some("end the node (SIGTERM), then repair again".into());
                }
                (Wish::Repair, None) => mend(vyr, &path, &mut found).await?,
            }
        }
        all.push(found);
    }
    Ok(all)
}

async fn mend(vyr: &Vyr, path: &Path, found: &mut Database) -> Result<()> {
    let mended = match found.name {
        "tasks.sqlite" => carry(path, &crate::db::MIGRATIONS, &["task", "receipt"], TASKS).await,
        "state.sqlite" => {
            carry(path, &crate::state::MIGRATIONS, &["state", "binding", "chain", "segment"], STATES).await
        }
        _ => mend_database(vyr.layout()).await,
    };
    match mended {
        Ok((carried, aside)) => {
            let lossy = carried.iter().any(|table| !table.whole) || carried.is_empty();
            found.fate.next = (lossy && found.name != "vyr.sqlite").then(|| RESTORE.to_owned());
            (found.fate.outcome, found.carried, found.fate.aside) = (Outcome::Repaired, carried, Some(aside));
        }
        Err(e @ (SqliteError::Open { .. } | SqliteError::Later { .. })) => {
            let e = Error::from(e);
            found.fate.outcome = Outcome::Left;
            (found.fate.why, found.fate.next) = (Some(e.why().to_owned()), e.next().map(str::to_owned));
        }
        Err(e) => return Err(e.into()),
    }
    Ok(())
}

async fn carry(
    path: &Path,
    migrations: &sqlx::migrate::Migrator,
    tables: &[&str],
    afterwards: &[&'static str],
) -> Result<(Vec<Carried>, PathBuf), SqliteError> {
    let mut repair = Repair::begin(path, migrations, tables).await?;
    for statement in afterwards {
        let done = sqlx::query(*statement).execute(repair.connection()).await;
        let done = done.map_err(|source| SqliteError::Database { path: path.to_owned(), source })?;
        // What doesn't belong to anything was not carried over, after all.
        let table = statement.split_whitespace().nth(2).unwrap_or_default();
        if let Some(table) = repair.carried.iter_mut().find(|carried| carried.table == table) {
            table.rows = table.rows.saturating_sub(done.rows_affected());
            table.lost = table.lost.map(|lost| lost.saturating_add(done.rows_affected()));
            table.whole &= done.rows_affected() == 0;
        }
    }
    let carried = repair.carried.clone();
    Ok((carried, repair.finish().await?))
}
