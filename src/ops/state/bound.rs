//! Owns the states of one run: found, bound, given to the guest, and let go of when it has ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::engine::{CancellationToken, StateDoor};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{ArtifactRef, Digest, Reference, parse_reference, repository_of};
use crate::ops::Vyr;
use crate::receipt::StateFacts;
use crate::state::{Mode, OnBusy, State, StateClass, StateHandle, States, check_alias};

/// A state that a run asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Its name or id.
    pub state: String,
    /// The guest sees it as `/state/<alias>`.
    pub alias: String,
    /// The guest may only read it.
    pub read_only: bool,
    /// What becomes of the run if another one writes to it.
    pub on_busy: OnBusy,
}

/// The states that a run has. Dropped without [`Bindings::close`], they are as after a crash: nothing is lost.
#[derive(Debug, Default)]
pub struct Bindings {
    doors: Vec<StateDoor>,
    states: Option<States>,
    /// What a receipt says of them, where one is wanted.
    facts: Option<Vec<StateFacts>>,
}

/// The names by which states may be bound to an artifact, the nearer ones last: its repository, the tag that it was asked
/// for by, its digest. None for one that was asked for by its digest alone.
#[must_use]
pub fn artifact_names(reference: &ArtifactRef, root: &Digest) -> Vec<String> {
    let ArtifactRef::Registry(reference) = reference else { return Vec::new() };
    let repository = repository_of(reference);
    let mut names = vec![repository.clone()];
    if let Some(tag) = reference.tag() {
        names.push(format!("{repository}:{tag}"));
    }
    names.push(format!("{repository}@{root}"));
    names
}

/// The one form of an artifact's name that bindings are kept under. A digest says more than a tag.
pub(super) fn bound_name(artifact: &str) -> Result<String> {
    let reference: Reference = parse_reference(artifact)?;
    let repository = repository_of(&reference);
    Ok(match (reference.digest(), reference.tag()) {
        _ if repository == artifact => repository,
        (Some(digest), _) => format!("{repository}@{digest}"),
        (None, Some(tag)) => format!("{repository}:{tag}"),
        (None, None) => repository,
    })
}

/// Checks what can be seen without looking for the states.
///
/// # Errors
/// [`ErrorKind::Usage`], naming the alias.
pub fn check_wishes(wishes: &[Wish]) -> Result<()> {
    for (position, wish) in wishes.iter().enumerate() {
        check_alias(&wish.alias)?;
        if wishes.iter().take(position).any(|other| other.alias == wish.alias) {
            return Err(Error::new(ErrorKind::Usage, format!("two states are to be `{}`", wish.alias)));
        }
    }
    Ok(())
}

impl Bindings {
    /// Binds what `wishes` says and what is bound to the artifact by one of its `names`; a wish goes before that under the
    /// same alias. `task` names the execution.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]: there is no such state. [`ErrorKind::Conflict`]: another one writes to it, and the wish
    /// doesn't wait. [`ErrorKind::Usage`]: the same state is to be written to by two names.
    pub async fn open(vyr: &Vyr, names: &[String], wishes: &[Wish], task: &str) -> Result<Self> {
        let states = vyr.states().await?;
        let mut wanted: BTreeMap<String, (State, Mode, OnBusy)> = BTreeMap::new();
        if states.may_bind() {
            for (state, bound) in states.bound_to(names).await? {
                wanted.insert(bound.alias, (state, mode(bound.read_only), OnBusy::Wait));
            }
        }
        check_wishes(wishes)?;
        for wish in wishes {
            let state = states.get(&wish.state).await?;
            wanted.insert(wish.alias.clone(), (state, mode(wish.read_only), wish.on_busy));
        }
        let mut order: Vec<_> = wanted.into_iter().collect();
        // All runs take writers' rights in one order, so that no two wait for each other.
        order.sort_by_key(|(_, (state, mode, _))| (state.id, *mode == Mode::ReadOnly));
        let twice = order.windows(2).find_map(|pair| match pair {
            [(a, (one, Mode::ReadWrite, _)), (b, (two, Mode::ReadWrite, _))] if one.id == two.id => Some((one, a, b)),
            _ => None,
        });
        if let Some((state, a, b)) = twice.filter(|(state, ..)| state.class != StateClass::Task) {
            return Err(Error::new(
                ErrorKind::Usage,
                format!("the state `{}` is to be written to both as `{a}` and as `{b}`", state.name),
            )
            .hint("bind it once, or once read-only"));
        }
        let mut doors = Vec::with_capacity(order.len());
        for (alias, (state, mode, on_busy)) in order {
            let handle = states.attach(&state, task, mode, on_busy).await?;
            doors.push(StateDoor { alias, handle });
        }
        Ok(Self { doors, states: Some(states.clone()), facts: None })
    }

