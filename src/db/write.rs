//! Owns the one writer: it takes all that waits, writes it in one transaction, and answers when that is on disk.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection as _, Row as _};
use tokio::sync::mpsc;

use super::{Cancel, Change, DbError, Forgotten, Inserted, NewTask, Reply, Write, classify};
use crate::task::TaskId;

/// The most writes that are taken at once.
const GROUP: usize = 128;
/// How many rows of one kind a transaction has room for. What isn't needed of it is filled with rows that do nothing: so a
/// group is one transaction, and there are few texts for SQLite to keep.
const SIZES: [usize; 5] = [0, 1, 4, 16, GROUP];

pub(super) struct Writer {
    path: PathBuf,
    connection: SqliteConnection,
    next_seq: i64,
    /// Counts up after each write that was answered.
    written: Arc<AtomicU64>,
    /// What a transaction of so many inserts, changes, receipts and cancels is in SQL. It goes to SQLite's thread in one piece, since
    /// each change of threads costs more than a row.
    texts: HashMap<[usize; 4], Arc<str>>,
}

/// What was taken at once.
#[derive(Default)]
struct Group {
    inserts: Vec<(i64, NewTask, Reply<Inserted>)>,
    changes: Vec<(Change, Reply<()>)>,
    cancels: Vec<(Cancel, Reply<()>)>,
}

fn rows(row: &str, count: usize) -> String {
    vec![row; count].join(",")
}

fn text([inserts, changes, receipts, cancels]: [usize; 4]) -> String {
    let mut parts = Vec::new();
    if inserts > 0 {
        parts.push(format!(
            "INSERT INTO task (seq,id,status,submitted_us,submitter,idem_key,idem_hash,spec) \
             SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL",
            rows("(?,?,?,?,?,?,?,?)", inserts)
        ));
    }
    if changes > 0 {
        parts.push(format!(
            "WITH new(seq,status,ended_us,record,log) AS (VALUES {}) \
             UPDATE task SET status=new.status, ended_us=new.ended_us, record=new.record, \
             log=coalesce(new.log, task.log) FROM new WHERE task.seq=new.seq",
            rows("(?,?,?,?,?)", changes)
        ));
    }
    if receipts > 0 {
        parts.push(format!(
            "INSERT OR REPLACE INTO receipt (seq,receipt) SELECT * FROM (VALUES {}) WHERE column1 IS NOT NULL",
            rows("(?,?)", receipts)
        ));
    }
    if cancels > 0 {
        parts.push(format!(
            "WITH new(seq,asked_us) AS (VALUES {}) \
             UPDATE task SET cancel_asked_us=coalesce(task.cancel_asked_us, new.asked_us) FROM new WHERE task.seq=new.seq",
            rows("(?,?)", cancels)
        ));
    }
    // One statement is a transaction by itself.
    if parts.len() > 1 {
        parts.insert(0, "BEGIN IMMEDIATE".into());
        parts.push("COMMIT".into());
    }
    parts.join(";")
}

/// The smallest size that so many rows fit.
fn room(count: usize) -> usize {
    SIZES.into_iter().find(|size| *size >= count).unwrap_or(GROUP)
}

impl Writer {
    pub(super) fn new(path: PathBuf, connection: SqliteConnection, next_seq: i64, written: Arc<AtomicU64>) -> Self {
        Self { path, connection, next_seq, written, texts: HashMap::new() }
    }

