//! What unit tests share: the real tools, found by asking the script that installs them.

pub(crate) mod crash;

use std::path::PathBuf;
use std::process::Command;

/// The path of a tool by its name in `envs/tools`.
///
/// # Panics
/// When it isn't installed, with the command that installs it: a missing tool is a failure, not a skip.
pub(crate) fn tool(name: &str) -> PathBuf {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/envs/tools");
    let output = Command::new(script).args(["path", name]).output().unwrap_or_else(|e| panic!("{script}: {e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
