//! Owns what is asked of the tasks on disk.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row as _};
use vyr_proto::v0::TaskStatus;

use super::{Db, DbError};
use crate::task::TaskId;

/// What a listing reads of tasks at most, in bytes: a submit may be megabytes, and who answers with many has them in memory.
pub(super) const LISTED_BYTES: usize = 2 << 20;

/// A task as it is on disk.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its place in the order of submits.
    pub seq: i64,
    /// Its id.
    pub id: TaskId,
    /// Where it is.
    pub status: TaskStatus,
    /// When it was submitted, in microseconds since the Unix epoch.
    pub submitted_us: i64,
    /// Who submitted it.
    pub submitter: String,
    /// Its idempotency key.
    pub key: Option<String>,
    /// The encoded spec.
    pub spec: Bytes,
    /// The encoded record; empty before the first change.
    pub record: Bytes,
    /// A client was told that it is cancelled, before it had ended.
    pub is_cancelled: bool,
}

/// What a listing is narrowed to.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Only these; empty: all.
    pub statuses: Vec<TaskStatus>,
    /// Only this submitter's.
    pub submitter: Option<String>,
}

const COLUMNS: &str = "seq, id, status, submitted_us, submitter, idem_key, spec, record, \
                       cancel_asked_us IS NOT NULL AS is_cancelled";

fn row(row: &SqliteRow) -> Result<Row, sqlx::Error> {
    let id = row.try_get::<&[u8], _>("id")?;
    let bytes = |column| -> Result<Bytes, sqlx::Error> {
        Ok(row.try_get::<Option<&[u8]>, _>(column)?.map(Bytes::copy_from_slice).unwrap_or_default())
    };
    Ok(Row {
        seq: row.try_get("seq")?,
        id: TaskId::from_bytes(id).ok_or_else(|| sqlx::Error::Decode("a task's id has 16 bytes".into()))?,
        status: TaskStatus::try_from(row.try_get::<i32, _>("status")?)
            .map_err(|e| sqlx::Error::Decode(e.to_string().into()))?,
        submitted_us: row.try_get("submitted_us")?,
        submitter: row.try_get("submitter")?,
        key: row.try_get("idem_key")?,
        spec: bytes("spec")?,
        record: bytes("record")?,
        is_cancelled: row.try_get("is_cancelled")?,
    })
}

impl Db {
    /// One task.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn get(&self, id: TaskId) -> Result<Option<Row>, DbError> {
        let found = sqlx::query(AssertSqlSafe(format!("SELECT {COLUMNS} FROM task WHERE id = ?")))
            .bind(&id.as_bytes()[..])
            .fetch_optional(&self.readers)
            .await
            .and_then(|found| found.as_ref().map(row).transpose());
        found.map_err(|e| self.failed(e))
    }

    /// The output that is kept here for a task.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn log(&self, id: TaskId) -> Result<Option<Bytes>, DbError> {
        let found: Result<Option<Option<Vec<u8>>>, _> = sqlx::query_scalar("SELECT log FROM task WHERE id = ?")
            .bind(&id.as_bytes()[..])
            .fetch_optional(&self.readers)
            .await;
        found.map(|found| found.flatten().map(Bytes::from)).map_err(|e| self.failed(e))
    }

    /// The receipt of a task that has ended.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn receipt(&self, id: TaskId) -> Result<Option<Bytes>, DbError> {
        let found: Result<Option<Vec<u8>>, _> =
            sqlx::query_scalar("SELECT receipt FROM receipt WHERE seq = (SELECT seq FROM task WHERE id = ?)")
                .bind(&id.as_bytes()[..])
                .fetch_optional(&self.readers)
                .await;
        found.map(|found| found.map(Bytes::from)).map_err(|e| self.failed(e))
    }

    /// Up to `most` tasks below a place, newest first, and no more than 2 MiB of them; at least one, if there is one.
    /// Whether there may be more.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn list(&self, below: Option<i64>, most: u32, filter: &Filter) -> Result<(Vec<Row>, bool), DbError> {
        let mut sql = format!("SELECT {COLUMNS} FROM task WHERE seq < ?");
        if !filter.statuses.is_empty() {
            let numbers: Vec<String> = filter.statuses.iter().map(|s| i32::from(*s).to_string()).collect();
            // Those that go on may be further in memory than on disk: the caller looks again.
            sql.push_str(&format!(" AND (status IN ({}) OR ended_us IS NULL)", numbers.join(",")));
        }
        if filter.submitter.is_some() {
            sql.push_str(" AND submitter = ?");
        }
        sql.push_str(" ORDER BY seq DESC LIMIT ?");
        let mut query = sqlx::query(AssertSqlSafe(sql)).bind(below.unwrap_or(i64::MAX));
        if let Some(submitter) = &filter.submitter {
            query = query.bind(submitter);
        }
        let mut found = query.bind(most).fetch(&self.readers);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while let Some(next) = found.try_next().await.map_err(|e| self.failed(e))? {
            let next = row(&next).map_err(|e| self.failed(e))?;
            bytes += next.spec.len() + next.record.len();
            if bytes > LISTED_BYTES && !rows.is_empty() {
                return Ok((rows, true));
            }
            rows.push(next);
        }
        let more = rows.len() == most as usize;
        Ok((rows, more))
    }

    /// Up to `most` of the tasks that have not ended, oldest first, from behind a place on; none after the last.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn open_tasks(&self, behind: i64, most: u32) -> Result<Vec<Row>, DbError> {
        let sql = format!("SELECT {COLUMNS} FROM task WHERE ended_us IS NULL AND seq > ? ORDER BY seq LIMIT ?");
        let rows = sqlx::query(AssertSqlSafe(sql)).bind(behind).bind(most).fetch_all(&self.readers).await;
        rows.and_then(|rows| rows.iter().map(row).collect()).map_err(|e| self.failed(e))
    }

    /// The task that a submitter's key made, and the hash of what was submitted.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn by_key(&self, submitter: &str, key: &str) -> Result<Option<(TaskId, Vec<u8>)>, DbError> {
        let found: Result<Option<(Vec<u8>, Vec<u8>)>, _> =
            sqlx::query_as("SELECT id, idem_hash FROM task WHERE submitter = ? AND idem_key = ?")
                .bind(submitter)
                .bind(key)
                .fetch_optional(&self.readers)
                .await;
        let found = found.map_err(|e| self.failed(e))?;
        Ok(found.and_then(|(id, hash)| Some((TaskId::from_bytes(&id)?, hash))))
    }

    /// The place of the `keep`-th newest task: what stands below may be forgotten. Places are given out one after the
    /// other, so nothing has to be counted.
    ///
    /// # Errors
    /// The database can't be read.
    pub async fn place_of_newest(&self, keep: u64) -> Result<i64, DbError> {
        let newest: Result<i64, _> =
            sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM task").fetch_one(&self.readers).await;
        let newest = newest.map_err(|e| self.failed(e))?;
        Ok(newest.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX)).saturating_add(1))
    }
}
