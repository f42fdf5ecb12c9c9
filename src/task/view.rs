//! Owns how a task and its output look to programs: stable field names, times and words as text. The command line and the
//! status page both show these.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use serde::Serialize;
use vyr_proto::v0::{EndReason, ExecutionPath, LogEntry, LogStream, StartTier, Task};

use super::{StatusExt as _, to_duration};

/// A task with the field names that programs may rely on. What isn't known yet is null.
#[derive(Debug, Serialize)]
pub struct TaskView {
    /// Its id.
    pub id: String,
    /// What was submitted.
    pub reference: String,
    /// The digest that the reference named.
    pub digest: Option<String>,
    /// The manifest that was executed.
    pub manifest: Option<String>,
    /// Where it is in its life: `running`.
    pub status: &'static str,
    /// When the submit arrived.
    pub submitted_at: Option<String>,
    /// When the last attempt's guest was started.
    pub started_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// The attempt that is under way or was the last.
    pub attempt: u32,
    /// The guest's own exit code.
    pub exit_code: Option<i32>,
    /// Why it ended: `exited`.
    pub end_reason: Option<String>,
    /// How it ended, for people.
    pub message: Option<String>,
    /// The kind of failure that kept it from starting.
    pub error_kind: Option<String>,
    /// What to do next.
    pub next: Option<String>,
    /// The trap that ended it.
    pub trap: Option<TrapView>,
    /// What was there already: `S0` to `S3`.
    pub tier: Option<String>,
    /// `wasm` or `container`.
    pub path: Option<String>,
    /// Why not as Wasm.
    pub fallback_reason: Option<String>,
    /// The same in words.
    pub fallback_message: Option<String>,
    /// What ran the container.
    pub engine: Option<String>,
    /// What the machine could not do as asked.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The artifact's form.
    pub form: Option<String>,
    /// `module` or `component`.
    pub kind: Option<String>,
    /// The digest of the Wasm bytes.
    pub code: Option<String>,
    /// Why it was allowed to run.
    pub acceptance: Option<String>,
    /// The digest whose signature counted.
    pub signed_digest: Option<String>,
    /// How long it waited for a place.
    pub queued_us: Option<u64>,
    /// How long it was made ready.
    pub prepare_us: Option<u64>,
    /// How long the instance took to make.
    pub instantiate_us: Option<u64>,
    /// How long the guest ran.
    pub run_us: Option<u64>,
    /// Its CPU time.
    pub cpu_us: Option<u64>,
    /// From the submit to the guest's entry point.
    pub submit_to_start_us: Option<u64>,
    /// From the cancel to the guest's end.
    pub cancel_latency_us: Option<u64>,
    /// The most linear memory that it held.
    pub peak_memory_bytes: Option<u64>,
    /// Its arguments.
    pub args: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Who submitted it.
    pub submitter: String,
    /// The submit's key.
    pub idempotency_key: Option<String>,
    /// The W3C trace id.
    pub trace_id: Option<String>,
    /// What is kept of its output.
    pub logs: LogsView,
    /// How long ago it was submitted.
    #[serde(skip)]
    pub since_submit: Option<Duration>,
    /// How long its guest ran, or has run so far, by the wall clock.
    #[serde(skip)]
    pub since_start: Option<Duration>,
}

/// A trap of a guest.
#[derive(Debug, Serialize)]
pub struct TrapView {
    /// A stable word: `unreachable`.
    pub kind: String,
    /// The guest's frames.
    pub backtrace: Option<String>,
}

