"""Owns the words of the interface: each as the command line's JSON shows it.

A node of a later version may send a value that has no word here; it is `UNKNOWN`.
"""

from enum import StrEnum
from typing import Protocol, TypeVar

from ._errors import UsageError

__all__ = [
    "EndReason",
    "ExecutionPath",
    "LogStream",
    "OnBusy",
    "OnInterrupt",
    "PullPolicy",
    "RetryOn",
    "StartTier",
    "StateClass",
    "StateKind",
    "TaskStatus",
]


class TaskStatus(StrEnum):
    """Where a task is in its life."""

    UNKNOWN = "unknown"
    QUEUED = "queued"
    PREPARING = "preparing"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    REFUSED = "refused"
    LOST = "lost"

    @property
    def is_end(self) -> bool:
        """Whether nothing follows it."""
        return self in _ENDS


_ENDS = frozenset(
    {
        TaskStatus.SUCCEEDED,
        TaskStatus.FAILED,
        TaskStatus.CANCELLED,
        TaskStatus.TIMED_OUT,
        TaskStatus.REFUSED,
        TaskStatus.LOST,
    }
)


class EndReason(StrEnum):
    """Why a task ended, exactly."""

    UNKNOWN = "unknown"
    EXITED = "exited"
    TRAPPED = "trapped"
    WALL_CLOCK_LIMIT = "wall_clock_limit"
    CPU_LIMIT = "cpu_limit"
    CANCELLED_BY_CLIENT = "cancelled_by_client"
    NODE_STOPPED = "node_stopped"
    NODE_DIED = "node_died"
    REFUSED = "refused"
    COULD_NOT_START = "could_not_start"
    SIGNALLED = "signalled"
    MEMORY_LIMIT = "memory_limit"


class OnInterrupt(StrEnum):
    """What becomes of a task whose node dies while its guest may have been running."""

    LOSE = "lose"
    RUN_AGAIN = "run_again"


class PullPolicy(StrEnum):
    """When the registry is asked."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


class RetryOn(StrEnum):
    """What the node makes another attempt for."""

    FAILURE = "failure"
    TIMEOUT = "timeout"
    UNAVAILABLE = "unavailable"


class OnBusy(StrEnum):
    """What becomes of a task whose state has a writer already."""

    WAIT = "wait"
    REFUSE = "refuse"


class ExecutionPath(StrEnum):
    """Which way a task is executed."""

    UNKNOWN = "unknown"
    WASM = "wasm"
    CONTAINER = "container"


class StartTier(StrEnum):
    """What was there already when a task was submitted."""

    UNKNOWN = "unknown"
    S0 = "S0"
    S1 = "S1"
    S2 = "S2"
    S3 = "S3"


class LogStream(StrEnum):
    """One of a task's outputs."""

    UNKNOWN = "unknown"
    STDOUT = "stdout"
    STDERR = "stderr"


class StateClass(StrEnum):
    """What a state promises."""

    UNKNOWN = "unknown"
    TASK = "task"
    NODE = "node"
    SYNCED = "synced"


class StateKind(StrEnum):
    """What a state holds."""

    UNKNOWN = "unknown"
    FILES = "files"
    KV = "kv"


# The beginning of each value's name in the interface.
_PREFIXES: dict[type[StrEnum], str] = {
    TaskStatus: "TASK_STATUS_",
    EndReason: "END_REASON_",
    OnInterrupt: "ON_INTERRUPT_",
    PullPolicy: "PULL_POLICY_",
    RetryOn: "RETRY_ON_",
    OnBusy: "ON_BUSY_",
    ExecutionPath: "EXECUTION_PATH_",
    StartTier: "START_TIER_",
    LogStream: "LOG_STREAM_",
    StateClass: "STATE_CLASS_",
    StateKind: "STATE_KIND_",
}

W = TypeVar("W", bound=StrEnum)


class Numbers(Protocol):
    """An enum as protoc makes it."""

    def Name(self, number: int) -> str:  # noqa: N802
        ...

    def Value(self, name: str) -> int:  # noqa: N802
        ...


def word(cls: type[W], numbers: Numbers, number: int, *, unset: W) -> W:
    """The word for a number of the interface; `unset` for 0 and for what has no word here."""
    try:
        return cls[numbers.Name(number).removeprefix(_PREFIXES[cls])]
    except (KeyError, ValueError):
        return unset


def number(cls: type[W], numbers: Numbers, chosen: str, field: str) -> int:
    """The number of a word.

    Raises:
        UsageError: It isn't one of the words.
    """
    words = [known for known in cls if known.name != "UNKNOWN"]
    if chosen not in words:
        raise UsageError(f"{field}: `{chosen}` is none of {', '.join(words)}")
    return numbers.Value(_PREFIXES[cls] + cls(chosen).name)
