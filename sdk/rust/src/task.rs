//! Owns what a task's end means to a program: whether it has ended, the exit code that stands for it, whether it succeeded.

use std::fmt;

use vyr_proto::v0::{EndReason, Task, TaskEnd, TaskStatus};

use crate::ErrorKind;
use crate::words::Word as _;

/// The exit code of what isn't the guest's fault or can't be told.
const VYR_FAILED: u8 = 125;

/// Questions to a [`Task`].
pub trait TaskExt {
    /// Whether nothing follows: also for an end that this version has no word for.
    fn has_ended(&self) -> bool;

    /// The exit code that stands for its end where a process waits for it, as `vyr wait` has it; `None` before the end.
    fn exit_code(&self) -> Option<u8>;

    /// Itself if it has succeeded.
    ///
    /// # Errors
    /// It has failed, or hasn't ended.
    fn check(&self) -> Result<&Self, TaskFailed>;
}

impl TaskExt for Task {
    fn has_ended(&self) -> bool {
        use TaskStatus::{Cancelled, Failed, Lost, Refused, Succeeded, TimedOut};
        self.ended_at.is_some() || matches!(self.status(), Succeeded | Failed | Cancelled | TimedOut | Refused | Lost)
    }

    fn exit_code(&self) -> Option<u8> {
        self.has_ended().then(|| self.end.as_ref().map_or(VYR_FAILED, exit_code))
    }

    fn check(&self) -> Result<&Self, TaskFailed> {
        if self.status() == TaskStatus::Succeeded { Ok(self) } else { Err(TaskFailed(Box::new(self.clone()))) }
    }
}

/// As docs/api-v0.md has it under "Ends".
fn exit_code(end: &TaskEnd) -> u8 {
    match end.reason() {
        EndReason::Exited | EndReason::Signalled | EndReason::MemoryLimit => process_code(end.exit_code()),
        EndReason::Trapped => 134,
        EndReason::WallClockLimit | EndReason::CpuLimit => 124,
        EndReason::CancelledByClient | EndReason::NodeStopped => 130,
        EndReason::Refused => 126,
        EndReason::CouldNotStart if end.error_kind == ErrorKind::NotFound.as_str() => 127,
        EndReason::CouldNotStart if end.error_kind == ErrorKind::Usage.as_str() => 2,
        EndReason::CouldNotStart | EndReason::NodeDied | EndReason::Unspecified => VYR_FAILED,
    }
}

/// What a process exits with in place of a guest that has exited with `code`: the low 8 bits, as the system does with a
/// process's own code. Only 0 is 0: of a code that has nothing but higher bits, such as 256, it is 1, since a failure must
/// not look like success.
#[must_use]
pub fn process_code(code: i32) -> u8 {
    match code.to_le_bytes()[0] {
        0 if code != 0 => 1,
        low => low,
    }
}

/// A task that didn't succeed.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskFailed(Box<Task>);

impl TaskFailed {
    /// The task.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.0
    }

    /// The exit code that stands for its end; 125 for one that hasn't ended.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.0.exit_code().unwrap_or(VYR_FAILED)
    }

    /// How it ended, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        match &self.0.end {
            Some(end) => &end.message,
            None if self.0.has_ended() => "",
            None => "it has not ended",
        }
    }

    /// What to do next, where that is known.
    #[must_use]
    pub fn next(&self) -> Option<&str> {
        self.0.end.as_ref().map(|end| end.next.as_str()).filter(|next| !next.is_empty())
    }
}

impl fmt::Display for TaskFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "task {} is {}", self.0.id, self.0.status().word())?;
        if !self.message().is_empty() {
            write!(f, ": {}", self.message())?;
        }
        match self.next() {
            Some(next) => write!(f, "; {next}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for TaskFailed {}

/// What [`Client::run`](crate::Client::run) gives: a task that has ended, with what its last attempt wrote.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The task.
    pub task: Task,
    /// What it wrote to standard output, as far as it was kept.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error, as far as it was kept.
    pub stderr: Vec<u8>,
}

impl Outcome {
    /// The exit code that stands for its end.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        self.task.exit_code().unwrap_or(VYR_FAILED)
    }

    /// Itself if the task has succeeded.
    ///
    /// # Errors
    /// The task has failed.
    pub fn check(&self) -> Result<&Self, TaskFailed> {
        self.task.check().map(|_| self)
    }

    /// Standard output as text; what isn't UTF-8 is replaced.
    #[must_use]
    pub fn stdout_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// Standard error as text; what isn't UTF-8 is replaced.
    #[must_use]
    pub fn stderr_text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: TaskStatus, reason: EndReason, code: Option<i32>) -> Task {
        let end = TaskEnd {
            reason: reason.into(),
            exit_code: code,
            message: "why".into(),
            next: "what".into(),
            ..TaskEnd::default()
        };
        Task { id: "7".into(), status: status.into(), end: Some(end), ..Task::default() }
    }

    #[test]
    fn only_a_task_that_succeeded_passes_the_check() {
        assert!(ended(TaskStatus::Succeeded, EndReason::Exited, Some(0)).check().is_ok());
        let failed = ended(TaskStatus::Failed, EndReason::Exited, Some(-1)).check().unwrap_err();
        assert_eq!((failed.exit_code(), failed.message(), failed.next()), (255, "why", Some("what")));
        assert_eq!(failed.to_string(), "task 7 is failed: why; what");
        let running = Task { status: TaskStatus::Running.into(), ..Task::default() };
        assert_eq!((running.exit_code(), running.check().unwrap_err().exit_code()), (None, 125));
        assert!(running.check().unwrap_err().to_string().contains("has not ended"));
    }

    #[test]
    fn a_failure_never_looks_like_success() {
        let codes =
            [(0, 0), (1, 1), (255, 255), (-1, 255), (257, 1), (256, 1), (512, 1), (i32::MIN, 1), (i32::MAX, 255)];
        for (code, shown) in codes {
            let status = if code == 0 { TaskStatus::Succeeded } else { TaskStatus::Failed };
            assert_eq!(ended(status, EndReason::Exited, Some(code)).exit_code(), Some(shown), "{code}");
        }
    }

    #[test]
    fn an_end_of_a_newer_version_is_one() {
        let task = Task { status: 99, ended_at: Some(prost_types::Timestamp::default()), ..Task::default() };
        assert!(task.has_ended() && task.check().is_err());
        assert_eq!(task.exit_code(), Some(125));
        assert!(!Task { status: 99, ..Task::default() }.has_ended());
    }
}
