//! Owns why an image could not be unpacked: the public error with its layer and entry, and the faults that become it.

use std::io;

use super::budget::Limit;

/// Why an image could not be unpacked. Paths are those of the archive; bytes that aren't UTF-8 are replaced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The disk's own, at the snapshots' own folders.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A diff id that isn't `sha256:` and 64 lower-case hexadecimal digits.
    #[error("diff id {0:?} isn't a sha256 digest")]
    BadDiffId(String),
    /// A layer of a kind that can't be unpacked.
    #[error("layer {layer}: can't unpack media type {media_type:?}: {why}")]
    MediaType {
        /// The layer's digest.
        layer: String,
        /// What it says it is.
        media_type: String,
        /// Why not.
        why: &'static str,
    },
    /// The layer's bytes can't be read or decompressed, or end too early.
    #[error("layer {layer}: reading it{}: {source}", after(path))]
    Read {
        /// The layer's digest.
        layer: String,
        /// The last entry that was begun.
        path: Option<String>,
        /// What happened.
        source: io::Error,
    },
    /// The archive isn't well-formed.
    #[error("layer {layer}: not a well-formed tar archive{}: {why}", after(path))]
    Archive {
        /// The layer's digest.
        layer: String,
        /// The last entry that was begun.
        path: Option<String>,
        /// What is wrong.
        why: &'static str,
    },
    /// An entry that no image should have.
    #[error("layer {layer}: entry {path:?} is refused: {why}")]
    Refused {
        /// The layer's digest.
        layer: String,
        /// The entry.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// An entry could not be made.
    #[error("layer {layer}: entry {path:?}: {attempted}: {source}")]
    Entry {
        /// The layer's digest.
        layer: String,
        /// The entry.
        path: String,
        /// What was being done.
        attempted: &'static str,
        /// The disk's own.
        source: io::Error,
    },
    /// The image is larger than it may be.
    #[error("layer {layer}: the image has more than the limit of {limit}{}", after(path))]
    Limit {
        /// The layer's digest.
        layer: String,
        /// The last entry that was begun.
        path: Option<String>,
        /// Which limit, and how much it allows.
        limit: Limit,
    },
    /// Whoever asked for it doesn't want it any more.
    #[error("unpacking was stopped")]
    Stopped,
    /// The layer isn't what the image's config says.
    #[error("layer {layer}: its content is {actual}, the image's config says {expected}")]
    DiffId {
        /// The layer's digest.
        layer: String,
        /// The diff id of the config.
        expected: String,
        /// What it is.
        actual: String,
    },
}

fn after(path: &Option<String>) -> String {
    path.as_ref().map(|path| format!(" at entry {path:?}")).unwrap_or_default()
}

/// So much of an entry's name is told, in bytes at its beginning and at its end.
const TOLD: usize = 200;

/// A name of any length as a message can hold it, with what is said of it behind.
fn told(path: &[u8]) -> String {
    let ends =
        path.split_first_chunk::<TOLD>().and_then(|(begin, rest)| Some((begin, rest.split_last_chunk::<TOLD>()?.1)));
    match ends {
        Some((begin, end)) if path.len() > 2 * TOLD => {
            format!("{}…{}", String::from_utf8_lossy(begin), String::from_utf8_lossy(end))
        }
        _ => String::from_utf8_lossy(path).into_owned(),
    }
}

/// A fault, before it is known where.
#[derive(Debug)]
pub(crate) enum Fault {
    Stream(io::Error),
    Archive(&'static str),
    Refused(&'static str),
    Disk { attempted: &'static str, source: io::Error },
    Limit(Limit),
    Stopped,
}

impl Fault {
    /// Says in which layer and at which entry.
    pub(super) fn at(self, layer: &str, path: Option<&[u8]>) -> UnpackError {
        let layer = layer.to_owned();
        let path = path.map(told);
        match self {
            Self::Stream(source) => UnpackError::Read { layer, path, source },
            Self::Archive(why) => UnpackError::Archive { layer, path, why },
            Self::Refused(why) => UnpackError::Refused { layer, path: path.unwrap_or_default(), why },
            Self::Disk { attempted, source } => {
                UnpackError::Entry { layer, path: path.unwrap_or_default(), attempted, source }
            }
            Self::Limit(limit) => UnpackError::Limit { layer, path, limit },
            Self::Stopped => UnpackError::Stopped,
        }
    }
}

/// Names what was being done when the disk refused.
pub(super) trait Attempted<T> {
    fn attempted(self, what: &'static str) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> Attempted<T> for Result<T, E> {
    fn attempted(self, what: &'static str) -> Result<T, Fault> {
        self.map_err(|e| Fault::Disk { attempted: what, source: e.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_of_any_length_leaves_room_for_what_is_said_of_it() {
        let at =
            |name: &[u8]| Fault::Refused("it lies more than 256 folders deep").at("sha256:1", Some(name)).to_string();
        let long = at(&b"d/".repeat(10_000));
        assert!(long.len() < 600 && long.ends_with("is refused: it lies more than 256 folders deep"), "{long}");
        let name = "n".repeat(2 * TOLD);
        assert_eq!(
            at(name.as_bytes()),
            format!("layer sha256:1: entry {name:?} is refused: it lies more than 256 folders deep")
        );
    }
}
