# Made from _async/client.py by make_sync.py.
"""Owns the client's methods: each a translation between Python's values and one call of the interface, or a few."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from .. import _address, _artifact, _context, _node, _state, _task, _trace
from .._address import AnyPath
from .._artifact import Artifact, Blob, Parts, header, repeatable
from .._errors import ConflictError, Error, InternalError, NotFoundError, TimedOutError, building
from .._methods import (
    BIND_STATE,
    CANCEL_TASK,
    CREATE_STATE,
    DELETE_STATE,
    GET_ARTIFACT,
    GET_NODE,
    GET_RECEIPT,
    GET_STATE,
    GET_TASK,
    GET_TRACE,
    HEALTH,
    LIST_ARTIFACTS,
    LIST_STATES,
    LIST_TASKS,
    PUT_ARTIFACT,
    SUBMIT_TASK,
    SYNC_STATE,
)
from .._node import Node
from .._proto import artifact_pb2, node_pb2, state_pb2, task_pb2
from .._requests import create_state, has_what_was_asked, list_tasks, new_key, submit_task
from .._retry import NEVER, Attempts, Retry
from .._spec import TaskSpec
from .._state import State
from .._task import Outcome, Task
from .._trace import Trace
from .._values import Duration, seconds, to_proto_duration
from .._words import LogStream, StateClass, StateKind, TaskStatus, number
from . import loop
from .streams import Logs, Watch
from .transport import Transport

# How long a node is asked to hold back one answer, in seconds.
_ONE_WAIT = 60.0
# What an answer may take on its way, in seconds, where the caller's own time is nearly over.
_GRACE = 5.0
# The most items of one answer.
_PAGE = 100


class Client:
    """A client of one node.

    It connects itself at the first call, and again after the connection broke. Use it as a context manager, which also
    finds out at once whether a node is there, or close it. One client serves any number of calls at once.

    Every call may raise an `Error`: `UnavailableError` where no node answers, `UnauthorizedError` or `ForbiddenError` where
    it wants another credential, `UsageError` where the request makes no sense, `InternalError` or `StorageError` where the
    node failed. What a call raises beside these is said with it. Calls that meet `unavailable` or `exhausted` are made again,
    as `retry` says, before that is raised.

    Args:
        address: The node: `http://HOST:PORT`, `https://HOST:PORT` or `unix:PATH`. None: the variable `VYR_NODE`, else the
            socket in the data folder if there is one, else `http://127.0.0.1:7070`.
        token: The bearer token to show. None: what `token_file` holds, else `VYR_TOKEN`, else what the file that
            `VYR_TOKEN_FILE` names holds. It is never sent in the clear to another machine.
        token_file: The file that holds the token.
        ca_file: The certificate authorities (PEM) to trust for the node, instead of the system's.
        cert_file: The certificate (PEM) to show the node.
        key_file: The private key (PEM) of that certificate.
        home: The data folder in which to look for a node's socket. None: `VYR_HOME`, else `vyr` in the XDG data folder.
        traceparent: The W3C trace context of every call. None: OpenTelemetry's current span where its API is installed, else
            the variable `TRACEPARENT`.
        retry: When calls are made again. None: never.
        connect_timeout: How long one attempt to connect may take, as a `timedelta` or in seconds.
        answer_timeout: How long the node may take over an answer that it isn't asked to hold back, likewise.

    Raises:
        UsageError: Something of it can't be used, or doesn't go together.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        token: str | None = None,
        token_file: AnyPath | None = None,
        ca_file: AnyPath | None = None,
        cert_file: AnyPath | None = None,
        key_file: AnyPath | None = None,
        home: AnyPath | None = None,
        traceparent: str | None = None,
        retry: Retry | None = Retry(),  # noqa: B008
        connect_timeout: Duration = 5.0,
        answer_timeout: Duration = 30.0,
    ) -> None:
        self._transport = Transport(
            _address.target(address, token, token_file, ca_file, cert_file, key_file, home),
            retry or NEVER,
            seconds(connect_timeout, "connect_timeout"),
            seconds(answer_timeout, "answer_timeout"),
            None if traceparent is None else _context.checked(traceparent),
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.address!r})"

    @property
    def address(self) -> str:
        """The node's address."""
        return str(self._transport.target.address)

    def connect(self) -> Self:
        """Finds out whether a node is there, without a credential. Not needed before other calls.

        Returns:
            The client itself.

        Raises:
            UnavailableError: None answers.
        """
        self._transport.call(HEALTH, b"")
        return self

    def close(self) -> None:
        """Ends the connection and all calls that are under way. Tasks go on."""
        self._transport.close()

    def __enter__(self) -> Self:
        try:
            return self.connect()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Tasks

    def submit(self, spec: TaskSpec | str, *, key: str | None = None, wait: Duration | None = None) -> Task:
        """Makes a task. When this returns, it is on the node's disk and comes to an end whatever dies.

        What is wrong with the artifact (not there, refused, not Wasm) is no error here: it is the task's end.

        Args:
            spec: What is to be executed, or just its reference.
            key: The idempotency key, at most 128 bytes: repeated submits with it are one task. None: a random one, so that a
                submit whose answer was lost can be sent again.
            wait: Return the task when it has ended, or after this long as it stands then; a `timedelta` or seconds. None: at
                once.

        Raises:
            UsageError: A field that can't be; `fields` names each.
            NotFoundError: A bare digest that the node's store lacks.
            ConflictError: The key was used with another specification.
            ForbiddenError: `allow_unsigned`, which the node doesn't take.
            ExhaustedError: The queue or the disk is full.
        """
        request = submit_task(spec, key or new_key(), wait)
        held = 0.0 if wait is None else seconds(wait, "wait")
        return _task_of(self._transport.call(SUBMIT_TASK, request, held=held))

    def run(self, spec: TaskSpec | str, *, key: str | None = None, timeout: Duration | None = None) -> Outcome:
        """Submits, waits for the end and reads the output. `check()` on what is returned raises where the task failed.

        Args:
            spec: What is to be executed, or just its reference.
            key: As for `submit`.
            timeout: Wait no longer than this, a `timedelta` or seconds; the task goes on. None: as long as it takes. A limit
                of the task itself is `TaskSpec.limits.timeout`.

        Raises:
            TimedOutError: `timeout` has passed.
            Error: As for `submit`.
        """
        until = None if timeout is None else time.monotonic() + seconds(timeout, "timeout")
        task = self.submit(spec, key=key)
        if not task.ended:
            task = self.wait(task.id, timeout=None if until is None else max(0.0, until - time.monotonic()))
        written: dict[LogStream, list[bytes]] = {LogStream.STDOUT: [], LogStream.STDERR: []}
        last = min(task.attempt, 255)
        with self.logs(task.id) as entries:
            for entry in entries:
                if entry.attempt == last and entry.stream in written:
                    written[entry.stream].append(entry.data)
        return Outcome(task, b"".join(written[LogStream.STDOUT]), b"".join(written[LogStream.STDERR]))

    def get_task(self, id: str, *, wait: Duration | None = None) -> Task:  # noqa: A002
        """One task.

        Args:
            id: Its id.
            wait: Return it when it has ended, or after this long as it stands then; a `timedelta` or seconds. None: at once.

        Raises:
            NotFoundError: There is none; one that ended may have been forgotten.
        """
        return self._get_task(id, 0.0 if wait is None else seconds(wait, "wait"))

    def _get_task(self, id: str, held: float, *, attempts: Attempts | None = None) -> Task:  # noqa: A002
        with building("the request"):
            request = task_pb2.GetTaskRequest(id=id, wait=to_proto_duration(held or None, "wait"))
        return _task_of(self._transport.call(GET_TASK, request, held=held, attempts=attempts))

    def wait(self, id: str, *, timeout: Duration | None = None) -> Task:  # noqa: A002
        """A task, once it has ended.

        Args:
            id: Its id.
            timeout: Wait no longer than this, a `timedelta` or seconds; the task goes on. None: as long as it takes.

        Raises:
            TimedOutError: `timeout` has passed before the end.
            NotFoundError: There is no such task.
        """
        left = None if timeout is None else seconds(timeout, "timeout")
        until = None if left is None else time.monotonic() + left
        attempts = Attempts(self._transport.retry)
        while True:
            asked = time.monotonic()
            held = _ONE_WAIT if until is None else min(_ONE_WAIT, max(0.0, until - asked))
            task = self._wait_once(id, held, until, attempts)
            if task is not None and task.ended:
                return task
            now = time.monotonic()
            if until is not None and now >= until:
                raise TimedOutError(f"{left:g} s passed before the end of task {id}", next="it goes on; `cancel` ends it")
            if task is not None and now - asked < 1.0:
                # A node that doesn't hold its answer back must not be asked in a tight loop.
                loop.sleep(0.2 if until is None else min(0.2, until - now))

    def _wait_once(
        self,
        id: str,  # noqa: A002
        held: float,
        until: float | None,
        attempts: Attempts,
    ) -> Task | None:
        """One piece of a wait; None where it failed and may be made again."""
        with building("the request"):
            request = task_pb2.GetTaskRequest(id=id, wait=to_proto_duration(held or None, "wait"))
        limit = None
        if until is not None and until - time.monotonic() <= _ONE_WAIT:
            limit = held + min(_GRACE, self._transport.answer_timeout)
        try:
            task = _task_of(self._transport.once(GET_TASK, request, held=held, limit=limit))
        except Error as error:
            pause = attempts.wait_after(error)
        else:
            attempts.got_on()
            return task
        self._transport.pause(pause if until is None else max(0.0, min(pause, until - time.monotonic())))
        return None

    def list_tasks(
        self,
        *,
        statuses: Sequence[TaskStatus | str] = (),
        labels: Mapping[str, str] | None = None,
        submitter: str | None = None,
        limit: int | None = None,
    ) -> list[Task]:
        """Tasks, newest first.

        Args:
            statuses: Only tasks in one of these. Empty: all.
            labels: Only tasks with all of these labels.
            submitter: Only tasks of this submitter.
            limit: How many at most. None: all that the node has on record, which may be millions.

        Raises:
            UsageError: A status that there is none of.
        """
        request = list_tasks(statuses, labels or {}, submitter)
        found: list[Task] = []
        while limit is None or len(found) < limit:
            # By labels the node looks through a page at a time: of a small one it would have to be asked very often.
            request.page_size = _PAGE if limit is None or labels else min(_PAGE, limit - len(found))
            page = self._transport.call(LIST_TASKS, request)
            found.extend(_task.from_proto(task) for task in page.tasks)
            if not page.next_page_token:
                break
            request.page_token = page.next_page_token
        return found[:limit]

    def watch(self, id: str) -> Watch:  # noqa: A002
        """A task's changes, from what it is now to its end. Iterating may raise.

        Args:
            id: Its id.

        Raises:
            NotFoundError: There is none.
        """
        with building("the request"):
            return Watch(self._transport, id)

    def logs(
        self,
        id: str,  # noqa: A002
        *,
        follow: bool = False,
        stream: LogStream | str | None = None,
        offset: int = 0,
    ) -> Logs:
        """A task's output, write by write. Iterating may raise.

        Args:
            id: The task.
            follow: Go on until the task has ended; else until what there is now.
            stream: Only this one. None: both.
            offset: Where to go on: `next_offset` of an earlier call. 0: from the beginning.

        Raises:
            NotFoundError: There is no such task.
            StorageError: The node can't read the output.
        """
        with building("the request"):
            request = task_pb2.StreamLogsRequest(
                id=id,
                follow=follow,
                stream=number(LogStream, task_pb2.LogStream, stream, "stream") if stream else 0,  # type: ignore[arg-type]
                offset=offset,
            )

        def has_ended() -> bool:
            return (self._get_task(id, 0.0)).ended

        return Logs(self._transport, has_ended, request)

    def cancel(self, id: str, *, wait: Duration | None = None) -> Task:  # noqa: A002
        """Asks for a task's end. One that has ended stays as it is, and that is no error.

        Args:
            id: The task.
            wait: Return it when it has ended, or after this long as it stands then; a `timedelta` or seconds. None: at once.

        Raises:
            NotFoundError: There is no such task.
        """
        with building("the request"):
            request = task_pb2.CancelTaskRequest(id=id, wait=to_proto_duration(wait, "wait"))
        held = 0.0 if wait is None else seconds(wait, "wait")
        return _task_of(self._transport.call(CANCEL_TASK, request, held=held))

    def get_trace(self, id: str) -> Trace:  # noqa: A002
        """What a task's time went to.

        Args:
            id: The task.

        Raises:
            NotFoundError: There is no such task.
        """
        with building("the request"):
            request = task_pb2.GetTraceRequest(id=id)
        return _trace.from_proto((self._transport.call(GET_TRACE, request)).trace)

    def get_receipt(self, id: str) -> bytes:  # noqa: A002
        """The signed receipt of a task that ended: a Sigstore bundle, as JSON.

        Args:
            id: The task.

        Raises:
            NotFoundError: There is no such task, it hasn't ended, or the node makes no receipts.
        """
        with building("the request"):
            request = task_pb2.GetReceiptRequest(id=id)
        return (self._transport.call(GET_RECEIPT, request)).bundle

    # Artifacts

    def put_artifact(
        self,
        digest: str,
        manifest: bytes,
        blobs: Mapping[str, Blob] | None = None,
        *,
        signatures: Sequence[bytes] = (),
        tag: str | None = None,
        media_type: str | None = None,
    ) -> Artifact:
        """Puts an artifact into the node's store from its parts. Nothing is listed unless all of it is there.

        It is made again like other calls where all blobs are bytes or paths; an open file is read once only.

        Args:
            digest: What the manifest's digest must be.
            manifest: The manifest, byte for byte. At most 4 MiB.
            blobs: The blobs that the manifest lists, by their digests: bytes, the path of a file, or an open file. What the
                node's store has may be left out.
            signatures: Sigstore bundles over the manifest's digest. At most 64 of 64 KiB.
            tag: A name to give it: `host[:port]/repository:tag`. It also says which rules of the trust policy apply.
            media_type: The manifest's media type. None: as the manifest says.

        Raises:
            UsageError: A part that the manifest doesn't list, or a file that can't be read.
            InvalidContentError: A malformed manifest or bundle.
            RefusedError: Bytes that don't match their digest.
            NotFoundError: A blob is missing.
            ExhaustedError: The disk is full.
        """
        blobs = blobs or {}
        first = header(digest, manifest, tuple(signatures), tag, media_type)
        attempts = Attempts(self._transport.retry if repeatable(blobs) else NEVER)
        while True:
            parts = Parts(first, blobs)
            try:
                answer = self._transport.upload(PUT_ARTIFACT, parts)
            except Error as error:
                pause = attempts.wait_after(parts.failure or error)
            else:
                if parts.failure is not None:
                    raise parts.failure
                return _artifact.from_proto(answer.artifact)
            self._transport.pause(pause)

    def get_artifact(self, reference: str) -> Artifact:
        """One artifact of the node's store, with its manifest and what the trust policy says. Nothing is pulled.

        Args:
            reference: Its digest, or a name in the store.

        Raises:
            NotFoundError: The store lacks it.
        """
        with building("the request"):
            request = artifact_pb2.GetArtifactRequest(reference=reference)
        answer = self._transport.call(GET_ARTIFACT, request)
        return _artifact.from_proto(answer.artifact, answer.manifest)

    def list_artifacts(self) -> list[Artifact]:
        """What the node's store holds, in the order of the digests. Signatures are artifacts too."""
        request = artifact_pb2.ListArtifactsRequest(page_size=_PAGE)
        found: list[Artifact] = []
        while True:
            page = self._transport.call(LIST_ARTIFACTS, request)
            found.extend(_artifact.from_proto(artifact) for artifact in page.artifacts)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    # States

    def create_state(
        self,
        name: str,
        class_: StateClass | str = StateClass.NODE,
        *,
        quota_bytes: int | None = None,
        time_to_live: Duration | None = None,
        sync_target: str | None = None,
        kind: StateKind | str = StateKind.FILES,
    ) -> State:
        """Makes a state.

        Args:
            name: Its name: lower-case letters, digits, `-`, `_`, `.`; at most 63 bytes.
            class_: What it promises: `task`, `node` or `synced`.
            quota_bytes: The most that it may hold, in bytes. None: 64 MiB.
            time_to_live: How long it lives, a `timedelta` or seconds. None: until it is deleted.
            sync_target: For `synced`: `host[:port]/repository`.
            kind: What it holds: `files` or `kv`.

        Raises:
            UsageError: A field that can't be; `fields` names each.
            ConflictError: The name is taken. Where a try before ended without an answer and the state that is there is what
                was asked for, it is returned instead.
        """
        request = create_state(name, class_, quota_bytes, time_to_live, sync_target, kind)
        attempts = Attempts(self._transport.retry)
        try:
            answer = self._transport.call(CREATE_STATE, request, attempts=attempts)
        except ConflictError:
            if not attempts.met_unavailable:
                raise
            there = self.get_state(name)
            if not has_what_was_asked(there, request):
                raise
            return there
        return _state.from_proto(answer.state)

    def bind_state(self, state: str, artifact: str, alias: str, *, read_only: bool = False) -> State:
        """Gives a state to every task of an artifact, from the next one on.

        Args:
            state: The state's name or id.
            artifact: `host[:port]/repository[:tag][@digest]`.
            alias: The name of the folder under `/state`.
            read_only: The guest may only read it.

        Raises:
            NotFoundError: There is no such state.
        """
        with building("the request"):
            binding = state_pb2.ArtifactBinding(artifact=artifact, alias=alias, read_only=read_only)
            request = state_pb2.BindStateRequest(state=state, binding=binding)
        return _state.from_proto((self._transport.call(BIND_STATE, request)).state)

    def get_state(self, state: str) -> State:
        """One state.

        Args:
            state: Its name or id.

        Raises:
            NotFoundError: There is none, or its time is over and nothing of it waits to be pushed.
        """
        with building("the request"):
            request = state_pb2.GetStateRequest(state=state)
        return _state.from_proto((self._transport.call(GET_STATE, request)).state)

    def list_states(self) -> list[State]:
        """All states of the node, in the order of their names."""
        request = state_pb2.ListStatesRequest(page_size=_PAGE)
        found: list[State] = []
        while True:
            page = self._transport.call(LIST_STATES, request)
            found.extend(_state.from_proto(state) for state in page.states)
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    def delete_state(self, state: str) -> None:
        """Removes a state with its data.

        Args:
            state: Its name or id.

        Raises:
            NotFoundError: There is none; unless a try before ended without an answer, which then has removed it.
            ConflictError: Something has it bound.
        """
        with building("the request"):
            request = state_pb2.DeleteStateRequest(state=state)
        attempts = Attempts(self._transport.retry)
        try:
            self._transport.call(DELETE_STATE, request, attempts=attempts)
        except NotFoundError:
            if not attempts.met_unavailable:
                raise

    def sync_state(self, state: str) -> State:
        """Pushes what is pending of a synced state, and returns when it is pushed.

        Args:
            state: Its name or id.

        Raises:
            NotFoundError: There is none.
            UnavailableError: The repository can't be reached.
        """
        with building("the request"):
            request = state_pb2.SyncStateRequest(state=state)
        return _state.from_proto((self._transport.call(SYNC_STATE, request)).state)

    # The node

    def get_node(self) -> Node:
        """What the node is and how busy."""
        return _node.from_proto((self._transport.call(GET_NODE, node_pb2.GetNodeRequest())).node)


class _HasTask(Protocol):
    """An answer that has a task."""

    @property
    def task(self) -> task_pb2.Task: ...

    def HasField(self, field_name: Any, /) -> bool: ...  # noqa: N802


def _task_of(answer: _HasTask) -> Task:
    if not answer.HasField("task"):
        raise InternalError("the node's answer lacks the task")
    return _task.from_proto(answer.task)
