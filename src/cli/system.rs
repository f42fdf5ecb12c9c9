//! `vyr backup`, `vyr completions`, `vyr man`, `vyr version`.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory};
use serde::Serialize;

use super::codes::manual_sections;
use super::print::human;
use super::{Cli, Session};
use crate::error::{Error, ErrorKind, Result};
use crate::ops::backup::backup;

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The folder to make; it must not be there yet, or be empty
    folder: PathBuf,
}

impl Backup {
    pub(super) async fn execute(self, session: &Session) -> Result<u8> {
        let done = backup(&session.vyr, &self.folder)
            .await
            .map_err(|e| e.attempted(format_args!("back up to {}", self.folder.display())))?;
        for path in &done.left_out {
            session.vyr.reporter().warning(&format!("{} can't be read, and is left out", path.display()));
        }
        session.printer.result(&done, || {
            let (files, databases) = (done.files, done.databases.len());
            format!("{}: {files} files, {databases} of them databases, {}", done.folder.display(), human(done.bytes))
        })?;
        Ok(0)
    }
}

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn execute(self, session: &Session) -> Result<u8> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "vyr", &mut script);
        session.printer.line(String::from_utf8_lossy(&script).trim_end())?;
        Ok(0)
    }
}

/// For who makes packages: the verbs' pages are made of the same description as their help.
#[derive(Debug, Args)]
pub(super) struct Man {
    /// The folder to write to: vyr.1, and vyr-VERB.1 for each verb
    folder: PathBuf,
}

impl Man {
    pub(super) fn execute(self, session: &Session) -> Result<u8> {
        std::fs::create_dir_all(&self.folder)
            .and_then(|()| clap_mangen::generate_to(Cli::command(), &self.folder))
            .and_then(|()| end_pages(&self.folder))
            .map_err(|e| {
                Error::new(ErrorKind::Storage, format!("{} can't be written: {e}", self.folder.display()))
                    .attempted("write the manual pages")
            })?;
        session.printer.line(&self.folder.display().to_string())?;
        Ok(0)
    }
}

/// Gives each page the sections that the description of the command line knows nothing of.
fn end_pages(folder: &Path) -> io::Result<()> {
    let sections = manual_sections();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_page = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.strip_suffix(".1").is_some_and(|verb| verb == "vyr" || verb.starts_with("vyr-")));
        if is_page && !std::fs::read_to_string(&path)?.ends_with(&sections) {
            OpenOptions::new().append(true).open(&path)?.write_all(sections.as_bytes())?;
        }
    }
    Ok(())
}

#[derive(Debug, Args)]
pub(super) struct Version {}

#[derive(Serialize)]
struct Versions {
    vyr: &'static str,
    wasmtime: &'static str,
    os: &'static str,
    architecture: &'static str,
}

impl Version {
    pub(super) fn execute(self, session: &Session) -> Result<u8> {
        let versions = Versions {
            vyr: env!("CARGO_PKG_VERSION"),
            wasmtime: crate::engine::WASMTIME,
            os: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
        };
        session.printer.result(&versions, || {
            format!("vyr {} (Wasmtime {}, {}/{})", versions.vyr, versions.wasmtime, versions.os, versions.architecture)
        })?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
