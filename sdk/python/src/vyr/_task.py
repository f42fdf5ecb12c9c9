"""Owns a task as a node shows it: where it is in its life, what was executed, how it ended, what it wrote."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from google.protobuf.message import Message

from . import _spec
from ._errors import TaskFailed
from ._proto import task_pb2 as pb
from ._spec import TaskSpec
from ._values import micros, text, to_duration, to_time
from ._words import EndReason, ExecutionPath, LogStream, StartTier, TaskStatus, word


@dataclass(frozen=True, slots=True)
class Trap:
    """A trap of a guest.

    Attributes:
        kind: A stable word: `unreachable`, `memory_out_of_bounds`, `stack_overflow`, …
        backtrace: The guest's frames, innermost first, a line each.
    """

    kind: str
    backtrace: str | None = None


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended.

    Attributes:
        reason: Why.
        exit_code: The guest's own, for `exited`; what stands for it, for `signalled` and `memory_limit`.
        message: In words, for people.
        trap: For `trapped`.
        error_kind: For `could_not_start` and `refused`: what kind of failure it was.
        next: What to do next, where that is known.
        cancel_latency: For one that was cancelled: from the request to the guest's end.
    """

    reason: EndReason
    exit_code: int | None = None
    message: str | None = None
    trap: Trap | None = None
    error_kind: str | None = None
    next: str | None = None
    cancel_latency: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Execution:
    """What was executed and what it took, as far as the task came; of the last attempt.

    Attributes:
        path: Wasm or container; None: it was not started.
        tier: What was there already; None: it was not started.
        fallback_reason: Why not the Wasm, where the container ran, as a stable word.
        fallback_message: The same in words.
        digest: What the reference named.
        manifest: The manifest that was executed.
        code: The digest of the Wasm bytes; of a container, that of its image's config.
        form: The artifact's form.
        kind: `module`, `component` or `image`.
        acceptance: Why it was allowed to run.
        signed_digest: The digest whose signature counted.
        engine: What ran the container.
        notes: What the machine could not do as asked, each in a sentence.
        queued: From the submit's arrival to a free place.
        prepare: Resolve, pull, verify, compile.
        instantiate: Making the instance.
        run: The guest's own run.
        cpu: CPU time of the guest.
        submit_to_start: From the submit's arrival to the guest's entry point.
        peak_memory_bytes: The most memory that it held, in bytes.
    """

    path: ExecutionPath | None = None
    tier: StartTier | None = None
    fallback_reason: str | None = None
    fallback_message: str | None = None
    digest: str | None = None
    manifest: str | None = None
    code: str | None = None
    form: str | None = None
    kind: str | None = None
    acceptance: str | None = None
    signed_digest: str | None = None
    engine: str | None = None
    notes: tuple[str, ...] = ()
    queued: timedelta | None = None
    prepare: timedelta | None = None
    instantiate: timedelta | None = None
    run: timedelta | None = None
    cpu: timedelta | None = None
    submit_to_start: timedelta | None = None
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LogSummary:
    """What is kept of a task's output, in bytes.

    Attributes:
        stdout_bytes: Kept of standard output.
        stderr_bytes: Kept of standard error.
        dropped_bytes: Came after the limit.
    """

    stdout_bytes: int = 0
    stderr_bytes: int = 0
    dropped_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Task:
    """A task as it stood when the node answered.

    Attributes:
        id: A UUID of version 7.
        spec: What was submitted, without the values of variables and without standard input.
        status: Where it is in its life.
        submitted_at: When the submit arrived (UTC, as all times here).
        started_at: When the last attempt's guest was started.
        ended_at: When it ended.
        attempt: The attempt that is under way or was the last, from 1.
        end: How it ended; None while it hasn't.
        execution: What was executed.
        logs: What is kept of its output.
        submitter: Who submitted it.
        idempotency_key: The submit's key.
        trace_id: The W3C trace id, 32 hex digits.
        interruptions: How many of the attempts a death of the node cut off.
    """

    id: str
    spec: TaskSpec
    status: TaskStatus
    submitted_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    attempt: int = 0
    end: TaskEnd | None = None
    execution: Execution = field(default_factory=Execution)
    logs: LogSummary = field(default_factory=LogSummary)
    submitter: str = ""
    idempotency_key: str | None = None
    trace_id: str | None = None
    interruptions: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing follows: also for an end that this version has no word for."""
        return self.ended_at is not None or self.status.is_end

    @property
    def succeeded(self) -> bool:
        """Whether it ended, and well."""
        return self.status is TaskStatus.SUCCEEDED

    @property
    def exit_code(self) -> int | None:
        """What stands for its end as a process's exit code, as `vyr wait` has it; None while it hasn't ended.

        The guest's own code alone is in `end.exit_code`.
        """
        if not self.ended:
            return None
        return 125 if self.end is None else _exit_code(self.end)

    def check(self) -> Task:
        """The task itself, if it succeeded.

        Raises:
            TaskFailed: It ended otherwise, or hasn't ended.
        """
        if not self.succeeded:
            raise TaskFailed(self)
        return self

    def to_dict(self) -> dict[str, Any]:
        """For JSON: the document of `vyr status --output json`, times in RFC 3339, durations in microseconds."""
        end, done = self.end, self.execution
        shown: dict[str, Any] = {
            "id": self.id,
            "reference": self.spec.reference,
            "digest": done.digest,
            "manifest": done.manifest,
            "status": str(self.status),
            "submitted_at": text(self.submitted_at),
            "started_at": text(self.started_at),
            "ended_at": text(self.ended_at),
            "attempt": self.attempt,
            "exit_code": end and end.exit_code,
            "end_reason": end and str(end.reason),
            "message": end and end.message,
            "error_kind": end and end.error_kind,
            "next": end and end.next,
            "trap": end and end.trap and {"kind": end.trap.kind, "backtrace": end.trap.backtrace},
            "tier": done.tier and str(done.tier),
            "path": done.path and str(done.path),
            "fallback_reason": done.fallback_reason,
            "fallback_message": done.fallback_message,
            "engine": done.engine,
            "form": done.form,
            "kind": done.kind,
            "code": done.code,
            "acceptance": done.acceptance,
            "signed_digest": done.signed_digest,
            "queued_us": micros(done.queued),
            "prepare_us": micros(done.prepare),
            "instantiate_us": micros(done.instantiate),
            "run_us": micros(done.run),
            "cpu_us": micros(done.cpu),
            "submit_to_start_us": micros(done.submit_to_start),
            "cancel_latency_us": end and micros(end.cancel_latency),
            "peak_memory_bytes": done.peak_memory_bytes,
            "args": list(self.spec.args),
            "labels": dict(self.spec.labels),
            "submitter": self.submitter,
            "idempotency_key": self.idempotency_key,
            "trace_id": self.trace_id,
            "logs": {
                "stdout_bytes": self.logs.stdout_bytes,
                "stderr_bytes": self.logs.stderr_bytes,
                "dropped_bytes": self.logs.dropped_bytes,
            },
        }
        if done.notes:
            shown["notes"] = list(done.notes)
        return shown


# As `task::exit_code` of the node has it.
_CODES = {
    EndReason.TRAPPED: 134,
    EndReason.WALL_CLOCK_LIMIT: 124,
    EndReason.CPU_LIMIT: 124,
    EndReason.CANCELLED_BY_CLIENT: 130,
    EndReason.NODE_STOPPED: 130,
    EndReason.NODE_DIED: 125,
    EndReason.REFUSED: 126,
}
_NOT_STARTED = {"not_found": 127, "usage": 2}


def _exit_code(end: TaskEnd) -> int:
    if end.reason in {EndReason.EXITED, EndReason.SIGNALLED, EndReason.MEMORY_LIMIT}:
        code = end.exit_code or 0
        # As the system does with a process's own code; but a failure, such as 256, must not look like success.
        return code & 0xFF or int(code != 0)
    if end.reason is EndReason.COULD_NOT_START:
        return _NOT_STARTED.get(end.error_kind or "", 125)
    return _CODES.get(end.reason, 125)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One write of a guest.

    Attributes:
        stream: Which output.
        data: What it wrote: bytes, not text.
        time: When the guest wrote it.
        attempt: The attempt that wrote it; 255 for all from the 255th on.
    """

    stream: LogStream
    data: bytes
    time: datetime | None = None
    attempt: int = 1

    def to_dict(self) -> dict[str, Any]:
        """For JSON: a line of `vyr logs --output jsonl`. Bytes that aren't text are there in base64 too."""
        shown: dict[str, Any] = {
            "stream": str(self.stream),
            "time": text(self.time),
            "attempt": self.attempt,
            "data": self.data.decode("utf-8", errors="replace"),
        }
        try:
            self.data.decode("utf-8")
        except UnicodeDecodeError:
            shown["data_base64"] = base64.b64encode(self.data).decode("ascii")
        return shown