/// What is kept of an output.
#[derive(Debug, Default, Serialize)]
pub struct LogsView {
    /// Kept of standard output.
    pub stdout_bytes: u64,
    /// Kept of standard error.
    pub stderr_bytes: u64,
    /// Came after the limit.
    pub dropped_bytes: u64,
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
            fallback_message: said(done.map(|x| &x.fallback_message)),
            engine: said(done.map(|x| &x.engine)),
            notes: done.map(|x| x.notes.clone()).unwrap_or_default(),
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

/// One write of a guest, with the field names that programs may rely on.
#[derive(Debug, Serialize)]
pub struct LogView {
    /// `stdout` or `stderr`.
    pub stream: &'static str,
    /// When it was written.
    pub time: Option<String>,
    /// The attempt that wrote it.
    pub attempt: u32,
    /// What was written, as far as it is text.
    pub data: String,
    /// The bytes, where they aren't text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_base64: Option<String>,
}

impl From<&LogEntry> for LogView {
    fn from(entry: &LogEntry) -> Self {
        Self {
            stream: if entry.stream() == LogStream::Stderr { "stderr" } else { "stdout" },
            time: time(entry.time).map(rfc3339),
            attempt: entry.attempt,
            data: String::from_utf8_lossy(&entry.data).into_owned(),
            data_base64: std::str::from_utf8(&entry.data)
                .is_err()
                .then(|| base64::engine::general_purpose::STANDARD.encode(&entry.data)),
        }
    }
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
#[must_use]
pub fn time(at: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    at.and_then(|at| at.try_into().ok())
}

/// A stable word for why a task ended: `exited`, `wall_clock_limit`, …
#[must_use]
pub fn reason_word(reason: EndReason) -> String {
    word(reason.as_str_name(), EndReason::Unspecified.as_str_name())
}

/// The last second that RFC 3339 can say: 9999-12-31T23:59:59Z, in seconds since 1970.
pub(super) const LAST_SECOND: u64 = 253_402_300_799;

/// A time that text can say: years have four digits there, and what writes them begins with 1970. What is outside is refused
/// where it comes in; here it is taken for the nearest, since who shows a time must not fail by it.
#[must_use]
pub fn sayable(at: SystemTime) -> SystemTime {
    at.clamp(UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(LAST_SECOND))
}

/// A time as text: `2026-01-01T00:00:01.500000Z`.
#[must_use]
pub fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_micros(sayable(at)).to_string()
}

fn micros(duration: Option<prost_types::Duration>) -> Option<u64> {
    duration.map(|d| u64::try_from(to_duration(d).as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use vyr_proto::v0::{Execution, TaskEnd, TaskSpec, TaskStatus, Trap};

    use super::*;

    const FIELDS: &str = "acceptance args attempt cancel_latency_us code cpu_us digest end_reason ended_at engine \
error_kind exit_code fallback_message fallback_reason form id idempotency_key instantiate_us kind labels logs manifest \
message next path \
peak_memory_bytes prepare_us queued_us reference run_us signed_digest started_at status submit_to_start_us submitted_at \
submitter tier trace_id trap";

    fn fields(task: &Task) -> (String, serde_json::Value) {
        let value = serde_json::to_value(TaskView::from(task)).unwrap();
        let mut names: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
        names.sort();
        (names.join(" "), value)
    }

    #[test]
    fn no_time_is_too_early_or_too_late_to_be_shown() {
        for (seconds, text) in [
            (-1, "1970-01-01T00:00:00.000000Z"),
            (0, "1970-01-01T00:00:00.000000Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000000Z"),
            (253_402_300_800, "9999-12-31T23:59:59.000000Z"),
            (1 << 40, "9999-12-31T23:59:59.000000Z"),
        ] {
            let at = prost_types::Timestamp { seconds, nanos: 0 };
            assert_eq!(rfc3339(super::super::instant(at)), text, "{seconds}");
        }
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
    }

    /// What programs read here and what they read by an SDK are the same words.
    #[test]
    fn the_words_are_those_of_the_sdks() {
        use vyr_client::Word;
        for status in TaskStatus::ALL {
            assert_eq!(crate::task::StatusExt::word(*status), Word::word(*status));
        }
        for reason in EndReason::ALL {
            assert_eq!(reason_word(*reason), Word::word(*reason));
        }
        for (tier, path) in StartTier::ALL.iter().zip(ExecutionPath::ALL.iter().cycle()) {
            let execution = Execution { tier: (*tier).into(), path: (*path).into(), ..Execution::default() };
            let view = TaskView::from(&Task { execution: Some(execution), ..Task::default() });
            assert_eq!(
                (view.tier.as_deref(), view.path.as_deref()),
                (Some(Word::word(*tier)), Some(Word::word(*path)))
            );
        }
    }

    #[test]
    fn bytes_that_are_not_text_are_given_whole() {
        let entry = |data: &[u8]| LogEntry {
            stream: LogStream::Stdout.into(),
            data: data.to_vec().into(),
            attempt: 1,
            ..LogEntry::default()
        };
        let text = serde_json::to_value(LogView::from(&entry(b"plain"))).unwrap();
        assert_eq!((text["data"].as_str(), text.get("data_base64")), (Some("plain"), None));
        let binary = serde_json::to_value(LogView::from(&entry(b"\xff\x00"))).unwrap();
        assert_eq!((binary["stream"].as_str(), binary["data_base64"].as_str()), (Some("stdout"), Some("/wA=")));
    }
}
