//! VYR runs a Wasm artifact by digest, verified, from any OCI registry.
//!
//! The way of the data, and the module that owns each step:
//!
//! ```text
//! Reference → resolve → Descriptor → pull → Artifact + Pin → verify → Verified<Artifact>
//!   oci      registry     oci       store     artifact        trust        trust
//! → compile (cache) → Compiled → instantiate → run → Execution
//!       engine                      engine
//! ```
//!
//! `ops` joins them, one file an operation; `cli` translates a command line into one of them. Imports point
//! downwards: `error`, `oci`, `sqlite` ← `artifact`, `registry`, `store`, `task` ← `trust`, `db`, `state` ← `engine` ← `fallback` ← `ops` ←
//! `node` ← `server` ← `cli`. `confine` is what a node's process takes from itself, which `cli` has it do.

pub mod artifact;
pub mod cli;
pub mod config;
pub mod confine;
pub mod db;
pub mod engine;
pub mod error;
pub mod fallback;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzz;
pub mod node;
pub mod oci;
pub mod ops;
pub mod receipt;
pub mod registry;
pub mod server;
pub mod sqlite;
pub mod state;
pub mod store;
pub mod task;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod trust;

pub use error::{Error, ErrorKind, Result};
