//! Owns the engines that make a container of a bundle.

mod installed;
mod library;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::process::{Pid, WaitStatus};
use serde::{Deserialize, Serialize};

use crate::keeper::Place;
use crate::keeper::wire::{Order, Refusal};

/// Which engine is to run a container.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Choice {
    /// The library, in the keeper's process.
    Libcontainer,
    /// An installed `crun`, `runc` or `youki`.
    Installed(PathBuf),
}

/// What makes a container. The first step is in a process of its own, the maker, which is in the container's cgroup and has
/// its streams as its own, and whose children fall to the keeper when it ends; the others are in the keeper.
pub(crate) trait Engine {
    /// In the maker: makes the container and starts it. Returns the maker's end, or becomes another program.
    fn make(&self, place: &Place, order: &Order, told: &OwnedFd) -> i32;

    /// When the maker has ended: the container's first process.
    ///
    /// # Errors
    /// It was not started.
    fn made(&self, place: &Place, status: WaitStatus, said: &[u8]) -> Result<Pid, Refusal>;

    /// When the first process has ended: why in truth it never was the program that was asked for.
    fn never_ran(&self, place: &Place, status: WaitStatus) -> Option<Refusal>;
}

/// The engine that somebody has chosen.
pub(crate) fn engine(choice: &Choice) -> Box<dyn Engine> {
    match choice {
        Choice::Libcontainer => Box::new(library::Library),
        Choice::Installed(program) => Box::new(installed::Installed { program: program.clone() }),
    }
}

/// What is said in the pipe from the maker and the container's process, while it isn't yet the program, to the keeper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Word {
    /// The first process, as the keeper sees it.
    Process(i32),
    /// The program can't be executed.
    Program(String),
    /// The engine's own words.
    Failed(String),
}

/// Says it, as a line. The pipe takes that many bytes at once.
pub(crate) fn tell(told: &OwnedFd, word: &Word) {
    let Ok(mut line) = serde_json::to_vec(word) else { return };
    line.push(b'\n');
    if let Ok(told) = told.try_clone() {
        let _ = File::from(told).write_all(&line);
    }
}

/// All that was said, until the first that ends it.
fn heard(said: &[u8]) -> Result<Option<Pid>, Refusal> {
    let mut process = None;
    for line in said.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(Word::Process(pid)) => process = Pid::from_raw(pid),
            Ok(Word::Program(words)) => return Err(Refusal::Program(words)),
            Ok(Word::Failed(words)) => return Err(Refusal::Failed(words)),
            Err(error) => return Err(Refusal::Failed(format!("the maker's word can't be read: {error}"))),
        }
    }
    Ok(process)
}

impl Choice {
    /// Whether it insists on a cgroup of its own making, on version 1 for its device rules: all but `crun` and the library.
    pub(crate) fn wants_cgroup(&self) -> bool {
        matches!(self, Self::Installed(program) if !installed::is(program, "crun"))
    }

    /// Its name and version, as `libcontainer 0.7` or `crun 1.8.1`. An installed one is asked once, and again when its file
    /// has changed; that blocks for some milliseconds.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Libcontainer => "libcontainer 0.7".into(),
            Self::Installed(program) => installed_name(program),
        }
    }
}

type Names = BTreeMap<PathBuf, (Option<std::time::SystemTime>, String)>;

fn installed_name(program: &Path) -> String {
    static NAMES: Mutex<Names> = Mutex::new(Names::new());
    let changed = std::fs::metadata(program).and_then(|file| file.modified()).ok();
    let mut names = NAMES.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((then, name)) = names.get(program)
        && *then == changed
    {
        return name.clone();
    }
    let name = installed::version(program).unwrap_or_else(|| program.display().to_string());
    names.insert(program.to_owned(), (changed, name.clone()));
    name
}
