//! Owns when what a state's writer made becomes segments: at the writer's end, while it runs, and before a sync.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::engine::CancellationToken;
use crate::error::{Error, ErrorKind, Result};
use crate::ops::sign::machine_key;
use crate::ops::{Vyr, blocking};
use crate::state::{ChangesSealed, Mode, OnBusy, State, StateClass, StateError, StateHandle, WriterId};

/// How often it is looked whether enough changed while a writer runs.
const LOOK: Duration = Duration::from_secs(2);

/// Who this node is to a sync repository.
///
/// # Errors
/// This machine's key can't be read or made.
pub fn writer_id(vyr: &Vyr) -> Result<WriterId> {
    let key = machine_key(&vyr.config().home)?;
    WriterId::of_key(key.key_id())
        .ok_or_else(|| Error::new(ErrorKind::Internal, format!("the key id {} is none", key.key_id())))
}

/// Seals what changed under `handle`, if that is `at_least` so many bytes, and what its guests closed in their outbox. For
/// the end of a writer's task call it with 0 before the release.
///
/// # Errors
/// The disk's, or the database's; nothing is lost then, and the next call finds it.
pub async fn seal_changes(vyr: &Vyr, handle: &Arc<StateHandle>, at_least: u64) -> Result<ChangesSealed> {
    if handle.state().class != StateClass::Synced || handle.read_only() {
        return Ok(ChangesSealed::Nothing);
    }
    let held = Arc::clone(handle);
    let sealed = blocking(move || {
        held.settle()?;
        Ok(held.seal_changes(at_least)?)
    })
    .await;
    // Records don't wait for what is wrong with the other files.
    vyr.states().await?.seal(handle.state(), &writer_id(vyr)?).await?;
    let sealed = sealed?;
    if sealed == ChangesSealed::NoRoom {
        vyr.reporter().warning(&format!(
            "the quota of the state `{}` has no room for a segment of what changed: it is sealed when earlier ones are \
             pushed",
            handle.state().name
        ));
    }
    Ok(sealed)
}

/// Seals by size and age while a writer runs, until it is told to `stop`. What fails is tried again. It is not to be dropped
/// in the middle: what it began would go on while the next writer begins.
pub async fn seal_while_running(vyr: &Vyr, handle: &Arc<StateHandle>, stop: &CancellationToken) {
    let settings = &vyr.config().state;
    let mut sealed_at = Instant::now();
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK.min(settings.seal_after())) => {}
            () = stop.cancelled() => return,
        }
        let due = sealed_at.elapsed() >= settings.seal_after();
        match seal_changes(vyr, handle, if due { 0 } else { settings.seal_bytes() }).await {
            Ok(ChangesSealed::TooLittle) => {}
            Ok(ChangesSealed::Nothing) if !due => {}
            Ok(_) => sealed_at = Instant::now(),
            Err(e) => tracing::warn!(state = handle.state().name, error = %e, "not sealed; it is tried again"),
        }
    }
}

/// Seals everything there is to seal, as far as nobody is writing: a writer that runs seals for itself.
///
/// # Errors
/// The disk's, or the database's.
pub async fn seal(vyr: &Vyr, state: &State) -> Result<()> {
    let states = vyr.states().await?;
    match states.attach(state, "seal", Mode::ReadWrite, OnBusy::Refuse).await {
        Ok(handle) => {
            let sealed = seal_changes(vyr, &handle, 0).await;
            let released = blocking(move || Ok(handle.release()?)).await;
            if let Some(bytes) = released? {
                states.set_used(state.id, bytes).await?;
            }
            // Records don't wait for what is wrong with the other files.
            states.seal(state, &writer_id(vyr)?).await?;
            sealed?;
        }
        Err(StateError::Busy { .. }) => {
            states.seal(state, &writer_id(vyr)?).await?;
        }
        Err(e) => return Err(e.into()),
    }
    Ok(())
}
