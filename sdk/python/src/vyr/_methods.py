"""Owns the calls of the interface: each with its path and messages.

They stand here and not in stubs made by grpcio-tools, since these have no types, and ask for the version of grpcio that they
were made with or a later one. A test holds the table against the interface's own descriptor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ._proto import artifact_pb2, node_pb2, state_pb2, task_pb2

Q_contra = TypeVar("Q_contra", contravariant=True)
A_co = TypeVar("A_co", covariant=True)
Q = TypeVar("Q")
A = TypeVar("A")

SERVICE = "vyr.control.v0.Control"


@dataclass(frozen=True, slots=True)
class Method(Generic[Q_contra, A_co]):
    """One call."""

    path: str
    to_bytes: Callable[[Q_contra], bytes]
    from_bytes: Callable[[bytes], A_co]


def _method(name: str, question: type[Q], answer: type[A]) -> Method[Q, A]:
    asked: Any = question
    answered: Any = answer
    return Method(f"/{SERVICE}/{name}", asked.SerializeToString, answered.FromString)


PUT_ARTIFACT = _method("PutArtifact", artifact_pb2.PutArtifactRequest, artifact_pb2.PutArtifactResponse)
GET_ARTIFACT = _method("GetArtifact", artifact_pb2.GetArtifactRequest, artifact_pb2.GetArtifactResponse)
LIST_ARTIFACTS = _method("ListArtifacts", artifact_pb2.ListArtifactsRequest, artifact_pb2.ListArtifactsResponse)

SUBMIT_TASK = _method("SubmitTask", task_pb2.SubmitTaskRequest, task_pb2.SubmitTaskResponse)
CANCEL_TASK = _method("CancelTask", task_pb2.CancelTaskRequest, task_pb2.CancelTaskResponse)
GET_TASK = _method("GetTask", task_pb2.GetTaskRequest, task_pb2.GetTaskResponse)
LIST_TASKS = _method("ListTasks", task_pb2.ListTasksRequest, task_pb2.ListTasksResponse)
WATCH_TASK = _method("WatchTask", task_pb2.WatchTaskRequest, task_pb2.WatchTaskResponse)
STREAM_LOGS = _method("StreamLogs", task_pb2.StreamLogsRequest, task_pb2.StreamLogsResponse)
GET_TRACE = _method("GetTrace", task_pb2.GetTraceRequest, task_pb2.GetTraceResponse)
GET_RECEIPT = _method("GetReceipt", task_pb2.GetReceiptRequest, task_pb2.GetReceiptResponse)

CREATE_STATE = _method("CreateState", state_pb2.CreateStateRequest, state_pb2.CreateStateResponse)
BIND_STATE = _method("BindState", state_pb2.BindStateRequest, state_pb2.BindStateResponse)
GET_STATE = _method("GetState", state_pb2.GetStateRequest, state_pb2.GetStateResponse)
LIST_STATES = _method("ListStates", state_pb2.ListStatesRequest, state_pb2.ListStatesResponse)
DELETE_STATE = _method("DeleteState", state_pb2.DeleteStateRequest, state_pb2.DeleteStateResponse)
SYNC_STATE = _method("SyncState", state_pb2.SyncStateRequest, state_pb2.SyncStateResponse)

GET_NODE = _method("GetNode", node_pb2.GetNodeRequest, node_pb2.GetNodeResponse)


def _as_it_is(data: bytes) -> bytes:
    return data


HEALTH: Method[bytes, bytes] = Method("/grpc.health.v1.Health/Check", _as_it_is, _as_it_is)
"""Whether a node is there. The empty question is no bytes at all, and the answer doesn't matter: that there is one does."""
