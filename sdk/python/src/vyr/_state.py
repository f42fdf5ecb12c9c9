"""Owns a state as a node shows it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ._proto import state_pb2 as pb
from ._values import text, to_time
from ._words import StateClass, StateKind, word


@dataclass(frozen=True, slots=True)
class ArtifactBinding:
    """A binding that every task of an artifact gets.

    Attributes:
        artifact: `host[:port]/repository[:tag][@digest]`.
        alias: The name of the folder under `/state`.
        read_only: The guest may only read it.
    """

    artifact: str
    alias: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Fork:
    """Another writer that went on from the same place without knowing of this one. Both chains are kept.

    Attributes:
        writer: Who: the first 16 hex digits of the SHA-256 of its public key.
        after: The last sequence number that both have.
    """

    writer: str
    after: int


@dataclass(frozen=True, slots=True)
class State:
    """A named, quota-limited, expiring piece of data that tasks bind.

    Attributes:
        id: A UUID of version 7.
        name: Its name on the node.
        state_class: What it promises. (`class` is a word of Python's.)
        kind: What it holds.
        quota_bytes: The most that it may hold, in bytes.
        used_bytes: What it holds, in bytes.
        created_at: When it was made (UTC, as all times here).
        expires_at: When it goes; None: it stays.
        sync_target: For `synced`: `host[:port]/repository`.
        segments_sealed: For `synced`: sealed segments, those that were pushed included.
        segments_pending: For `synced`: those that were not pushed yet.
        pending_bytes: For `synced`: what these take, in bytes.
        synced_at: For `synced`: when the last push succeeded.
        sync_error: For `synced`: why the last push failed; None after one that succeeded.
        forks: For `synced`: other writers from the same place.
        bindings: Artifacts that it is bound to by name.
    """

    id: str
    name: str
    state_class: StateClass
    kind: StateKind
    quota_bytes: int = 0
    used_bytes: int = 0
    created_at: datetime | None = None
    expires_at: datetime | None = None
    sync_target: str | None = None
    segments_sealed: int = 0
    segments_pending: int = 0
    pending_bytes: int = 0
    synced_at: datetime | None = None
    sync_error: str | None = None
    forks: tuple[Fork, ...] = ()
    bindings: tuple[ArtifactBinding, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON: an item of `vyr state ls --output json`."""
        shown: dict[str, Any] = {
            "name": self.name,
            "id": self.id,
            "class": str(self.state_class),
            "kind": str(self.kind),
            "used_bytes": self.used_bytes,
            "quota_bytes": self.quota_bytes,
            "created_at": text(self.created_at),
            "expires_at": text(self.expires_at),
            "bindings": [
                {"artifact": bound.artifact, "alias": bound.alias, "read_only": bound.read_only} for bound in self.bindings
            ],
        }
        if self.state_class is StateClass.SYNCED:
            shown["sync"] = {
                "target": self.sync_target or "",
                "segments_sealed": self.segments_sealed,
                "segments_pending": self.segments_pending,
                "pending_bytes": self.pending_bytes,
                "synced_at": text(self.synced_at),
                "error": self.sync_error,
                "forks": [{"writer": fork.writer, "after": fork.after} for fork in self.forks],
            }
        return shown


def from_proto(state: pb.State) -> State:
    """What a node says of a state."""
    return State(
        id=state.id,
        name=state.name,
        # `class` is no name that can be written here.
        state_class=word(StateClass, pb.StateClass, getattr(state, "class"), unset=StateClass.UNKNOWN),
        kind=word(StateKind, pb.StateKind, state.kind, unset=StateKind.UNKNOWN),
        quota_bytes=state.quota_bytes,
        used_bytes=state.used_bytes,
        created_at=to_time(state.created_at) if state.HasField("created_at") else None,
        expires_at=to_time(state.expires_at) if state.HasField("expires_at") else None,
        sync_target=state.sync_target or None,
        segments_sealed=state.segments_sealed,
        segments_pending=state.segments_pending,
        pending_bytes=state.pending_bytes,
        synced_at=to_time(state.synced_at) if state.HasField("synced_at") else None,
        sync_error=state.sync_error or None,
        forks=tuple(Fork(fork.writer, fork.after) for fork in state.forks),
        bindings=tuple(ArtifactBinding(bound.artifact, bound.alias, bound.read_only) for bound in state.bindings),
    )
