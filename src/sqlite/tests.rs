//! What can be read of a damaged database is carried over, what can't is counted, and the damaged one is kept.

use std::os::unix::fs::FileExt as _;

use bytes::Bytes;
use vyr_proto::v0::TaskStatus;

use super::*;
use crate::db::{Change, Db, MIGRATIONS, NewTask};
use crate::task::TaskId;

const PAGE: u64 = 4096;
const TABLES: &[&str] = &["task", "receipt"];

/// Tasks with receipts, written and closed, and their log with them.
async fn tasks(path: &Path, number: i64) {
    let db = Db::open(path).await.unwrap();
    for seq in 1..=number {
        let (done, told) = tokio::sync::oneshot::channel();
        let task = NewTask {
            id: TaskId::new(),
            status: TaskStatus::Queued,
            submitted_us: seq,
            submitter: "me".into(),
            key: None,
            spec: Bytes::from(format!("spec {seq} ").repeat(20)),
        };
        db.insert(task, |inserted| drop(done.send(inserted)));
        if seq == number {
            told.await.unwrap().unwrap();
        }
    }
    for seq in 1..=number {
        let record = Bytes::from(format!("record {seq}"));
        let receipt = Some(Bytes::from(format!("receipt {seq} ").repeat(30)));
        let change = Change { seq, status: TaskStatus::Succeeded, ended_us: Some(seq), record, log: None, receipt };
        db.changed(change).await.unwrap();
    }
    drop(db);
    // All of it in the one file, as after a node's end: the writer closes in the background.
    let mut connection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

async fn all(path: &Path, sql: &'static str) -> Vec<(i64, Vec<u8>)> {
    let mut connection = SqliteConnectOptions::new().filename(path).read_only(true).connect().await.unwrap();
    let rows = sqlx::query_as(sql).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    rows
}

const SPECS: &str = "SELECT seq, spec FROM task ORDER BY seq";
const RECEIPTS: &str = "SELECT seq, receipt FROM receipt ORDER BY seq";

fn overwrite(path: &Path, from: u64, pages: usize) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&vec![0x5a; pages * 4096], from * PAGE).unwrap();
}

async fn repaired(path: &Path) -> (Vec<Carried>, PathBuf) {
    let repair = Repair::begin(path, &MIGRATIONS, TABLES).await.unwrap();
    let carried = repair.carried.clone();
    (carried, repair.finish().await.unwrap())
}

#[tokio::test]
async fn what_can_be_read_is_carried_over_and_the_rest_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole/db/tasks.sqlite");
    tasks(&whole, 600).await;
    assert_eq!(complaints(&whole, true, true).await.unwrap(), Vec::<String>::new());
    let (specs, receipts) = (all(&whole, SPECS).await, all(&whole, RECEIPTS).await);
    let pages = fs::metadata(&whole).unwrap().len() / PAGE;
    let mut lossy = 0;
    for number in 0..12 {
        let path = folder.path().join(format!("{number}/db/tasks.sqlite"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::copy(&whole, &path).unwrap();
        match number {
            // Cut to two thirds, and to a half of a page.
            10 => OpenOptions::new().write(true).open(&path).unwrap().set_len(pages * 2 / 3 * PAGE).unwrap(),
            11 => OpenOptions::new().write(true).open(&path).unwrap().set_len(PAGE / 2).unwrap(),
            _ => overwrite(&path, 1 + number * (pages - 4) / 10, 2),
        }
        let damaged = fs::read(&path).unwrap();
        assert_ne!(complaints(&path, true, true).await.unwrap(), Vec::<String>::new(), "{number}");
        let (carried, aside) = repaired(&path).await;
        assert_eq!(complaints(&path, false, true).await.unwrap(), Vec::<String>::new(), "{number}");
        assert!(fs::read(aside.join("tasks.sqlite")).unwrap() == damaged, "{number}: it is kept as it was");
        // A node opens it, and what is there is what was there.
        drop(Db::open(&path).await.unwrap());
        for (table, sql, before) in [(0, SPECS, &specs), (1, RECEIPTS, &receipts)] {
            let after = all(&path, sql).await;
            assert!(after.iter().all(|row| before.contains(row)), "{number}: nothing is made up");
            if number == 11 {
                assert!(
                    after.is_empty() && carried.iter().all(|c| !c.whole),
                    "nothing of it can be read, and that is said: {carried:?}"
                );
                continue;
            }
            let carried = &carried[table];
            let lost = before.len() - after.len();
            assert_eq!(carried.rows, after.len() as u64, "{number} {carried:?}");
            assert!(carried.lost.unwrap() >= lost as u64, "{number} {carried:?} but {lost} are");
            assert_eq!(carried.whole, lost == 0 && carried.lost == Some(0), "{number} {carried:?}");
            // Two pages hold a few dozen of them.
            assert!(number == 10 || lost < 120, "{number}: {lost} of {table}");
            lossy += usize::from(lost > 0);
        }
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 4, "the database, its log and its lock");
    }
    assert!(lossy > 5, "{lossy}");
}

