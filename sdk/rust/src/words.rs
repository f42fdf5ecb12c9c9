//! Owns the words of the interface's values, as the command line's JSON has them.

use vyr_proto::v0::{
    EndReason, ExecutionPath, LogStream, OnBusy, OnInterrupt, PullPolicy, RetryOn, StartTier, StateClass, StateKind,
    TaskStatus,
};

/// A value of the interface as a word: `TaskStatus::TimedOut` is `timed_out`, `StartTier::S3` is `S3`.
pub trait Word: Copy + Sized + 'static {
    /// All values that have a word.
    const ALL: &'static [Self];

    /// The word; `unknown` for what isn't said, or by a newer node.
    fn word(self) -> &'static str;

    /// The value that a word stands for.
    fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|value| value.word() == word)
    }
}

macro_rules! words {
    ($($of:ident { $($value:ident = $word:literal),* $(,)? })*) => {
        $(impl Word for $of {
            const ALL: &'static [Self] = &[$(Self::$value),*];

            fn word(self) -> &'static str {
                match self {
                    Self::Unspecified => "unknown",
                    $(Self::$value => $word,)*
                }
            }
        })*
    };
}

words! {
    TaskStatus {
        Queued = "queued",
        Preparing = "preparing",
        Running = "running",
        Succeeded = "succeeded",
        Failed = "failed",
        Cancelled = "cancelled",
        TimedOut = "timed_out",
        Refused = "refused",
        Lost = "lost",
    }
    EndReason {
        Exited = "exited",
        Trapped = "trapped",
        WallClockLimit = "wall_clock_limit",
        CpuLimit = "cpu_limit",
        CancelledByClient = "cancelled_by_client",
        NodeStopped = "node_stopped",
        NodeDied = "node_died",
        Refused = "refused",
        CouldNotStart = "could_not_start",
        Signalled = "signalled",
        MemoryLimit = "memory_limit",
    }
    StartTier { S0 = "S0", S1 = "S1", S2 = "S2", S3 = "S3" }
    ExecutionPath { Wasm = "wasm", Container = "container" }
    StateClass { Task = "task", Node = "node", Synced = "synced" }
    StateKind { Files = "files", Kv = "kv" }
    LogStream { Stdout = "stdout", Stderr = "stderr" }
    OnInterrupt { Lose = "lose", RunAgain = "run_again" }
    PullPolicy { Missing = "missing", Always = "always", Never = "never" }
    RetryOn { Failure = "failure", Timeout = "timeout", Unavailable = "unavailable" }
    OnBusy { Wait = "wait", Refuse = "refuse" }
}
