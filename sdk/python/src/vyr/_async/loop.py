"""Owns what waits: the only part that is written twice, here for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

from .._address import Target
from .._channel import Metadata, credentials, options
from .._errors import CancelledError
from .._methods import Method
from .._sync import loop as for_threads

Q = TypeVar("Q")
A = TypeVar("A")

StreamCall: TypeAlias = Any

sleep = asyncio.sleep


async def pause(channel: Channel | None, seconds: float) -> None:  # noqa: ARG001
    """Waits before another try; the channel connects itself meanwhile."""
    await asyncio.sleep(seconds)


class Channel:
    """A channel, which connects itself when it is used."""

    def __init__(self, target: Target, connect_timeout: float) -> None:
        self._target = target
        self._connect_timeout = connect_timeout
        secure, said = credentials(target), options(target, connect_timeout)
        self.calls = (
            grpc.aio.insecure_channel(target.address.target, said)
            if secure is None
            else grpc.aio.secure_channel(target.address.target, secure, said)
        )
        self._uploads: grpc.Channel | None = None

    @property
    def uploads(self) -> grpc.Channel:
        """The same for threads.

        grpc.aio forgets what the node answered where that came before all was sent, and says `INTERNAL` instead
        (https://github.com/grpc/grpc/issues/36066); so who sends an artifact that is refused would never know why.
        """
        if self._uploads is None:
            self._uploads = for_threads.open_channel(self._target, self._connect_timeout)
        return self._uploads

    async def close(self) -> None:
        """Ends it, with all calls that are under way."""
        if self._uploads is not None:
            self._uploads.close()
        await self.calls.close(None)


def open_channel(target: Target, connect_timeout: float) -> Channel:
    """A channel, which connects itself when it is used."""
    return Channel(target, connect_timeout)


async def close_channel(channel: Channel) -> None:
    """Ends it, with all calls that are under way."""
    await channel.close()


async def _unless_closed(awaited: Awaitable[A]) -> A:
    """Tells a call that ended with its client or stream from one whose own task was cancelled."""
    try:
        return await awaited
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise CancelledError("the call was given up: its client or stream was closed") from None


async def call(channel: Channel, method: Method[Q, A], question: Q, metadata: Metadata, timeout: float) -> A:
    """One question, one answer."""
    made: Any = channel.calls.unary_unary(method.path, method.to_bytes, method.from_bytes)
    answer: A = await _unless_closed(made(question, timeout=timeout, metadata=metadata))
    return answer


async def upload(
    channel: Channel, method: Method[Q, A], questions: Iterable[Q], metadata: Metadata, timeout: float | None
) -> A:
    """Many questions, one answer."""
    made: Any = channel.uploads.stream_unary(method.path, method.to_bytes, method.from_bytes)
    sent = made.future(iter(questions), timeout=timeout, metadata=metadata)
    here, done = asyncio.get_running_loop(), asyncio.Event()
    sent.add_done_callback(lambda _: here.call_soon_threadsafe(done.set))
    try:
        await done.wait()
    finally:
        # Of one that is done it changes nothing.
        sent.cancel()
    try:
        answer: A = sent.result()
    except grpc.FutureCancelledError:
        raise CancelledError("the call was given up: its client was closed") from None
    return answer


def stream(channel: Channel, method: Method[Q, A], question: Q, metadata: Metadata) -> StreamCall:
    """One question, many answers."""
    made: Any = channel.calls.unary_stream(method.path, method.to_bytes, method.from_bytes)
    return made(question, metadata=metadata)


async def next_of(call: StreamCall) -> Any | None:
    """A stream's next answer; None after the last."""
    answer = await _unless_closed(call.read())
    return None if answer is grpc.aio.EOF else answer
