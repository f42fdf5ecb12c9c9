//! What the end-to-end tests stand on: real tools, a real registry, a home of one's own, the six forms.

mod artifacts;
mod bad_registry;
mod collector;
mod fault_proxy;
mod home;
mod node;
mod process;
mod registry;
mod tools;

pub(crate) use artifacts::{FORMS, Form, architecture, tar_of};
pub(crate) use bad_registry::{Act, BadRegistry, Content};
pub(crate) use collector::{Collector, each};
pub(crate) use fault_proxy::{Asked, Fault, FaultProxy};
pub(crate) use home::Home;
pub(crate) use node::{Client, Node, pushed, seconds, spec};
pub(crate) use process::{Output, run};
pub(crate) use registry::{PASSWORD, Registry, USER, free_port};
pub(crate) use tools::tool;

use sha2::Digest as _;

/// `sha256:…` of bytes.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(sha2::Sha256::digest(bytes)))
}

/// Changes one bit of the byte in the middle of a file.
pub(crate) fn flip_a_bit(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    // The store's files may be read-only; a root shell or a failing disk wouldn't ask either.
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
