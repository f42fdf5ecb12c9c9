//! Owns where a synced state's chain stands.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::db::{insert, micros, number, time};
use super::outbox::{note_sealed, rename};
use super::pushed::{Pending, pending};
use super::segment::WriterId;
use super::{NewState, State, StateError, StateId, States};
use crate::oci::{Digest, parse_digest};

/// Another writer that went on from the same place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// Who.
    pub writer: WriterId,
    /// The last place that both have.
    pub after: u64,
}

/// Where a chain stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The state's identity across nodes.
    pub lineage: String,
    /// What this node's first segment follows.
    pub base_seq: u64,
    /// Its digest.
    pub base_digest: Option<Digest>,
    /// The last segment sealed.
    pub sealed_seq: u64,
    /// Its digest.
    pub sealed_digest: Option<Digest>,
    /// The last one pushed.
    pub pushed_seq: u64,
    /// When the last push succeeded.
    pub synced: Option<SystemTime>,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
    /// Other writers that went on from the same place.
    pub forks: Vec<Fork>,
}

pub(super) fn digest_bytes(digest: &Digest) -> Vec<u8> {
    hex::decode(digest.digest()).unwrap_or_default()
}

pub(super) fn digest(bytes: &[u8]) -> Option<Digest> {
    parse_digest(&format!("sha256:{}", hex::encode(bytes))).ok()
}

pub(super) fn whole(row: &SqliteRow, column: &str) -> Result<u64, StateError> {
    Ok(row.try_get::<i64, _>(column)?.unsigned_abs())
}

pub(super) fn optional(row: &SqliteRow, column: &str) -> Result<Option<Digest>, StateError> {
    Ok(row.try_get::<Option<Vec<u8>>, _>(column)?.as_deref().and_then(digest))
}

fn chain(row: &SqliteRow) -> Result<Chain, StateError> {
    Ok(Chain {
        lineage: row.try_get("lineage")?,
        base_seq: whole(row, "base_seq")?,
        base_digest: optional(row, "base_digest")?,
        sealed_seq: whole(row, "sealed_seq")?,
        sealed_digest: optional(row, "sealed_digest")?,
        pushed_seq: whole(row, "pushed_seq")?,
        synced: row.try_get::<Option<i64>, _>("synced_us")?.map(time),
        error: row.try_get("error")?,
        forks: serde_json::from_str(row.try_get("forks")?).unwrap_or_default(),
    })
}

impl States {
    /// Where a state's chain stands.
    ///
    /// # Errors
    /// The database's.
    pub async fn chain(&self, id: StateId) -> Result<Chain, StateError> {
        let row = sqlx::query(
            "SELECT lineage, base_seq, base_digest, sealed_seq, sealed_digest, pushed_seq, synced_us, error, forks \
             FROM chain WHERE state = ?",
        )
        .bind(id.as_bytes().to_vec())
        .fetch_optional(self.pool())
        .await?;
        let Some(row) = row else {
            return Ok(Chain {
                lineage: id.to_string(),
                base_seq: 0,
                base_digest: None,
                sealed_seq: 0,
                sealed_digest: None,
                pushed_seq: 0,
                synced: None,
                error: None,
                forks: Vec::new(),
            });
        };
        chain(&row)
    }

    /// Where the chains of the states with names from `first` to `last` stand, and what of each waits.
    ///
    /// # Errors
    /// The database's.
    pub async fn chains_between(
        &self,
        first: &str,
        last: &str,
    ) -> Result<HashMap<StateId, (Chain, Pending)>, StateError> {
        let sql = "SELECT c.state, c.lineage, c.base_seq, c.base_digest, c.sealed_seq, c.sealed_digest, c.pushed_seq, \
                   c.synced_us, c.error, c.forks, COALESCE(p.n, 0) AS n, COALESCE(p.bytes, 0) AS bytes, p.oldest \
                   FROM chain c JOIN state s ON s.id = c.state \
                   LEFT JOIN (SELECT state, COUNT(*) AS n, SUM(held) AS bytes, MIN(sealed_us) AS oldest FROM segment \
                   WHERE pushed_us IS NULL GROUP BY state) p ON p.state = c.state WHERE s.name BETWEEN ? AND ?";
        let rows = sqlx::query(sql).bind(first.to_owned()).bind(last.to_owned()).fetch_all(self.pool()).await?;
        rows.iter()
            .filter_map(|row| {
                let id: Vec<u8> = row.try_get("state").ok()?;
                let id = StateId::from_bytes(&id)?;
                Some(chain(row).and_then(|chain| Ok((id, (chain, pending(row)?)))))
            })
            .collect()
    }

