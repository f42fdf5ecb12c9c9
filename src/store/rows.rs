//! Owns how values and rows of the listing go into the database and come out.

use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::{Sqlite, SqliteConnection};

use super::{Result, StoreError, manifest};
use crate::oci::Digest;

/// A digest that the database holds; it was parsed before it went in.
pub(super) fn parse_digest(text: &str) -> Result<Digest> {
    Digest::from_str(text).map_err(|_| StoreError::BadPrefix(text.to_owned()))
}

/// Unix milliseconds.
pub(super) fn millis(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}

pub(super) fn time(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

/// What became of a manifest's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Put {
    New,
    /// They were there; `moved` is whether it came from somewhere new.
    Known {
        moved: bool,
    },
}

/// A manifest's rows on their way into the database.
#[derive(Debug, Clone)]
pub(super) struct NewManifest {
    pub(super) parsed: manifest::Parsed,
    pub(super) origin: Option<String>,
    pub(super) at: SystemTime,
}

impl NewManifest {
    /// Writes the rows; for a manifest that is there already, only when it was used and where it came from.
    pub(super) async fn insert(&self, tx: &mut SqliteConnection) -> Result<Put, sqlx::Error> {
        let m = &self.parsed;
        let annotations = Some(&m.annotations).filter(|a| !a.is_empty());
        let annotations = annotations.and_then(|a| serde_json::to_string(a).ok());
        let new = sqlx::query(
            "INSERT INTO manifests (digest, media_type, size, artifact_type, config_media_type, subject, annotations, created_at, last_used)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8) ON CONFLICT (digest) DO NOTHING",
        )
        .bind(m.digest.as_ref())
        .bind(&m.media_type)
        .bind(signed(m.size))
        .bind(&m.artifact_type)
        .bind(&m.config_media_type)
        .bind(m.subject.as_ref().map(AsRef::as_ref))
        .bind(annotations)
        .bind(millis(self.at))
        .execute(&mut *tx)
        .await?
        .rows_affected()
            > 0;
        if new {
            insert_edges(tx, m).await?;
        } else {
            sqlx::query("UPDATE manifests SET last_used = max(last_used, ?2) WHERE digest = ?1")
                .bind(m.digest.as_ref())
                .bind(millis(self.at))
                .execute(&mut *tx)
                .await?;
        }
        let moved = match &self.origin {
            Some(origin) => insert_origin(&mut *tx, &m.digest, origin).await?,
            None => false,
        };
        Ok(if new { Put::New } else { Put::Known { moved } })
    }
}

/// Writes down what a manifest names.
pub(super) async fn insert_edges(to: &mut SqliteConnection, m: &manifest::Parsed) -> Result<(), sqlx::Error> {
    for (position, edge) in m.edges.iter().enumerate() {
        sqlx::query(
            "INSERT INTO edges (parent, position, child, kind, size, media_type) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )
        .bind(m.digest.as_ref())
        .bind(i64::try_from(position).unwrap_or(i64::MAX))
        .bind(edge.digest.as_ref())
        .bind(edge.kind.as_str())
        .bind(signed(edge.size))
        .bind(&edge.media_type)
        .execute(&mut *to)
        .await?;
    }
    Ok(())
}

/// Records that a manifest, which is listed, was got from `repository` or sent there; says whether that wasn't known.
pub(super) async fn insert_origin<'c>(
    to: impl sqlx::Executor<'c, Database = Sqlite>,
    digest: &Digest,
    repository: &str,
) -> Result<bool, sqlx::Error> {
    let query = sqlx::query(
        "INSERT INTO origins (digest, repository, proven) SELECT digest, ?2, 1 FROM manifests WHERE digest = ?1
         ON CONFLICT (digest, repository) DO UPDATE SET proven = 1 WHERE proven = 0",
    );
    Ok(query.bind(digest.as_ref()).bind(repository).execute(to).await?.rows_affected() > 0)
}

/// Names a manifest; `false` when there's no such manifest.
pub(super) async fn insert_tag(
    tx: &mut SqliteConnection,
    name: &str,
    digest: &Digest,
    at: SystemTime,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "INSERT INTO tags (name, digest, signs, updated_at) SELECT ?1, digest, ?3, ?4 FROM manifests WHERE digest = ?2
         ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, signs = excluded.signs, updated_at = excluded.updated_at",
    )
    .bind(name)
    .bind(digest.as_ref())
    .bind(manifest::signed_digest(name).map(|d| d.to_string()))
    .bind(millis(at))
    .execute(&mut *tx)
    .await?;
    Ok(done.rows_affected() > 0)
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
