//! Owns the life of a task as rules without I/O: its identity, which status may follow which, and what an end means.
//! The words are those of the frozen interface (`vyr.control.v0`), which is also what is kept on disk.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use vyr_proto::v0::{EndReason, RetryOn, RetryPolicy, StartTier, TaskEnd, TaskStatus};

use crate::error::{Error, ErrorKind};

mod check;
mod path;
mod view;

pub use check::{MAX_STDIN_BYTES, check};
pub use path::{critical_path, span_times};
pub use view::{LogView, LogsView, TaskView, TrapView, reason_word, rfc3339, sayable, time};

/// What a task's output is kept to where its submit doesn't say, in bytes.
pub const DEFAULT_LOG_BYTES: u64 = 4 << 20;
/// The most that a submit may ask for, in bytes.
pub const MAX_LOG_BYTES: u64 = 64 << 20;
/// The most attempts that a submit may ask for.
pub const MAX_ATTEMPTS: u32 = 100;

/// The identity of a task: a UUID of version 7 (RFC 9562, section 5.7), so that ids sort by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId(uuid::Uuid);

impl TaskId {
    /// A new one. Ids of one process only ever grow, even if the clock is set back.
    #[must_use]
    pub fn new() -> Self {
        Self(uuid::Uuid::now_v7())
    }

    /// The 16 bytes that are kept on disk.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// From what is kept on disk; `None` for another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        uuid::Uuid::from_slice(bytes).ok().map(Self)
    }
}

impl Default for TaskId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for TaskId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        uuid::Uuid::try_parse(text).map(Self).map_err(|_| {
            Error::new(ErrorKind::Usage, format!("`{text}` is not a task's id"))
                .hint("`vyr tasks` lists the tasks with their ids")
        })
    }
}

/// Questions to a status.
pub trait StatusExt: Copy {
    /// Whether the task has ended: nothing follows.
    fn is_end(self) -> bool;
    /// Whether `next` may follow this status.
    fn may_become(self, next: Self) -> bool;
    /// Whether a node that died in this status may have let the guest have effects.
    fn may_have_run(self) -> bool;
    /// The word in listings: `running`.
    fn word(self) -> &'static str;
}

impl StatusExt for TaskStatus {
    fn is_end(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::TimedOut | Self::Refused | Self::Lost)
    }

    fn may_become(self, next: Self) -> bool {
        match self {
            Self::Unspecified => matches!(next, Self::Queued | Self::Preparing | Self::Running),
            Self::Queued => matches!(next, Self::Preparing | Self::Cancelled),
            // Back to the queue is another attempt.
            Self::Preparing => {
                matches!(next, Self::Queued | Self::Running | Self::Failed | Self::Refused | Self::Cancelled)
            }
            Self::Running => next == Self::Queued || next.is_end(),
            _ => false,
        }
    }

    fn may_have_run(self) -> bool {
        self == Self::Running
    }

    fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Refused => "refused",
            Self::Lost => "lost",
        }
    }
}

/// Whether the policy wants another attempt after `attempts` of them, the last of which ended so; and after what wait.
#[must_use]
pub fn retry_after(policy: Option<&RetryPolicy>, attempts: u32, end: &TaskEnd) -> Option<Duration> {
    let policy = policy.filter(|p| attempts < p.max_attempts)?;
    let wanted = match end.reason() {
        EndReason::Exited if end.exit_code() != 0 => RetryOn::Failure,
        EndReason::Trapped | EndReason::Signalled | EndReason::MemoryLimit => RetryOn::Failure,
        EndReason::WallClockLimit | EndReason::CpuLimit => RetryOn::Timeout,
        EndReason::CouldNotStart if end.error_kind == ErrorKind::Unavailable.as_str() => RetryOn::Unavailable,
        _ => return None,
    };
    if !policy.on().any(|on| on == wanted) {
        return None;
    }
    let first = policy.initial_backoff.map_or(Duration::from_secs(1), to_duration);
    let most = policy.max_backoff.map_or(Duration::from_secs(60), to_duration);
    Some(first.saturating_mul(1 << attempts.saturating_sub(1).min(30)).min(most))
}

/// A duration of the interface; a negative one, which is refused at submit, counts as none.
#[must_use]
pub fn to_duration(duration: prost_types::Duration) -> Duration {
    Duration::try_from(duration).unwrap_or_default()
}

