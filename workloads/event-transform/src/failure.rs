//! What ends a program early: attempted, why, next, in this order.

use std::fmt;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

/// Why a program ends without having done what it was to do.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    attempted: String,
    why: String,
    next: String,
}

impl Failure {
    /// The call makes no sense: exit code 2.
    pub(crate) fn usage(attempted: &str, why: impl Into<String>, next: &str) -> Self {
        Self { code: 2, attempted: attempted.into(), why: why.into(), next: next.into() }
    }

    /// Something else: exit code 1.
    pub(crate) fn new(attempted: impl Into<String>, why: impl Into<String>, next: &str) -> Self {
        Self { code: 1, attempted: attempted.into(), why: why.into(), next: next.into() }
    }

    /// The system said no: what is a path for, by the verb.
    pub(crate) fn at(verb: &str, path: &Path, error: &std::io::Error, next: &str) -> Self {
        Self::new(format!("{verb} {}", path.display()), error.to_string(), next)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { attempted, why, next, .. } = self;
        write!(to, "error: could not {attempted}\n  why: {why}\n  next: {next}")
    }
}

/// Prints what a program ends with: its last line on stdout, or why there is none.
pub(crate) fn finish(done: Result<String, Failure>) -> ExitCode {
    let said = done.and_then(|text| {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
            Failure::new("write to stdout", error.to_string(), "see where it leads; the files are written")
        })
    });
    match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody is left to be told.
            let _ = writeln!(std::io::stderr(), "{failure}");
            ExitCode::from(failure.code)
        }
    }
}
