//! Owns a state as it is told to clients.

use std::collections::HashMap;
use std::time::SystemTime;

use vyr_proto::v0::{self, ArtifactBinding};

use crate::error::Result;
use crate::ops::Vyr;
use crate::state::{Bound, Chain, Pending, State, StateClass, StateId, StateKind};
use crate::task::{micros, timestamp};

/// A state with all that is known of it.
///
/// # Errors
/// [`crate::ErrorKind::NotFound`].
pub async fn show(vyr: &Vyr, state: &str) -> Result<v0::State> {
    let states = vyr.states().await?;
    let state = states.find(state).await?;
    let bindings = states.bindings(state.id).await?;
    let synced = if state.class == StateClass::Synced {
        Some((states.chain(state.id).await?, states.pending(state.id).await?))
    } else {
        None
    };
    Ok(told(&state, bindings, synced))
}

/// A page of states in the order of their names, after `after`, and where the next page begins.
///
/// # Errors
/// The database's.
pub async fn list(vyr: &Vyr, after: &str, most: u32) -> Result<(Vec<v0::State>, Option<String>)> {
    let states = vyr.states().await?;
    let mut page = states.list(after, most.saturating_add(1)).await?;
    let full = usize::try_from(most).unwrap_or(usize::MAX);
    let more = page.len() > full;
    page.truncate(full);
    let (Some(first), Some(last)) = (page.first(), page.last()) else { return Ok((Vec::new(), None)) };
    let mut bindings: HashMap<StateId, Vec<Bound>> = HashMap::new();
    if states.may_bind() {
        for (id, bound) in states.bindings_between(&first.name, &last.name).await? {
            bindings.entry(id).or_default().push(bound);
        }
    }
    let mut chains = HashMap::new();
    if page.iter().any(|state| state.class == StateClass::Synced) {
        chains = states.chains_between(&first.name, &last.name).await?;
    }
    let next = more.then(|| last.name.clone());
    let told =
        page.iter().map(|state| told(state, bindings.remove(&state.id).unwrap_or_default(), chains.remove(&state.id)));
    Ok((told.collect(), next))
}

fn told(state: &State, bindings: Vec<Bound>, synced: Option<(Chain, Pending)>) -> v0::State {
    let (chain, pending) = synced.unzip();
    let pending = pending.unwrap_or_default();
    let time = |time: SystemTime| timestamp(micros(time));
    v0::State {
        id: state.id.to_string(),
        name: state.name.clone(),
        class: class(state.class).into(),
        quota_bytes: state.quota_bytes,
        used_bytes: state.used_bytes,
        created_at: Some(time(state.created)),
        expires_at: state.expires.map(time),
        sync_target: state.target.clone().unwrap_or_default(),
        kind: kind(state.kind).into(),
        bindings: bindings
            .into_iter()
            .map(|bound| ArtifactBinding { artifact: bound.artifact, alias: bound.alias, read_only: bound.read_only })
            .collect(),
        segments_sealed: chain.as_ref().map_or(0, |chain| chain.sealed_seq),
        segments_pending: pending.segments,
        pending_bytes: pending.bytes,
        synced_at: chain.as_ref().and_then(|chain| chain.synced).map(time),
        sync_error: chain.as_ref().and_then(|chain| chain.error.clone()).unwrap_or_default(),
        forks: chain
            .map(|chain| chain.forks)
            .unwrap_or_default()
            .into_iter()
            .map(|fork| v0::Fork { writer: fork.writer.to_string(), after: fork.after })
            .collect(),
    }
}

/// The class as the interface has it.
#[must_use]
pub fn class(class: StateClass) -> v0::StateClass {
    match class {
        StateClass::Task => v0::StateClass::Task,
        StateClass::Node => v0::StateClass::Node,
        StateClass::Synced => v0::StateClass::Synced,
    }
}

/// The kind as the interface has it.
#[must_use]
pub fn kind(kind: StateKind) -> v0::StateKind {
    match kind {
        StateKind::Files => v0::StateKind::Files,
        StateKind::Kv => v0::StateKind::Kv,
    }
}
