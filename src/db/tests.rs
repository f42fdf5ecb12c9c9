//! What is acknowledged is there, once, in order; groups behave as single writes do.

mod crashing;
mod model;

use std::path::Path;

use bytes::Bytes;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::oneshot;
use vyr_proto::v0::TaskStatus;

use super::read::LISTED_BYTES;
use super::{Change, Db, DbError, Filter, Inserted, NewTask};
use crate::task::TaskId;

fn task(key: Option<(&str, u8)>) -> NewTask {
    NewTask {
        id: TaskId::new(),
        status: TaskStatus::Queued,
        submitted_us: 1,
        submitter: "me".into(),
        key: key.map(|(key, hash)| (key.to_owned(), [hash; 32])),
        spec: Bytes::from_static(b"spec"),
    }
}

fn send(db: &Db, task: NewTask) -> oneshot::Receiver<Result<Inserted, DbError>> {
    let (reply, answer) = oneshot::channel();
    db.insert(task, |done| drop(reply.send(done)));
    answer
}

async fn insert(db: &Db, task: NewTask) -> Inserted {
    send(db, task).await.unwrap().unwrap()
}

fn change(seq: i64, status: TaskStatus, ended_us: Option<i64>) -> Change {
    Change { seq, status, ended_us, record: Bytes::from_static(b"record"), log: None, receipt: None }
}

async fn open(folder: &Path) -> Db {
    Db::open(&folder.join("db/tasks.sqlite")).await.unwrap()
}

#[tokio::test]
async fn what_is_acknowledged_is_there_at_the_next_opening() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    // More than one group, of sizes that no single statement has.
    let tasks: Vec<NewTask> = (0..777).map(|_| task(None)).collect();
    let ids: Vec<TaskId> = tasks.iter().map(|t| t.id).collect();
    let answers: Vec<_> = tasks.into_iter().map(|t| send(&db, t)).collect();
    for (number, answer) in (1..).zip(answers) {
        assert_eq!(answer.await.unwrap().unwrap(), Inserted::New { seq: number });
    }
    for seq in 1..=700 {
        let log = (seq % 2 == 0).then(|| Bytes::from_static(b"log"));
        db.change(Change { log, ..change(seq, TaskStatus::Succeeded, Some(seq)) }, |done| done.unwrap());
    }
    db.changed(change(701, TaskStatus::Running, None)).await.unwrap();
    drop(db);
    let db = open(folder.path()).await;
    let open_tasks = db.open_tasks(0, 1000).await.unwrap();
    assert_eq!(open_tasks.iter().map(|t| t.id).collect::<Vec<_>>(), ids[700..]);
    assert_eq!(open_tasks[0].status, TaskStatus::Running);
    let row = db.get(ids[1]).await.unwrap().unwrap();
    assert_eq!(
        (row.seq, row.status, &row.spec[..], &row.record[..]),
        (2, TaskStatus::Succeeded, &b"spec"[..], &b"record"[..])
    );
    assert_eq!(db.log(ids[1]).await.unwrap().as_deref(), Some(&b"log"[..]));
    assert_eq!(db.log(ids[0]).await.unwrap(), None);
    assert_eq!(insert(&db, task(None)).await, Inserted::New { seq: 778 });
}

#[tokio::test]
async fn a_key_makes_repeated_submits_one_task() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    let first = task(Some(("key", 1)));
    let id = first.id;
    // All in one group, if the writer takes them so.
    let answers =
        [first, task(Some(("key", 1))), task(Some(("key", 2))), task(Some(("other", 1)))].map(|t| send(&db, t));
    let mut got = Vec::new();
    for answer in answers {
        got.push(answer.await.unwrap().unwrap());
    }
    assert_eq!(got[..3], [Inserted::New { seq: 1 }, Inserted::Existing(id), Inserted::Conflict(id)]);
    assert!(matches!(got[3], Inserted::New { .. }));
    let theirs = NewTask { submitter: "somebody else".into(), ..task(Some(("key", 2))) };
    assert!(matches!(insert(&db, theirs).await, Inserted::New { .. }), "a key is its submitter's own");
}

