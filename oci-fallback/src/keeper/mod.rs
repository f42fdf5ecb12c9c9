//! Owns the process that keeps one container: its mounts, its cgroup, its engine, its end. It is this very program, started
//! again under another name, since an engine forks, which a program with threads can't do, and since all of a container has
//! to end when whoever wanted it ends.
//!
//! ```text
//! caller ──socket──┐   a process with threads; closing the socket is its wish that the container ends
//!   └─ gate        │   this program again: enters new user, mount and pid namespaces, and waits
//!        └─ keeper ┘   the first process of that pid namespace: when it ends, however it does, the kernel ends all below
//!             └─ maker  joins the cgroup and makes the container: the library's code, or an installed engine's program
//!             └─ the container's first process, in a pid namespace of its own, handed to the keeper when the maker ends
//! ```
//!
//! None of them runs from this program's own file, which a container could get hold of: see `itself`.
//!
//! Nothing of a run is ever on a disk: the bundle, the engine's state and what the container writes are on a file system in
//! memory that is mounted in the keeper's namespace alone and goes with it. Only a cgroup can be left, by a keeper that was
//! killed: its name tells which, and [`sweep`] removes it.

mod flat;
mod inroot;
pub(crate) mod itself;
mod keep;
mod limit;
mod loopback;
mod mounts;
mod namespaces;
pub mod outside;
mod root;
mod trial;
pub use namespaces::block_signals;
pub(crate) use namespaces::{close_but, unshare};
pub(crate) use root::{Place, STAND_IN};
pub(crate) mod wire;

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use wire::{Refusal, Report};

/// What a keeper is called, by which it knows itself.
pub(crate) const NAME: &str = "vyr-container";

/// Whether `main` has called [`run_if_asked`]. Without it a keeper would be the whole program once more, which would start
/// the next one.
static READY: AtomicBool = AtomicBool::new(false);

/// To be called first in `main`, before any thread: a process that was started as a keeper is one until it ends and never
/// returns from here.
pub fn run_if_asked() {
    let mut arguments = std::env::args_os();
    if arguments.next().is_none_or(|name| name != NAME) {
        READY.store(true, Ordering::Relaxed);
        return;
    }
    // Otherwise it would be the name of the descriptor that it was started from.
    let _ = rustix::thread::set_name(c"vyr-container");
    let code = match arguments.next() {
        Some(word) if word == crate::probe::trial::WORD => trial::run(arguments.next().is_some_and(|who| who == USER)),
        Some(word) if word == itself::INSIDE => gate(arguments.next().as_deref()),
        Some(who) => {
            let apart = arguments.next().is_some_and(|form| form == itself::APART);
            enter(who == USER, apart, arguments.next().as_deref())
        }
        None => 2,
    };
    #[expect(clippy::exit, reason = "a keeper is no vyr: nothing of main may run in it")]
    std::process::exit(code);
}

/// Whether keepers can be started.
///
/// # Errors
/// `main` doesn't begin as it has to.
pub(crate) fn ready() -> Result<(), &'static str> {
    match READY.load(Ordering::Relaxed) {
        true => Ok(()),
        false => Err("this program's `main` doesn't begin with `vyr_oci_fallback::keeper::run_if_asked()`"),
    }
}

/// Removes what keepers have left that were killed: cgroups. For a node's start; takes a millisecond or so.
pub fn sweep() {
    crate::cgroup::sweep(true);
}

/// What a keeper is told of its rights.
pub(crate) const USER: &str = "user";
pub(crate) const ROOT: &str = "root";

/// The outer process's beginning: new namespaces, and a form of this program that a container may get hold of. `bounds` is
/// what whoever started it allows to be ordered, where somebody else orders.
fn enter(user: bool, apart: bool, bounds: Option<&OsStr>) -> i32 {
    let words = match namespaces::enter(user) {
        Ok(()) if apart => return gate(bounds),
        Ok(()) => itself::again(bounds),
        Err(words) => words,
    };
    refuse(words)
}

/// Tells the caller, after it could tell its order.
fn refuse(words: String) -> i32 {
    let caller = std::io::stdin();
    if wire::receive_order(caller.as_fd()).is_ok() {
        wire::report(caller, &Report::Refused(Refusal::Failed(words)));
    }
    1
}

/// The outer process in its namespaces: starts the inner one and waits for it.
fn gate(bounds: Option<&OsStr>) -> i32 {
    if !itself::is_apart() {
        return refuse("can't keep this program out of a container's reach".into());
    }
    let caller = std::io::stdin();
    let (mut order, streams) = match wire::receive_order(caller.as_fd()) {
        Ok(received) => received,
        // Nobody to tell: whoever starts this by hand has no socket here.
        Err(_) => return 2,
    };
    // Open until the container has its mounts.
    let _held = match bounds.map(|bounds| outside::hold(bounds, &mut order)).transpose() {
        Ok(held) => held,
        Err(words) => {
            wire::report(caller, &Report::Refused(Refusal::Failed(words)));
            return 1;
        }
    };
    let owner = crate::cgroup::owner();
    match namespaces::fork(|| keep::keep(&order, streams, caller.as_fd(), &owner)) {
        Ok(keeper) => {
            // After the fork, since the container would inherit the mask.
            namespaces::block_signals();
            // The caller waits for the end of its socket, and a reader for the end of the container's output: neither may
            // be held open here.
            namespaces::close_all();
            namespaces::wait(keeper)
        }
        Err(error) => {
            wire::report(caller, &Report::Refused(Refusal::Failed(format!("can't fork: {error}"))));
            1
        }
    }
}
