# Made from _async/transport.py by make_sync.py.
"""Owns the connection to one node: what goes with each call, how long it may take, when it is made again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import grpc

from .. import _context
from .._address import Target
from .._channel import ALIVE, Metadata
from .._errors import CancelledError, Error, UnavailableError, UsageError, from_rpc
from .._methods import Method
from .._retry import Attempts, Retry
from . import loop

Q = TypeVar("Q")
A = TypeVar("A")


class Transport:
    """A connection. It opens itself at the first call, and again after it broke."""

    def __init__(
        self, target: Target, retry: Retry, connect_timeout: float, answer_timeout: float, traceparent: str | None
    ) -> None:
        self.target = target
        self.retry = retry
        self.answer_timeout = answer_timeout
        self._connect_timeout = connect_timeout
        self._traceparent = traceparent
        self._channel: loop.Channel | None = None
        self._closed = False
        # Threads may make their first calls at once.
        self._lock = threading.Lock()

    def _open(self) -> loop.Channel:
        with self._lock:
            if self._closed:
                raise UsageError("the client is closed", next="make another one")
            if self._channel is None:
                self._channel = loop.open_channel(self.target, self._connect_timeout)
            return self._channel

    def close(self) -> None:
        """Ends all calls that are under way."""
        with self._lock:
            self._closed = True
            channel, self._channel = self._channel, None
        if channel is not None:
            loop.close_channel(channel)

    def _metadata(self) -> Metadata:
        shown = [("authorization", f"Bearer {self.target.token}")] if self.target.token else []
        if traceparent := self._traceparent or _context.current():
            shown.append(("traceparent", traceparent))
        return tuple(shown)

    def error(self, error: grpc.RpcError, *, limit: float | None = None) -> Error:
        """What a failure says."""
        return from_rpc(error, str(self.target.address), limit=limit)

    def once(self, method: Method[Q, A], question: Q, *, held: float = 0.0, limit: float | None = None) -> A:
        """One try of a call whose answer the node is asked to hold back for `held` seconds.

        Raises:
            Error: It failed. Without an answer within `limit` seconds, or the usual time, it is an `UnavailableError`.
        """
        timeout = self.answer_timeout + held if limit is None else limit
        channel, began = self._open(), time.monotonic()
        try:
            return loop.call(channel, method, question, self._metadata(), timeout)
        except grpc.RpcError as error:
            # The node is told of the limit too and may be the first to say that it is over.
            over = time.monotonic() - began >= timeout * 0.99
            raise self.error(error, limit=timeout if over else None) from error

    def call(self, method: Method[Q, A], question: Q, *, held: float = 0.0, attempts: Attempts | None = None) -> A:
        """The same, made again as the policy says.

        Raises:
            Error: The last try's.
        """
        attempts = attempts or Attempts(self.retry)
        while True:
            try:
                return self.once(method, question, held=held)
            except Error as error:
                wait = attempts.wait_after(error)
            self.pause(wait)

    def upload(self, method: Method[Q, A], questions: Any) -> A:
        """One try of a call that sends many messages. It has no limit: how long it takes is the content's.

        Raises:
            Error: It failed.
        """
        channel = self._open()
        try:
            return loop.upload(channel, method, questions, self._metadata(), None)
        except grpc.RpcError as error:
            raise self.error(error) from error

    def pause(self, seconds: float) -> None:
        """Waits before another try."""
        loop.pause(self._channel, seconds)

    def open_stream(self, method: Method[Q, A], question: Q) -> loop.StreamCall:
        """Begins a call that is answered by a stream."""
        return loop.stream(self._open(), method, question, self._metadata())


class Resumed(Generic[A]):
    """A stream that is opened again after it broke, from where it was."""

    def __init__(self, transport: Transport, open_: Callable[[], loop.StreamCall]) -> None:
        self._transport = transport
        self._open = open_
        self._attempts = Attempts(transport.retry)
        self._call: loop.StreamCall | None = None
        self._opened = 0.0
        self._closed = False

    def next(self) -> A | None:
        """The next answer; None at the end of the stream.

        Raises:
            Error: It can't be opened, or broke more often than is tried again without getting on.
        """
        while not self._closed:
            try:
                if self._call is None:
                    self._call, self._opened = self._open(), time.monotonic()
                answer: A | None = loop.next_of(self._call)
            except grpc.RpcError as error:
                failed = self._transport.error(error)
            except CancelledError as error:
                failed = error
            else:
                if answer is None:
                    self._call = None
                else:
                    self._attempts.got_on()
                return answer
            self._call = None
            if not self._closed:
                if time.monotonic() - self._opened > ALIVE:
                    self._attempts.got_on()
                self._transport.pause(self._attempts.wait_after(failed))
        return None

    def again(self) -> None:
        """Waits for the time to open again a stream that ended although there is more to come.

        Raises:
            UnavailableError: That happened too often.
        """
        early = UnavailableError("the node ended the stream before the task's end", next="it may be stopping; ask again")
        self._transport.pause(self._attempts.wait_after(early))

    def close(self) -> None:
        """Ends it."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()
            self._call = None
