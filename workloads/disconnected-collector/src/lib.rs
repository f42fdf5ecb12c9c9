//! What the collector, the device and the verifier have in common.
//!
//! - [`record`]: a reading, and the one line of text that stands for it
//! - [`journal`]: the collector's files in its state's folder: what is durable, recovery, rolling
//! - [`device`]: the two ways to a device, by a socket and by a folder of files
//! - [`verify`]: what of a seed's readings a folder of shipped files holds
//! - [`args`]: the programs' flags
//!
//! There is no crate in it but this one, so that it builds for every target that Rust has a standard library for.

pub mod args;
pub mod device;
pub mod journal;
pub mod record;
pub mod verify;
