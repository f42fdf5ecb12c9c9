//! Owns how a task looks: the stable field names for programs, short words for people.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::Serialize;
use vyr_proto::v0::{EndReason, ExecutionPath, StartTier, Task};

use crate::task::{StatusExt as _, to_duration};

/// A task with the field names that programs may rely on. What isn't known yet is null.
#[derive(Debug, Serialize)]
pub(super) struct TaskView {
    pub(super) id: String,
    pub(super) reference: String,
    pub(super) digest: Option<String>,
    pub(super) manifest: Option<String>,
    pub(super) status: &'static str,
    pub(super) submitted_at: Option<String>,
    pub(super) started_at: Option<String>,
    pub(super) ended_at: Option<String>,
    pub(super) attempt: u32,
    pub(super) exit_code: Option<i32>,
    pub(super) end_reason: Option<String>,
    pub(super) message: Option<String>,
    pub(super) error_kind: Option<String>,
    pub(super) next: Option<String>,
    pub(super) trap: Option<TrapView>,
    pub(super) tier: Option<String>,
    pub(super) path: Option<String>,
    pub(super) fallback_reason: Option<String>,
    pub(super) form: Option<String>,
    pub(super) kind: Option<String>,
    pub(super) code: Option<String>,
    pub(super) acceptance: Option<String>,
    pub(super) signed_digest: Option<String>,
    pub(super) queued_us: Option<u64>,
    pub(super) prepare_us: Option<u64>,
    pub(super) instantiate_us: Option<u64>,
    pub(super) run_us: Option<u64>,
    pub(super) cpu_us: Option<u64>,
    pub(super) submit_to_start_us: Option<u64>,
    pub(super) cancel_latency_us: Option<u64>,
    pub(super) peak_memory_bytes: Option<u64>,
    pub(super) args: Vec<String>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) submitter: String,
    pub(super) idempotency_key: Option<String>,
    pub(super) trace_id: Option<String>,
    pub(super) logs: LogsView,
    #[serde(skip)]
    since_submit: Option<Duration>,
    #[serde(skip)]
    since_start: Option<Duration>,
}

