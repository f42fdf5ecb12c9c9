//! `vyr state`.

mod pull;
mod sync;

use clap::Subcommand;

use super::Session;
use crate::error::Result;

#[derive(Debug, Subcommand)]
pub(super) enum State {
    /// Push what is sealed of a synced state, now
    Sync(sync::Sync),
    /// Rebuild a state from its repository alone
    Pull(pull::Pull),
}

impl State {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        match self {
            Self::Sync(verb) => verb.execute(session).await,
            Self::Pull(verb) => verb.execute(session).await,
        }
    }
}
