//! Whatever comes in, changes and is forgotten, alone or many in one group: the tasks are what a list says, at once and after
//! the next opening.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::task::StatusExt as _;

#[derive(Debug, Clone)]
enum Step {
    Insert {
        submitter: u8,
        key: Option<(u8, u8)>,
    },
    /// To one of the statuses that may follow.
    Change {
        at: usize,
        to: usize,
        log: Option<u8>,
        receipt: Option<u8>,
    },
    Cancel {
        at: usize,
    },
    Forget {
        before: i64,
        below: i64,
        most: u32,
    },
    /// Waits for all answers, and looks.
    Look,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..2_u8, proptest::option::of((0..3_u8, 0..2_u8)))
            .prop_map(|(submitter, key)| Step::Insert { submitter, key }),
        12 => (0..16_usize, 0..8_usize, proptest::option::of(any::<u8>()), proptest::option::of(any::<u8>()))
            .prop_map(|(at, to, log, receipt)| Step::Change { at, to, log, receipt }),
        2 => (0..16_usize).prop_map(|at| Step::Cancel { at }),
        1 => (0..40_i64, 0..30_i64, 0..5_u32).prop_map(|(before, below, most)| Step::Forget { before, below, most }),
        3 => Just(Step::Look),
        1 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Clone)]
struct Known {
    id: TaskId,
    status: TaskStatus,
    submitter: String,
    key: Option<(String, [u8; 32])>,
    ended_us: Option<i64>,
    record: Vec<u8>,
    log: Option<Vec<u8>>,
    receipt: Option<Vec<u8>>,
    is_cancelled: bool,
}

const STATUSES: [TaskStatus; 9] = [
    TaskStatus::Queued,
    TaskStatus::Preparing,
    TaskStatus::Running,
    TaskStatus::Succeeded,
    TaskStatus::Failed,
    TaskStatus::Cancelled,
    TaskStatus::TimedOut,
    TaskStatus::Refused,
    TaskStatus::Lost,
];

/// What was sent and is to be answered.
#[derive(Default)]
struct Sent {
    inserts: Vec<(oneshot::Receiver<Result<Inserted, DbError>>, Inserted)>,
    changes: Vec<oneshot::Receiver<Result<(), DbError>>>,
}

impl Sent {
    async fn answered(&mut self) -> Result<(), TestCaseError> {
        for (answer, wanted) in self.inserts.drain(..) {
            prop_assert_eq!(answer.await.unwrap().unwrap(), wanted);
        }
        for answer in self.changes.drain(..) {
            answer.await.unwrap().unwrap();
        }
        Ok(())
    }
}

async fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let folder = crate::fuzz::scratch();
    let mut db = open(folder.path()).await;
    let (mut model, mut next, mut clock): (BTreeMap<i64, Known>, i64, i64) = (BTreeMap::new(), 1, 0);
    let mut sent = Sent::default();
    for step in steps.into_iter().chain([Step::Look, Step::Reopen]) {
        match step {
            Step::Insert { submitter, key } => {
                let key = key.map(|(key, hash)| (format!("k{key}"), [hash; 32]));
                let new = NewTask { submitter: format!("s{submitter}"), key: key.clone(), ..task(None) };
                let same = |known: &&Known| {
                    known.submitter == new.submitter && known.key.as_ref().map(|k| &k.0) == key.as_ref().map(|k| &k.0)
                };
                let wanted = match model.values().find(|known| key.is_some() && same(known)) {
                    Some(known) if known.key == key => Inserted::Existing(known.id),
                    Some(known) => Inserted::Conflict(known.id),
                    None => {
                        let seq = next;
                        next += 1;
                        let known = Known {
                            id: new.id,
                            status: new.status,
                            submitter: new.submitter.clone(),
                            key,
                            ended_us: None,
                            record: Vec::new(),
                            log: None,
                            receipt: None,
                            is_cancelled: false,
                        };
                        model.insert(seq, known);
                        Inserted::New { seq }
                    }
                };
                sent.inserts.push((send(&db, new), wanted));
            }
            Step::Change { at, to, log, receipt } => {
                // A task that has ended is changed no more: nothing may follow.
                let open: Vec<i64> = model.iter().filter(|(_, t)| !t.status.is_end()).map(|(seq, _)| *seq).collect();
                let Some(seq) = open.get(at % open.len().max(1)).copied() else { continue };
                let Some(known) = model.get_mut(&seq) else { continue };
                let may: Vec<TaskStatus> = STATUSES.into_iter().filter(|s| known.status.may_become(*s)).collect();
                let status = may[to % may.len()];
                clock += 1;
                known.status = status;
                known.ended_us = status.is_end().then_some(clock);
                known.record = clock.to_string().into_bytes();
                let log = log.map(|byte| vec![byte; usize::from(byte)]);
                if let Some(log) = &log {
                    known.log = Some(log.clone());
                }
                let receipt = receipt.filter(|_| status.is_end()).map(|byte| vec![byte; 90]);
                known.receipt.clone_from(&receipt);
                let change = Change {
                    seq,
                    status,
                    ended_us: known.ended_us,
                    record: known.record.clone().into(),
                    log: log.map(Into::into),
                    receipt: receipt.map(Into::into),
                };
                let (reply, answer) = oneshot::channel();
                db.change(change, |done| drop(reply.send(done)));
                sent.changes.push(answer);
            }
            Step::Cancel { at } => {
                let open: Vec<i64> = model.iter().filter(|(_, t)| !t.status.is_end()).map(|(seq, _)| *seq).collect();
                let Some(seq) = open.get(at % open.len().max(1)).copied() else { continue };
                clock += 1;
                model.entry(seq).and_modify(|known| known.is_cancelled = true);
                let (reply, answer) = oneshot::channel();
                db.cancel(seq, clock, |done| drop(reply.send(done)));
                sent.changes.push(answer);
            }
            Step::Forget { before, below, most } => {
                let ended = model.iter().filter(|(_, t)| t.ended_us.is_some()).take(most as usize);
                let gone: Vec<i64> = ended
                    .filter(|(seq, t)| t.ended_us.is_some_and(|at| at < before) || **seq < below)
                    .map(|(seq, _)| *seq)
                    .collect();
                let mut ids: Vec<TaskId> = gone.iter().map(|seq| model[seq].id).collect();
                model.retain(|seq, _| !gone.contains(seq));
                let mut forgotten: Vec<TaskId> =
                    db.forget(before, below, most).await.unwrap().into_iter().map(|f| f.id).collect();
                ids.sort_unstable();
                forgotten.sort_unstable();
                prop_assert_eq!(forgotten, ids);
            }
            Step::Look => sent.answered().await?,
            Step::Reopen => {
                sent.answered().await?;
                drop(db);
                db = open(folder.path()).await;
                next = model.keys().last().map_or(1, |last| last + 1);
            }
        }
        if sent.inserts.is_empty() && sent.changes.is_empty() {
            agrees(&db, &model).await?;
        }
    }
    Ok(())
}

async fn agrees(db: &Db, model: &BTreeMap<i64, Known>) -> Result<(), TestCaseError> {
    for (seq, known) in model {
        let row = db.get(known.id).await.unwrap().expect("it was acknowledged");
        prop_assert_eq!((row.seq, row.status, &row.record[..]), (*seq, known.status, &known.record[..]));
        prop_assert_eq!(row.is_cancelled, known.is_cancelled);
        prop_assert_eq!((&row.submitter, row.key.as_ref()), (&known.submitter, known.key.as_ref().map(|(key, _)| key)));
        prop_assert_eq!(db.log(known.id).await.unwrap().map(Vec::from), known.log.clone());
        prop_assert_eq!(db.receipt(known.id).await.unwrap().map(Vec::from), known.receipt.clone());
        if let Some((key, hash)) = &known.key {
            let found = db.by_key(&known.submitter, key).await.unwrap();
            prop_assert_eq!(found, Some((known.id, hash.to_vec())));
        }
    }
    let seqs = |rows: Vec<super::super::Row>| rows.into_iter().map(|row| row.seq).collect::<Vec<_>>();
    let all = seqs(db.list(None, 1000, &Filter::default()).await.unwrap().0);
    prop_assert_eq!(all, model.keys().rev().copied().collect::<Vec<_>>());
    let open = seqs(db.open_tasks(0, 1000).await.unwrap());
    let wanted: Vec<i64> = model.iter().filter(|(_, t)| t.ended_us.is_none()).map(|(seq, _)| *seq).collect();
    prop_assert_eq!(open, wanted);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn they_are_what_a_list_says(steps in proptest::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps))?;
    }
}
