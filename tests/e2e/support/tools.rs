//! Finds the real tools, by asking the script that installs them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// The path of a tool by its name in `envs/tools`.
///
/// # Panics
/// When it isn't installed, with the command that installs it: a missing tool is a failure, not a skip.
pub(crate) fn tool(name: &'static str) -> PathBuf {
    static FOUND: Mutex<Option<HashMap<&'static str, PathBuf>>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let found = found.get_or_insert_with(HashMap::new);
    if let Some(path) = found.get(name) {
        return path.clone();
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/envs/tools");
    let output = Command::new(script).args(["path", name]).output().unwrap_or_else(|e| panic!("{script}: {e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    found.insert(name, path.clone());
    path
}
