//! Owns how a state looks: as JSON with stable names, as a row, as a page.

use std::time::SystemTime;

use serde::Serialize;
use vyr_proto::v0;

use crate::cli::print::human;
use crate::ops::state::Listed;
use crate::task::{instant, rfc3339};

/// A state as it is printed. The field names are stable.
#[derive(Debug, Clone, Serialize)]
pub(super) struct StateView {
    name: String,
    id: String,
    class: &'static str,
    kind: &'static str,
    used_bytes: u64,
    quota_bytes: u64,
    created_at: Option<String>,
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sync: Option<SyncView>,
    bindings: Vec<BindingView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    files: Option<Vec<Listed>>,
    #[serde(skip)]
    expires: Option<SystemTime>,
}

#[derive(Debug, Clone, Serialize)]
struct SyncView {
    target: String,
    segments_sealed: u64,
    segments_pending: u64,
    pending_bytes: u64,
    synced_at: Option<String>,
    error: Option<String>,
    forks: Vec<ForkView>,
}

#[derive(Debug, Clone, Serialize)]
struct ForkView {
    writer: String,
    after: u64,
}

#[derive(Debug, Clone, Serialize)]
struct BindingView {
    artifact: String,
    alias: String,
    read_only: bool,
}

impl StateView {
    pub(super) fn new(state: &v0::State) -> Self {
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

    pub(super) fn with_files(self, files: Option<Vec<Listed>>) -> Self {
        Self { files, ..self }
    }

    /// When it goes, from now on.
    fn expiry(&self) -> String {
        let Some(at) = self.expires else { return "never".into() };
        let left = at.duration_since(SystemTime::now()).unwrap_or_default();
        format!("in {}", humantime::format_duration(std::time::Duration::from_secs(left.as_secs())))
    }

    fn pending(&self) -> String {
        self.sync.as_ref().map_or_else(|| "-".into(), |sync| sync.segments_pending.to_string())
    }

    /// A row of `vyr state ls`.
    pub(super) fn cells(&self) -> Vec<String> {
        vec![
            self.name.clone(),
            self.class.into(),
            self.kind.into(),
            human(self.used_bytes),
            human(self.quota_bytes),
            self.expiry(),
            self.pending(),
        ]
    }

    /// The page of `vyr state show`.
    pub(super) fn page(&self) -> String {
        let mut lines = vec![
            ("name", self.name.clone()),
            ("id", self.id.clone()),
            ("class", self.class.to_owned()),
            ("kind", self.kind.to_owned()),
            ("used", format!("{} of {}", human(self.used_bytes), human(self.quota_bytes))),
            ("created", self.created_at.clone().unwrap_or_default()),
            ("expires", self.expires_at.clone().unwrap_or_else(|| "never".into())),
        ];
        if let Some(sync) = &self.sync {
            lines.push(("synced to", sync.target.clone()));
            let pending = format!("{} pending ({})", sync.segments_pending, human(sync.pending_bytes));
            lines.push(("segments", format!("{} sealed, {pending}", sync.segments_sealed)));
            lines.push(("last push", sync.synced_at.clone().unwrap_or_else(|| "none yet".into())));
            lines.extend(sync.error.iter().map(|error| ("failed", error.clone())));
            let forks = sync.forks.iter();
            lines.extend(forks.map(|fork| ("fork", format!("{} goes on after {} as well", fork.writer, fork.after))));
        }
        for bound in &self.bindings {
            let how = if bound.read_only { " (read-only)" } else { "" };
            lines.push(("bound to", format!("{} as /state/{}{how}", bound.artifact, bound.alias)));
        }
        let mut text: Vec<String> = lines.into_iter().map(|(name, value)| format!("{name:<10} {value}")).collect();
        for (position, file) in self.files.iter().flatten().enumerate() {
            let head = if position == 0 { "files" } else { "" };
            text.push(format!("{head:<10} {} ({})", file.path.escape_debug(), human(file.size)));
        }
        text.join("\n")
    }
}
