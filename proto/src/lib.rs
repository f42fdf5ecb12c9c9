//! VYR's Control API v0 as Rust types.
//!
//! `vyr/control/v0/*.proto` is the source. `src/generated.rs` is made from it and checked in, so that building needs no
//! compiler for protocol files; `cargo test -p vyr-proto` makes it again and compares. `frozen/` holds the descriptor set
//! that the interface was frozen at: the same test names every change that would break a program written against it.

/// Package `vyr.control.v0`.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::use_self,
    clippy::cast_possible_truncation,
    clippy::semicolon_if_nothing_returned,
    clippy::allow_attributes_without_reason,
    rustdoc::all,
    reason = "made by a generator"
)]
pub mod v0 {
    include!("generated.rs");
}

/// The descriptor set of the files in use, as the reflection service answers from it.
pub const DESCRIPTORS: &[u8] = include_bytes!("descriptors.binpb");
