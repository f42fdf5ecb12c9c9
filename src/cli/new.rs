//! `vyr new`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::Session;
use super::args::Output;
use crate::error::Result;
use crate::ops::new::{Language, new};

#[derive(Debug, Args)]
pub(super) struct New {
    /// What it is written in
    language: Lang,
    /// The folder to make; its last part is the workload's name
    #[arg(value_name = "NAME")]
    folder: PathBuf,
}

/// The languages that there are templates for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Lang {
    /// By cargo: a component, or a module where only wasm32-wasip1 is there
    Rust,
    /// By zig, wasi-sdk or clang: a module
    C,
    /// By componentize-py: a component
    Python,
}

impl New {
    pub(super) fn execute(self, session: &Session) -> Result<u8> {
        let language = match self.language {
            Lang::Rust => Language::Rust,
            Lang::C => Language::C,
            Lang::Python => Language::Python,
        };
        let made = new(language, &self.folder)
            .map_err(|e| e.attempted(format_args!("make the workload {}", self.folder.display())))?;
        let toolchain = &made.toolchain;
        if let (Some(install), Output::Text) = (&toolchain.install, session.printer.output) {
            session.printer.note(&format!(
                "{} is not on this machine (looked for {}); to install it, in {}:\n  {install}",
                toolchain.name,
                toolchain.looked_for.as_deref().unwrap_or(&toolchain.name),
                made.folder.display(),
            ));
        }
        session.printer.result(&made, || {
            let by = if toolchain.found { format!(", built by {}", toolchain.name) } else { String::new() };
            format!("made {}{by}; next:\n  {}", made.folder.display(), made.next.join("\n  "))
        })?;
        Ok(0)
    }
}