/// Microseconds since the Unix epoch.
#[must_use]
pub fn micros(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_micros()).unwrap_or(i64::MAX))
}

/// The time `micros` after the Unix epoch, as the interface has it.
#[must_use]
pub fn timestamp(micros: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0);
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos }
}

/// A time of the interface; the epoch for one that no clock shows.
#[must_use]
pub fn instant(timestamp: prost_types::Timestamp) -> SystemTime {
    SystemTime::try_from(timestamp).unwrap_or(UNIX_EPOCH)
}

/// The tier in listings and metrics.
#[must_use]
pub fn tier_word(tier: StartTier) -> &'static str {
    match tier {
        StartTier::Unspecified => "none",
        StartTier::S0 => "S0",
        StartTier::S1 => "S1",
        StartTier::S2 => "S2",
        StartTier::S3 => "S3",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [TaskStatus; 9] = [
        TaskStatus::Queued,
        TaskStatus::Preparing,
        TaskStatus::Running,
        TaskStatus::Succeeded,
        TaskStatus::Failed,
        TaskStatus::Cancelled,
        TaskStatus::TimedOut,
        TaskStatus::Refused,
        TaskStatus::Lost,
    ];

    #[test]
    fn nothing_follows_an_end_and_every_status_can_reach_one() {
        for from in ALL {
            assert_eq!(from.is_end(), !ALL.iter().any(|to| from.may_become(*to)), "{from:?}");
        }
        assert!(TaskStatus::Queued.may_become(TaskStatus::Cancelled));
        assert!(!TaskStatus::Queued.may_become(TaskStatus::Succeeded), "a guest that never ran hasn't succeeded");
        assert!(!TaskStatus::Preparing.may_become(TaskStatus::Lost), "what never started is not lost");
    }

    #[test]
    fn ids_sort_by_time_and_survive_text_and_bytes() {
        let ids: Vec<TaskId> = (0..1000).map(|_| TaskId::new()).collect();
        assert!(ids.is_sorted());
        assert_eq!(ids[0].to_string().parse::<TaskId>().unwrap(), ids[0]);
        assert_eq!(TaskId::from_bytes(ids[0].as_bytes()), Some(ids[0]));
        assert_eq!("nonsense".parse::<TaskId>().unwrap_err().kind(), ErrorKind::Usage);
    }

    #[test]
    fn an_attempt_is_made_only_for_what_was_asked() {
        let end = |reason: EndReason, code, kind: &str| TaskEnd {
            reason: reason.into(),
            exit_code: code,
            error_kind: kind.into(),
            ..Default::default()
        };
        let policy = RetryPolicy {
            max_attempts: 3,
            on: vec![RetryOn::Failure.into(), RetryOn::Unavailable.into()],
            ..Default::default()
        };
        let failed = end(EndReason::Exited, Some(1), "");
        assert_eq!(retry_after(None, 1, &failed), None, "never without having been asked");
        assert_eq!(retry_after(Some(&policy), 1, &failed), Some(Duration::from_secs(1)));
        assert_eq!(retry_after(Some(&policy), 2, &failed), Some(Duration::from_secs(2)));
        assert_eq!(retry_after(Some(&policy), 3, &failed), None);
        assert_eq!(retry_after(Some(&policy), 1, &end(EndReason::Exited, Some(0), "")), None);
        assert_eq!(retry_after(Some(&policy), 1, &end(EndReason::WallClockLimit, None, "")), None);
        assert!(retry_after(Some(&policy), 1, &end(EndReason::CouldNotStart, None, "unavailable")).is_some());
        assert_eq!(retry_after(Some(&policy), 1, &end(EndReason::Refused, None, "refused")), None);
        assert_eq!(retry_after(Some(&policy), 1, &end(EndReason::CancelledByClient, None, "")), None);
    }

    #[test]
    fn times_before_the_epoch_and_after_it() {
        assert_eq!(timestamp(-1), prost_types::Timestamp { seconds: -1, nanos: 999_999_000 });
        assert_eq!(timestamp(1_500_000), prost_types::Timestamp { seconds: 1, nanos: 500_000_000 });
        assert_eq!(micros(UNIX_EPOCH - Duration::from_secs(1)), 0);
    }
}