#[tokio::test]
async fn two_changes_of_one_task_in_a_group_both_count_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    let new = task(None);
    let id = new.id;
    insert(&db, new).await;
    let log = Some(Bytes::from_static(b"kept"));
    db.change(Change { log, ..change(1, TaskStatus::Running, None) }, |done| done.unwrap());
    db.changed(change(1, TaskStatus::Failed, Some(5))).await.unwrap();
    assert_eq!(db.get(id).await.unwrap().unwrap().status, TaskStatus::Failed);
    assert_eq!(db.log(id).await.unwrap().as_deref(), Some(&b"kept"[..]), "a change without output takes none away");
}

#[tokio::test]
async fn a_receipt_comes_with_its_task_s_end_and_goes_with_the_task() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    let tasks: Vec<NewTask> = (0..3).map(|_| task(None)).collect();
    let ids: Vec<TaskId> = tasks.iter().map(|t| t.id).collect();
    for new in tasks {
        insert(&db, new).await;
    }
    // Beside one that has none, so that they are of different numbers in a group.
    let receipt = Some(Bytes::from_static(b"stated"));
    db.change(Change { receipt, ..change(1, TaskStatus::Succeeded, Some(5)) }, |done| done.unwrap());
    db.changed(change(2, TaskStatus::Succeeded, Some(6))).await.unwrap();
    assert_eq!(db.receipt(ids[0]).await.unwrap().as_deref(), Some(&b"stated"[..]));
    assert_eq!(db.receipt(ids[1]).await.unwrap(), None);
    assert_eq!(db.forget(6, 0, 100).await.unwrap().len(), 1);
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM receipt").fetch_one(&db.readers).await.unwrap();
    assert_eq!((db.receipt(ids[0]).await.unwrap(), left), (None, 0));
}

#[tokio::test]
async fn listings_narrow_and_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    for seq in 1..=10 {
        let submitter = if seq % 2 == 0 { "even" } else { "odd" };
        insert(&db, NewTask { submitter: submitter.into(), ..task(None) }).await;
        let status = if seq <= 5 { TaskStatus::Failed } else { TaskStatus::Succeeded };
        db.changed(change(seq, status, Some(seq))).await.unwrap();
    }
    let seqs = |rows: Vec<super::Row>| rows.into_iter().map(|r| r.seq).collect::<Vec<_>>();
    assert_eq!(seqs(db.list(None, 3, &Filter::default()).await.unwrap().0), [10, 9, 8]);
    assert_eq!(seqs(db.list(Some(8), 3, &Filter::default()).await.unwrap().0), [7, 6, 5]);
    let filter = Filter { statuses: vec![TaskStatus::Failed], submitter: Some("odd".into()) };
    assert_eq!(seqs(db.list(None, 100, &filter).await.unwrap().0), [5, 3, 1]);
}

#[tokio::test]
async fn a_listing_is_bounded_in_bytes_and_says_that_there_is_more() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    for bytes in [LISTED_BYTES * 2, LISTED_BYTES / 2, LISTED_BYTES / 2, 10] {
        insert(&db, NewTask { spec: vec![1; bytes].into(), ..task(None) }).await;
    }
    let (mut below, mut pages) = (None, Vec::new());
    loop {
        let (rows, more) = db.list(below, 100, &Filter::default()).await.unwrap();
        below = rows.last().map(|row| row.seq);
        pages.push(rows.into_iter().map(|row| row.seq).collect::<Vec<_>>());
        if !more {
            break;
        }
    }
    assert_eq!(pages, [vec![4, 3], vec![2], vec![1]]);
}

#[tokio::test]
async fn the_oldest_ended_tasks_are_forgotten_and_no_open_one() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    for _ in 0..10 {
        insert(&db, task(None)).await;
    }
    for seq in 2..=10 {
        db.changed(change(seq, TaskStatus::Succeeded, Some(100 + seq))).await.unwrap();
    }
    assert_eq!(db.place_of_newest(4).await.unwrap(), 7);
    assert!(db.place_of_newest(100).await.unwrap() < 1);
    assert_eq!(db.forget(103, 0, 100).await.unwrap().len(), 1, "by age");
    assert_eq!(db.forget(0, 7, 2).await.unwrap().len(), 2, "by number, so many at a time");
    assert_eq!(db.forget(0, 7, 100).await.unwrap().len(), 2);
    let left: Vec<i64> = db.list(None, 100, &Filter::default()).await.unwrap().0.iter().map(|r| r.seq).collect();
    assert_eq!(left, [10, 9, 8, 7, 1]);
}

