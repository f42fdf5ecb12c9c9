//! Owns `audit.jsonl`: one line for each time the trust policy was gone round on purpose.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
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
    refusal: &'a str,
}

/// Records that `verb` went on although the policy refused, before it goes on.
///
/// # Errors
/// [`ErrorKind::Storage`]: what can't be recorded doesn't happen.
pub(super) fn unsigned(vyr: &Vyr, verb: &str, reference: &str, digest: &Digest, refusal: &str) -> Result<()> {
    let path = vyr.config().home.audit_file();
    let line = Line {
        time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
        what: "allow-unsigned",
        verb,
        reference,
        digest: digest.to_string(),
        uid: rustix::process::getuid().as_raw(),
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