@dataclass(frozen=True, slots=True)
class Outcome:
    """A task that ended, with its output.

    Attributes:
        task: The task.
        stdout: What is kept of the last attempt's standard output. `task.logs.dropped_bytes` says how much isn't.
        stderr: The same of standard error.
    """

    task: Task
    stdout: bytes
    stderr: bytes

    @property
    def exit_code(self) -> int:
        """What stands for its end as a process's exit code, as `vyr wait` has it."""
        code = self.task.exit_code
        return 125 if code is None else code

    def check(self) -> Outcome:
        """The outcome itself, if the task succeeded.

        Raises:
            TaskFailed: It ended otherwise.
        """
        self.task.check()
        return self

    def to_dict(self) -> dict[str, Any]:
        """For JSON. Bytes that aren't text are shown as well as that goes."""
        return {
            "task": self.task.to_dict(),
            "stdout": self.stdout.decode("utf-8", errors="replace"),
            "stderr": self.stderr.decode("utf-8", errors="replace"),
        }


def _duration(message: Message, name: str) -> timedelta | None:
    return to_duration(getattr(message, name)) if message.HasField(name) else None


def _time(message: Message, name: str) -> datetime | None:
    return to_time(getattr(message, name)) if message.HasField(name) else None


def from_proto(task: pb.Task) -> Task:
    """What a node says of a task."""
    return Task(
        id=task.id,
        spec=_spec.from_proto(task.spec),
        status=word(TaskStatus, pb.TaskStatus, task.status, unset=TaskStatus.UNKNOWN),
        submitted_at=_time(task, "submitted_at"),
        started_at=_time(task, "started_at"),
        ended_at=_time(task, "ended_at"),
        attempt=task.attempt,
        end=_end(task.end) if task.HasField("end") else None,
        execution=_execution(task.execution),
        logs=LogSummary(task.logs.stdout_bytes, task.logs.stderr_bytes, task.logs.dropped_bytes),
        submitter=task.submitter,
        idempotency_key=task.idempotency_key or None,
        trace_id=task.trace_id or None,
        interruptions=task.interruptions,
    )


