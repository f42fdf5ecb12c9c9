//! Owns the end of a node: no more submits, running tasks finish within a limit, the rest is cancelled and recorded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use vyr_proto::v0::{EndReason, TaskStatus};

use super::Node;
use super::live::Live;
use crate::store::Lease;

/// How long cancelled guests may take to end and to be recorded, beyond the time that a container has for it.
const CANCEL: Duration = Duration::from_secs(5);

impl Node {
    /// Takes no more submits from now on. Tasks that wait stay on disk for the next start.
    pub fn stop_accepting(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
    }

    /// Ends the node: see [`Node::stop_accepting`]; then running tasks may finish, up to the limit that was set.
    /// Returns how many were cancelled.
    pub async fn stop(&self) -> usize {
        self.stop_accepting();
        Lease::use_no_more();
        let idle = self.until(|node| node.sched().load().0 == 0 && node.started().is_empty());
        if tokio::time::timeout(self.inner.options.drain, idle).await.is_ok() {
            return 0;
        }
        self.inner.stopped.store(true, Ordering::SeqCst);
        let running = self.started();
        let idle = self.until(|node| {
            // First who is about to start: whoever was is among the started then.
            let starting = node.inner.starting.load(Ordering::SeqCst);
            let started = node.started();
            started.iter().for_each(|live| node.cancel_live(live, EndReason::NodeStopped));
            starting == 0 && started.is_empty()
        });
        let grace = running.iter().map(|live| live.stop_grace()).max().unwrap_or_default();
        if tokio::time::timeout(CANCEL + grace, idle).await.is_err() {
            tracing::warn!(tasks = self.started().len(), "guests did not end in time; the next start records them");
        }
        running.len()
    }

    /// The tasks whose guest may be running: those that wait or are being prepared lose nothing.
    fn started(&self) -> Vec<Arc<Live>> {
        self.live().values().filter(|live| live.status() == TaskStatus::Running).cloned().collect()
    }

    async fn until(&self, done: impl Fn(&Self) -> bool) {
        loop {
            let freed = self.inner.freed.notified();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if done(self) {
                return;
            }
            // Starts are not told here; they are looked for.
            drop(tokio::time::timeout(Duration::from_millis(50), freed).await);
        }
    }
}
