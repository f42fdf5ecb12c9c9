//! Owns the pushing of states' segments while a node runs: each state by itself, woken by a seal, patient with a network
//! that isn't there.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::task::JoinSet;

use super::Node;
use crate::error::Result;
use crate::ops::state;
use crate::state::{State, StateId};

/// How often it is looked for what other processes sealed.
const LOOK: Duration = Duration::from_secs(3);
/// The wait after a failure: at random up to this, which doubles from the first to the last.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(300);
/// The least time between two pushes of one state: each begins with a look at what is there.
const PAUSE: Duration = Duration::from_millis(500);
/// States that are pushed at once.
const AT_ONCE: usize = 2;

/// What waits, as the instruments tell it.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    segments: AtomicU64,
    /// When the oldest was sealed, in microseconds since the epoch; 0 for none.
    oldest_us: AtomicI64,
}

impl Waiting {
    /// Segments that wait to be pushed.
    pub(super) fn segments(&self) -> u64 {
        self.segments.load(Ordering::Relaxed)
    }

    /// How long the oldest waits, in whole seconds.
    pub(super) fn lag_seconds(&self) -> u64 {
        let oldest = self.oldest_us.load(Ordering::Relaxed);
        let since = UNIX_EPOCH + Duration::from_micros(oldest.unsigned_abs());
        if oldest == 0 { 0 } else { SystemTime::now().duration_since(since).map_or(0, |lag| lag.as_secs()) }
    }
}

/// When a state is tried again.
#[derive(Debug)]
struct Plan {
    due: Instant,
    waits: ExponentialBackoff,
}

impl Plan {
    fn new() -> Self {
        Self { due: Instant::now(), waits: waits() }
    }

    /// A try failed. Full jitter: many nodes that lost one network don't come back at one time.
    fn later(&mut self) {
        let most = self.waits.next().unwrap_or(LAST_WAIT);
        self.due = Instant::now() + most.mul_f64(fraction());
    }
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::new().with_min_delay(FIRST_WAIT).with_max_delay(LAST_WAIT).without_max_times().build()
}

/// At random from 0 to 1.
fn fraction() -> f64 {
    // Each has random keys of its own.
    let random = u32::try_from(RandomState::new().build_hasher().finish() >> 32).unwrap_or(0);
    f64::from(random) / f64::from(u32::MAX)
}

impl Node {
    /// Pushes what is sealed, and what an earlier process left, for as long as the runtime lives.
    pub(super) fn keep_synced(&self) {
        let node = self.clone();
        tokio::spawn(async move {
            // Those that wait are told at once; a fleet that starts together doesn't push together.
            tokio::time::sleep(FIRST_WAIT.mul_f64(fraction())).await;
            let (mut plans, mut running) = (HashMap::new(), JoinSet::new());
            loop {
                if let Err(e) = node.push_due(&mut plans, &mut running).await {
                    tracing::warn!(error = %e, "the states to be synced could not be looked for");
                }
                let states = match node.vyr().states().await {
                    Ok(states) => states.clone(),
                    Err(_) => return,
                };
                tokio::select! {
                    () = states.sealed() => {}
                    () = tokio::time::sleep(next_look(&plans)) => {}
                    Some(ended) = running.join_next() => ended_one(&mut plans, ended),
                }
            }
        });
    }

    /// Starts the push of each state that something waits of and whose time has come.
    async fn push_due(&self, plans: &mut HashMap<StateId, Plan>, running: &mut JoinSet<(StateId, bool)>) -> Result<()> {
        let states = self.vyr().states().await?;
        let known = states.synced().await?;
        plans.retain(|id, _| known.iter().any(|state| state.id == *id));
        let (mut segments, mut oldest) = (0, None);
        for state in known {
            let pending = states.pending(state.id).await?;
            segments += pending.segments;
            oldest = [oldest, pending.oldest].into_iter().flatten().min();
            // The first look after a start finds what an earlier process left unsealed.
            let first = !plans.contains_key(&state.id);
            let busy = running.len() >= AT_ONCE || self.inner.vyr.config().offline;
            if first && busy {
                // Its first look is still to come.
                continue;
            }
            let plan = plans.entry(state.id).or_insert_with(Plan::new);
            let wanted = first || pending.segments > 0 || states.has_unsealed(state.id).await?;
            if !wanted || plan.due > Instant::now() || busy {
                continue;
            }
            // Until it has ended.
            plan.due = Instant::now() + Duration::from_secs(365 * 24 * 3600);
            let node = self.clone();
            running.spawn(async move {
                let id = state.id;
                let done = node.push(&state, first).await;
                if let Err(e) = &done {
                    tracing::warn!(state = state.name, error = %e, "not synced; it is tried again");
                }
                (id, done.is_ok())
            });
        }
        let waiting = &self.inner.waiting;
        waiting.segments.store(segments, Ordering::Relaxed);
        let oldest = oldest.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let micros = oldest.map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(0));
        waiting.oldest_us.store(micros, Ordering::Relaxed);
        Ok(())
    }

    async fn push(&self, state: &State, first: bool) -> Result<()> {
        let vyr = self.vyr();
        if first {
            state::seal(vyr, state).await?;
        } else {
            // Changed files are their writer's to seal: to look at them takes the right to write, which a task may want.
            vyr.states().await?.seal(state, &state::writer_id(vyr)?).await?;
        }
        // Who else pushes it does what is to be done.
        let Some(right) = vyr.states().await?.drain(state.id)? else { return Ok(()) };
        state::drain(vyr, state, &right).await.map(drop)
    }

    /// What waits to be pushed.
    pub(super) fn waiting(&self) -> &Arc<Waiting> {
        &self.inner.waiting
    }
}

fn next_look(plans: &HashMap<StateId, Plan>) -> Duration {
    let now = Instant::now();
    let soonest =
        plans.values().map(|plan| plan.due.saturating_duration_since(now)).filter(|wait| !wait.is_zero()).min();
    soonest.unwrap_or(LOOK).min(LOOK)
}

fn ended_one(plans: &mut HashMap<StateId, Plan>, ended: std::result::Result<(StateId, bool), tokio::task::JoinError>) {
    match ended {
        // What is sealed meanwhile goes together.
        Ok((id, true)) => {
            plans.insert(id, Plan { due: Instant::now() + PAUSE, waits: waits() });
        }
        Ok((id, false)) => plans.entry(id).or_insert_with(Plan::new).later(),
        Err(e) => {
            tracing::error!(error = %e, "a sync ended in a panic");
            // Whose it was isn't said: all are looked at again, each after its wait.
            plans.values_mut().for_each(Plan::later);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_five_minutes_and_are_spread() {
        let mut plan = Plan::new();
        let mut spread = Vec::new();
        for n in 0..40 {
            plan.later();
            let wait = plan.due.saturating_duration_since(Instant::now());
            assert!(wait <= LAST_WAIT.min(FIRST_WAIT * 2_u32.pow(n.min(9))), "{n}: {wait:?}");
            spread.push(wait);
        }
        spread.sort();
        spread.dedup();
        assert!(spread.len() > 35, "{spread:?}");
        assert!(spread.last().unwrap() > &(LAST_WAIT / 3));
    }
}
