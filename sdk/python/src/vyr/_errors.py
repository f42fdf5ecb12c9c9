"""Owns what a failed call says: its kind, why, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

if TYPE_CHECKING:
    from ._task import Task

START_ONE = "start one with `vyr serve`, or name another"
ABOUT_CERTIFICATES = "ca_file names the authority to trust, cert_file and key_file what to show the node"


class ErrorKind(StrEnum):
    """The kinds of failure that a caller can tell apart; the same words in every SDK and in the command line's JSON."""

    USAGE = "usage"
    INVALID_CONTENT = "invalid_content"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    REFUSED = "refused"
    CANNOT_START = "cannot_start"
    FORBIDDEN = "forbidden"
    UNAUTHORIZED = "unauthorized"
    EXHAUSTED = "exhausted"
    UNAVAILABLE = "unavailable"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    UNIMPLEMENTED = "unimplemented"
    STORAGE = "storage"
    INTERNAL = "internal"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of a request that is wrong.

    Attributes:
        path: Which: `spec.limits.log_bytes`.
        description: What is wrong with it.
    """

    path: str
    description: str


class Error(Exception):
    """A call that failed. What is raised is one of the subclasses below, one for each kind.

    That a *task* failed is no error of a call; see `TaskFailed`.

    Attributes:
        kind: Which kind.
        message: Why it failed.
        next: What to do next, where that is known.
        fields: The fields of the request that are wrong, where the node named them.
        retry_after: After how many seconds the node says to try again; None where it doesn't say.
        code: The gRPC code that the node answered with; None for what failed on this side.
    """

    kind: ClassVar[ErrorKind]

    def __init__(
        self,
        message: str,
        *,
        next: str | None = None,  # noqa: A002
        fields: Sequence[FieldViolation] = (),
        retry_after: float | None = None,
        code: grpc.StatusCode | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.next = next
        self.fields = tuple(fields)
        self.retry_after = retry_after
        self.code = code

    def __str__(self) -> str:
        return f"{self.message}; {self.next}" if self.next else self.message


class UsageError(Error):
    """The call makes no sense: an address, a setting or a field of the request that can't be used."""

    kind = ErrorKind.USAGE


class InvalidContentError(Error):
    """Bytes that are what their digest says, but not what they should be."""

    kind = ErrorKind.INVALID_CONTENT


class NotFoundError(Error):
    """No such task, artifact or state."""

    kind = ErrorKind.NOT_FOUND


class ConflictError(Error):
    """It is there already and is something else, or something has it bound."""

    kind = ErrorKind.CONFLICT


class RefusedError(Error):
    """A digest doesn't match."""

    kind = ErrorKind.REFUSED


class CannotStartError(Error):
    """The guest can't be started here."""

    kind = ErrorKind.CANNOT_START


class ForbiddenError(Error):
    """The node doesn't take this from anybody, or the token is for the registry alone."""

    kind = ErrorKind.FORBIDDEN


class UnauthorizedError(Error):
    """No credential, or not one that the node knows."""

    kind = ErrorKind.UNAUTHORIZED


class ExhaustedError(Error):
    """There is no room now: the queue or the disk is full. A later try may work."""

    kind = ErrorKind.EXHAUSTED


class UnavailableError(Error):
    """No node answers, the connection broke, or the node is stopping. A later try may work."""

    kind = ErrorKind.UNAVAILABLE


class TimedOutError(Error):
    """A time that the caller set has passed. The task goes on."""

    kind = ErrorKind.TIMED_OUT


class CancelledError(Error):
    """The call was given up. It is not how a cancelled task shows: that has an end like every other."""

    kind = ErrorKind.CANCELLED


class UnimplementedError(Error):
    """What answers doesn't know this call."""

    kind = ErrorKind.UNIMPLEMENTED


class StorageError(Error):
    """The node's disk or database failed."""

    kind = ErrorKind.STORAGE


class InternalError(Error):
    """A fault of VYR's own, or an answer that can't be understood."""

    kind = ErrorKind.INTERNAL


ERRORS: dict[ErrorKind, type[Error]] = {
    cls.kind: cls
    for cls in (
        UsageError,
        InvalidContentError,
        NotFoundError,
        ConflictError,
        RefusedError,
        CannotStartError,
        ForbiddenError,
        UnauthorizedError,
        ExhaustedError,
        UnavailableError,
        TimedOutError,
        CancelledError,
        UnimplementedError,
        StorageError,
        InternalError,
    )
}


