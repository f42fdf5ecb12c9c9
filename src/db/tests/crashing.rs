//! Whenever the power is cut: what was acknowledged is there, and of what was under way all or nothing.

use std::io::Write as _;

use vyr_proto::v0::TaskStatus as Status;

use super::*;
use crate::testing::crash::{HOME, MARKER, Recording, TOLD};

/// What is done one after the other: a task comes in, one changes or is cancelled, or the oldest ended ones are forgotten.
#[derive(Debug, Clone, Copy)]
enum Step {
    Insert,
    Change(i64, Status),
    Cancel(i64),
    Forget(u32),
}

const STEPS: [Step; 14] = [
    Step::Insert,
    Step::Insert,
    Step::Change(1, Status::Preparing),
    Step::Change(1, Status::Running),
    Step::Cancel(1),
    Step::Insert,
    Step::Change(1, Status::Succeeded),
    Step::Change(2, Status::Preparing),
    Step::Change(2, Status::Refused),
    Step::Forget(1),
    Step::Insert,
    Step::Cancel(3),
    Step::Change(3, Status::Cancelled),
    Step::Insert,
];

fn is_end(status: Status) -> bool {
    crate::task::StatusExt::is_end(status)
}

/// The tasks after so many steps: place, status, and whether it was cancelled.
fn after(steps: usize) -> Vec<(i64, Status, bool)> {
    let (mut tasks, mut next) = (Vec::new(), 1);
    for step in &STEPS[..steps.min(STEPS.len())] {
        match *step {
            Step::Insert => {
                tasks.push((next, Status::Queued, false));
                next += 1;
            }
            Step::Change(seq, status) => tasks.iter_mut().filter(|t| t.0 == seq).for_each(|t| t.1 = status),
            Step::Cancel(seq) => tasks.iter_mut().filter(|t| t.0 == seq).for_each(|t| t.2 = true),
            Step::Forget(most) => {
                for _ in 0..most {
                    if let Some(at) = tasks.iter().position(|t| is_end(t.1)) {
                        tasks.remove(at);
                    }
                }
            }
        }
    }
    tasks
}

/// The recorded side.
#[tokio::test]
#[ignore = "is recorded by the tests below"]
async fn recorded() {
    if !Path::new(MARKER).exists() {
        return;
    }
    let mut told = std::fs::OpenOptions::new().create(true).append(true).open(TOLD).unwrap();
    let db = open(Path::new(HOME)).await;
    for (number, step) in (1..).zip(STEPS) {
        match step {
            Step::Insert => drop(insert(&db, task(None)).await),
            Step::Change(seq, status) => {
                let ended = is_end(status).then_some(number);
                let receipt = is_end(status).then(|| Bytes::from_static(b"receipt"));
                let log = Some(Bytes::from(vec![b'l'; 9000]));
                db.changed(Change { log, receipt, ..change(seq, status, ended) }).await.unwrap();
            }
            Step::Cancel(seq) => db.cancelled(seq, number).await.unwrap(),
            Step::Forget(most) => drop(db.forget(i64::MAX, 0, most).await.unwrap()),
        }
        told.write_all(format!("{number}\n").as_bytes()).unwrap();
    }
}

fn cut(each: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Recording::of("db::tests::crashing::recorded").cut(each, |home, told| {
        runtime.block_on(async {
            let db = open(home).await;
            let (rows, _) = db.list(None, 1000, &Filter::default()).await.unwrap();
            let found: Vec<_> = rows.iter().rev().map(|row| (row.seq, row.status, row.is_cancelled)).collect();
            let acknowledged = told.len();
            let may_be = [after(acknowledged), after(acknowledged + 1)];
            assert!(may_be.contains(&found), "after {acknowledged} steps there is {found:?}");
            for row in rows.iter().filter(|row| row.status != Status::Queued) {
                assert_eq!(db.log(row.id).await.unwrap().map(|log| log.len()), Some(9000), "half a change");
                assert_eq!(db.receipt(row.id).await.unwrap().is_some(), is_end(row.status), "half an end");
            }
            // It goes on from there.
            assert!(matches!(insert(&db, task(None)).await, Inserted::New { .. }));
        });
    })
}

#[test]
fn whenever_the_power_is_cut_nothing_acknowledged_is_gone() {
    let cuts = cut(9);
    println!("tasks: power cut {cuts} times, nothing lost");
    assert!(cuts > 30, "{cuts}");
}

#[test]
#[ignore = "takes a minute; `./test` runs it by itself"]
fn the_power_is_cut_after_every_call() {
    println!("tasks: power cut {} times, nothing lost", cut(1));
}
