"""What a failed call says."""

from __future__ import annotations

import pickle
from typing import Any

import grpc
import pytest
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

import vyr
from vyr._errors import from_rpc


class Failure(grpc.RpcError):
    """A failure as gRPC raises it."""

    def __init__(self, code: grpc.StatusCode, why: str, *details: Any, raw: bytes | None = None) -> None:
        self._code, self._why = code, why
        packed = []
        for detail in details:
            packed.append(Packed())
            packed[-1].Pack(detail)
        self._raw = raw or (status_pb2.Status(details=packed).SerializeToString() if details else None)

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._why

    def trailing_metadata(self) -> Any:
        return (("other", "x"), *([("grpc-status-details-bin", self._raw)] if self._raw else []))


def info(kind: str, **more: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=kind.upper(), domain="vyr.control.v0", metadata={"kind": kind, **more})


@pytest.mark.parametrize("kind", list(vyr.ErrorKind))
def test_the_node_s_word_decides_over_the_code(kind: vyr.ErrorKind) -> None:
    error = from_rpc(Failure(grpc.StatusCode.INTERNAL, "why", info(kind, next="do it")), "http://a:1")
    assert error.kind is kind
    assert (error.message, error.next, str(error)) == ("why", "do it", "why; do it")
    assert error.code is grpc.StatusCode.INTERNAL


def test_each_wrong_field_is_named() -> None:
    wrong = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(field="spec.args", description="too many"),
            error_details_pb2.BadRequest.FieldViolation(field="spec.env", description="too long"),
        ]
    )
    error = from_rpc(Failure(grpc.StatusCode.INVALID_ARGUMENT, "spec.args: too many", info("usage"), wrong), "x")
    assert isinstance(error, vyr.UsageError)
    assert error.fields == (vyr.FieldViolation("spec.args", "too many"), vyr.FieldViolation("spec.env", "too long"))
    assert str(error) == "spec.args: too many; spec.env: too long"


def test_it_says_when_to_try_again() -> None:
    again = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=500_000_000))
    error = from_rpc(Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", info("exhausted"), again), "x")
    assert isinstance(error, vyr.ExhaustedError)
    assert error.retry_after == 0.5


def test_what_cannot_be_read_or_is_not_known_goes_by_the_code() -> None:
    for failure in (
        Failure(grpc.StatusCode.NOT_FOUND, "gone", raw=b"\xff\xff"),
        Failure(grpc.StatusCode.NOT_FOUND, "gone", info("of-a-later-version")),
        Failure(grpc.StatusCode.NOT_FOUND, "gone"),
    ):
        error = from_rpc(failure, "x")
        assert isinstance(error, vyr.NotFoundError)
        assert error.message == "gone"
    assert "http://a:1" in str(from_rpc(Failure(grpc.StatusCode.INTERNAL, ""), "http://a:1"))
    assert "is it a node" in str(from_rpc(Failure(grpc.StatusCode.UNIMPLEMENTED, "unknown service"), "x"))


def test_without_an_answer_it_is_unavailable_and_says_what_to_do() -> None:
    refused = (
        "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1: Failed to connect to remote host: "
        "connect: Connection refused (111)"
    )
    error = from_rpc(Failure(grpc.StatusCode.UNAVAILABLE, refused), "http://127.0.0.1:1")
    assert isinstance(error, vyr.UnavailableError)
    assert error.message == "no node answers at http://127.0.0.1:1: connect: Connection refused (111)"
    assert (error.next, error.code) == ("start one with `vyr serve`, or name another", None)
    broken = from_rpc(Failure(grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2"), "x")
    assert isinstance(broken, vyr.UnavailableError)
    late = from_rpc(Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"), "x", limit=30.0)
    assert isinstance(late, vyr.UnavailableError)
    assert "within 30 s" in str(late)
    # Not this side's own limit.
    theirs = from_rpc(Failure(grpc.StatusCode.DEADLINE_EXCEEDED, "Timeout expired"), "x")
    assert isinstance(theirs, vyr.TimedOutError)


def test_errors_can_be_sent_to_other_processes() -> None:
    error = vyr.ExhaustedError("full", next="wait", retry_after=0.5, fields=[vyr.FieldViolation("a", "b")])
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (vyr.ExhaustedError, str(error), vars(error))
    failed = vyr.TaskFailed(vyr.Task("7", vyr.TaskSpec("x"), vyr.TaskStatus.LOST))
    assert str(pickle.loads(pickle.dumps(failed))) == str(failed)


def ended(status: vyr.TaskStatus, end: vyr.TaskEnd | None) -> vyr.Task:
    return vyr.Task("7", vyr.TaskSpec("x"), status, end=end)


def test_only_a_task_that_succeeded_passes_the_check() -> None:
    good = ended(vyr.TaskStatus.SUCCEEDED, vyr.TaskEnd(vyr.EndReason.EXITED, exit_code=0))
    assert good.check() is good
    assert vyr.Outcome(good, b"", b"").check().exit_code == 0
    end = vyr.TaskEnd(vyr.EndReason.EXITED, exit_code=-1, message="why", next="what")
    with pytest.raises(vyr.TaskFailed, match="task 7 is failed: why; what") as failed:
        vyr.Outcome(ended(vyr.TaskStatus.FAILED, end), b"", b"").check()
    assert (failed.value.exit_code, failed.value.message, failed.value.next) == (255, "why", "what")
    running = ended(vyr.TaskStatus.RUNNING, None)
    assert running.exit_code is None
    with pytest.raises(vyr.TaskFailed, match="has not ended") as unready:
        running.check()
    assert unready.value.exit_code == 125
