//! Owns a long history: a stopped node's database gets copies of one of its finished tasks.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use sqlx::Connection as _;
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};

/// Rows of one transaction.
const AT_ONCE: i64 = 50_000;

/// Ids are UUIDs of version 7: 48 bits of time in milliseconds, then bits that are random in real ones and count here.
const COPY: &str = "WITH RECURSIVE copy (n) AS (SELECT ?1 UNION ALL SELECT n + 1 FROM copy WHERE n + 1 < ?2) \
    INSERT INTO task (seq, id, status, submitted_us, ended_us, submitter, spec, record, log) \
    SELECT ?3 + n, unhex(printf('%012x7%03x8%015x', ?4 / 1000, n & 4095, n)), ?5, ?4, ?4, ?6, ?7, ?8, ?9 FROM copy";

/// Adds copies until there are `count` tasks, of the newest that has ended.
pub(crate) async fn lengthen(home: &Path, count: i64) -> Result<()> {
    let options = SqliteConnectOptions::new()
        .filename(home.join("db/tasks.sqlite"))
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal);
    let mut database = SqliteConnection::connect_with(&options).await?;
    let one = sqlx::query(
        "SELECT status, submitter, spec, record, log FROM task WHERE ended_us IS NOT NULL ORDER BY seq DESC LIMIT 1",
    )
    .fetch_optional(&mut database)
    .await?
    .context("no task has ended in this folder")?;
    let (status, submitter): (i64, String) = (one.try_get(0)?, one.try_get(1)?);
    let (spec, record, log): (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>) =
        (one.try_get(2)?, one.try_get(3)?, one.try_get(4)?);
    let (newest, there): (i64, i64) =
        sqlx::query_as("SELECT max(seq), count(*) FROM task").fetch_one(&mut database).await?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?;
    let copies = count - there;
    let mut first = 0;
    while first < copies {
        let end = copies.min(first + AT_ONCE);
        sqlx::query(COPY)
            .bind(first)
            .bind(end)
            .bind(newest + 1)
            .bind(now)
            .bind(status)
            .bind(&submitter)
            .bind(&spec)
            .bind(&record)
            .bind(&log)
            .execute(&mut database)
            .await?;
        first = end;
    }
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut database).await?;
    let there: i64 = sqlx::query_scalar("SELECT count(*) FROM task").fetch_one(&mut database).await?;
    anyhow::ensure!(there >= count, "there are {there} tasks, not {count}");
    database.close().await?;
    println!("{there} tasks in the history");
    Ok(())
}
