"""Owns which trace a call belongs to."""

from __future__ import annotations

import os
import re

from ._errors import UsageError

try:
    from opentelemetry import trace
except ImportError:
    trace = None  # type: ignore[assignment, unused-ignore]

# W3C Trace Context, version 00.
_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def checked(traceparent: str) -> str:
    """A trace context that a caller gave.

    Raises:
        UsageError: It has not the form of one.
    """
    if not _FORM.fullmatch(traceparent):
        raise UsageError(f"traceparent: `{traceparent}` is no W3C trace context", next="write 00-<32 hex>-<16 hex>-<2 hex>")
    return traceparent


def current() -> str | None:
    """The trace context that this code runs in.

    That is OpenTelemetry's current span where its API is installed and there is one, else the variable `TRACEPARENT`, else
    none.
    """
    if trace is not None:
        span = trace.get_current_span().get_span_context()
        if span.is_valid:
            return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags & 0xFF:02x}"
    variable = os.environ.get("TRACEPARENT", "")
    return variable if _FORM.fullmatch(variable) else None
