"""Owns durations and times: as Python has them, as the interface has them, as JSON has them."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from google.protobuf.duration_pb2 import Duration as ProtoDuration
from google.protobuf.timestamp_pb2 import Timestamp

from ._errors import UsageError

Duration: TypeAlias = timedelta | float
"""A time span: a `timedelta`, or a number of seconds."""

# What google.protobuf.Duration holds.
_LONGEST = 315_576_000_000


def seconds(duration: Duration, field: str) -> float:
    """A duration in seconds.

    Raises:
        UsageError: It is negative, no number, or longer than the interface can say.
    """
    length = duration.total_seconds() if isinstance(duration, timedelta) else duration
    if isinstance(length, bool) or not isinstance(length, int | float):
        raise UsageError(f"{field}: a duration is a timedelta or a number of seconds, not {length!r}")
    if not math.isfinite(length) or not 0 <= length <= _LONGEST:
        raise UsageError(f"{field}: {length} s is no duration")
    return float(length)


def to_proto_duration(duration: Duration | None, field: str) -> ProtoDuration | None:
    """A duration as the interface has it.

    Raises:
        UsageError: As for `seconds`.
    """
    if duration is None:
        return None
    whole, part = divmod(seconds(duration, field), 1)
    nanos = round(part * 1_000_000_000)
    return ProtoDuration(seconds=int(whole) + nanos // 1_000_000_000, nanos=nanos % 1_000_000_000)


def to_duration(message: ProtoDuration) -> timedelta:
    """A duration, to the microsecond."""
    return timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def to_time(message: Timestamp) -> datetime:
    """A time in UTC, to the microsecond."""
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def to_timestamp(time: datetime, field: str) -> Timestamp:
    """A time as the interface has it.

    Raises:
        UsageError: It has no time zone, so that it isn't known which time it is.
    """
    if time.tzinfo is None:
        raise UsageError(f"{field}: {time} has no time zone; write datetime(…, tzinfo=UTC)")
    since = time - datetime.fromtimestamp(0, UTC)
    return Timestamp(
        seconds=since // timedelta(seconds=1), nanos=since % timedelta(seconds=1) // timedelta(microseconds=1) * 1000
    )


def text(time: datetime | None) -> str | None:
    """A time as JSON has it: `2026-01-01T00:00:01.500000Z`."""
    return None if time is None else time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def micros(duration: timedelta | None) -> int | None:
    """A duration as JSON has it, in microseconds."""
    return None if duration is None else duration // timedelta(microseconds=1)
