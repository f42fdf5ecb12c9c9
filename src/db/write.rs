//! Owns the one writer: it takes all that waits, writes it in one transaction, and answers when that is on disk.

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::sync::mpsc;

use super::{Change, DbError, Forgotten, Inserted, NewTask, Reply, Write, classify};
use crate::task::TaskId;

/// The most writes in one transaction.
const GROUP: usize = 256;
/// Statements are made for these numbers of rows, and kept: a group is written with the fewest that add up.
const SIZES: [usize; 5] = [64, 16, 8, 4, 1];

pub(super) struct Writer {
    path: PathBuf,
    connection: SqliteConnection,
    next_seq: i64,
    inserts: Vec<(usize, Arc<str>)>,
    changes: Vec<(usize, Arc<str>)>,
}

/// What one transaction is made of.
#[derive(Default)]
struct Group {
    inserts: Vec<(i64, NewTask)>,
    changes: Vec<Change>,
    inserted: Vec<(Inserted, Reply<Inserted>)>,
    changed: Vec<Reply<()>>,
}

fn rows(row: &str, count: usize) -> String {
    vec![row; count].join(",")
}

impl Writer {
    pub(super) fn new(path: PathBuf, connection: SqliteConnection, next_seq: i64) -> Self {
        let inserts = SIZES.map(|n| {
            let sql = format!(
                "INSERT INTO task (seq,id,status,submitted_us,submitter,idem_key,idem_hash,spec) VALUES {}",
                rows("(?,?,?,?,?,?,?,?)", n)
            );
            (n, Arc::from(sql))
        });
        let changes = SIZES.map(|n| {
            let sql = format!(
                "WITH new(seq,status,ended_us,record,log) AS (VALUES {}) \
                 UPDATE task SET status=new.status, ended_us=new.ended_us, record=new.record, \
                 log=coalesce(new.log, task.log) FROM new WHERE task.seq=new.seq",
                rows("(?,?,?,?,?)", n)
            );
            (n, Arc::from(sql))
        });
        Self { path, connection, next_seq, inserts: inserts.into(), changes: changes.into() }
    }

    pub(super) async fn run(mut self, mut waiting: mpsc::UnboundedReceiver<Write>) {
        let mut taken = Vec::with_capacity(GROUP);
        while waiting.recv_many(&mut taken, GROUP).await > 0 {
            let mut group = Group::default();
            // The second write to one task in a group would be lost in the statement that joins on its place.
            for write in taken.drain(..) {
                match write {
                    Write::Change(change, reply) => {
                        if group.changes.iter().any(|c| c.seq == change.seq) {
                            self.write(&mut group).await;
                        }
                        group.changes.push(change);
                        group.changed.push(reply);
                    }
                    Write::Insert(task, reply) => {
                        let repeats = |known: &NewTask| known.submitter == task.submitter && key(known) == key(&task);
                        if task.key.is_some() && group.inserts.iter().any(|(_, known)| repeats(known)) {
                            self.write(&mut group).await;
                        }
                        self.take(&mut group, task, reply).await;
                    }
                    #[cfg(test)]
                    Write::LimitPages(pages, reply) => {
                        let sql = AssertSqlSafe(format!("PRAGMA max_page_count = {pages}"));
                        sqlx::query(sql).execute(&mut self.connection).await.expect("a pragma");
                        let _ = reply.send(());
                    }
                    Write::Forget { ended_before_us, seq_below, most, reply } => {
                        self.write(&mut group).await;
                        reply(self.forget(ended_before_us, seq_below, most).await);
                    }
                }
            }
            self.write(&mut group).await;
        }
        if let Err(e) = self.connection.close().await {
            tracing::warn!(error = %e, "the tasks' database did not close");
        }
    }

    /// Puts a task into the group, unless its key is known.
    async fn take(&mut self, group: &mut Group, task: NewTask, reply: Reply<Inserted>) {
        if let Some((key, hash)) = &task.key {
            let known = sqlx::query("SELECT id, idem_hash FROM task WHERE submitter = ? AND idem_key = ?")
                .bind(&task.submitter)
                .bind(key)
                .fetch_optional(&mut self.connection)
                .await;
            match known {
                Ok(None) => {}
                Ok(Some(row)) => {
                    let found = row.try_get::<&[u8], _>(0).ok().and_then(TaskId::from_bytes);
                    let same = row.try_get::<&[u8], _>(1).is_ok_and(|h| h == &hash[..]);
                    let answer = match found {
                        Some(id) if same => Ok(Inserted::Existing(id)),
                        Some(id) => Ok(Inserted::Conflict(id)),
                        None => Err(classify(&self.path, sqlx::Error::RowNotFound)),
                    };
                    reply(answer);
                    return;
                }
                Err(e) => {
                    reply(Err(classify(&self.path, e)));
                    return;
                }
            }
        }
        let seq = self.next_seq;
        self.next_seq += 1;
        group.inserts.push((seq, task));
        group.inserted.push((Inserted::New { seq }, reply));
    }

