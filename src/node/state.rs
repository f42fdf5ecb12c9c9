//! Owns the states of tasks: bound before the guest starts, let go of when it has ended, gone with the task where their
//! class says so.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use tracing::Instrument as _;
use vyr_proto::v0::{OnBusy, TaskSpec, TaskStatus};

use super::Node;
use super::live::Live;
use crate::error::Result;
use crate::ops::prepare::Runnable;
use crate::ops::state::{Bindings, Wish, artifact_names};
use crate::state::{self, StateClass};
use crate::task::TaskId;

/// The states that a submit asks for.
pub(super) fn wishes(spec: &TaskSpec) -> Vec<Wish> {
    spec.states
        .iter()
        .map(|binding| Wish {
            state: binding.state.clone(),
            alias: binding.alias.clone(),
            read_only: binding.read_only,
            on_busy: match binding.on_busy() {
                OnBusy::Refuse => state::OnBusy::Refuse,
                OnBusy::Wait | OnBusy::Unspecified => state::OnBusy::Wait,
            },
        })
        .collect()
}

impl Node {
    /// Binds a task's states, waiting for their writers where it is to.
    pub(super) async fn bind_states(&self, live: &Live, runnable: &Runnable) -> Result<Bindings> {
        if live.spec.states.is_empty() && !self.inner.states.may_bind() {
            return Ok(Bindings::default());
        }
        let span = tracing::info_span!("bind", states = live.spec.states.len());
        let names = live.spec.reference.parse().map(|reference| artifact_names(&reference, &runnable.root))?;
        let task = live.id.to_string();
        let bindings =
            Bindings::open(&self.inner.vyr, &names, &wishes(&live.spec), &task).instrument(span.clone()).await;
        if let Err(e) = &bindings {
            super::trace::failed(&span, e);
        }
        let mut bindings = bindings?;
        if self.inner.receipt_key.is_some() {
            bindings.look().await?;
        }
        let _ = live.own_states.set(bindings.of_the_task().map(|state| state.id).collect());
        Ok(bindings)
    }

    /// Seals a task's synced states by size and age, until the token is cancelled.
    pub(super) fn seal_while_running(&self, bindings: &Arc<Bindings>) -> Option<(CancellationToken, JoinHandle<()>)> {
        if !bindings.has_synced() {
            return None;
        }
        let (node, bindings) = (self.clone(), Arc::clone(bindings));
        let ended = CancellationToken::new();
        let stop = ended.clone();
        let sealing = tokio::spawn(async move { bindings.seal_while_running(&node.inner.vyr, &stop).await });
        Some((ended, sealing))
    }

    /// Lets go of a task's states after an attempt.
    pub(super) async fn let_go_of_states(&self, live: &Live, bindings: Arc<Bindings>) {
        if bindings.is_empty() {
            return;
        }
        match bindings.close(&self.inner.vyr).await {
            Ok(facts) => live.set_state_facts(facts),
            Err(e) => {
                tracing::error!(task = %live.id, error = %e, "what a task wrote to its states may not be on disk");
            }
        }
    }

    /// A task has ended for good: what it had for itself goes.
    pub(super) fn end_own_states(&self, live: &Live) {
        let Some(own) = live.own_states.get().cloned() else {
            // It was bound, if at all, by a node that died: what that left is looked for.
            let bound = !live.spec.states.is_empty() || self.inner.states.may_bind();
            if bound && (live.attempt() > 1 || live.status() == TaskStatus::Lost) {
                let node = self.clone();
                tokio::spawn(async move {
                    if let Err(e) = node.sweep_states().await {
                        tracing::warn!(error = %e, "what tasks left behind could not be removed");
                    }
                });
            }
            return;
        };
        if own.is_empty() {
            return;
        }
        let (states, task) = (self.inner.states.clone(), live.id.to_string());
        tokio::spawn(async move {
            for id in own {
                if let Err(e) = states.end_task(id, &task).await {
                    tracing::warn!(%task, error = %e, "a task's state could not be removed; the next start does it");
                }
            }
        });
    }

    /// Removes what tasks left behind that have ended, or whose process died.
    pub(super) async fn sweep_states(&self) -> Result<()> {
        let open: HashSet<TaskId> = self.live().keys().copied().collect();
        let mut after = String::new();
        loop {
            let page = self.inner.states.list(&after, 1000).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(&last.name);
            for state in page.iter().filter(|state| state.class == StateClass::Task) {
                let open = open.clone();
                let keep = move |task: &str| task.parse::<TaskId>().is_ok_and(|id| open.contains(&id));
                self.inner.states.sweep_tasks(state.id, keep).await?;
            }
        }
    }
}
