//! Owns states: named, quota-limited, expiring pieces of data. What they promise, who may write, how much they hold, and
//! where that lies. It knows no tasks and no registries.
//!
//! ```text
//! HOME/db/state.sqlite       which states there are, and which artifacts get which
//! HOME/state/<id>/
//!     data/                  what guests see as /state/<alias>
//!     tasks/<task>/          the same for class `task`: a folder for each task
//!     journal                for kind `kv`: what was set and may not be in data/ yet
//!     journal.old            the same, from before, while it is forced to disk in data/
//!     sealing/               for class `synced`: what was sealed, or is to be, and isn't pushed
//!     pushed/                what was pushed and is kept, as far as there is room for it
//!     index                  how the files looked when they were last sealed
//!     seal.lock              locked by who seals
//!     sync.lock              locked by who pushes
//!     clean                  how much data/ holds; there only while nobody may be writing
//!     writer.lock            locked by who may write
//!     users.lock             locked (shared) by all who have it bound
//! ```

use std::fmt;
use std::str::FromStr;
use std::time::SystemTime;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};

mod chain;
mod changeset;
mod db;
mod digest;
mod error;
mod folder;
mod handle;
mod index;
mod inside;
mod kv;
mod lock;
mod outbox;
mod outside;
mod pushed;
mod sealed;
mod segment;
mod usage;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_synced;

pub use chain::{Chain, Fork};
pub use changeset::{Applied, OUTBOX, Target};
pub(crate) use db::MIGRATIONS;
pub use db::{Bound, NewState, States};
pub use digest::content_digest;
pub use error::StateError;
pub use folder::{Flusher, Folder};
pub use handle::{Mode, OnBusy, StateHandle};
pub use inside::{Inside, kind as kind_of};
pub use kv::{KvStore, MAX_VALUE_BYTES, Seen};
pub use outbox::ChangesSealed;
pub use outside::{Outside, SentBefore};
pub use pushed::{Drain, Held, Pending};
pub use segment::{BASE_TYPE, Base, LAYER_TYPE, SEGMENT_TYPE, Segment, SegmentKind, SyncTag, WriterId};
pub use usage::{Full, Usage};

/// What a state may hold where its creation doesn't say, in bytes.
pub const DEFAULT_QUOTA_BYTES: u64 = 64 << 20;

/// The identity of a state: a UUID of version 7 (RFC 9562, section 5.7).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateId(uuid::Uuid);

impl StateId {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7())
    }

    /// The 16 bytes that are kept on disk.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// From what is kept on disk; `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        uuid::Uuid::from_slice(bytes).ok().map(Self)
    }

    /// From its text; `None` for anything else, as a name is.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // Only the form that is printed: a name may look like the others.
        uuid::Uuid::try_parse(text).ok().map(Self).filter(|id| id.to_string() == text)
    }
}

impl Default for StateId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for StateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a state promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StateClass {
    /// A folder for each task, gone with it.
    Task,
    /// Durable on this node, one writer at a time.
    Node,
    /// As `Node`, and sealed segments are pushed to a repository when it can be reached: each once, in order, verified.
    Synced,
}

impl StateClass {
    /// A stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Task => "task",
            Self::Node => "node",
            Self::Synced => "synced",
        }
    }

    /// As it is kept on disk.
    fn number(self) -> i64 {
        match self {
            Self::Task => 1,
            Self::Node => 2,
            Self::Synced => 3,
        }
    }

    fn from_number(number: i64) -> Option<Self> {
        [Self::Task, Self::Node, Self::Synced].into_iter().find(|class| class.number() == number)
    }
}

/// What a state holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StateKind {
    /// Files and folders.
    Files,
    /// Keys and values: each a file of the folder too, and to be had by `wasi:keyvalue`.
    Kv,
}

impl StateKind {
    /// A stable word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Kv => "kv",
        }
    }

    fn number(self) -> i64 {
        match self {
            Self::Files => 1,
            Self::Kv => 2,
        }
    }

    fn from_number(number: i64) -> Option<Self> {
        [Self::Files, Self::Kv].into_iter().find(|kind| kind.number() == number)
    }
}

/// The name of a state on its node: lower-case letters, digits, `-`, `_` and `.`, at most 63 bytes, beginning with a
/// letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StateName(String);

impl StateName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'))
        // One that looks like an id would be one.
        && StateId::parse(text).is_none()
}

impl FromStr for StateName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if is_name(text) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::new(ErrorKind::Usage, format!("`{}` can't name a state", text.escape_debug())).hint(
            "a name has lower-case letters, digits, `-`, `_` and `.`, at most 63 bytes, and begins with a letter or digit",
        ))
    }
}

/// The name under which a guest sees a state, `/state/<alias>`: as a [`StateName`].
///
/// # Errors
/// [`ErrorKind::Usage`] for one that can't be.
pub fn check_alias(alias: &str) -> Result<()> {
    if is_name(alias) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Usage, format!("`{}` can't be an alias", alias.escape_debug())).hint(
        "an alias has lower-case letters, digits, `-`, `_` and `.`, at most 63 bytes, and begins with a letter or digit",
    ))
}

/// One state, as it was created.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its identity.
    pub id: StateId,
    /// Its name on this node.
    pub name: String,
    /// What it promises.
    pub class: StateClass,
    /// What it holds.
    pub kind: StateKind,
    /// The most that it may hold, in bytes.
    pub quota_bytes: u64,
    /// When it was made.
    pub created: SystemTime,
    /// When it goes.
    pub expires: Option<SystemTime>,
    /// For `synced`: `host[:port]/repository`.
    pub target: Option<String>,
    /// What it held when the last writer let go of it, in bytes.
    pub used_bytes: u64,
}

impl State {
    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|at| at <= now)
    }
}

/// Runs file-system work off the async threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down.
            Err(_) => std::future::pending().await,
        },
    }
}
