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
//! downwards: `error`, `oci` ← `artifact`, `registry`, `store` ← `trust` ← `engine` ← `ops` ← `cli`.

pub mod config;
pub mod error;
pub mod telemetry;
pub mod oci;
pub mod artifact;
pub mod store;
pub mod registry;
pub mod trust;
pub mod engine;

pub use error::{Error, ErrorKind, Result};