    /// Looks at what they hold now, before the guest starts, for its receipt.
    ///
    /// # Errors
    /// One can't be read.
    pub async fn look(&mut self) -> Result<()> {
        let mut facts = Vec::with_capacity(self.doors.len());
        for door in &self.doors {
            let handle = Arc::clone(&door.handle);
            let before = crate::ops::blocking(move || Ok(handle.content_before()?)).await.unwrap_or_else(|e| {
                // What a container has closed to others is closed to the node as well, and no reason not to go on with it.
                tracing::warn!(error = %e, "what a state holds could not be read for the receipt");
                None
            });
            let state = door.handle.state();
            facts.push(StateFacts {
                alias: door.alias.clone(),
                name: state.name.clone(),
                id: state.id.to_string(),
                read_only: door.handle.read_only(),
                before,
                after: None,
            });
        }
        self.facts = Some(facts);
        Ok(())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.doors.is_empty()
    }

    /// Whether one of them is synced and written to.
    #[must_use]
    pub fn has_synced(&self) -> bool {
        self.doors.iter().any(|door| door.handle.state().class == StateClass::Synced && !door.handle.read_only())
    }

    /// What the guest is given.
    #[must_use]
    pub fn doors(&self) -> Vec<StateDoor> {
        self.doors.clone()
    }

    /// The states that end with their task.
    pub fn of_the_task(&self) -> impl Iterator<Item = &State> {
        self.doors.iter().map(|door| door.handle.state()).filter(|state| state.class == StateClass::Task)
    }

    /// Seals synced states by size and age while their writer runs, until it is told to `stop`. It is not to be dropped in
    /// the middle.
    pub async fn seal_while_running(&self, vyr: &Vyr, stop: &CancellationToken) {
        let written = self.doors.iter().map(|door| &door.handle);
        let synced = written.filter(|h| h.state().class == StateClass::Synced && !h.read_only());
        futures_util::future::join_all(synced.map(|handle| super::seal_while_running(vyr, handle, stop))).await;
    }

    /// Lets go of them: what was written is on disk when this returns, and others may write. What is returned is for a
    /// receipt, where [`Bindings::look`] was called.
    ///
    /// # Errors
    /// Something could not be forced to disk. All were let go of.
    pub async fn close(&self, vyr: &Vyr) -> Result<Vec<StateFacts>> {
        let Some(states) = &self.states else { return Ok(Vec::new()) };
        let mut facts = self.facts.clone().unwrap_or_default();
        let mut failed = None;
        for (position, door) in self.doors.iter().enumerate() {
            if let Some(facts) = facts.get_mut(position) {
                let handle = Arc::clone(&door.handle);
                facts.after = crate::ops::blocking(move || Ok(handle.content_after()?)).await.unwrap_or_else(|e| {
                    tracing::warn!(state = door.alias, error = %e, "a state's content could not be read for the receipt");
                    None
                });
            }
            if let Err(e) = close(vyr, states, Arc::clone(&door.handle)).await {
                tracing::error!(state = door.alias, error = %e, "a state could not be let go of cleanly");
                failed = failed.or(Some(e));
            }
        }
        failed.map_or(Ok(facts), Err)
    }
}

fn mode(read_only: bool) -> Mode {
    if read_only { Mode::ReadOnly } else { Mode::ReadWrite }
}

async fn close(vyr: &Vyr, states: &States, handle: Arc<StateHandle>) -> Result<()> {
    let sealed = super::seal_changes(vyr, &handle, 0).await;
    let (id, releasing) = (handle.state().id, Arc::clone(&handle));
    let held = crate::ops::blocking(move || Ok(releasing.release()?)).await?;
    // What could not be sealed is found by the next who seals.
    sealed?;
    if let Some(bytes) = held.filter(|bytes| *bytes != handle.state().used_bytes) {
        states.set_used(id, bytes).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_has_its_names() {
        let digest = crate::oci::sha256(b"x");
        let names = |text: &str| artifact_names(&text.parse().unwrap(), &digest);
        assert_eq!(names("h:1/app:v1"), ["h:1/app", "h:1/app:v1", &format!("h:1/app@{digest}")]);
        assert_eq!(names("h:1/app").first().unwrap(), "h:1/app");
        assert!(names(digest.as_ref()).is_empty());
        for (given, kept) in [
            ("h:1/app", "h:1/app".to_owned()),
            ("h:1/app:v1", "h:1/app:v1".to_owned()),
            (&format!("h:1/app:v1@{digest}"), format!("h:1/app@{digest}")),
        ] {
            assert_eq!(bound_name(given).unwrap(), kept);
        }
    }

    #[test]
    fn two_by_one_alias_are_refused() {
        let wish =
            |alias: &str| Wish { state: "x".into(), alias: alias.into(), read_only: true, on_busy: OnBusy::Wait };
        assert!(check_wishes(&[wish("a"), wish("b")]).is_ok());
        assert!(check_wishes(&[wish("a"), wish("a")]).is_err());
        assert!(check_wishes(&[wish("../a")]).is_err());
    }
}
