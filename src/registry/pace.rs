//! Owns how fast request bodies leave: at most so many bytes a second, evenly, whoever sends them.

use std::num::NonZeroU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::Instant;

use std::sync::Arc;

/// How long the smallest sent piece takes, so that even a slow pace is no sequence of bursts.
const STEP: Duration = Duration::from_millis(50);
/// A request's head isn't counted byte by byte; this is what one has, with the registry's answer to it.
const HEAD: u64 = 512;

/// A pace that all requests of a client share.
#[derive(Debug, Clone)]
pub(super) struct Pace(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    bytes_per_second: NonZeroU64,
    /// When what was allowed so far has left.
    free: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: NonZeroU64) -> Self {
        Self(Arc::new(Inner { bytes_per_second, free: Mutex::default() }))
    }

    /// The most that may leave at once, in bytes.
    fn step(&self) -> usize {
        let bytes = self.0.bytes_per_second.get() * u64::try_from(STEP.as_millis()).unwrap_or(50) / 1000;
        usize::try_from(bytes.clamp(64, 64 << 10)).unwrap_or(64 << 10)
    }

    /// Waits until so many bytes may have left.
    async fn wait(&self, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.0.bytes_per_second.get());
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let until = {
            let mut free = self.0.free.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            // What wasn't used isn't saved up: a pause is followed by no burst.
            let until = free.map_or(now, |free| free.max(now)) + takes;
            *free = Some(until);
            until
        };
        tokio::time::sleep_until(until).await;
    }

    /// A body that leaves at this pace, its request's head included.
    pub(super) fn body(&self, bytes: Bytes) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + use<> {
        let (pace, step) = (self.clone(), self.step());
        let parts: Vec<Bytes> =
            (0..bytes.len()).step_by(step).map(|at| bytes.slice(at..bytes.len().min(at + step))).collect();
        stream::iter(parts.into_iter().enumerate()).then(move |(number, part)| {
            let pace = pace.clone();
            async move {
                let head = if number == 0 { HEAD } else { 0 };
                pace.wait(part.len() as u64 + head).await;
                Ok(part)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_leave_evenly_and_no_faster() {
        let pace = Pace::new(NonZeroU64::new(20_000).unwrap());
        let began = Instant::now();
        let send = |bytes: usize| {
            let pace = pace.clone();
            async move {
                let mut at = Vec::new();
                let mut body = std::pin::pin!(pace.body(Bytes::from(vec![0; bytes])));
                while let Some(part) = body.next().await {
                    at.push((began.elapsed(), part.unwrap().len()));
                }
                at
            }
        };
        let (one, two) = tokio::join!(send(10_000), send(10_000));
        let took = began.elapsed().as_secs_f64();
        assert!((1.0..1.5).contains(&took), "{took}");
        // In no half second more than its share and a step of each.
        let mut all: Vec<_> = one.into_iter().chain(two).collect();
        all.sort();
        for (at, _) in &all {
            let half = all.iter().filter(|(t, _)| t >= at && *t < *at + Duration::from_millis(250));
            let sum: usize = half.map(|(_, bytes)| bytes).sum();
            assert!(sum <= 5_000 + 2 * 1_000 + 1_000, "{sum} from {at:?}");
        }
    }
}
