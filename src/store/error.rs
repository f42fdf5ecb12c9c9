//! Owns what can go wrong in the store, and which kind of failure each is.

use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, LATER_VERSION_HINT};
use crate::oci::Digest;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The file system said no.
    #[error("can't {action} {}: {source}", path.display())]
    Io {
        /// What was done, as a verb.
        action: &'static str,
        /// To which file or folder.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
        /// The bytes that were free there, when it was full.
        free: Option<u64>,
    },
    /// The database said no.
    #[error("the store's database {} failed: {}", path.display(), plain_sql(source))]
    Database {
        /// The database file.
        path: PathBuf,
        /// Why it failed.
        source: sqlx::Error,
    },
    /// A later version has changed the database.
    #[error("the store's database {} is of a later version of vyr", path.display())]
    Later {
        /// The database file.
        path: PathBuf,
    },
    /// A write to a store that was opened for reading.
    #[error("the store {} can only be read", home.display())]
    ReadOnly {
        /// The home folder.
        home: PathBuf,
    },
    /// No such blob.
    #[error("the store has no blob {0}")]
    NoBlob(Digest),
    /// No such manifest or tag.
    #[error("the store has no artifact {0}")]
    NoArtifact(String),
    /// A manifest names a blob that isn't there.
    #[error("manifest {manifest} names blob {blob}, which is not in the store")]
    MissingBlob {
        /// The manifest.
        manifest: Digest,
        /// What it names.
        blob: Digest,
    },
    /// Content isn't what its digest says.
    #[error("the digest of {what} is {found}, not {wanted}")]
    Mismatch {
        /// Which content.
        what: String,
        /// The digest asked for.
        wanted: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// Content isn't as long as was said.
    #[error("{what} has {found} bytes, not {wanted}")]
    WrongSize {
        /// Which content.
        what: String,
        /// The size that was said, in bytes.
        wanted: u64,
        /// The size that is, in bytes.
        found: u64,
    },
    /// Content is longer than allowed.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// Which content.
        what: String,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A digest algorithm that isn't accepted.
    #[error("the digest algorithm of {0} is not accepted")]
    Algorithm(Digest),
    /// Not a manifest that can be stored.
    #[error("{what} is not a usable manifest: {why}")]
    Manifest {
        /// Its digest.
        what: Digest,
        /// What is wrong with it.
        why: String,
    },
    /// A tag that no OCI tool could name.
    #[error("`{0}` can't name an artifact")]
    BadName(String),
    /// A prefix of a digest that isn't hexadecimal.
    #[error("`{0}` is not the beginning of a digest")]
    BadPrefix(String),
    /// Not an OCI image layout.
    #[error("{} is not an OCI image layout: {why}", path.display())]
    Layout {
        /// The folder or tar.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A layout archive with an entry that has no place in one.
    #[error("the archive {} has an entry `{entry}` that is {why}", path.display())]
    Archive {
        /// The tar.
        path: PathBuf,
        /// The entry's path, made printable.
        entry: String,
        /// What it is.
        why: &'static str,
    },
    /// A layout holds several artifacts and none was named.
    #[error("{} holds several artifacts: {}", path.display(), names.join(", "))]
    Ambiguous {
        /// The folder or tar.
        path: PathBuf,
        /// Names, or digests of what has none; at most some 20.
        names: Vec<String>,
    },
    /// A layout has nothing under that name.
    #[error("{} holds no {wanted}", path.display())]
    NotInLayout {
        /// The folder or tar.
        path: PathBuf,
        /// What was asked for.
        wanted: String,
        /// What there is.
        names: Vec<String>,
    },
    /// A background thread died.
    #[error("a storage task ended early: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl StoreError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| {
            // Asked now: what failed is removed next, and then there's room again.
            let full = matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            let free = full.then(|| free_bytes(path)).flatten();
            Self::Io { action, path: path.to_owned(), source, free }
        }
    }

    /// Whether the file system refuses writes altogether, rather than this one.
    pub(super) fn refuses_writes(&self) -> bool {
        matches!(self, Self::Io { source, .. } if matches!(source.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied))
    }

    /// The store's error inside an [`io::Error`] that [`BlobWriter`](super::BlobWriter) gave out through [`io::Write`],
    /// or the error of `path` itself.
    #[must_use]
    pub fn from_write(error: io::Error, path: &Path) -> Self {
        match error.downcast::<Self>() {
            Ok(own) => own,
            Err(source) => Self::io("write", path)(source),
        }
    }

    fn kind(&self) -> ErrorKind {
        match self {
            Self::Io { .. } | Self::Database { .. } | Self::Later { .. } | Self::ReadOnly { .. } => ErrorKind::Storage,
            Self::NoBlob(_) | Self::NoArtifact(_) | Self::MissingBlob { .. } | Self::NotInLayout { .. } => {
                ErrorKind::NotFound
            }
            Self::Mismatch { .. }
            | Self::WrongSize { .. }
            | Self::TooLarge { .. }
            | Self::Algorithm(_)
            | Self::Archive { .. } => ErrorKind::Refused,
            Self::Manifest { .. } | Self::Layout { .. } => ErrorKind::InvalidContent,
            Self::BadName(_) | Self::BadPrefix(_) | Self::Ambiguous { .. } => ErrorKind::Usage,
            Self::Task(_) => ErrorKind::Internal,
        }
    }

    fn next(&self) -> Option<String> {
        Some(match self {
            Self::Io { path, source, free, .. } => return io_hint(path, source, *free),
            Self::Database { path, source } => return database_hint(path, source),
            Self::Later { .. } => LATER_VERSION_HINT.into(),
            Self::ReadOnly { .. } => "use a data folder that this user can write, by --home or VYR_HOME".into(),
            Self::NoBlob(_) | Self::NoArtifact(_) => {
                "pull or import it first; `vyr artifacts` lists what is there".into()
            }
            Self::MissingBlob { .. } => {
                "put the manifest's blobs before the manifest, or pull the artifact again".into()
            }
            Self::Mismatch { .. } | Self::WrongSize { .. } => {
                "the content was altered or damaged; get it again from a source you trust".into()
            }
            Self::TooLarge { .. } => "get the content from a source that keeps to the limit".into(),
            Self::Algorithm(_) => "name the content by sha256 or sha512".into(),
            Self::Archive { .. } => "nothing was read from it; an OCI layout holds plain files and folders only".into(),
            Self::BadName(_) => "write it as host[:port]/repository:tag".into(),
            Self::BadPrefix(_) => "give hexadecimal digits".into(),
            Self::Ambiguous { .. } => "name one of them: oci:PATH:NAME or oci:PATH@DIGEST".into(),
            Self::NotInLayout { names, .. } if !names.is_empty() => format!("it holds {}", names.join(", ")),
            Self::Manifest { .. } | Self::Layout { .. } | Self::NotInLayout { .. } | Self::Task(_) => return None,
        })
    }
}