def _end(end: pb.TaskEnd) -> TaskEnd:
    return TaskEnd(
        reason=word(EndReason, pb.EndReason, end.reason, unset=EndReason.UNKNOWN),
        exit_code=end.exit_code if end.HasField("exit_code") else None,
        message=end.message or None,
        trap=Trap(end.trap.kind, end.trap.backtrace or None) if end.HasField("trap") else None,
        error_kind=end.error_kind or None,
        next=end.next or None,
        cancel_latency=_duration(end, "cancel_latency"),
    )


def _execution(done: pb.Execution) -> Execution:
    return Execution(
        path=word(ExecutionPath, pb.ExecutionPath, done.path, unset=ExecutionPath.UNKNOWN) if done.path else None,
        tier=word(StartTier, pb.StartTier, done.tier, unset=StartTier.UNKNOWN) if done.tier else None,
        fallback_reason=done.fallback_reason or None,
        fallback_message=done.fallback_message or None,
        digest=done.digest or None,
        manifest=done.manifest or None,
        code=done.code or None,
        form=done.form or None,
        kind=done.kind or None,
        acceptance=done.acceptance or None,
        signed_digest=done.signed_digest or None,
        engine=done.engine or None,
        notes=tuple(done.notes),
        queued=_duration(done, "queued"),
        prepare=_duration(done, "prepare"),
        instantiate=_duration(done, "instantiate"),
        run=_duration(done, "run"),
        cpu=_duration(done, "cpu"),
        submit_to_start=_duration(done, "submit_to_start"),
        peak_memory_bytes=done.peak_memory_bytes or None,
    )


def entry_from_proto(entry: pb.LogEntry) -> LogEntry:
    """One write."""
    return LogEntry(
        stream=word(LogStream, pb.LogStream, entry.stream, unset=LogStream.UNKNOWN),
        data=entry.data,
        time=_time(entry, "time"),
        attempt=entry.attempt,
    )