class TaskFailed(Exception):  # noqa: N818
    """A task that did not succeed; raised by `Task.check` and `Outcome.check` alone.

    Attributes:
        task: The task.
        exit_code: What stands for its end as a process's exit code: the guest's own, 124 for a time limit, 125 where VYR failed
            or it hasn't ended, 126 refused, 127 no such artifact, 130 cancelled, 134 trapped.
        message: How it ended.
        next: What to do next, where that is known.
    """

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.task = task
        self.exit_code = 125 if task.exit_code is None else task.exit_code
        self.message = (task.end.message or "") if task.end else "" if task.ended else "it has not ended"
        self.next = task.end.next if task.end else None

    def __str__(self) -> str:
        said = f"task {self.task.id} is {self.task.status}" + (f": {self.message}" if self.message else "")
        return f"{said}; {self.next}" if self.next else said


_KINDS = {
    grpc.StatusCode.INVALID_ARGUMENT: ErrorKind.USAGE,
    grpc.StatusCode.NOT_FOUND: ErrorKind.NOT_FOUND,
    grpc.StatusCode.PERMISSION_DENIED: ErrorKind.FORBIDDEN,
    grpc.StatusCode.UNAUTHENTICATED: ErrorKind.UNAUTHORIZED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorKind.EXHAUSTED,
    grpc.StatusCode.ALREADY_EXISTS: ErrorKind.CONFLICT,
    grpc.StatusCode.UNAVAILABLE: ErrorKind.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorKind.TIMED_OUT,
    grpc.StatusCode.CANCELLED: ErrorKind.CANCELLED,
    grpc.StatusCode.UNIMPLEMENTED: ErrorKind.UNIMPLEMENTED,
}


def kind_of(code: grpc.StatusCode) -> ErrorKind:
    """The kind where only the code is known."""
    return _KINDS.get(code, ErrorKind.INTERNAL)


# How gRPC's core says that it was the connection that broke, where it gives another code than UNAVAILABLE.
_BROKEN = re.compile(r"RST_STREAM|Stream removed|Connection reset|Broken pipe|Socket closed|GOAWAY|Connection closed")


def from_rpc(error: grpc.RpcError, address: str, *, limit: float | None = None) -> Error:
    """What a call's failure says.

    `limit` is how many seconds the call was given where all of them have passed.
    """
    # Each RpcError that a call raises is a call too; the type doesn't say so.
    call: Any = error
    code: grpc.StatusCode = call.code()
    why: str = call.details() or ""
    said = _details(call.trailing_metadata())
    try:
        known = ErrorKind(said.kind)
    except ValueError:
        return _without_details(code, why, address, limit)
    for field in said.fields:
        words = f"{field.path}: {field.description}"
        if words not in why:
            why = f"{why}; {words}" if why else words
    return ERRORS[known](
        why or f"the node at {address} says only: {code.name}",
        next=said.next or None,
        fields=said.fields,
        retry_after=said.retry_after,
        code=code,
    )


def _without_details(code: grpc.StatusCode, why: str, address: str, limit: float | None) -> Error:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and limit is not None:
        return UnavailableError(f"the node at {address} didn't answer within {limit:g} s", next=START_ONE)
    if code is grpc.StatusCode.UNAVAILABLE or _BROKEN.search(why):
        about = re.search(r"certificate|handshake|SSL|TLS", why, re.IGNORECASE)
        return UnavailableError(
            f"no node answers at {address}: {_reason(why)}", next=ABOUT_CERTIFICATES if about else START_ONE
        )
    wrong_server = "is it a node of VYR, of this version?" if code is grpc.StatusCode.UNIMPLEMENTED else None
    return ERRORS[kind_of(code)](why or f"the node at {address} says only: {code.name}", next=wrong_server, code=code)


def _reason(why: str) -> str:
    """Why there is no connection, without the words with which gRPC's core begins."""
    last = re.search(r"last error: (?:UNAVAILABLE|UNKNOWN): (.*)", why, re.DOTALL)
    reason = last.group(1) if last else why
    reason = re.sub(r"^(?:ipv[46]|unix):\S+: ", "", reason)
    return re.sub(r"^Failed to connect to remote host: ", "", reason) or "the connection broke"


@dataclass(frozen=True)
class _Said:
    kind: str = ""
    next: str = ""
    fields: tuple[FieldViolation, ...] = ()
    retry_after: float | None = None


def _details(metadata: Any) -> _Said:
    """What the status's details say; nothing where there are none or they can't be read."""
    packed = next((value for key, value in metadata or () if key == "grpc-status-details-bin"), None)
    if packed is None:
        return _Said()
    info, request, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    after = None
    try:
        for detail in status_pb2.Status.FromString(packed).details:
            detail.Unpack(info)
            detail.Unpack(request)
            if detail.Unpack(retry):
                after = retry.retry_delay.ToTimedelta().total_seconds()
    except DecodeError:
        return _Said()
    fields = tuple(FieldViolation(field.field, field.description) for field in request.field_violations)
    return _Said(info.metadata.get("kind", ""), info.metadata.get("next", ""), fields, after)


@contextmanager
def building(what: str) -> Iterator[None]:
    """Says of a value that a message can't hold that the request is wrong."""
    try:
        yield
    except (TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"{what} can't be made: {error}") from error
