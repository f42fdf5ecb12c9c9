//! Owns when a call is tried again: how often, after what pause, until when.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use crate::error::{Error, Result};

/// When a call that failed with [`unavailable`](crate::ErrorKind::Unavailable) or
/// [`exhausted`](crate::ErrorKind::Exhausted) is tried again. The pauses grow by the factor 2, each with as much again of
/// chance at most, and are never shorter than the node asks for.
///
/// The default: 5 tries, pauses from 200 ms up to 5 s, none of which ends later than 60 s after the first failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    tries: u32,
    initial_backoff: Duration,
    max_backoff: Duration,
    deadline: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            tries: 5,
            initial_backoff: Duration::from_millis(200),
            max_backoff: Duration::from_secs(5),
            deadline: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// One try.
    #[must_use]
    pub fn none() -> Self {
        Self { tries: 1, ..Self::default() }
    }

    /// How many tries there are, the first included; 0 counts as 1.
    #[must_use]
    pub fn tries(mut self, tries: u32) -> Self {
        self.tries = tries.max(1);
        self
    }

    /// The pause before the second try.
    #[must_use]
    pub fn initial_backoff(mut self, pause: Duration) -> Self {
        self.initial_backoff = pause;
        self
    }

    /// The longest pause, before chance is added.
    #[must_use]
    pub fn max_backoff(mut self, pause: Duration) -> Self {
        self.max_backoff = pause;
        self
    }

    /// No further try begins later than this after the first failure.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Whether there is more than one try.
    #[must_use]
    pub fn repeats(&self) -> bool {
        self.tries > 1
    }

    fn backoff(&self) -> ExponentialBackoff {
        ExponentialBuilder::new()
            .with_min_delay(self.initial_backoff)
            .with_max_delay(self.max_backoff)
            .without_max_times()
            .with_jitter()
            .build()
    }
}

/// The tries of one call, or of one stream since it last brought something.
#[derive(Debug)]
pub(crate) struct Tries {
    policy: RetryPolicy,
    failed: u32,
    backoff: ExponentialBackoff,
    /// When the first of them failed.
    since: Option<Instant>,
}

impl Tries {
    pub(crate) fn new(policy: RetryPolicy) -> Self {
        Self { policy, failed: 0, backoff: policy.backoff(), since: None }
    }

    /// There was progress: what comes is counted anew.
    pub(crate) fn progress(&mut self) {
        *self = Self::new(self.policy);
    }

    /// Waits for the time of another try after one that failed so; the error, if there is none.
    pub(crate) async fn again(&mut self, error: Error) -> Result<()> {
        self.failed += 1;
        if !error.is_passing() || self.failed >= self.policy.tries {
            return Err(error);
        }
        let pause = self.backoff.next().unwrap_or_default().max(error.retry_after().unwrap_or_default());
        let since = *self.since.get_or_insert_with(Instant::now);
        if since.elapsed().saturating_add(pause) > self.policy.deadline {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn passing() -> Error {
        Error::new(ErrorKind::Unavailable, "stopping")
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_tries_and_their_pauses_are_bounded() {
        let began = Instant::now();
        let mut tries = Tries::new(RetryPolicy::default());
        for _ in 0..4 {
            tries.again(passing()).await.unwrap();
        }
        assert!(tries.again(passing()).await.is_err(), "the fifth was the last");
        let paused = began.elapsed();
        assert!(paused >= Duration::from_secs(3) && paused < Duration::from_secs(6), "{paused:?}");
        tries.progress();
        assert!(tries.again(passing()).await.is_ok(), "progress resets the count");
        assert!(Tries::new(RetryPolicy::none()).again(passing()).await.is_err());
    }

    #[test]
    fn the_default_is_that_of_all_sdks() {
        let names: serde_json::Value = serde_json::from_str(include_str!("../../names.json")).unwrap();
        let shared = &names["retry_policy"];
        let millis = |name: &str| Duration::from_millis(shared[name].as_u64().unwrap());
        let policy = RetryPolicy::default();
        assert_eq!(Some(u64::from(policy.tries)), shared["tries"].as_u64());
        assert_eq!(
            (policy.initial_backoff, policy.max_backoff),
            (millis("initial_backoff_ms"), millis("max_backoff_ms"))
        );
        assert_eq!((policy.deadline, shared["factor"].as_u64()), (millis("deadline_ms"), Some(2)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_deadline_counts_too() {
        let policy = RetryPolicy::default().tries(1000).deadline(Duration::from_secs(20));
        let (mut tries, began) = (Tries::new(policy), Instant::now());
        // A wait that was held long before it broke is tried again all the same.
        tokio::time::sleep(Duration::from_secs(60)).await;
        while tries.again(passing()).await.is_ok() {}
        let tried = began.elapsed() - Duration::from_secs(60);
        assert!(tried <= Duration::from_secs(20) && tried > Duration::from_secs(9), "{tried:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_passes_is_tried_again() {
        for kind in ErrorKind::ALL {
            let again = Tries::new(RetryPolicy::default()).again(Error::new(*kind, "why")).await.is_ok();
            assert_eq!(again, matches!(kind, ErrorKind::Unavailable | ErrorKind::Exhausted), "{kind}");
        }
    }
}
