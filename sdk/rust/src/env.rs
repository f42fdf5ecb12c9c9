//! Owns which variables this crate reads, and that nothing else here reads the environment.

/// Which node. Default: the data folder's socket, else `http://127.0.0.1:7070`.
pub(crate) const NODE: &str = "VYR_NODE";
/// The data folder, in which a node on this machine has its socket. Default: `vyr` in the XDG data folder.
pub(crate) const HOME: &str = "VYR_HOME";
/// The bearer token that a node asks for; goes before the next.
pub(crate) const TOKEN: &str = "VYR_TOKEN";
/// The file that holds it.
pub(crate) const TOKEN_FILE: &str = "VYR_TOKEN_FILE";
/// The W3C trace context that a program is a part of.
pub(crate) const TRACEPARENT: &str = "TRACEPARENT";

/// A variable's value; `None` when it is unset, empty or not UTF-8.
#[expect(clippy::disallowed_methods, reason = "the one place of this crate that reads the environment")]
pub(crate) fn get(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
