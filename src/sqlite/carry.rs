//! Owns how rows get out of a damaged database, attached as `old`, into a sound one: all at once where that works, else
//! from both ends, and by the keys between.

use std::collections::BTreeSet;

use futures_util::TryStreamExt as _;
use sqlx::{AssertSqlSafe, SqliteConnection};

use super::is_damage;

/// How many rows are carried by one statement where the table is damaged.
const BATCH: i64 = 1024;
/// How many keys that may be there are asked for one by one, at most.
const MOST_ASKED: i64 = 4_000_000;

/// What became of one table.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Carried {
    /// The table.
    pub table: String,
    /// How many rows were carried over.
    pub rows: u64,
    /// How many weren't, and were there; `None` where that can't be told.
    pub lost: Option<u64>,
    /// Whether all of it could be read.
    pub whole: bool,
}

/// The version of the damaged database's tables.
pub(super) async fn version(connection: &mut SqliteConnection) -> Option<i64> {
    let found = sqlx::query_scalar("SELECT max(version) FROM old._sqlx_migrations WHERE success").fetch_one(connection);
    found.await.ok().flatten()
}

/// Takes `Err` of damage as `None`.
fn readable<T>(result: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if is_damage(&e) => Ok(None),
        Err(e) => Err(e),
    }
}

/// One table and how it is read.
struct Table<'a> {
    name: &'a str,
    columns: String,
    /// How its rows are ordered on disk: the columns of the primary key, or `rowid`.
    key: Vec<String>,
}

impl Table<'_> {
    fn insert(&self, rest: &str) -> String {
        let (name, columns) = (self.name, &self.columns);
        format!("INSERT OR IGNORE INTO main.{name} ({columns}) SELECT {columns} FROM old.{name} NOT INDEXED {rest}")
    }

    fn order(&self, direction: &str) -> String {
        self.key.iter().map(|column| format!("{column} {direction}")).collect::<Vec<_>>().join(", ")
    }
}

async fn count(connection: &mut SqliteConnection, table: &str) -> Result<u64, sqlx::Error> {
    let sql = AssertSqlSafe(format!("SELECT count(*) FROM main.{table}"));
    Ok(sqlx::query_scalar::<_, i64>(sql).fetch_one(connection).await?.unsigned_abs())
}

/// Carries the rows of `table`; `None` where the new database has no such table. `highest` is the highest key that any table
/// has so far: those of one go with those of another.
pub(super) async fn table(
    connection: &mut SqliteConnection,
    name: &str,
    highest: &mut i64,
) -> Result<Option<Carried>, sqlx::Error> {
    let mut described: Vec<(String, i64)> = sqlx::query_as("SELECT name, pk FROM pragma_table_info(?1, 'main')")
        .bind(name)
        .fetch_all(&mut *connection)
        .await?;
    if described.is_empty() {
        return Ok(None);
    }
    // Where its version couldn't be read, it may be an earlier one's, and SQLite takes a column that isn't there for a text.
    let there = sqlx::query_scalar::<_, String>("SELECT name FROM pragma_table_info(?1, 'old')").bind(name);
    let there = readable(there.fetch_all(&mut *connection).await)?.unwrap_or_default();
    described.retain(|column| there.is_empty() || there.contains(&column.0));
    // `pragma_table_list` would look into the damaged one, too.
    let sql: String = sqlx::query_scalar("SELECT sql FROM main.sqlite_schema WHERE type = 'table' AND name = ?1")
        .bind(name)
        .fetch_one(&mut *connection)
        .await?;
    let mut key: Vec<&(String, i64)> = described.iter().filter(|column| column.1 > 0).collect();
    key.sort_by_key(|column| column.1);
    let by_rowid = !sql.contains("WITHOUT ROWID");
    let table = Table {
        name,
        columns: described.iter().map(|column| format!("\"{}\"", column.0)).collect::<Vec<_>>().join(", "),
        key: if by_rowid { vec!["rowid".into()] } else { key.iter().map(|c| format!("\"{}\"", c.0)).collect() },
    };
    let (known, all_known) = if by_rowid { known_keys(connection, &table).await? } else { (BTreeSet::new(), false) };
    *highest = known.last().map_or(*highest, |last| (*highest).max(*last));
    let all = sqlx::query(AssertSqlSafe(table.insert(""))).execute(&mut *connection).await;
    if readable(all)?.is_some() {
        let rows = count(connection, name).await?;
        // What SQLite passes over without a word: a row that another one's key keeps out.
        let there: Option<i64> = readable(
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM old.{name} NOT INDEXED")))
                .fetch_one(&mut *connection)
                .await,
        )?;
        let lost = there.map(|there| there.unsigned_abs().max(known.len() as u64).saturating_sub(rows));
        return Ok(Some(Carried { table: name.to_owned(), rows, lost, whole: lost == Some(0) }));
    }
    let lost = if by_rowid {
        by_rowids(connection, &table, known, all_known, *highest).await?
    } else {
        by_position(connection, &table).await?
    };
    Ok(Some(Carried { table: name.to_owned(), rows: count(connection, name).await?, lost, whole: false }))
}

