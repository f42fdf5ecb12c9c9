//! The end-to-end tests: the built `vyr`, real registries, real clients. One binary, so that Wasmtime is
//! linked once. A tool that is missing fails the test with the command that installs it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "test code: a panic is how it reports, and it reads its own environment"
)]

mod airgap;
mod alter;
mod compiled;
mod crash;
mod fallback;
mod faults;
mod forms;
mod house;
mod limits;
mod new;
mod newcomer;
mod node;
mod origins;
mod push;
mod put;
mod reference;
mod refusals;
mod repair;
mod run;
mod sdk;
mod state;
mod store;
mod support;
mod telemetry;
mod wire;
