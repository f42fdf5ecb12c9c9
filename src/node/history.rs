//! Owns what is done from time to time: outputs of running tasks reach the disk, ended tasks are forgotten.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::Node;
use super::live::Live;
use crate::task::micros;

/// How often outputs are looked over, and how old one is that goes into its file then: what is twice as old is there, and a
/// killed node loses what is younger.
const FLUSH: Duration = Duration::from_millis(125);
/// How often ended tasks are looked over.
const FORGET: Duration = Duration::from_secs(30);
/// How often states whose time is over are looked for.
const EXPIRE: Duration = Duration::from_secs(5);
/// How many are forgotten in one transaction.
const AT_ONCE: u32 = 500;

impl Node {
    /// Starts what goes on for as long as the runtime does.
    pub(super) fn keep_house(&self) {
        let node = self.clone();
        tokio::spawn(async move {
            let mut due = tokio::time::interval(FLUSH);
            loop {
                due.tick().await;
                let running: Vec<Arc<Live>> = node.live().values().cloned().collect();
                if running.is_empty() {
                    continue;
                }
                let spill = move || running.iter().for_each(|live| live.log.spill_if_older(FLUSH));
                let _ = tokio::task::spawn_blocking(spill).await;
            }
        });
        let node = self.clone();
        tokio::spawn(async move {
            let mut due = tokio::time::interval(EXPIRE);
            loop {
                due.tick().await;
                if let Err(e) = crate::ops::state::expire(node.vyr()).await {
                    tracing::warn!(error = %e, "states whose time is over could not be removed");
                }
            }
        });
        let node = self.clone();
        tokio::spawn(async move {
            let mut due = tokio::time::interval(FORGET);
            loop {
                due.tick().await;
                if let Err(e) = node.forget_old().await {
                    tracing::warn!(error = %e, "ended tasks could not be forgotten");
                }
            }
        });
    }

    /// Forgets what ended longer ago than is kept, and the oldest of what is more than is kept.
    ///
    /// # Errors
    /// What the database fails with; what was forgotten by then stays so.
    pub(super) async fn forget_old(&self) -> crate::error::Result<usize> {
        let options = &self.inner.options;
        let before = SystemTime::now().checked_sub(options.keep_for).map_or(0, micros);
        let below = self.inner.db.place_of_newest(options.keep_tasks).await?;
        let mut forgotten = 0;
        loop {
            let gone = self.inner.db.forget(before, below, AT_ONCE).await?;
            forgotten += gone.len();
            let files: Vec<_> = gone.iter().filter(|g| g.log_elsewhere).map(|g| self.log_path(g.id)).collect();
            if !files.is_empty() {
                let remove = move || files.iter().for_each(|path| drop(std::fs::remove_file(path)));
                let _ = tokio::task::spawn_blocking(remove).await;
            }
            if gone.len() < AT_ONCE as usize {
                return Ok(forgotten);
            }
        }
    }
}
