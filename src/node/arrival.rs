//! Owns compiling on arrival: what is pushed to the node's registry, put or mirrored is verified and compiled when it comes,
//! so that its first run finds compiled code. Nobody waits for it, and it stays small: so many at once, on as many threads
//! of the lowest priority, nothing above a size, and what finds the queue full is compiled when it is run.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Semaphore, mpsc};

use super::{Node, Options};
use crate::error::{ErrorKind, Result};
use crate::oci::Digest;
use crate::ops::warm::{Arrival, Background, arrived, background};

/// How many arrivals wait.
const WAITING: usize = 1024;

/// One: what came, and the repository (`host[:port]/repository`) as it was named.
type Came = (Digest, Option<String>);

/// Where arrivals are told.
#[derive(Debug)]
pub(super) struct Arrivals {
    queue: mpsc::Sender<Came>,
    /// What waits, so that an artifact and its signatures are one piece of work.
    waiting: Mutex<HashSet<Came>>,
}

/// The other end.
#[derive(Debug)]
pub(super) struct Arriving {
    queue: mpsc::Receiver<Came>,
    on: Background,
}

/// Both ends; none where the options want nothing compiled on arrival.
pub(super) fn queue(options: &Options) -> Result<(Option<Arrivals>, Option<Arriving>)> {
    if !options.compile_on_arrival {
        return Ok((None, None));
    }
    let on = background(options.compile_at_once)?;
    let (queue, end) = mpsc::channel(WAITING);
    Ok((Some(Arrivals { queue, waiting: Mutex::default() }), Some(Arriving { queue: end, on })))
}

impl Arrivals {
    fn waiting(&self) -> std::sync::MutexGuard<'_, HashSet<Came>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Tells that an artifact, or what is about one, has come into the store. Returns at once.
    pub fn arrived(&self, digest: &Digest, repository: Option<&str>) {
        let Some(arrivals) = &self.inner.arrivals else { return };
        let came = (digest.clone(), repository.map(str::to_owned));
        if !arrivals.waiting().insert(came.clone()) {
            return;
        }
        if let Err(full) = arrivals.queue.try_send(came) {
            let (came, full) = match full {
                mpsc::error::TrySendError::Full(came) => (came, true),
                mpsc::error::TrySendError::Closed(came) => (came, false),
            };
            arrivals.waiting().remove(&came);
            tracing::debug!(digest = %came.0, full, "it is not compiled on arrival");
        }
    }

    /// Takes arrivals for as long as the runtime lives.
    pub(super) fn take_arrivals(&self, mut arriving: Arriving) {
        let node = self.clone();
        let options = &self.inner.options;
        let places = Arc::new(Semaphore::new(options.compile_at_once.max(1)));
        let how = Arc::new(Arrival {
            on: arriving.on,
            largest: options.compile_largest,
            compiled_only: options.compiled_only,
        });
        tokio::spawn(async move {
            while let Some(came) = arriving.queue.recv().await {
                let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
                // Before it is looked at: a signature that comes from here on is a new arrival.
                if let Some(arrivals) = &node.inner.arrivals {
                    arrivals.waiting().remove(&came);
                }
                if node.is_stopping() {
                    continue;
                }
                let (node, how) = (node.clone(), Arc::clone(&how));
                tokio::spawn(async move {
                    let _place = place;
                    let (digest, repository) = came;
                    match arrived(node.vyr(), &digest, repository.as_deref(), &how).await {
                        Ok(origin) => tracing::info!(%digest, ?origin, "ready before its first run"),
                        // Not signed yet, most often; or nothing that runs.
                        Err(e) if e.kind() != ErrorKind::Internal => {
                            tracing::debug!(%digest, why = e.why(), "not compiled");
                        }
                        Err(e) => tracing::warn!(%digest, error = %e, "what arrived could not be compiled"),
                    }
                });
            }
        });
    }
}