fn io_hint(path: &Path, source: &io::Error, free: Option<u64>) -> Option<String> {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let free = free.map_or(String::new(), |n| format!(" ({n} bytes were free there)"));
            let folder = path.parent().unwrap_or(path);
            Some(format!("make room on the disk of {}{free}: `vyr gc` removes what nothing needs", folder.display()))
        }
        // It may be a layout anywhere.
        io::ErrorKind::PermissionDenied => Some(format!("give this user access to {}", path.display())),
        _ => crate::error::io_hint(path, source),
    }
}

/// What the database itself says, which may be below what was done with it.
fn database_error(source: &sqlx::Error) -> Option<&dyn sqlx::error::DatabaseError> {
    match source {
        sqlx::Error::Migrate(e) => match &**e {
            sqlx::migrate::MigrateError::Execute(e) | sqlx::migrate::MigrateError::ExecuteMigration(e, _) => {
                database_error(e)
            }
            _ => None,
        },
        source => source.as_database_error(),
    }
}

fn plain_sql(source: &sqlx::Error) -> String {
    database_error(source).map_or_else(|| source.to_string(), |e| e.message().to_owned())
}

fn database_hint(path: &Path, source: &sqlx::Error) -> Option<String> {
    // https://www.sqlite.org/rescode.html: the primary code is the lowest byte.
    let code = database_error(source)?.code()?.parse::<u32>().ok()? & 0xff;
    match code {
        5 | 6 => Some("another process holds it; try again".into()),
        8 | 14 | 3 => Some(format!("give this user access to {}", path.display())),
        13 => {
            let free = free_bytes(path).map_or(String::new(), |n| format!(" ({n} bytes are free there)"));
            Some(format!("make room on the disk of {}{free}", path.display()))
        }
        11 | 26 => Some(crate::sqlite::DAMAGED_HINT.into()),
        _ => None,
    }
}

/// Bytes free to this user on the disk of `path`, or of the nearest folder above it that exists.
fn free_bytes(path: &Path) -> Option<u64> {
    path.ancestors().find_map(|p| rustix::fs::statvfs(p).ok()).map(|s| s.f_bavail.saturating_mul(s.f_frsize))
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let out = Self::new(error.kind(), &error);
        match error.next() {
            Some(hint) => out.hint(hint),
            None => out,
        }
    }
}
