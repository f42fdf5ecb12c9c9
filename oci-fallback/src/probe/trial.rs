//! Owns the trial of what only the kernel can tell: a keeper's namespaces and mounts, made in a process of their own and gone
//! with it.

use std::io::Read;
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use crate::keeper;

/// The word after a keeper's name that makes it a trial.
pub(crate) const WORD: &str = "trial";

/// What was tried; the errors are in words.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// Namespaces, and `/proc` in them.
    pub(crate) containers: Result<(), String>,
    /// overlayfs with a file system in memory as its upper folder.
    pub(crate) overlay: Result<(), String>,
}

/// Starts it and takes its answer.
pub(super) fn run(user: bool) -> Trial {
    let failed = |words: String| Trial { containers: Err(words.clone()), overlay: Err(words) };
    if let Err(words) = keeper::ready() {
        return failed(words.into());
    }
    answer(user).unwrap_or_else(|error| failed(error.to_string()))
}

fn answer(user: bool) -> std::io::Result<Trial> {
    use std::os::unix::process::CommandExt;
    let mut child = Command::new("/proc/self/exe")
        .arg0(keeper::NAME)
        .args([WORD, if user { "user" } else { "root" }])
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut text = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut text)?;
    }
    child.wait()?;
    serde_json::from_str(&text).map_err(|error| std::io::Error::other(format!("the trial says {text:?}: {error}")))
}
