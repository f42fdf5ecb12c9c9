//! Owns the lock that makes a data folder one node's.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{FlockOperation, flock};

use crate::config::Home;
use crate::error::{Error, ErrorKind, Result};

/// The right to serve a data folder, held while it lives.
#[derive(Debug)]
#[must_use]
pub struct Lock(#[expect(dead_code, reason = "the lock is the open file's")] File);

impl Lock {
    /// Takes the lock, and writes into it who holds it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] with the holder; [`ErrorKind::Storage`] when the file can't be made.
    pub fn acquire(home: &Home) -> Result<Self> {
        acquire(home).map(Self)
    }
}

fn acquire(home: &Home) -> Result<File> {
    let path = home.node_lock();
    let failed = |e: std::io::Error| Error::unwritable(&path, &e);
    std::fs::create_dir_all(home.root()).map_err(failed)?;
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    if let Err(e) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if e != rustix::io::Errno::WOULDBLOCK {
            return Err(failed(e.into()));
        }
        let mut holder = String::new();
        let _ = file.read_to_string(&mut holder);
        let holder = holder.trim();
        let who = if holder.is_empty() { "another process".to_owned() } else { format!("the process {holder}") };
        return Err(Error::new(ErrorKind::Conflict, format!("{} is served by {who} already", home.root().display()))
            .hint("it may be used as it is (`vyr tasks` asks it); or end it first, or give this one another folder with --home"));
    }
    let holder = std::process::id().to_string();
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(holder.as_bytes())).map_err(failed)?;
    Ok(file)
}