#[tokio::test]
async fn a_damaged_database_of_an_older_version_is_brought_up_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db/tasks.sqlite");
    make_private(path.parent().unwrap()).unwrap();
    let mut old = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    MIGRATIONS.run_to(2, &mut old).await.unwrap();
    for seq in 1..=300_i64 {
        sqlx::query("INSERT INTO task (seq, id, status, submitted_us, submitter, spec, receipt) VALUES (?1, randomblob(16), 1, 1, 'me', zeroblob(300), ?2)")
            .bind(seq)
            .bind(vec![7_u8; 100])
            .execute(&mut old)
            .await
            .unwrap();
    }
    old.close().await.unwrap();
    overwrite(&path, fs::metadata(&path).unwrap().len() / PAGE / 2, 1);
    let (carried, _) = repaired(&path).await;
    assert!(carried[0].rows > 250 && carried[0].rows < 300, "{carried:?}");
    assert_eq!(carried[0].lost, Some(300 - carried[0].rows));
    assert_eq!(all(&path, RECEIPTS).await.len() as u64, carried[0].rows, "the migration moved them");
}

#[tokio::test]
async fn an_older_version_s_rows_are_carried_over_when_nobody_can_read_which_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db/tasks.sqlite");
    make_private(path.parent().unwrap()).unwrap();
    let mut old = SqliteConnectOptions::new().filename(&path).create_if_missing(true).connect().await.unwrap();
    // Its tasks have a column less than those of today.
    MIGRATIONS.run_to(3, &mut old).await.unwrap();
    let insert = "INSERT INTO task (seq, id, status, submitted_us, submitter, spec) \
                  VALUES (?1, randomblob(16), 1, 1, 'me', zeroblob(300))";
    for seq in 1..=300_i64 {
        sqlx::query(insert).bind(seq).execute(&mut old).await.unwrap();
    }
    let versions = "SELECT rootpage FROM sqlite_schema WHERE name = '_sqlx_migrations'";
    let page: i64 = sqlx::query_scalar(versions).fetch_one(&mut old).await.unwrap();
    old.close().await.unwrap();
    overwrite(&path, page.unsigned_abs() - 1, 1);
    let (carried, _) = repaired(&path).await;
    assert_eq!((carried[0].rows, carried[0].whole), (300, true), "{carried:?}");
    drop(Db::open(&path).await.unwrap());
}

#[tokio::test]
async fn nobody_opens_a_database_while_it_is_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db/tasks.sqlite");
    tasks(&path, 30).await;
    let repair = Repair::begin(&path, &MIGRATIONS, TABLES).await.unwrap();
    let own = path.clone();
    let mut opening = tokio::spawn(async move { settled(&own).await.unwrap() });
    let early = tokio::time::timeout(Duration::from_millis(200), &mut opening).await;
    assert!(early.is_err(), "it was opened in the middle");
    repair.finish().await.unwrap();
    let opening = opening.await.unwrap();
    // And none begins while one is opened.
    let begun = tokio::time::timeout(Duration::from_millis(200), Repair::begin(&path, &MIGRATIONS, TABLES)).await;
    assert!(begun.is_err(), "it was begun in the middle");
    drop(opening);
    assert_eq!(all(&path, SPECS).await.len(), 30);
}

