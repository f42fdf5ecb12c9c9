//! Owns what can go wrong with states.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, LATER_VERSION_HINT, io_hint, is_from_later};

/// A failure of a state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// There is none of that name or id, or its time is over.
    #[error("there is no state `{name}`")]
    NotFound {
        /// The name or id.
        name: String,
    },
    /// The name is taken.
    #[error("there is a state `{name}` already")]
    Exists {
        /// The name.
        name: String,
    },
    /// Somebody writes to it.
    #[error("the state `{name}` has a writer already")]
    Busy {
        /// The name.
        name: String,
    },
    /// Somebody has it bound.
    #[error("the state `{name}` is in use")]
    InUse {
        /// The name.
        name: String,
    },
    /// It is asked for keys and has files.
    #[error("the state `{name}` doesn't hold keys")]
    NotKeys {
        /// The name.
        name: String,
    },
    /// Its binding has ended.
    #[error("the state `{name}` is no longer bound")]
    Ended {
        /// The name.
        name: String,
    },
    /// The file system refused.
    #[error("can't {what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A later version has changed the database.
    #[error("the states' database is of a later version of vyr")]
    Later,
    /// The database refused.
    #[error("the states' database failed: {0}")]
    Db(#[source] sqlx::Error),
    /// What is on disk isn't what was written.
    #[error("the state `{name}` is damaged: {why}")]
    Damaged {
        /// The name.
        name: String,
        /// In what way.
        why: String,
    },
}

impl StateError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

impl From<sqlx::Error> for StateError {
    fn from(error: sqlx::Error) -> Self {
        if is_from_later(&error) { Self::Later } else { Self::Db(error) }
    }
}

impl From<StateError> for Error {
    fn from(error: StateError) -> Self {
        let why = error.to_string();
        match error {
            StateError::NotFound { .. } => Self::new(ErrorKind::NotFound, why)
                .hint("`vyr state ls` lists the states there are, `vyr state create` makes one"),
            StateError::Exists { .. } => {
                Self::new(ErrorKind::Conflict, why).hint("choose another name, or remove that one with `vyr state rm`")
            }
            StateError::Busy { .. } => Self::new(ErrorKind::Conflict, why)
                .hint("wait for it to end, bind the state read-only, or let the task wait for it"),
            StateError::InUse { .. } => {
                Self::new(ErrorKind::Conflict, why).hint("wait until the tasks that have it bound have ended")
            }
            StateError::NotKeys { .. } => Self::new(ErrorKind::Usage, why)
                .hint("only a state that was created with `--kind kv` has keys; read this one as files"),
            StateError::Ended { .. } => Self::new(ErrorKind::Conflict, why),
            StateError::Io { ref source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Self::new(ErrorKind::Exhausted, why).hint("free some space; nothing was lost")
            }
            StateError::Db(sqlx::Error::Database(ref e)) if e.code().is_some_and(|c| c == "13") => {
                Self::new(ErrorKind::Exhausted, why).hint("free some space; nothing was lost")
            }
            StateError::Db(ref e) if crate::sqlite::is_damaged(e) => {
                Self::new(ErrorKind::Storage, why).hint(crate::sqlite::DAMAGED_HINT)
            }
            StateError::Later => Self::new(ErrorKind::Storage, why).hint(LATER_VERSION_HINT),
            StateError::Io { ref path, ref source, .. } => {
                let hint = io_hint(path, source);
                let error = Self::new(ErrorKind::Storage, why);
                match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
            StateError::Db(_) | StateError::Damaged { .. } => Self::new(ErrorKind::Storage, why),
        }
    }
}
