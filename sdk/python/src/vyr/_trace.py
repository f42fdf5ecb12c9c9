"""Owns what a task's time went to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from ._proto import task_pb2 as pb
from ._values import text


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a task's time.

    Attributes:
        span_id: The W3C span id, 16 hex digits.
        name: What was done: `task`, `queue`, `pull`, …
        parent_span_id: The span that it is a part of; of the task itself, what the submit named, or None.
        started_ns: When it began, in nanoseconds since the Unix epoch. (A `datetime` has microseconds, and a span may be
            shorter.)
        ended_ns: When it ended; None while it goes on.
        attributes: What is known of it, by the names of OpenTelemetry's conventions where there is one.
        error: Why it failed, where it did.
    """

    span_id: str
    name: str
    parent_span_id: str | None = None
    started_ns: int | None = None
    ended_ns: int | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None

    @property
    def started_at(self) -> datetime | None:
        """When it began, in UTC, to the microsecond."""
        return _time(self.started_ns)

    @property
    def ended_at(self) -> datetime | None:
        """When it ended, in UTC, to the microsecond; None while it goes on."""
        return _time(self.ended_ns)

    @property
    def took_ns(self) -> int | None:
        """How long it took, in nanoseconds; None while it goes on."""
        return None if self.started_ns is None or self.ended_ns is None else self.ended_ns - self.started_ns

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "span_id": self.span_id,
            "parent_span_id": self.parent_span_id,
            "name": self.name,
            "started_at": text(self.started_at),
            "ended_at": text(self.ended_at),
            "attributes": dict(self.attributes),
            "error": self.error,
        }


@dataclass(frozen=True, slots=True)
class Trace:
    """The spans of a task, in the order of their starts. The first is the task itself.

    Attributes:
        trace_id: The W3C trace id, 32 hex digits.
        spans: The spans.
    """

    trace_id: str
    spans: tuple[Span, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"trace_id": self.trace_id, "spans": [span.to_dict() for span in self.spans]}

    def to_otlp(self) -> dict[str, Any]:
        """As OTLP's JSON has it, which collectors take: the document of `vyr trace --output json`."""
        spans = [
            {
                "traceId": self.trace_id,
                "spanId": span.span_id,
                "parentSpanId": span.parent_span_id or "",
                "name": span.name,
                # SPAN_KIND_SERVER for the task itself, SPAN_KIND_INTERNAL for its parts.
                "kind": 1 if position else 2,
                "startTimeUnixNano": _written(span.started_ns),
                "endTimeUnixNano": _written(span.ended_ns),
                "attributes": [{"key": key, "value": {"stringValue": value}} for key, value in sorted(span.attributes.items())],
                "status": {"code": 2, "message": span.error} if span.error else {},
            }
            for position, span in enumerate(self.spans)
        ]
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": "vyr"}}]}
        return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"scope": {"name": "vyr"}, "spans": spans}]}]}


def _time(ns: int | None) -> datetime | None:
    return None if ns is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=ns // 1000)


def _written(ns: int | None) -> str | None:
    return None if ns is None else str(ns)


def from_proto(trace: pb.Trace) -> Trace:
    """What a node says of a task's time."""
    return Trace(
        trace_id=trace.trace_id,
        spans=tuple(
            Span(
                span_id=span.span_id,
                name=span.name,
                parent_span_id=span.parent_span_id or None,
                started_ns=span.started_at.ToNanoseconds() if span.HasField("started_at") else None,
                ended_ns=span.ended_at.ToNanoseconds() if span.HasField("ended_at") else None,
                attributes=dict(span.attributes),
                error=span.error or None,
            )
            for span in trace.spans
        ),
    )
