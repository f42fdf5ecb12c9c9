//! Owns what the page is told, as JSON: with the names of the command line's JSON where the same thing is shown.

use std::collections::BTreeMap;

use serde::Serialize;
use vyr_proto::v0::{OnInterrupt, PullPolicy, Task};

use crate::node::Node;
use crate::ops::inspect::glance;
use crate::ops::transfer;
use crate::task::{TaskView, rfc3339, time, to_duration};

/// How many characters of a text are told where it is one of many.
const SHORT: usize = 300;
/// How many characters of an argument are told, and how many arguments.
const ARGUMENTS: (usize, usize) = (2000, 200);

/// The node.
#[derive(Debug, Serialize)]
pub(super) struct NodeView {
    host: String,
    version: String,
    wasmtime_version: String,
    os: String,
    architecture: String,
    started_at: Option<String>,
    stopping: bool,
    queued: u64,
    max_queued: u64,
    running: u64,
    max_running: u64,
    memory_bytes: u64,
    memory_budget_bytes: u64,
    disk_free_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    capabilities: Vec<String>,
    allows_unsigned: bool,
    confined_by: Vec<String>,
    /// As whom the node knows who is looking.
    caller: String,
}

impl NodeView {
    pub(super) fn new(node: &Node, caller: &str) -> Self {
        let told = node.describe();
        let disk = rustix::fs::statvfs(node.vyr().config().home.root()).ok();
        Self {
            host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            version: told.version,
            wasmtime_version: told.wasmtime_version,
            os: told.os,
            architecture: told.architecture,
            started_at: time(told.started_at).map(rfc3339),
            stopping: told.stopping,
            queued: told.queued,
            max_queued: told.max_queued,
            running: told.running,
            max_running: told.max_running,
            memory_bytes: told.memory_bytes,
            memory_budget_bytes: told.memory_budget_bytes,
            disk_free_bytes: disk.as_ref().map(|fs| fs.f_bavail.saturating_mul(fs.f_frsize)),
            disk_bytes: disk.as_ref().map(|fs| fs.f_blocks.saturating_mul(fs.f_frsize)),
            capabilities: told.capabilities,
            allows_unsigned: told.allows_unsigned,
            confined_by: told.confined_by,
            caller: caller.to_owned(),
        }
    }
}

/// A task as one of many.
#[derive(Debug, Serialize)]
pub(super) struct TaskRow {
    pub(super) id: String,
    reference: String,
    digest: Option<String>,
    pub(super) status: &'static str,
    submitted_at: Option<String>,
    started_at: Option<String>,
    ended_at: Option<String>,
    attempt: u32,
    exit_code: Option<i32>,
    end_reason: Option<String>,
    message: Option<String>,
    tier: Option<String>,
    path: Option<String>,
    run_us: Option<u64>,
    labels: BTreeMap<String, String>,
    submitter: String,
}

impl From<&Task> for TaskRow {
    fn from(task: &Task) -> Self {
        let view = TaskView::from(task);
        Self {
            id: view.id,
            reference: view.reference,
            digest: view.digest,
            status: view.status,
            submitted_at: view.submitted_at,
            started_at: view.started_at,
            ended_at: view.ended_at,
            attempt: view.attempt,
            exit_code: view.exit_code,
            end_reason: view.end_reason,
            message: view.message.map(|text| cut(&text, SHORT)),
            tier: view.tier,
            path: view.path,
            run_us: view.run_us,
            labels: view.labels,
            submitter: view.submitter,
        }
    }
}

/// One task: what every program is told, and what it was asked to do.
#[derive(Debug, Serialize)]
pub(super) struct TaskDetail {
    #[serde(flatten)]
    view: TaskView,
    args_left_out: usize,
    /// The names of its variables; their values are never told.
    env: Vec<String>,
    limits: LimitsView,
    allow_net: Vec<String>,
    allow_unsigned: bool,
    pull: &'static str,
    on_interrupt: &'static str,
    max_attempts: u32,
    interruptions: u32,
}

/// What a task may use; null where the submit didn't say.
#[derive(Debug, Default, Serialize)]
struct LimitsView {
    memory_bytes: Option<u64>,
    timeout_us: Option<u64>,
    cpu_us: Option<u64>,
    log_bytes: Option<u64>,
}

