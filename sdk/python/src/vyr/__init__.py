"""Client of VYR's nodes, by Control API v0.

`Client` waits in the thread that calls, `AsyncClient` in asyncio; they have the same methods.

    import vyr

    with vyr.Client() as client:
        outcome = client.run("localhost:5000/hello:v1").check()
        print(outcome.stdout.decode())
"""

from ._address import AnyPath
from ._artifact import Artifact, Blob, Trust
from ._async.client import AsyncClient
from ._async.streams import AsyncLogs, AsyncWatch
from ._channel import VERSION as __version__  # noqa: N811
from ._errors import (
    ERRORS,
    CancelledError,
    CannotStartError,
    ConflictError,
    Error,
    ErrorKind,
    ExhaustedError,
    FieldViolation,
    ForbiddenError,
    InternalError,
    InvalidContentError,
    NotFoundError,
    RefusedError,
    StorageError,
    TaskFailed,
    TimedOutError,
    UnauthorizedError,
    UnavailableError,
    UnimplementedError,
    UsageError,
)
from ._node import Node
from ._retry import Retry
from ._spec import Container, Deterministic, Limits, RetryPolicy, StateBinding, TaskSpec
from ._state import ArtifactBinding, Fork, State
from ._sync.client import Client
from ._sync.streams import Logs, Watch
from ._task import Execution, LogEntry, LogSummary, Outcome, Task, TaskEnd, Trap
from ._trace import Span, Trace
from ._values import Duration
from ._words import (
    EndReason,
    ExecutionPath,
    LogStream,
    OnBusy,
    OnInterrupt,
    PullPolicy,
    RetryOn,
    StartTier,
    StateClass,
    StateKind,
    TaskStatus,
)

# What a traceback shows is what is to be caught.
for _error in (*ERRORS.values(), Error, TaskFailed):
    _error.__module__ = __name__

__all__ = [
    "AnyPath",
    "Artifact",
    "ArtifactBinding",
    "AsyncClient",
    "AsyncLogs",
    "AsyncWatch",
    "Blob",
    "CancelledError",
    "CannotStartError",
    "Client",
    "ConflictError",
    "Container",
    "Deterministic",
    "Duration",
    "EndReason",
    "Error",
    "ErrorKind",
    "Execution",
    "ExecutionPath",
    "ExhaustedError",
    "FieldViolation",
    "ForbiddenError",
    "Fork",
    "InternalError",
    "InvalidContentError",
    "Limits",
    "LogEntry",
    "LogStream",
    "LogSummary",
    "Logs",
    "Node",
    "NotFoundError",
    "OnBusy",
    "OnInterrupt",
    "Outcome",
    "PullPolicy",
    "RefusedError",
    "Retry",
    "RetryOn",
    "RetryPolicy",
    "Span",
    "StartTier",
    "State",
    "StateBinding",
    "StateClass",
    "StateKind",
    "StorageError",
    "Task",
    "TaskEnd",
    "TaskFailed",
    "TaskSpec",
    "TaskStatus",
    "TimedOutError",
    "Trace",
    "Trap",
    "Trust",
    "UnauthorizedError",
    "UnavailableError",
    "UnimplementedError",
    "UsageError",
    "Watch",
    "__version__",
]