    /// Writes the group and answers everybody in it.
    async fn write(&mut self, group: &mut Group) {
        let group = std::mem::take(group);
        if group.inserted.is_empty() && group.changed.is_empty() {
            return;
        }
        match self.commit(&group.inserts, &group.changes).await {
            Ok(()) => {
                for (inserted, reply) in group.inserted {
                    reply(Ok(inserted));
                }
                for reply in group.changed {
                    reply(Ok(()));
                }
            }
            Err(e) => {
                tracing::error!(error = %e, "tasks could not be written");
                let error = classify(&self.path, e);
                for (_, reply) in group.inserted {
                    reply(Err(error.clone()));
                }
                for reply in group.changed {
                    reply(Err(error.clone()));
                }
            }
        }
    }

    async fn commit(&mut self, inserts: &[(i64, NewTask)], changes: &[Change]) -> Result<(), sqlx::Error> {
        // One statement is a transaction by itself.
        let alone = (inserts.is_empty() && SIZES.contains(&changes.len()))
            || (changes.is_empty() && SIZES.contains(&inserts.len()));
        if alone {
            return self.statements(inserts, changes).await;
        }
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.connection).await?;
        let done = match self.statements(inserts, changes).await {
            Ok(()) => sqlx::query("COMMIT").execute(&mut self.connection).await.map(drop),
            Err(e) => Err(e),
        };
        if done.is_err() {
            // Fails where SQLite has rolled back by itself.
            let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
        }
        done
    }

    async fn statements(&mut self, mut inserts: &[(i64, NewTask)], mut changes: &[Change]) -> Result<(), sqlx::Error> {
        for (size, sql) in &self.inserts {
            while let Some((now, rest)) = inserts.split_at_checked(*size) {
                let mut query = sqlx::query::<sqlx::Sqlite>(AssertSqlSafe(Arc::clone(sql)));
                for (seq, task) in now {
                    query = bind_insert(query, *seq, task);
                }
                query.execute(&mut self.connection).await?;
                inserts = rest;
            }
        }
        for (size, sql) in &self.changes {
            while let Some((now, rest)) = changes.split_at_checked(*size) {
                let mut query = sqlx::query::<sqlx::Sqlite>(AssertSqlSafe(Arc::clone(sql)));
                for change in now {
                    query = query
                        .bind(change.seq)
                        .bind(i32::from(change.status))
                        .bind(change.ended_us)
                        .bind(&change.record[..])
                        .bind(change.log.as_deref());
                }
                query.execute(&mut self.connection).await?;
                changes = rest;
            }
        }
        Ok(())
    }

    async fn forget(
        &mut self,
        ended_before_us: i64,
        seq_below: i64,
        most: u32,
    ) -> Result<Vec<Forgotten>, DbError> {
        let rows = sqlx::query(
            "DELETE FROM task WHERE seq IN (SELECT seq FROM task WHERE ended_us IS NOT NULL \
             AND (ended_us < ?1 OR seq < ?2) ORDER BY seq LIMIT ?3) RETURNING id, log IS NULL",
        )
        .bind(ended_before_us)
        .bind(seq_below)
        .bind(most)
        .fetch_all(&mut self.connection)
        .await
        .map_err(|e| classify(&self.path, e))?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                Some(Forgotten {
                    id: TaskId::from_bytes(row.try_get::<&[u8], _>(0).ok()?)?,
                    log_elsewhere: row.try_get(1).ok()?,
                })
            })
            .collect())
    }
}

type Query<'q> = sqlx::query::Query<'q, sqlx::Sqlite, SqliteArguments>;

fn bind_insert<'q>(query: Query<'q>, seq: i64, task: &'q NewTask) -> Query<'q> {
    let (key, hash) = task.key.as_ref().map_or((None, None), |(k, h)| (Some(k), Some(&h[..])));
    query
        .bind(seq)
        .bind(&task.id.as_bytes()[..])
        .bind(i32::from(task.status))
        .bind(task.submitted_us)
        .bind(&task.submitter)
        .bind(key)
        .bind(hash)
        .bind(&task.spec[..])
}

fn key(task: &NewTask) -> Option<&str> {
    task.key.as_ref().map(|(key, _)| key.as_str())
}