#[derive(Debug, Serialize)]
pub(super) struct TrapView {
    pub(super) kind: String,
    pub(super) backtrace: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct LogsView {
    pub(super) stdout_bytes: u64,
    pub(super) stderr_bytes: u64,
    pub(super) dropped_bytes: u64,
}

impl From<&Task> for TaskView {
    fn from(task: &Task) -> Self {
        let now = SystemTime::now();
        let spec = task.spec.clone().unwrap_or_default();
        let end = task.end.as_ref();
        let done = task.execution.as_ref();
        let logs = task.logs.unwrap_or_default();
        let (submitted, started, ended) = (time(task.submitted_at), time(task.started_at), time(task.ended_at));
        let said = |text: Option<&String>| text.filter(|t| !t.is_empty()).cloned();
        Self {
            id: task.id.clone(),
            reference: spec.reference,
            digest: said(done.map(|x| &x.digest)),
            manifest: said(done.map(|x| &x.manifest)),
            status: task.status().word(),
            submitted_at: submitted.map(rfc3339),
            started_at: started.map(rfc3339),
            ended_at: ended.map(rfc3339),
            attempt: task.attempt,
            exit_code: end.and_then(|e| e.exit_code),
            end_reason: end.map(|e| word(e.reason().as_str_name(), EndReason::Unspecified.as_str_name())),
            message: said(end.map(|e| &e.message)),
            error_kind: said(end.map(|e| &e.error_kind)),
            next: said(end.map(|e| &e.next)),
            trap: end
                .and_then(|e| e.trap.as_ref())
                .map(|t| TrapView { kind: t.kind.clone(), backtrace: said(Some(&t.backtrace)) }),
            tier: done
                .map(|x| x.tier())
                .filter(|tier| *tier != StartTier::Unspecified)
                .map(|tier| tier.as_str_name().trim_start_matches("START_TIER_").to_owned()),
            path: done
                .map(|x| x.path())
                .filter(|path| *path != ExecutionPath::Unspecified)
                .map(|path| word(path.as_str_name(), ExecutionPath::Unspecified.as_str_name())),
            fallback_reason: said(done.map(|x| &x.fallback_reason)),
            form: said(done.map(|x| &x.form)),
            kind: said(done.map(|x| &x.kind)),
            code: said(done.map(|x| &x.code)),
            acceptance: said(done.map(|x| &x.acceptance)),
            signed_digest: said(done.map(|x| &x.signed_digest)),
            queued_us: micros(done.and_then(|x| x.queued)),
            prepare_us: micros(done.and_then(|x| x.prepare)),
            instantiate_us: micros(done.and_then(|x| x.instantiate)),
            run_us: micros(done.and_then(|x| x.run)),
            cpu_us: micros(done.and_then(|x| x.cpu)),
            submit_to_start_us: micros(done.and_then(|x| x.submit_to_start)),
            cancel_latency_us: micros(end.and_then(|e| e.cancel_latency)),
            peak_memory_bytes: done.map(|x| x.peak_memory_bytes).filter(|bytes| *bytes > 0),
            args: spec.args,
            labels: spec.labels,
            submitter: task.submitter.clone(),
            idempotency_key: said(Some(&task.idempotency_key)),
            trace_id: said(Some(&task.trace_id)),
            logs: LogsView {
                stdout_bytes: logs.stdout_bytes,
                stderr_bytes: logs.stderr_bytes,
                dropped_bytes: logs.dropped_bytes,
            },
            since_submit: submitted.map(|at| now.duration_since(at).unwrap_or_default()),
            since_start: started.map(|at| ended.unwrap_or(now).duration_since(at).unwrap_or_default()),
        }
    }
}

impl TaskView {
    /// How long ago it was submitted: `3m`.
    pub(super) fn age(&self) -> String {
        self.since_submit.map_or_else(dash, age)
    }

    /// How long its guest ran, or has run so far.
    pub(super) fn took(&self) -> String {
        self.run_us.map(Duration::from_micros).or(self.since_start).map_or_else(dash, span)
    }

    /// The exit code, or why there is none.
    pub(super) fn outcome(&self) -> String {
        match (self.exit_code, &self.end_reason) {
            (Some(code), _) => code.to_string(),
            (None, Some(reason)) => reason.clone(),
            (None, None) => dash(),
        }
    }

    /// The reference, with its digest cut.
    pub(super) fn artifact(&self) -> String {
        match self.reference.split_once('@') {
            Some((name, digest)) => format!("{name}@{}", crate::cli::print::short(digest)),
            None if self.reference.starts_with("sha") => crate::cli::print::short(&self.reference),
            None => self.reference.clone(),
        }
    }

    /// The colour of its status.
    pub(super) fn color(&self) -> &'static str {
        match self.status {
            "succeeded" => "32",
            "preparing" | "running" => "36",
            "cancelled" => "33",
            "failed" | "timed_out" | "refused" | "lost" => "31",
            _ => "2",
        }
    }
}

fn dash() -> String {
    "-".to_owned()
}

/// The interface's name of a value as a word: `END_REASON_EXITED` as `exited`.
fn word(name: &str, unspecified: &str) -> String {
    let prefix = unspecified.strip_suffix("UNSPECIFIED").unwrap_or_default();
    match name.strip_prefix(prefix).unwrap_or(name) {
        "UNSPECIFIED" => "unknown".to_owned(),
        word => word.to_lowercase(),
    }
}

/// A time of the interface.
pub(super) fn time(at: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    at.and_then(|at| at.try_into().ok())
}

pub(super) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_micros(at).to_string()
}

fn micros(duration: Option<prost_types::Duration>) -> Option<u64> {
    duration.map(|d| u64::try_from(to_duration(d).as_micros()).unwrap_or(u64::MAX))
}

