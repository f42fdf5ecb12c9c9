//! The node: tasks behind Control API v0.

pub(crate) mod access;
mod arrival;
mod backup;
mod bad_input;
mod cancel;
mod cli;
mod clock;
mod confined;
mod crash;
mod crowded;
mod cycle;
mod disk;
mod logs;
mod mirror;
mod page;
mod put;
mod queue;
mod receipt;
mod reflection;
mod registry;
mod registry_http;
mod registry_limits;
mod replay;
mod rights;
mod rotation;
mod telemetry;
mod token_service;

pub(crate) use access::Authority;
