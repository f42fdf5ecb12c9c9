"""The trace that a call is a part of, as OpenTelemetry knows it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags
from support import TRACEPARENT

import vyr
from vyr import _context

OTHER = "00-11111111111111111111111111111111-2222222222222222-00"


def test_the_current_span_goes_before_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _context.current() is None
    monkeypatch.setenv("TRACEPARENT", OTHER)
    assert _context.current() == OTHER
    context = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        assert _context.current() == TRACEPARENT
    assert _context.current() == OTHER


def test_the_task_of_a_call_in_a_span_goes_on_from_it(client: Any, pushed: dict[str, str]) -> None:
    context = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False, TraceFlags(1))
    with trace.use_span(NonRecordingSpan(context)):
        if isinstance(client, vyr.Client):
            task = client.run(pushed["hello"]).task
        else:
            # A context belongs to a thread or task; this test's client has a loop of its own.
            async def inside() -> Any:
                with trace.use_span(NonRecordingSpan(context)):
                    return (await client._wrapped.run(pushed["hello"])).task

            task = client._loop.run(inside())
    assert task.trace_id == TRACEPARENT.split("-")[1]


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "00-1-2-3",
        "01" + TRACEPARENT[2:],
        f"00-{'0' * 32}-{'1' * 16}-01",
        f"00-{'1' * 32}-{'0' * 16}-01",
        TRACEPARENT.upper(),
        TRACEPARENT + "-x",
        TRACEPARENT + "\n",
    ],
)
def test_what_is_no_context_is_not_sent(bad: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEPARENT", bad)
    assert _context.current() is None
    with pytest.raises(vyr.UsageError):
        _context.checked(bad)


def test_it_does_without_opentelemetry() -> None:
    # As where it is not installed.
    code = (
        "import sys; sys.modules['opentelemetry'] = None; import vyr._context as c; assert c.current() is None; print(c.trace)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
