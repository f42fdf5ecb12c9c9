//! Owns `audit.jsonl`: one line for each time the trust policy was gone round on purpose.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::Vyr;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Digest;

#[derive(Serialize)]
struct Line<'a> {
    time: String,
    what: &'static str,
    verb: &'a str,
    reference: &'a str,
    digest: String,
    uid: u32,
    /// Who asked for it, where that isn't the user above.
    #[serde(skip_serializing_if = "Option::is_none")]
    submitter: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a str>,
    refusal: &'a str,
}

/// On whose behalf something is done: a node's caller.
#[derive(Debug, Clone)]
pub struct AskedBy {
    /// The credential's name, `uid:<n>`, `certificate:<digits>` or `anonymous`.
    pub submitter: Arc<str>,
    /// The task.
    pub task: String,
}

/// What went on.
#[derive(Debug, Clone, Copy)]
pub struct Deed<'a> {
    /// The verb.
    pub verb: &'a str,
    /// The reference, as it was given.
    pub reference: &'a str,
    /// Who asked for it, where that isn't this process's own user.
    pub asked_by: Option<&'a AskedBy>,
}

/// Records what goes on although the policy refused, before it goes on.
///
/// # Errors
/// [`ErrorKind::Storage`]: what can't be recorded doesn't happen.
pub(super) fn unsigned(vyr: &Vyr, deed: Deed<'_>, digest: &Digest, refusal: &str) -> Result<()> {
    let path = vyr.config().home.audit_file();
    let line = Line {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        what: "allow-unsigned",
        verb: deed.verb,
        reference: deed.reference,
        digest: digest.to_string(),
        uid: rustix::process::getuid().as_raw(),
        submitter: deed.asked_by.map(|by| &*by.submitter),
        task: deed.asked_by.map(|by| &*by.task),
        refusal,
    };
    let failed = |e: std::io::Error| {
        let error = Error::unwritable(&path, &e);
        let why = format!("what goes round the trust policy is recorded first, and {}", error.why());
        Error::new(ErrorKind::Storage, why).hint(error.next().unwrap_or("see `vyr doctor` for the data folder"))
    };
    let mut text = serde_json::to_string(&line).map_err(|e| failed(e.into()))?;
    text.push('\n');
    if let Some(folder) = path.parent() {
        // The first thing that a new data folder is used for may be this.
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    // One write of one line in append mode: lines of several processes don't mix.
    let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).map_err(failed)
}