    /// Makes a synced state of the files under `files`, a folder on the same device, which goes on from the segment `head` at
    /// place `seq`. There is all of it, or nothing.
    ///
    /// # Errors
    /// [`StateError::Exists`] for a name that is taken; the disk's.
    pub async fn restore(
        &self,
        new: NewState,
        files: PathBuf,
        lineage: &str,
        (seq, head): (u64, &Digest),
    ) -> Result<State, StateError> {
        let mut state = State::new(new);
        let (folder, flusher) = (self.folder(state.id), self.flusher().clone());
        let making = folder.clone();
        state.used_bytes = super::blocking(move || {
            making.make()?;
            let data = making.data();
            rename(&files, &data).map_err(StateError::io("move the files to", &data))?;
            note_sealed(&making).map_err(StateError::io("look at", &data))?;
            flusher.flush().map_err(StateError::io("force to disk", &data))?;
            Ok(making.measure()?.0)
        })
        .await?;
        let rows = async {
            let mut tx = self.pool().begin_with("BEGIN IMMEDIATE").await?;
            insert(&mut tx, &state).await?;
            sqlx::query(
                "INSERT INTO chain (state, lineage, base_seq, base_digest, sealed_seq, sealed_digest, pushed_seq) \
                 VALUES (?1, ?2, ?3, ?4, ?3, ?4, ?3)",
            )
            .bind(state.id.as_bytes().to_vec())
            .bind(lineage.to_owned())
            .bind(number(seq))
            .bind(digest_bytes(head))
            .execute(&mut *tx)
            .await?;
            Ok::<_, StateError>(tx.commit().await?)
        };
        if let Err(e) = rows.await {
            drop(folder.remove());
            return Err(e);
        }
        Ok(state)
    }

    /// Writes down how a push ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn set_synced(&self, id: StateId, error: Option<&str>) -> Result<(), StateError> {
        let now = error.is_none().then(|| micros(SystemTime::now()));
        sqlx::query("UPDATE chain SET error = ?, synced_us = COALESCE(?, synced_us) WHERE state = ?")
            .bind(error.map(str::to_owned))
            .bind(now)
            .bind(id.as_bytes().to_vec())
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Writes down which other writers went on from the same place.
    ///
    /// # Errors
    /// The database's.
    pub async fn set_forks(&self, id: StateId, forks: &[Fork]) -> Result<(), StateError> {
        let text = serde_json::to_string(forks).unwrap_or_else(|_| "[]".to_owned());
        sqlx::query("UPDATE chain SET forks = ? WHERE state = ?")
            .bind(text)
            .bind(id.as_bytes().to_vec())
            .execute(self.pool())
            .await?;
        Ok(())
    }

    /// Whether records of it, or other segments, are not in its repository yet.
    ///
    /// # Errors
    /// The database's, or the file system's.
    pub async fn owes_records(&self, state: &State) -> Result<bool, StateError> {
        if state.class != super::StateClass::Synced {
            return Ok(false);
        }
        Ok(self.has_unsealed(state.id).await? || self.pending(state.id).await?.segments > 0)
    }

    /// The synced states, those whose time is over included as long as they are there.
    ///
    /// # Errors
    /// The database's.
    pub async fn synced(&self) -> Result<Vec<State>, StateError> {
        self.of_class(super::StateClass::Synced).await
    }
}
