//! Owns how a state is shown as JSON, on the command line and on the status page.

use std::time::SystemTime;

use serde::Serialize;
use vyr_proto::v0;

use super::Listed;
use crate::task::{instant, rfc3339};

/// A state as it is shown. The field names are stable.
#[derive(Debug, Clone, Serialize)]
pub struct StateView {
    /// Its name on this node.
    pub name: String,
    /// Its id.
    pub id: String,
    /// `task`, `node` or `synced`.
    pub class: &'static str,
    /// `files` or `kv`.
    pub kind: &'static str,
    /// What it holds, in bytes.
    pub used_bytes: u64,
    /// What it may hold, in bytes.
    pub quota_bytes: u64,
    /// RFC 3339.
    pub created_at: Option<String>,
    /// RFC 3339; none: it stays.
    pub expires_at: Option<String>,
    /// For `synced`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sync: Option<SyncView>,
    /// The artifacts that it is bound to.
    pub bindings: Vec<BindingView>,
    /// Its files, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<Listed>>,
    /// When it goes.
    #[serde(skip)]
    pub expires: Option<SystemTime>,
}

/// How far the sync is.
#[derive(Debug, Clone, Serialize)]
pub struct SyncView {
    /// `host[:port]/repository`.
    pub target: String,
    /// All segments so far.
    pub segments_sealed: u64,
    /// Those that were not pushed yet.
    pub segments_pending: u64,
    /// What these take.
    pub pending_bytes: u64,
    /// When the last push succeeded, RFC 3339.
    pub synced_at: Option<String>,
    /// Why the last one failed, if it did.
    pub error: Option<String>,
    /// Other writers from the same place.
    pub forks: Vec<ForkView>,
}

/// Another writer.
#[derive(Debug, Clone, Serialize)]
pub struct ForkView {
    /// Who.
    pub writer: String,
    /// The last sequence number that both have.
    pub after: u64,
}

/// A binding.
#[derive(Debug, Clone, Serialize)]
pub struct BindingView {
    /// `host[:port]/repository[:tag][@digest]`.
    pub artifact: String,
    /// Seen as `/state/<alias>`.
    pub alias: String,
    /// Only to be read.
    pub read_only: bool,
}

impl StateView {
    /// Of a state as the interface has it.
    #[must_use]
    pub fn new(state: &v0::State) -> Self {
        let sync = (state.class() == v0::StateClass::Synced).then(|| SyncView {
            target: state.sync_target.clone(),
            segments_sealed: state.segments_sealed,
            segments_pending: state.segments_pending,
            pending_bytes: state.pending_bytes,
            synced_at: state.synced_at.map(|at| rfc3339(instant(at))),
            error: Some(state.sync_error.clone()).filter(|error| !error.is_empty()),
            forks: state.forks.iter().map(|fork| ForkView { writer: fork.writer.clone(), after: fork.after }).collect(),
        });
        Self {
            name: state.name.clone(),
            id: state.id.clone(),
            class: match state.class() {
                v0::StateClass::Task => "task",
                v0::StateClass::Node => "node",
                v0::StateClass::Synced => "synced",
                v0::StateClass::Unspecified => "unknown",
            },
            kind: match state.kind() {
                v0::StateKind::Files => "files",
                v0::StateKind::Kv => "kv",
                v0::StateKind::Unspecified => "unknown",
            },
            used_bytes: state.used_bytes,
            quota_bytes: state.quota_bytes,
            created_at: state.created_at.map(|at| rfc3339(instant(at))),
            expires_at: state.expires_at.map(|at| rfc3339(instant(at))),
            sync,
            bindings: state
                .bindings
                .iter()
                .map(|bound| BindingView {
                    artifact: bound.artifact.clone(),
                    alias: bound.alias.clone(),
                    read_only: bound.read_only,
                })
                .collect(),
            files: None,
            expires: state.expires_at.map(instant),
        }
    }
}