/// A time that has passed, in its largest unit alone.
fn age(passed: Duration) -> String {
    match passed.as_secs() {
        s @ ..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86400),
    }
}

/// A duration with two or three digits that matter.
pub(super) fn span(duration: Duration) -> String {
    let (us, s) = (duration.as_micros(), duration.as_secs());
    match us {
        ..1_000 => format!("{us}µs"),
        1_000..10_000 => format!("{}.{}ms", us / 1000, us / 100 % 10),
        10_000..1_000_000 => format!("{}ms", us / 1000),
        1_000_000..60_000_000 => format!("{s}.{}s", us / 100_000 % 10),
        _ if s < 3600 => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{}h{:02}m", s / 3600, s / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use vyr_proto::v0::{Execution, TaskEnd, TaskSpec, TaskStatus, Trap};

    use super::*;

    const FIELDS: &str = "acceptance args attempt cancel_latency_us code cpu_us digest end_reason ended_at error_kind \
exit_code fallback_reason form id idempotency_key instantiate_us kind labels logs manifest message next path \
peak_memory_bytes prepare_us queued_us reference run_us signed_digest started_at status submit_to_start_us submitted_at \
submitter tier trace_id trap";

    fn fields(task: &Task) -> (String, serde_json::Value) {
        let value = serde_json::to_value(TaskView::from(task)).unwrap();
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        (names.join(" "), value)
    }

    #[test]
    fn the_field_names_are_always_the_same() {
        let (names, value) = fields(&Task { status: TaskStatus::Queued.into(), ..Task::default() });
        assert_eq!(names, FIELDS);
        assert_eq!(value["exit_code"], serde_json::Value::Null);
        let task = Task {
            id: "0197".into(),
            spec: Some(TaskSpec {
                reference: format!("localhost:5000/app@sha256:{}", "a".repeat(64)),
                ..TaskSpec::default()
            }),
            status: TaskStatus::Failed.into(),
            submitted_at: Some(prost_types::Timestamp { seconds: 1, nanos: 500_000_000 }),
            end: Some(TaskEnd {
                reason: EndReason::WallClockLimit.into(),
                trap: Some(Trap { kind: "unreachable".into(), ..Trap::default() }),
                ..TaskEnd::default()
            }),
            execution: Some(Execution {
                path: ExecutionPath::Wasm.into(),
                tier: StartTier::S2.into(),
                run: Some(prost_types::Duration { seconds: 1, nanos: 2000 }),
                ..Execution::default()
            }),
            ..Task::default()
        };
        let (names, value) = fields(&task);
        assert_eq!(names, FIELDS);
        for (name, wanted) in [
            ("status", "failed"),
            ("end_reason", "wall_clock_limit"),
            ("path", "wasm"),
            ("tier", "S2"),
            ("submitted_at", "1970-01-01T00:00:01.500000Z"),
        ] {
            assert_eq!(value[name], wanted);
        }
        assert_eq!(value["run_us"], 1_000_002);
        let view = TaskView::from(&task);
        assert_eq!(view.artifact(), "localhost:5000/app@sha256:aaaaaaaaaaaa");
        assert_eq!((view.outcome().as_str(), view.took().as_str()), ("wall_clock_limit", "1.0s"));
    }

    #[test]
    fn durations_are_short() {
        let ages = [(5, "5s"), (200, "3m"), (7200, "2h"), (200_000, "2d")];
        assert!(ages.iter().all(|(s, text)| age(Duration::from_secs(*s)) == *text));
        for (us, text) in [
            (850, "850µs"),
            (1_250, "1.2ms"),
            (120_000, "120ms"),
            (1_250_000, "1.2s"),
            (192_000_000, "3m12s"),
            (7_500_000_000, "2h05m"),
        ] {
            assert_eq!(span(Duration::from_micros(us)), text);
        }
    }
}
