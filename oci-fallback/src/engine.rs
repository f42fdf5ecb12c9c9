//! Owns the engines that make a container of a bundle.

use std::path::PathBuf;

/// Which engine is to run a container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Choice {
    /// The library, in the keeper's process.
    Libcontainer,
    /// An installed `crun`, `runc` or `youki`.
    Installed(PathBuf),
}
