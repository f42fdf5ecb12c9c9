//! The client against a node that fails as it is told to, and its names against the list that all SDKs share. What it does
//! with a real node is in the workspace's `tests/e2e/sdk`.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "test code: a panic is how it reports")]

mod double;
mod names;
mod retries;
mod streams;
