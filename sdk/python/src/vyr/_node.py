"""Owns what a node says of itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from ._proto import node_pb2 as pb
from ._values import text, to_time


@dataclass(frozen=True, slots=True)
class Node:
    """One `vyr serve` process.

    Attributes:
        version: Its version of VYR.
        wasmtime_version: Its version of Wasmtime.
        os: `linux` and the like.
        architecture: `x86_64` and the like.
        started_at: When it started (UTC).
        queued: Tasks that wait.
        running: Tasks that are being prepared or run.
        max_queued: How many may wait at most.
        max_running: How many may be prepared or run at once.
        memory_bytes: Memory that guests hold now, in bytes.
        memory_budget_bytes: The most that they may hold together, in bytes.
        stopping: It was told to stop and takes no more submits.
        capabilities: What it runs: `wasi-preview1`, `wasi-0.2` and, where there is one, the container engine.
        allows_unsigned: Whether `TaskSpec.allow_unsigned` is accepted.
        confined_by: What holds its process: `landlock`, `seccomp`; empty where nothing does.
    """

    version: str
    wasmtime_version: str
    os: str
    architecture: str
    started_at: datetime | None
    queued: int
    running: int
    max_queued: int
    max_running: int
    memory_bytes: int
    memory_budget_bytes: int
    stopping: bool
    capabilities: tuple[str, ...]
    allows_unsigned: bool
    confined_by: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        lists = {"capabilities": list(self.capabilities), "confined_by": list(self.confined_by)}
        return {**asdict(self), "started_at": text(self.started_at), **lists}


def from_proto(node: pb.Node) -> Node:
    """What it says."""
    return Node(
        version=node.version,
        wasmtime_version=node.wasmtime_version,
        os=node.os,
        architecture=node.architecture,
        started_at=to_time(node.started_at) if node.HasField("started_at") else None,
        queued=node.queued,
        running=node.running,
        max_queued=node.max_queued,
        max_running=node.max_running,
        memory_bytes=node.memory_bytes,
        memory_budget_bytes=node.memory_budget_bytes,
        stopping=node.stopping,
        capabilities=tuple(node.capabilities),
        allows_unsigned=node.allows_unsigned,
        confined_by=tuple(node.confined_by),
    )
