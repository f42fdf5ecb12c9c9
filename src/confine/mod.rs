//! Owns what a node's process takes from itself before it serves anybody: files that it doesn't need (Landlock), and system
//! calls that it doesn't make (seccomp). Wasmtime keeps guests in; this is for the day when it doesn't.
//!
//! ```text
//! main thread: settings, lock, sockets bound ──► outside started ──► confined ──► runtime, node, guests
//!                                                  │ starts keepers of containers, asks login helpers,
//!                                                  └ writes the address file: nothing else (`outside`)
//! ```
//!
//! All of it is done while the process has one thread: a Landlock domain holds for the thread that enters it and for what
//! that starts.

mod calls;
mod files;
mod outside;

use std::fmt;
use std::str::FromStr;

pub use files::Files;
pub use outside::{Outside, Tools, run_if_asked, write_address};

use crate::error::{Error, ErrorKind, Result};

/// Whether a node confines itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// As far as this kernel can.
    #[default]
    Auto,
    /// Wholly, or it doesn't start.
    Required,
    /// Not at all.
    Off,
}

impl FromStr for Mode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "auto" => Ok(Self::Auto),
            "required" => Ok(Self::Required),
            "off" => Ok(Self::Off),
            other => Err(Error::new(ErrorKind::Usage, format!("a node can't be confined `{other}`"))
                .hint("write auto, required or off")),
        }
    }
}

/// What this kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// The version of Landlock, 0 where there is none.
    pub landlock: u32,
    /// Whether there are filters of system calls.
    pub seccomp: bool,
}

impl Abilities {
    /// Looks; nothing is changed.
    #[must_use]
    pub fn look() -> Self {
        Self { landlock: files::version(), seccomp: calls::available() }
    }

    /// What is missing, a line each.
    #[must_use]
    pub fn lacking(self) -> Vec<String> {
        let mut lacking = Vec::new();
        match self.landlock {
            0 => lacking.push(
                "files: this kernel has no Landlock, or it isn't among its security modules (`lsm=` at boot)"
                    .to_owned(),
            ),
            version if version < files::WHOLE => {
                lacking.push(format!("files: Landlock {version} is too old, {} (Linux 6.2) is needed", files::WHOLE));
            }
            _ => {}
        }
        if !self.seccomp {
            lacking.push("system calls: this kernel has no seccomp filters, or doesn't allow them here".to_owned());
        }
        lacking
    }
}

/// What a process has taken from itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// The version of Landlock that holds it, where one does.
    pub landlock: Option<u32>,
    /// Whether a filter of system calls does.
    pub seccomp: bool,
    /// What it could not have, a line each.
    pub lacking: Vec<String>,
}

impl Confinement {
    /// What holds it, a word each.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let held = [("landlock", self.landlock.is_some()), ("seccomp", self.seccomp)];
        held.into_iter().filter(|(_, holds)| *holds).map(|(word, _)| word.to_owned()).collect()
    }
}

impl fmt::Display for Confinement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.landlock, self.seccomp) {
            (Some(_), true) => f.write_str("confined by Landlock and seccomp"),
            (Some(_), false) => f.write_str("confined by Landlock, not by seccomp"),
            (None, true) => f.write_str("confined by seccomp, not by Landlock"),
            (None, false) => f.write_str("not confined"),
        }
    }
}

/// Confines this thread and all that it starts from here on, and by system calls every other thread too. To be called while
/// there is one thread: others keep their files.
///
/// # Errors
/// [`ErrorKind::CannotStart`] where it is required and can't be had in full; then nothing was changed but, at worst, for
/// this process that now ends.
pub fn apply(mode: Mode, files: &Files) -> Result<Confinement> {
    let mut confinement = Confinement { landlock: None, seccomp: false, lacking: Vec::new() };
    if mode == Mode::Off {
        return Ok(confinement);
    }
    let abilities = Abilities::look();
    confinement.lacking = abilities.lacking();
    let whole = |confinement: &Confinement| match confinement.lacking.as_slice() {
        lacking if mode == Mode::Required && !lacking.is_empty() => Err(Error::new(
            ErrorKind::CannotStart,
            format!("the node can't be confined in full: {}", lacking.join("; ")),
        )
        .hint("start it on a kernel that can, or with --confine auto for as much as this one does")),
        _ => Ok(()),
    };
    whole(&confinement)?;
    if abilities.landlock >= files::LEAST {
        match files.enforce() {
            Ok(()) => confinement.landlock = Some(abilities.landlock),
            Err(e) => confinement.lacking.push(format!("files: {e}")),
        }
    }
    if abilities.seccomp {
        match calls::enforce() {
            Ok(()) => confinement.seccomp = true,
            Err(e) => confinement.lacking.push(format!("system calls: {e}")),
        }
    }
    whole(&confinement)?;
    Ok(confinement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_three_words() {
        assert_eq!("auto".parse::<Mode>().ok(), Some(Mode::Auto));
        assert_eq!("required".parse::<Mode>().ok(), Some(Mode::Required));
        assert_eq!("off".parse::<Mode>().ok(), Some(Mode::Off));
        assert!("on".parse::<Mode>().is_err_and(|e| e.kind() == ErrorKind::Usage));
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        assert!(Abilities { landlock: files::WHOLE, seccomp: true }.lacking().is_empty());
        assert!(Abilities { landlock: 7, seccomp: true }.lacking().is_empty());
        let none = Abilities { landlock: 0, seccomp: false }.lacking();
        assert!(none.len() == 2 && none[0].contains("no Landlock") && none[1].contains("no seccomp"), "{none:?}");
        assert!(Abilities { landlock: 2, seccomp: true }.lacking()[0].contains("too old"));
    }
}