#[tokio::test]
async fn a_lock_that_another_process_holds_is_named_and_loses_nothing() {
    use sqlx::Connection as _;
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    insert(&db, task(None)).await;
    let path = folder.path().join("db/tasks.sqlite");
    let mut other = sqlx::SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    let refused = send(&db, task(None)).await.unwrap();
    assert!(matches!(refused, Err(DbError::Locked { .. })), "{refused:?}");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    assert!(matches!(insert(&db, task(None)).await, Inserted::New { .. }));
    assert_eq!(db.open_tasks(0, 1000).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_database_of_a_later_version_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    insert(&db, task(None)).await;
    drop(db);
    let path = folder.path().join("db/tasks.sqlite");
    let mut later = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path)).await.unwrap();
    let migration =
        "INSERT INTO _sqlx_migrations SELECT 9000, 'later', installed_on, 1, checksum, 1 FROM _sqlx_migrations LIMIT 1";
    sqlx::query(migration).execute(&mut later).await.unwrap();
    let refused = Db::open(&path).await.unwrap_err();
    assert!(matches!(refused, DbError::Later { .. }), "{refused}");
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM task").fetch_one(&mut later).await.unwrap();
    assert_eq!(count, 1);
}

#[tokio::test]
async fn a_database_of_an_older_version_is_brought_up_with_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db/tasks.sqlite");
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    for version in super::MIGRATIONS.iter().map(|m| m.version) {
        let _ = std::fs::remove_file(&path);
        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut old = SqliteConnection::connect_with(&options).await.unwrap();
        super::MIGRATIONS.run_to(version, &mut old).await.unwrap();
        let (id, ended) = (TaskId::new(), TaskStatus::Succeeded);
        let rows = "INSERT INTO task (seq, id, status, submitted_us, ended_us, submitter, spec, record, log)
            VALUES (1, ?1, ?2, 1, 2, 'me', x'01', x'02', x'03')";
        sqlx::query(rows).bind(&id.as_bytes()[..]).bind(ended as i32).execute(&mut old).await.unwrap();
        let receipt = match version {
            1 => None,
            2 => Some("UPDATE task SET receipt = CAST('receipt' AS BLOB)"),
            _ => Some("INSERT INTO receipt (seq, receipt) VALUES (1, CAST('receipt' AS BLOB))"),
        };
        if let Some(receipt) = receipt {
            sqlx::query(receipt).execute(&mut old).await.unwrap();
        }
        old.close().await.unwrap();
        let db = open(folder.path()).await;
        let row = db.get(id).await.unwrap().expect("the task is there");
        assert_eq!((row.seq, row.status, row.id), (1, ended, id), "from version {version}");
        assert_eq!(db.log(id).await.unwrap().as_deref(), Some(&[3][..]), "from version {version}");
        let kept = db.receipt(id).await.unwrap();
        assert_eq!(kept.is_some(), receipt.is_some(), "from version {version}");
        assert!(matches!(insert(&db, task(None)).await, Inserted::New { seq: 2 }));
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let db = open(folder.path()).await;
    insert(&db, task(None)).await;
    // SQLite's own bound on the file stands for the disk's: the result code is the same.
    db.limit_pages(20).await;
    let big = || NewTask { spec: vec![7; 200_000].into(), ..task(None) };
    let refused = send(&db, big()).await.unwrap();
    assert!(matches!(refused, Err(DbError::Full { .. })), "{refused:?}");
    db.limit_pages(100_000).await;
    assert!(matches!(insert(&db, big()).await, Inserted::New { .. }));
    assert_eq!(db.open_tasks(0, 1000).await.unwrap().len(), 2);
}