#[tokio::test]
async fn one_of_a_later_version_is_left_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("db/tasks.sqlite");
    tasks(&path, 3).await;
    let mut later = SqliteConnectOptions::new().filename(&path).connect().await.unwrap();
    let migration =
        "INSERT INTO _sqlx_migrations SELECT 9000, 'later', installed_on, 1, checksum, 1 FROM _sqlx_migrations LIMIT 1";
    sqlx::query(migration).execute(&mut later).await.unwrap();
    later.close().await.unwrap();
    let before = fs::read(&path).unwrap();
    let refused = Repair::begin(&path, &MIGRATIONS, TABLES).await.unwrap_err();
    assert!(matches!(refused, SqliteError::Later { .. }), "{refused}");
    assert!(fs::read(&path).unwrap() == before);
}

/// The recorded side: a database is damaged, and repaired.
#[tokio::test]
#[ignore = "is recorded by the test below"]
async fn recorded() {
    use std::io::Write as _;
    if !Path::new(crate::testing::crash::MARKER).exists() {
        return;
    }
    let mut told = OpenOptions::new().create(true).append(true).open(crate::testing::crash::TOLD).unwrap();
    let mut tell = |what: String| told.write_all(format!("{what}\n").as_bytes()).unwrap();
    let path = Path::new(crate::testing::crash::HOME).join("db/tasks.sqlite");
    tasks(&path, 60).await;
    let pages = fs::metadata(&path).unwrap().len() / PAGE;
    overwrite(&path, pages / 2, 1);
    File::open(&path).unwrap().sync_all().unwrap();
    // And what is only in its log.
    let mut connection =
        SqliteConnectOptions::new().filename(&path).synchronous(SqliteSynchronous::Full).connect().await.unwrap();
    sqlx::query("PRAGMA wal_autocheckpoint = 0").execute(&mut connection).await.unwrap();
    sqlx::query("INSERT INTO receipt (seq, receipt) VALUES (1000, zeroblob(10))")
        .execute(&mut connection)
        .await
        .unwrap();
    // Its log stays: the process ends without a word.
    std::mem::forget(connection);
    File::open(path.parent().unwrap()).unwrap().sync_all().unwrap();
    tell("damaged".into());
    let log = fs::read(beside(&path, "-wal")).unwrap();
    assert!(!log.is_empty());
    // As another process would find it: this one's own locks are none to itself.
    let (carried, _) = repaired(&path).await;
    tell(format!("repaired {}", carried[1].rows));
}

#[test]
fn whenever_the_power_is_cut_the_damaged_one_or_the_repaired_one_is_there() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let cuts = crate::testing::crash::Recording::of("sqlite::tests::recorded").cut(6, |home, told| {
        if !told.iter().any(|line| line == "damaged") {
            return;
        }
        runtime.block_on(async {
            let path = home.join("db/tasks.sqlite");
            drop(settle(&path).unwrap());
            if !complaints(&path, true, true).await.unwrap().is_empty() {
                assert!(!told.iter().any(|line| line.starts_with("repaired")), "what was told is undone");
                drop(repaired(&path).await);
            }
            let receipts = all(&path, RECEIPTS).await;
            assert!(receipts.iter().any(|(seq, _)| *seq == 1000), "what was in the log alone is gone");
            assert!(receipts.len() > 20, "{}", receipts.len());
            drop(Db::open(&path).await.unwrap());
        });
    });
    println!("repair: power cut {cuts} times, nothing lost");
    assert!(cuts > 20, "{cuts}");
}

#[tokio::test]
async fn whose_transaction_a_full_disk_ended_is_replaced_before_the_next_begins() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteConnectOptions::new().filename(folder.path().join("full.sqlite")).create_if_missing(true);
    let pool = pool().max_connections(1).connect_with(options).await.unwrap();
    sqlx::query("CREATE TABLE kept (content BLOB)").execute(&pool).await.unwrap();
    for _ in 0..3 {
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
        // SQLite says of this what it says of a full disk, and ends the transaction as it does there.
        sqlx::query("PRAGMA max_page_count = 1").execute(&mut *tx).await.unwrap();
        let insert = sqlx::query("INSERT INTO kept VALUES (zeroblob(100000))");
        assert_eq!(code(&insert.execute(&mut *tx).await.unwrap_err()), Some(13));
    }
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.unwrap();
    sqlx::query("INSERT INTO kept VALUES (zeroblob(100000))").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM kept").fetch_one(&pool).await.unwrap();
    assert_eq!(kept, 1);
}
