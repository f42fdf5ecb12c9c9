//! Runs an OCI image as a task. It knows no registry, no store, no signature and no task: it is given the parts of an image
//! that somebody has verified, and it unpacks them, runs them as one container, tells how that ended, and leaves nothing.
//!
//! ```text
//! layers ──► unpack ──► snapshot: folders by chain id, shared between images
//!                          │
//! config + overrides ──► process: argv, environment, user, folder
//!                          │
//!                          ▼
//!                      container: one run ──► keeper: a process of its own that holds the mounts, the cgroup and the
//!                                               │      engine's container, and ends with whoever started it
//!                                               ▼
//!                                             engine: libcontainer in it, or an installed crun, runc, youki
//! ```

pub mod container;
pub mod engine;
pub mod keeper;
pub mod probe;
pub mod process;
pub mod seccomp;
pub mod snapshot;
pub mod unpack;

mod cgroup;
mod spec;