    pub(super) async fn run(mut self, mut waiting: mpsc::UnboundedReceiver<Write>) {
        let mut taken = Vec::with_capacity(GROUP);
        while waiting.recv_many(&mut taken, GROUP).await > 0 {
            let mut group = Group::default();
            // The second write to one task in a group would be lost in the statement that joins on its place.
            for write in taken.drain(..) {
                match write {
                    Write::Change(change, reply) => {
                        if group.changes.iter().any(|(c, _)| c.seq == change.seq) {
                            self.write(&mut group).await;
                        }
                        group.changes.push((change, reply));
                    }
                    Write::Cancel(cancel, reply) => group.cancels.push((cancel, reply)),
                    Write::Insert(task, reply) => {
                        let repeats = |known: &NewTask| known.submitter == task.submitter && key(known) == key(&task);
                        if task.key.is_some() && group.inserts.iter().any(|(_, known, _)| repeats(known)) {
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
                        self.written.fetch_add(1, Ordering::Relaxed);
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
        group.inserts.push((seq, task, reply));
    }

    /// Writes the group in one transaction, and answers everybody in it.
    async fn write(&mut self, group: &mut Group) {
        let Group { inserts, changes, cancels } = std::mem::take(group);
        if inserts.is_empty() && changes.is_empty() && cancels.is_empty() {
            return;
        }
        let (new, inserted): (Vec<_>, Vec<_>) =
            inserts.into_iter().map(|(seq, task, reply)| ((seq, task), reply)).unzip();
        let (changes, changed): (Vec<_>, Vec<_>) = changes.into_iter().unzip();
        let (cancels, noted): (Vec<_>, Vec<_>) = cancels.into_iter().unzip();
        let done = self.commit(&new, &changes, &cancels).await.map_err(|e| {
            tracing::error!(error = %e, "tasks could not be written");
            classify(&self.path, e)
        });
        for ((seq, _), reply) in new.iter().zip(inserted) {
            reply(done.clone().map(|()| Inserted::New { seq: *seq }));
        }
        for reply in changed.into_iter().chain(noted) {
            reply(done.clone());
        }
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    async fn commit(
        &mut self,
        inserts: &[(i64, NewTask)],
        changes: &[Change],
        cancels: &[Cancel],
    ) -> Result<(), sqlx::Error> {
        let receipts: Vec<_> = changes.iter().filter_map(|c| Some((c.seq, c.receipt.as_deref()?))).collect();
        let sizes = [inserts.len(), changes.len(), receipts.len(), cancels.len()].map(room);
        let text = self.texts.entry(sizes).or_insert_with(|| text(sizes).into());
        let mut query = sqlx::query::<sqlx::Sqlite>(AssertSqlSafe(Arc::clone(text)));
        for (seq, task) in inserts {
            query = bind_insert(query, *seq, task);
        }
        query = nothing(query, (sizes[0] - inserts.len()) * 8);
        for change in changes {
            query = query
                .bind(change.seq)
                .bind(i32::from(change.status))
                .bind(change.ended_us)
                .bind(&change.record[..])
                .bind(change.log.as_deref());
        }
        query = nothing(query, (sizes[1] - changes.len()) * 5);
        for (seq, receipt) in &receipts {
            query = query.bind(*seq).bind(*receipt);
        }
        query = nothing(query, (sizes[2] - receipts.len()) * 2);
        for Cancel { seq, asked_us } in cancels {
            query = query.bind(*seq).bind(*asked_us);
        }
        query = nothing(query, (sizes[3] - cancels.len()) * 2);
        let done = query.execute(&mut self.connection).await.map(drop);
        if done.is_err() && sizes.iter().filter(|size| **size > 0).count() > 1 {
            // Fails where SQLite has rolled back by itself.
            let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
        }
        done
    }

    async fn forget(&mut self, ended_before_us: i64, seq_below: i64, most: u32) -> Result<Vec<Forgotten>, DbError> {
        let rows = sqlx::query(
            // Only the oldest are looked at: the writer must not read through a long history.
            "DELETE FROM task WHERE seq IN (SELECT seq FROM (SELECT seq, ended_us FROM task \
             WHERE ended_us IS NOT NULL ORDER BY seq LIMIT ?3) WHERE ended_us < ?1 OR seq < ?2) \
             RETURNING id, log IS NULL",
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

/// Fills rows that do nothing.
fn nothing(query: Query<'_>, values: usize) -> Query<'_> {
    (0..values).fold(query, |query, _| query.bind(None::<i64>))
}

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
