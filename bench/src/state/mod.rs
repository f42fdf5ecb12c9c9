//! Owns what is measured of states, in process: engine and states as a node has them, without its transport.

mod folder;
mod kv;
mod list;

use anyhow::Result;
use clap::ValueEnum;
use tokio::runtime::Builder;

use super::stage::Stage;

/// One of the measurements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// Sets and gets by `wasi:keyvalue` from inside a component
    Kv,
    /// A guest's own reads and writes in a state and in a plain folder
    Folder,
    /// Listings of 10,000 states
    List,
}

pub(crate) fn measure(stage: &Stage, only: Option<Only>) -> Result<()> {
    let wanted = |part| only.is_none_or(|only| only == part);
    if wanted(Only::Kv) {
        Builder::new_current_thread().enable_all().build()?.block_on(kv::measure(stage))?;
    }
    if wanted(Only::Folder) {
        Builder::new_current_thread().enable_all().build()?.block_on(folder::measure(stage))?;
    }
    if wanted(Only::List) {
        Builder::new_current_thread().enable_all().build()?.block_on(list::measure(stage))?;
    }
    Ok(())
}
