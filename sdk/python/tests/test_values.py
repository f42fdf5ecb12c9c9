"""Values on their way to messages and back."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

import vyr
from vyr import _spec, _task
from vyr._proto import task_pb2 as pb
from vyr._requests import create_state, has_what_was_asked, list_tasks, submit_task
from vyr._values import micros, seconds, text, to_duration, to_proto_duration, to_time, to_timestamp

FULL = vyr.TaskSpec(
    "localhost:5000/app:v1",
    args=("one", "two words"),
    env={"A": "b=c"},
    stdin=b"in",
    limits=vyr.Limits(64 << 20, timedelta(seconds=1.5), timedelta(seconds=2), 1 << 20),
    on_interrupt=vyr.OnInterrupt.RUN_AGAIN,
    retry=vyr.RetryPolicy(3, (vyr.RetryOn.FAILURE, vyr.RetryOn.TIMEOUT), timedelta(seconds=2), timedelta(minutes=1)),
    pull=vyr.PullPolicy.NEVER,
    allow_unsigned=True,
    allow_net=("api.example:443",),
    states=(vyr.StateBinding("readings", "in", read_only=True, on_busy=vyr.OnBusy.REFUSE),),
    labels={"team": "blue"},
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    receipt_values=True,
    deterministic=vyr.Deterministic(7, datetime(2026, 1, 1, 12, 30, 0, 250_000, tzinfo=UTC)),
    path=vyr.ExecutionPath.CONTAINER,
    container=vyr.Container(
        ("sh",), "nobody", "/tmp", writable_root=True, pids=9, disk_bytes=1, cpus=1.5, stop_grace=timedelta(seconds=3)
    ),
)


def test_a_specification_goes_there_and_back() -> None:
    # Each field differs from its default, so that one which is forgotten shows.
    plain = vyr.TaskSpec("x")
    for spec_field in dataclasses.fields(vyr.TaskSpec):
        assert getattr(FULL, spec_field.name) != getattr(plain, spec_field.name), spec_field.name
    message = _spec.to_proto(FULL)
    assert {field.name for field, _ in message.ListFields()} == {field.name for field in pb.TaskSpec.DESCRIPTOR.fields}
    assert _spec.from_proto(message) == FULL
    assert _spec.from_proto(_spec.to_proto(plain)) == plain


def test_words_may_be_written_as_words() -> None:
    written = dataclasses.replace(FULL, pull="never", on_interrupt="run_again", path="container")
    assert _spec.to_proto(written) == _spec.to_proto(FULL)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"args": "abc"}, "args"),
        ({"args": [1]}, "specification"),
        ({"stdin": "text"}, "specification"),
        ({"limits": vyr.Limits(memory_bytes=-1)}, "specification"),
        ({"limits": vyr.Limits(timeout=-1)}, "limits.timeout"),
        ({"limits": vyr.Limits(cpu=float("nan"))}, "limits.cpu"),
        ({"pull": "sometimes"}, "`sometimes` is none of missing, always, never"),
        ({"path": "unknown"}, "path"),
        ({"retry": vyr.RetryPolicy(2, on=["unknown"])}, "retry.on"),
        ({"deterministic": vyr.Deterministic(start=datetime(2026, 1, 1))}, "time zone"),  # noqa: DTZ001
    ],
)
def test_what_a_message_cannot_hold_is_a_mistake_of_the_caller(spec: dict[str, Any], words: str) -> None:
    with pytest.raises(vyr.UsageError, match=words):
        submit_task(vyr.TaskSpec("x", **spec), "key", None)


def test_durations_and_times_to_the_microsecond() -> None:
    for length in (timedelta(0), timedelta(microseconds=1), timedelta(days=400, microseconds=999_999)):
        proto = to_proto_duration(length, "x")
        assert proto is not None
        assert to_duration(proto) == length
        assert to_proto_duration(length.total_seconds(), "x") == proto
    assert to_proto_duration(None, "x") is None
    assert (proto := to_proto_duration(0.9999999999, "x")) is not None
    assert (proto.seconds, proto.nanos) == (1, 0)
    for bad in (-1, float("inf"), float("nan"), 1e15, True, "1s"):
        with pytest.raises(vyr.UsageError, match="x: "):
            seconds(bad, "x")  # type: ignore[arg-type]
    for moment in (datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=UTC), datetime(1960, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC)):
        assert to_time(to_timestamp(moment, "x")) == moment
    east = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert text(east) == "2026-01-01T00:00:00.000000Z"
    assert (text(None), micros(None), micros(timedelta(seconds=1))) == (None, None, 1_000_000)


def test_what_a_later_node_says_is_not_lost() -> None:
    message = pb.Task(id="7", end=pb.TaskEnd())
    # Numbers that this version has no word for.
    later: Any = 99
    message.MergeFromString(pb.Task(status=later).SerializeToString())
    message.end.MergeFromString(pb.TaskEnd(reason=later).SerializeToString())
    task = _task.from_proto(message)
    assert (task.status, task.ended) == (vyr.TaskStatus.UNKNOWN, False)
    assert task.end is not None
    assert task.end.reason is vyr.EndReason.UNKNOWN
    message.ended_at.seconds = 1
    task = _task.from_proto(message)
    assert (task.ended, task.exit_code, task.succeeded) == (True, 125, False)


def test_secrets_are_in_no_repr() -> None:
    shown = repr(vyr.TaskSpec("x", env={"PASSWORD": "s3cret"}, stdin=b"s3cret"))
    assert "s3cret" not in shown
    assert "'x'" in shown


def test_a_state_is_compared_with_what_was_asked_for() -> None:
    request = create_state("s", "node", None, None, None, "files")
    there = vyr.State("1", "s", vyr.StateClass.NODE, vyr.StateKind.FILES, quota_bytes=64 << 20)
    assert has_what_was_asked(there, request)
    for change in (
        {"quota_bytes": 1},
        {"kind": vyr.StateKind.KV},
        {"state_class": vyr.StateClass.TASK},
        {"sync_target": "x"},
        {"expires_at": datetime.now(UTC)},
    ):
        other: Any = change
        assert not has_what_was_asked(dataclasses.replace(there, **other), request)


def test_a_listing_takes_words_only() -> None:
    assert list(list_tasks(["failed", vyr.TaskStatus.LOST], {"a": "b"}, None).statuses) == [5, 9]
    for bad in ("failed", ["finished"], ["unknown"]):
        with pytest.raises(vyr.UsageError, match="statuses"):
            list_tasks(bad, {}, None)
