//! Owns how a state looks in the terminal: as a row, as a page.

use std::time::{Duration, SystemTime};

use crate::cli::print::human;
use crate::ops::state::StateView;

/// When it goes, from now on.
fn expiry(state: &StateView) -> String {
    let Some(at) = state.expires else { return "never".into() };
    let left = at.duration_since(SystemTime::now()).unwrap_or_default();
    format!("in {}", humantime::format_duration(Duration::from_secs(left.as_secs())))
}

/// A row of `vyr state ls`.
pub(super) fn cells(state: &StateView) -> Vec<String> {
    vec![
        state.name.clone(),
        state.class.into(),
        state.kind.into(),
        human(state.used_bytes),
        human(state.quota_bytes),
        expiry(state),
        state.sync.as_ref().map_or_else(|| "-".into(), |sync| sync.segments_pending.to_string()),
    ]
}

/// The page of `vyr state show`.
pub(super) fn page(state: &StateView) -> String {
    let mut lines = vec![
        ("name", state.name.clone()),
        ("id", state.id.clone()),
        ("class", state.class.to_owned()),
        ("kind", state.kind.to_owned()),
        ("used", format!("{} of {}", human(state.used_bytes), human(state.quota_bytes))),
        ("created", state.created_at.clone().unwrap_or_default()),
        ("expires", state.expires_at.clone().unwrap_or_else(|| "never".into())),
    ];
    if let Some(sync) = &state.sync {
        lines.push(("synced to", sync.target.clone()));
        let pending = format!("{} pending ({})", sync.segments_pending, human(sync.pending_bytes));
        lines.push(("segments", format!("{} sealed, {pending}", sync.segments_sealed)));
        lines.push(("last push", sync.synced_at.clone().unwrap_or_else(|| "none yet".into())));
        lines.extend(sync.error.iter().map(|error| ("failed", error.clone())));
        let forks = sync.forks.iter();
        lines.extend(forks.map(|fork| ("fork", format!("{} goes on after {} as well", fork.writer, fork.after))));
    }
    for bound in &state.bindings {
        let how = if bound.read_only { " (read-only)" } else { "" };
        lines.push(("bound to", format!("{} as /state/{}{how}", bound.artifact, bound.alias)));
    }
    let mut text: Vec<String> = lines.into_iter().map(|(name, value)| format!("{name:<10} {value}")).collect();
    for (position, file) in state.files.iter().flatten().enumerate() {
        let head = if position == 0 { "files" } else { "" };
        text.push(format!("{head:<10} {} ({})", file.path.escape_debug(), human(file.size)));
    }
    text.join("\n")
}