/// From both ends, as far as it goes. How many are lost in between can't be told.
async fn by_position(connection: &mut SqliteConnection, table: &Table<'_>) -> Result<Option<u64>, sqlx::Error> {
    for direction in ["ASC", "DESC"] {
        let insert = table.insert(&format!("ORDER BY {} LIMIT ?1 OFFSET ?2", table.order(direction)));
        let rows = format!(
            "SELECT count(*) FROM (SELECT 1 FROM old.{} NOT INDEXED ORDER BY {} LIMIT ?1 OFFSET ?2)",
            table.name,
            table.order(direction)
        );
        let (mut at, mut batch) = (0_i64, BATCH);
        loop {
            let inserted = sqlx::query(AssertSqlSafe(insert.clone())).bind(batch).bind(at).execute(&mut *connection);
            let inserted = readable(inserted.await)?.is_some();
            let found = sqlx::query_scalar::<_, i64>(AssertSqlSafe(rows.clone()))
                .bind(batch)
                .bind(at)
                .fetch_one(&mut *connection);
            match readable(found.await)? {
                Some(0) => break,
                Some(found) if inserted => {
                    at += found;
                    batch = (batch * 2).min(BATCH);
                }
                // One row that can't be: the next may.
                Some(_) if batch == 1 => at += 1,
                None if batch == 1 => break,
                _ => batch /= 2,
            }
        }
    }
    Ok(None)
}

/// From both ends, and then each key between that an index knows or that may be there. Where no index says which there were,
/// what can't be read counts as lost, though it may never have been there.
async fn by_rowids(
    connection: &mut SqliteConnection,
    table: &Table<'_>,
    known: BTreeSet<i64>,
    all_known: bool,
    highest: i64,
) -> Result<Option<u64>, sqlx::Error> {
    let first = from_end(connection, table, true).await?;
    let mut unreadable = first.skipped;
    if !first.ended {
        let last = from_end(connection, table, false).await?;
        unreadable.extend(last.skipped);
        let from = first.at.map_or(i64::MIN, |first| first.saturating_add(1));
        let to = last.at.unwrap_or(highest.saturating_add(1));
        let mut between: BTreeSet<i64> = known.range(from..to.max(from)).copied().collect();
        let lowest = first.at.map(|_| from).or(known.first().copied()).unwrap_or(1);
        if to > lowest && to.saturating_sub(lowest) <= MOST_ASKED {
            between.extend(lowest..to);
        }
        let insert = table.insert("WHERE rowid = ?1");
        for key in between {
            let carried = sqlx::query(AssertSqlSafe(insert.clone())).bind(key).execute(&mut *connection).await;
            if readable(carried)?.is_none() {
                unreadable.insert(key);
            }
        }
    }
    let sql = AssertSqlSafe(format!("SELECT rowid FROM main.{}", table.name));
    let there: BTreeSet<i64> = sqlx::query_scalar(sql).fetch_all(&mut *connection).await?.into_iter().collect();
    let mut missing: BTreeSet<i64> = known.difference(&there).copied().collect();
    if !all_known {
        missing.extend(unreadable.difference(&there));
    }
    Ok(Some(missing.len() as u64))
}

/// How far rows could be carried from one end.
struct Reached {
    /// The last key that could be stepped to.
    at: Option<i64>,
    /// Keys whose rows can't be read.
    skipped: BTreeSet<i64>,
    /// The other end is reached.
    ended: bool,
}

/// Carries rows from the beginning or the end until one can't be stepped to.
async fn from_end(connection: &mut SqliteConnection, table: &Table<'_>, forward: bool) -> Result<Reached, sqlx::Error> {
    let (beyond, until, end, direction) = if forward { (">", "<=", "max", "ASC") } else { ("<", ">=", "min", "DESC") };
    let keys = format!(
        "SELECT {end}(k) FROM (SELECT rowid AS k FROM old.{} NOT INDEXED WHERE rowid {beyond} ?1 ORDER BY rowid {direction} LIMIT ?2)",
        table.name
    );
    let insert = table.insert(&format!("WHERE rowid {beyond} ?1 AND rowid {until} ?2"));
    let start = if forward { i64::MIN } else { i64::MAX };
    let (mut at, mut batch) = (start, BATCH);
    let mut skipped = BTreeSet::new();
    let ended = loop {
        let next = sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(keys.clone()))
            .bind(at)
            .bind(batch)
            .fetch_one(&mut *connection);
        match readable(next.await)? {
            Some(None) => break true,
            Some(Some(next)) => {
                let carried = sqlx::query(AssertSqlSafe(insert.clone())).bind(at).bind(next).execute(&mut *connection);
                let is_carried = readable(carried.await)?.is_some();
                if !is_carried && batch > 1 {
                    batch /= 2;
                    continue;
                }
                if !is_carried {
                    skipped.insert(next);
                }
                at = next;
                batch = (batch * 2).min(BATCH);
            }
            None if batch == 1 => break false,
            None => batch /= 2,
        }
    };
    Ok(Reached { at: Some(at).filter(|at| *at != start), skipped, ended })
}

/// The keys that the table's indexes have, which are on other pages, and whether one of them could be read to its end.
async fn known_keys(
    connection: &mut SqliteConnection,
    table: &Table<'_>,
) -> Result<(BTreeSet<i64>, bool), sqlx::Error> {
    let indexes = sqlx::query_scalar("SELECT name FROM old.sqlite_schema WHERE type = 'index' AND tbl_name = ?1")
        .bind(table.name)
        .fetch_all(&mut *connection);
    let indexes: Vec<String> = readable(indexes.await)?.unwrap_or_default();
    let (mut known, mut is_whole) = (BTreeSet::new(), false);
    for index in indexes.iter().filter(|name| !name.contains('"')) {
        // Of one that has some of the rows alone, SQLite says that it won't do.
        let sql = format!("SELECT rowid FROM old.{} INDEXED BY \"{index}\"", table.name);
        let mut keys = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch(&mut *connection);
        is_whole |= loop {
            match readable(keys.try_next().await)? {
                Some(Some(key)) => {
                    known.insert(key);
                }
                Some(None) => break true,
                None => break false,
            }
        };
    }
    Ok((known, is_whole))
}
