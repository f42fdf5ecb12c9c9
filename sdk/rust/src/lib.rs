//! A client of VYR nodes. A node (`vyr serve`) runs Wasm and containers from any OCI registry, verified; this crate submits
//! tasks to it, watches them, reads what they write and cancels them, over its Control API v0.
//!
//! ```no_run
//! use vyr_client::{Client, Spec};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let client = Client::connect().await?;
//!     let outcome = client.run(Spec::new("localhost:5000/hello:v1").arg("world")).await?;
//!     outcome.check()?;
//!     print!("{}", outcome.stdout_text());
//!     Ok(())
//! }
//! ```
//!
//! # The parts
//!
//! - [`Client::connect`] finds the node as the `vyr` command does: `VYR_NODE`, else the socket of a node on this machine,
//!   else `http://127.0.0.1:7070`; [`Connect`] says otherwise, and has the token and the certificates.
//! - [`Client::run`] is the short way: submit, wait, read. [`Client::submit`], [`Client::watch`], [`Client::logs`],
//!   [`Client::wait`] and [`Client::cancel`] are its parts. [`Spec`] says what is to be run.
//! - [`v0`] has the interface's own messages, which the calls answer with: a [`v0::Task`] and so on. [`TaskExt`] answers
//!   questions about a task, [`Word`] gives the short words of its values.
//! - Artifacts and states: [`Client::put_artifact`], [`Client::get_artifact`], [`Client::create_state`],
//!   [`Client::bind_state`] and their neighbours.
//!
//! # What goes wrong
//!
//! A call fails with an [`Error`], whose [`kind`](Error::kind) is for the program and whose [`message`](Error::message) and
//! [`next`](Error::next) are for people. A task that fails is no such error: its end is in the task, and
//! [`Outcome::check`] or [`TaskExt::check`] make a [`TaskFailed`] of it.
//!
//! Calls that fail with [`Unavailable`](ErrorKind::Unavailable) or [`Exhausted`](ErrorKind::Exhausted) are tried again as
//! [`RetryPolicy`] says. A submit carries an idempotency key, so that this makes no second task; streams go on where they
//! were.
//!
//! # Traces
//!
//! Calls carry the W3C trace context that the program is in, and the traces of its tasks go on from there: that of the
//! current OpenTelemetry span with the feature `opentelemetry`, else that of the variable `TRACEPARENT`.
//! [`Connect::traceparent`] and [`Client::with_traceparent`] say otherwise.
//!
//! It needs a Tokio runtime with time and I/O enabled.

mod address;
mod artifacts;
mod client;
mod connect;
mod context;
mod env;
mod error;
mod reach;
mod retry;
mod spec;
mod states;
mod stream;
mod task;
mod tasks;
mod words;

pub use address::Address;
pub use artifacts::{Blob, PutArtifact, StoredArtifact};
pub use client::{Client, Pending};
pub use connect::Connect;
pub use error::{Error, ErrorKind, FieldError, Result};
#[doc(hidden)]
pub use reach::out_of_time;
pub use retry::RetryPolicy;
pub use spec::Spec;
pub use states::{BindState, CreateState};
pub use stream::{Logs, Watch};
pub use task::{Outcome, TaskExt, TaskFailed, process_code};
pub use tasks::{ListTasks, Submit};
pub use tonic::Code;
pub use vyr_proto::v0;
pub use words::Word;

/// The README's program compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
