//! Owns the operations on states: created, bound, listed, removed; given to a run and taken back; sealed, pushed, pulled.

mod bound;
mod history;
mod pull;
mod read;
mod remote;
mod seal;
mod shown;
mod sync;
mod view;

use std::time::{Duration, SystemTime};

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{parse_reference, repository_of};
use crate::ops::Vyr;
use crate::state::{Bound, DEFAULT_QUOTA_BYTES, NewState, State, StateClass, StateError, StateKind, check_alias};

pub use bound::{Bindings, Wish, artifact_names, check_wishes};
pub use history::ForkAt;
pub use pull::{Lost, PullReport, PullRequest, PullTo, Pulled, pull};
pub use read::{Listed, export, files, open};
pub use seal::{seal, seal_changes, seal_while_running, writer_id};
pub use shown::{BindingView, ForkView, StateView, SyncView};
pub use sync::{SyncReport, drain, sync};
pub use view::{class, kind, list, show};

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
    let ends = request.time_to_live.map(|ttl| SystemTime::now().checked_add(ttl));
    if ends.is_some_and(|at| at.is_none_or(|at| at != crate::task::sayable(at))) {
        return usage(
            "its time would end after the year 9999",
            "leave the time to live out: then it stays until it is removed",
        );
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
    // One whose time is over doesn't stand in the way.
    expire(vyr).await?;
    Ok(vyr.states().await?.create(new).await?)
}

/// Removes the states whose time is over. One that is bound goes when it isn't any more, and a synced one when all its records
/// are in its repository: a guest was told that they get there. Returns how many went.
///
/// # Errors
/// The database's and the file system's.
pub async fn expire(vyr: &Vyr) -> Result<usize> {
    let states = vyr.states().await?;
    let mut gone = 0;
    for state in states.expired().await? {
        match states.remove_settled(&state).await {
            Ok(removed) => gone += usize::from(removed),
            Err(StateError::InUse { .. }) => {}
            // The others' time is over as well.
            Err(e) => tracing::warn!(state = state.name, error = %e, "a state whose time is over could not be removed"),
        }
    }
    Ok(gone)
}

/// Removes a state with its data.
///
/// # Errors
/// [`ErrorKind::NotFound`]; [`ErrorKind::Conflict`] while something has it bound.
pub async fn remove(vyr: &Vyr, state: &str) -> Result<()> {
    let states = vyr.states().await?;
    let state = states.find(state).await?;
    Ok(states.remove(&state).await?)
}

/// Binds a state to an artifact, for all its runs.
///
/// # Errors
/// [`ErrorKind::NotFound`] for a state that isn't there; [`ErrorKind::Usage`] for an artifact or alias that can't be.
pub async fn bind(vyr: &Vyr, state: &str, bound: &Bound) -> Result<State> {
    check_alias(&bound.alias)?;
    let bound = Bound { artifact: bound::bound_name(&bound.artifact)?, ..bound.clone() };
    let states = vyr.states().await?;
    let state = states.get(state).await?;
    states.bind(state.id, &bound).await?;
    Ok(state)
}
