//! Owns what becomes, at a node's start, of the tasks that had not ended when the one before it went.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use prost::Message as _;
use vyr_proto::v0::{EndReason, OnInterrupt, Task, TaskEnd, TaskSpec, TaskStatus};

use super::Node;
use super::live::Live;
use super::log::TaskLog;
use super::submit::log_limit;
use crate::db::Row;
use crate::error::{Error, ErrorKind, Result};
use crate::task::StatusExt as _;

/// Tasks that are read at once: each may be megabytes.
const AT_ONCE: u32 = 64;

impl Node {
    /// Queues again what had not started, and what its submit wants run again; the rest is lost, and recorded so.
    pub(super) async fn recover(&self) -> Result<()> {
        let mut behind = i64::MIN;
        loop {
            let rows = self.inner.db.open_tasks(behind, AT_ONCE).await?;
            let Some(last) = rows.last() else { break };
            behind = last.seq;
            for row in rows {
                let id = row.id;
                // One damaged row must not keep the others from going on.
                match catch_unwind(AssertUnwindSafe(|| self.take_up(row))) {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => tracing::error!(task = %id, error = %e, "a task can't be taken up again"),
                    Err(_) => tracing::error!(task = %id, "a task can't be taken up again: it panics"),
                }
            }
        }
        self.run_next();
        Ok(())
    }

    fn take_up(&self, row: Row) -> Result<()> {
        let damaged =
            |e: prost::DecodeError| Error::new(ErrorKind::Storage, format!("task {} is damaged: {e}", row.id));
        let spec = TaskSpec::decode(&row.spec[..]).map_err(damaged)?;
        let mut record = Task::decode(&row.record[..]).map_err(damaged)?;
        record.attempt = record.attempt.max(1);
        record.status = row.status.into();
        let path = self.log_path(row.id);
        let log = TaskLog::resume(path.clone(), log_limit(&spec)).unwrap_or_else(|e| {
            tracing::warn!(path = %path.display(), error = %e, "a task's earlier output can't be read");
            TaskLog::new(path, log_limit(&spec))
        });
        // The attempt that was due may have written nothing: what is in the file doesn't say which one comes.
        log.attempt(record.attempt);
        let again = spec.on_interrupt() == OnInterrupt::RunAgain;
        // The sum of what an attempt wrote before died with its node: a receipt of its end doesn't state one.
        if self.inner.receipt_key.is_some() && (!row.status.may_have_run() || again && !row.is_cancelled) {
            log.sum_up();
        }
        let tag = self.inner.tags.fetch_add(1, Ordering::Relaxed);
        let submitter: Arc<str> = row.submitter.into();
        let key = row.key.unwrap_or_default();
        let live = Arc::new(Live::new(
            row.id,
            tag,
            spec,
            Arc::clone(&submitter),
            submitter,
            key,
            row.submitted_us,
            record,
            log,
        ));
        let _ = live.seq.set(row.seq);
        self.live().insert(live.id, Arc::clone(&live));
        if row.is_cancelled {
            let _ = live.cancelled.set((EndReason::CancelledByClient, Instant::now()));
            let end = TaskEnd {
                reason: EndReason::CancelledByClient.into(),
                message: "it was cancelled, and the node died before that was done".into(),
                ..TaskEnd::default()
            };
            self.ended(&live, (TaskStatus::Cancelled, end), None, false);
            return Ok(());
        }
        if row.status.may_have_run() && !again {
            let end = TaskEnd {
                reason: EndReason::NodeDied.into(),
                message: "the node died while the guest may have been running".into(),
                next: "submit it again if that is safe; on_interrupt = RUN_AGAIN does so by itself".into(),
                ..TaskEnd::default()
            };
            self.ended(&live, (TaskStatus::Lost, end), None, false);
            return Ok(());
        }
        let interrupted = u32::from(row.status.may_have_run());
        if interrupted == 1 {
            live.next_attempt();
        }
        let attempt = live.attempt();
        live.told.send_modify(|record| {
            let record = Arc::make_mut(record);
            record.status = TaskStatus::Queued.into();
            record.attempt = attempt;
            record.interruptions += interrupted;
            record.end = None;
        });
        live.set_due();
        self.sched().queue_again(live);
        Ok(())
    }
}
