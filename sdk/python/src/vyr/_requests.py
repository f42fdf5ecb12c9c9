"""Owns the requests that take more than naming their fields."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from . import _spec
from ._errors import building
from ._proto import state_pb2, task_pb2
from ._spec import TaskSpec, words
from ._state import State
from ._values import Duration, to_proto_duration
from ._words import StateClass, StateKind, TaskStatus, number

# What a state may hold where nobody says it, in bytes.
_QUOTA = 64 << 20


def new_key() -> str:
    """An idempotency key that nobody has used."""
    return str(uuid.uuid4())


def submit_task(spec: TaskSpec | str, key: str, wait: Duration | None) -> task_pb2.SubmitTaskRequest:
    """A submit.

    Raises:
        UsageError: A value that it can't hold.
    """
    made = _spec.to_proto(TaskSpec(spec) if isinstance(spec, str) else spec)
    with building("the request"):
        return task_pb2.SubmitTaskRequest(spec=made, idempotency_key=key, wait=to_proto_duration(wait, "wait"))


def list_tasks(
    statuses: Sequence[TaskStatus | str], labels: Mapping[str, str], submitter: str | None
) -> task_pb2.ListTasksRequest:
    """A listing of tasks, from the newest on.

    Raises:
        UsageError: A value that it can't hold, a status that there is none of.
    """
    with building("the request"):
        return task_pb2.ListTasksRequest(
            statuses=[
                number(TaskStatus, task_pb2.TaskStatus, status, "statuses")  # type: ignore[misc]
                for status in words(statuses, "statuses")
            ],
            labels=dict(labels),
            submitter=submitter or "",
        )


def create_state(
    name: str,
    class_: StateClass | str,
    quota_bytes: int | None,
    time_to_live: Duration | None,
    sync_target: str | None,
    kind: StateKind | str,
) -> state_pb2.CreateStateRequest:
    """A new state.

    Raises:
        UsageError: A value that it can't hold.
    """
    with building("the request"):
        request = state_pb2.CreateStateRequest(
            name=name,
            quota_bytes=quota_bytes or 0,
            time_to_live=to_proto_duration(time_to_live, "time_to_live"),
            sync_target=sync_target or "",
            kind=number(StateKind, state_pb2.StateKind, kind, "kind"),  # type: ignore[arg-type]
        )
        # `class` is no name that can be written here.
        setattr(request, "class", number(StateClass, state_pb2.StateClass, class_, "class_"))
    return request


def has_what_was_asked(state: State, request: state_pb2.CreateStateRequest) -> bool:
    """Whether a state is what a request that had no answer would have made. When it goes is not compared."""
    made = getattr(request, "class")
    return (
        number(StateClass, state_pb2.StateClass, state.state_class, "class_") == made
        and number(StateKind, state_pb2.StateKind, state.kind, "kind") == request.kind
        and state.quota_bytes == (request.quota_bytes or _QUOTA)
        and (state.sync_target or "") == request.sync_target
        and (state.expires_at is None) == (not request.HasField("time_to_live"))
    )
