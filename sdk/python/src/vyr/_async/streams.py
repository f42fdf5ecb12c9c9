"""Owns what comes as a stream: a task's changes, a task's output."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from .. import _task
from .._methods import STREAM_LOGS, WATCH_TASK
from .._proto import task_pb2 as pb
from .._task import LogEntry, Task
from . import loop
from .transport import AsyncResumed, AsyncTransport


class AsyncWatch:
    """A task's changes, from what it is now to its end; then there is no more. Made by `watch`.

    It goes on by itself over a broken connection. What happened meanwhile is not made up for: the next is the task as it
    stands then. Iterate over it; to stop early, use it as a context manager or close it.
    """

    def __init__(self, transport: AsyncTransport, id: str) -> None:  # noqa: A002
        self._question = pb.WatchTaskRequest(id=id)
        self._transport = transport
        self._stream: AsyncResumed[pb.WatchTaskResponse] = AsyncResumed(transport, self._open)
        self._last: Task | None = None
        self._over = False

    def _open(self) -> loop.StreamCall:
        return self._transport.open_stream(WATCH_TASK, self._question)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Task:
        while not self._over:
            change = await self._stream.next()
            if change is not None:
                task = _task.from_proto(change.task)
                self._over = task.ended
                # After a break the first message is the one that was the last.
                if task != self._last:
                    self._last = task
                    return task
            elif self._closed:
                break
            else:
                await self._stream.again()
        await self.close()
        raise StopAsyncIteration

    _closed = False

    async def close(self) -> None:
        """Stops. The task goes on."""
        self._closed = True
        self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncLogs:
    """A task's output, write by write, in the order in which it was written. Made by `logs`.

    It goes on by itself over a broken connection, with nothing left out and nothing twice. Iterate over it; to stop early,
    use it as a context manager or close it.
    """

    def __init__(
        self,
        transport: AsyncTransport,
        has_ended: Callable[[], Awaitable[bool]],
        question: pb.StreamLogsRequest,
    ) -> None:
        self._question = question
        self._transport = transport
        self._has_ended = has_ended
        self._stream: AsyncResumed[pb.StreamLogsResponse] = AsyncResumed(transport, self._open)
        self._entries: deque[LogEntry] = deque()
        self._next_offset: int = question.offset
        self._dropped = 0
        self._over = False

    def _open(self) -> loop.StreamCall:
        return self._transport.open_stream(STREAM_LOGS, self._question)

    @property
    def next_offset(self) -> int:
        """Where another call of `logs` goes on, as its `offset`.

        The node sends writes in groups and has offsets between groups only: it is after the last group of which all was
        taken from here.
        """
        return self._next_offset

    @property
    def dropped_bytes(self) -> int:
        """How many bytes came after the limit of the output and were dropped; known at the end."""
        return self._dropped

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogEntry:
        while not self._entries:
            self._next_offset = self._question.offset
            if self._over or not await self._more():
                await self.close()
                raise StopAsyncIteration
        entry = self._entries.popleft()
        if not self._entries:
            self._next_offset = self._question.offset
        return entry

    async def _more(self) -> bool:
        piece = await self._stream.next()
        if piece is not None:
            self._entries.extend(_task.entry_from_proto(entry) for entry in piece.entries)
            self._question.offset = piece.next_offset
            self._dropped = max(self._dropped, piece.dropped_bytes)
        elif self._question.follow and not self._closed and not await self._has_ended():
            await self._stream.again()
        else:
            return False
        return True

    _closed = False

    async def close(self) -> None:
        """Stops. The task goes on."""
        self._closed = True
        self._over = True
        self._stream.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