impl From<&Task> for TaskDetail {
    fn from(task: &Task) -> Self {
        let mut view = TaskView::from(task);
        let spec = task.spec.clone().unwrap_or_default();
        let (longest, most) = ARGUMENTS;
        let args_left_out = view.args.len().saturating_sub(most);
        view.args.truncate(most);
        view.args.iter_mut().for_each(|argument| *argument = cut(argument, longest));
        let limits = spec.limits.unwrap_or_default();
        let said = |bytes: u64| (bytes > 0).then_some(bytes);
        let micros =
            |duration: prost_types::Duration| u64::try_from(to_duration(duration).as_micros()).unwrap_or(u64::MAX);
        Self {
            args_left_out,
            limits: LimitsView {
                memory_bytes: said(limits.memory_bytes),
                timeout_us: limits.timeout.map(micros),
                cpu_us: limits.cpu.map(micros),
                log_bytes: said(limits.log_bytes),
            },
            pull: match spec.pull() {
                PullPolicy::Always => "always",
                PullPolicy::Never => "never",
                PullPolicy::Missing | PullPolicy::Unspecified => "missing",
            },
            on_interrupt: match spec.on_interrupt() {
                OnInterrupt::RunAgain => "run_again",
                OnInterrupt::Lose | OnInterrupt::Unspecified => "lose",
            },
            max_attempts: spec.retry.as_ref().map_or(1, |retry| retry.max_attempts.max(1)),
            interruptions: task.interruptions,
            allow_net: spec.allow_net,
            allow_unsigned: spec.allow_unsigned,
            env: spec.env.into_keys().collect(),
            view,
        }
    }
}

/// The beginning of a text, marked where it was cut.
fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

/// An artifact of the store.
#[derive(Debug, Serialize)]
pub(super) struct ArtifactView {
    #[serde(flatten)]
    row: transfer::Row,
    form: Option<&'static str>,
    /// `mapped` (starts at once), `compiled` (on disk), `stored` (compiled at the first run), `unknown` (its layers would
    /// tell), or `none` for what can't be run as Wasm.
    cache: &'static str,
}

impl ArtifactView {
    pub(super) fn new(node: &Node, row: transfer::Row, mapped: &std::collections::HashSet<crate::oci::Digest>) -> Self {
        let digest = crate::oci::parse_digest(&row.digest).ok();
        let (form, compiled) = digest.as_ref().map_or((None, None), |digest| glance(node.vyr(), digest));
        let cache = match (form, compiled) {
            _ if digest.is_some_and(|digest| mapped.contains(&digest)) => "mapped",
            (_, Some(true)) => "compiled",
            (_, Some(false)) => "stored",
            (Some(form), None) if form != crate::artifact::ArtifactForm::LinuxImage => "unknown",
            (_, None) => "none",
        };
        Self { row, form: form.map(crate::artifact::ArtifactForm::describe), cache }
    }
}

#[cfg(test)]
mod tests {
    use vyr_proto::v0::{TaskEnd, TaskSpec};

    use super::*;

    #[test]
    fn long_texts_are_cut_where_a_character_ends() {
        assert_eq!(cut("äöü", 2), "äö…");
        assert_eq!(cut("äöü", 3), "äöü");
        let spec = TaskSpec { args: vec!["x".repeat(5000); 300], ..TaskSpec::default() };
        let end = TaskEnd { message: "m".repeat(5000), ..TaskEnd::default() };
        let task = Task { spec: Some(spec), end: Some(end), ..Task::default() };
        let detail = TaskDetail::from(&task);
        assert_eq!((detail.view.args.len(), detail.args_left_out), (ARGUMENTS.1, 100));
        assert!(detail.view.args.iter().all(|argument| argument.chars().count() == ARGUMENTS.0 + 1));
        assert_eq!(TaskRow::from(&task).message.map(|text| text.chars().count()), Some(SHORT + 1));
    }

    #[test]
    fn values_of_variables_are_not_told() {
        let env = [("SECRET".to_owned(), "hidden".to_owned())];
        let task = Task { spec: Some(TaskSpec { env: env.into(), ..TaskSpec::default() }), ..Task::default() };
        let text = serde_json::to_string(&TaskDetail::from(&task)).unwrap();
        assert!(text.contains("SECRET") && !text.contains("hidden"), "{text}");
    }
}
