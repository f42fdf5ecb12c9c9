"""Owns what waits: the only part that is written twice, here for threads."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any, TypeAlias, TypeVar

import grpc

from .._address import Target
from .._channel import Metadata, credentials, options
from .._methods import HEALTH, Method

Q = TypeVar("Q")
A = TypeVar("A")

Channel: TypeAlias = grpc.Channel
StreamCall: TypeAlias = Any

sleep = time.sleep


def pause(channel: Channel | None, seconds: float) -> None:
    """Waits before another try, and lets the channel connect itself meanwhile.

    Before grpcio 1.80 a channel gets on only while a call of it waits; without one, a node that was started again is not found.
    """
    until = time.monotonic() + seconds
    if channel is not None:
        waits: Any = channel.unary_unary(HEALTH.path, HEALTH.to_bytes, HEALTH.from_bytes)
        # That it is closed meanwhile is a ValueError. What else goes wrong shows at the next try.
        with contextlib.suppress(grpc.RpcError, ValueError):
            waits(b"", timeout=seconds, wait_for_ready=True)
    time.sleep(max(0.0, until - time.monotonic()))


def open_channel(target: Target, connect_timeout: float) -> Channel:
    """A channel, which connects itself when it is used."""
    secure = credentials(target)
    said = options(target, connect_timeout)
    if secure is None:
        return grpc.insecure_channel(target.address.target, said)
    return grpc.secure_channel(target.address.target, secure, said)


def close_channel(channel: Channel) -> None:
    """Ends it, with all calls that are under way."""
    channel.close()


def call(channel: Channel, method: Method[Q, A], question: Q, metadata: Metadata, timeout: float) -> A:
    """One question, one answer."""
    made: Any = channel.unary_unary(method.path, method.to_bytes, method.from_bytes)
    answer: A = made(question, timeout=timeout, metadata=metadata)
    return answer


def upload(channel: Channel, method: Method[Q, A], questions: Iterable[Q], metadata: Metadata, timeout: float | None) -> A:
    """Many questions, one answer."""
    made: Any = channel.stream_unary(method.path, method.to_bytes, method.from_bytes)
    answer: A = made(iter(questions), timeout=timeout, metadata=metadata)
    return answer


def stream(channel: Channel, method: Method[Q, A], question: Q, metadata: Metadata) -> StreamCall:
    """One question, many answers."""
    made: Any = channel.unary_stream(method.path, method.to_bytes, method.from_bytes)
    return made(question, metadata=metadata)


def next_of(call: StreamCall) -> Any | None:
    """A stream's next answer; None after the last."""
    return next(call, None)
