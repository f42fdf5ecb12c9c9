//! Owns what can be told of this machine before anything runs: engines, cgroups, namespaces, overlayfs, and what each lacks.

use crate::engine::Choice;
use crate::snapshot::{Method, Rights};

/// What works here.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Root or an ordinary user.
    pub rights: Rights,
    /// How root file systems are made.
    pub method: Method,
    /// The engines that work, the best first.
    pub engines: Vec<Choice>,
    /// What to tell people, a line each: what was looked at, what was found, whether it works, what to do next.
    pub findings: Vec<Finding>,
}

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// `None`: it doesn't work; `Some(false)`: it works less well.
    pub works: Option<bool>,
    /// What was found.
    pub found: String,
    /// What to do.
    pub next: Option<String>,
}

/// Looks. `engine` is a path that a person has set, which then goes first. Takes some milliseconds: keep the answer.
#[must_use]
pub fn look(engine: Option<&std::path::Path>) -> Machine {
    let _ = engine;
    Machine { rights: Rights::Root, method: Method::Flat, engines: Vec::new(), findings: Vec::new() }
}
