//! Owns the operations on states: created, bound, listed, removed; given to a run and taken back; sealed, pushed, pulled.

mod history;
mod pull;
mod remote;
mod seal;
mod sync;

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{parse_reference, repository_of};
use crate::ops::Vyr;
use crate::state::{Bound, DEFAULT_QUOTA_BYTES, NewState, State, StateClass, StateKind, check_alias};

pub use history::ForkAt;
pub use pull::{Lost, PullReport, PullRequest, PullTo, Pulled, pull};
pub use seal::{seal, seal_changes, seal_while_running, writer_id};
pub use sync::{SyncReport, drain, sync};

/// A state to be created, as it was asked for.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Its name.
    pub name: String,
    /// What it promises.
    pub class: StateClass,
    /// What it holds.
    pub kind: StateKind,
    /// The most that it may hold, in bytes; 0 for [`DEFAULT_QUOTA_BYTES`].
    pub quota_bytes: u64,
    /// How long it lives.
    pub time_to_live: Option<Duration>,
    /// For `synced`: `host[:port]/repository`.
    pub target: Option<String>,
}

/// Creates a state.
///
/// # Errors
/// [`ErrorKind::Usage`] for what can't be; [`ErrorKind::Conflict`] for a name that is taken.
pub async fn create(vyr: &Vyr, request: CreateRequest) -> Result<State> {
    let name = request.name.parse()?;
    let usage = |why: &str, hint: &str| Err(Error::new(ErrorKind::Usage, why).hint(hint));
    match (request.class, &request.target) {
        (StateClass::Synced, None) => {
            return usage("a synced state needs a repository to sync to", "name one, as in host:5000/readings");
        }
        (StateClass::Synced, Some(target)) => {
            if repository_of(&parse_reference(target)?) != *target {
                return usage(
                    "a sync target is a whole repository name, without tag or digest",
                    "write host:5000/readings",
                );
            }
        }
        (_, Some(_)) => {
            return usage("only a synced state has a sync target", "choose the class synced, or leave it out");
        }
        (_, None) => {}
    }
    if i64::try_from(request.quota_bytes).is_err() {
        return usage("the quota is larger than any disk", "give less than 8 EiB");
    }
    let quota_bytes = if request.quota_bytes == 0 { DEFAULT_QUOTA_BYTES } else { request.quota_bytes };
    let new = NewState {
        name,
        class: request.class,
        kind: request.kind,
        quota_bytes,
        time_to_live: request.time_to_live,
        target: request.target,
    };
    Ok(vyr.states().await?.create(new).await?)
}

/// Binds a state to an artifact, for all its runs.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a state that isn't there; [`ErrorKind::Usage`] for an artifact or alias that can't be.
pub async fn bind(vyr: &Vyr, state: &str, bound: &Bound) -> Result<State> {
    check_alias(&bound.alias)?;
    parse_reference(&bound.artifact)?;
    let states = vyr.states().await?;
    let state = states.get(state).await?;
    states.bind(state.id, bound).await?;
    Ok(state)
}
