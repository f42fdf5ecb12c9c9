"""Owns an artifact as a node shows it, and its blobs on their way to one."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from ._errors import Error, UsageError, building
from ._proto import artifact_pb2 as pb
from ._values import text, to_time

CHUNK = 256 << 10
"""How much of a blob goes into one message, in bytes. The node takes up to 1 MiB."""

Blob: TypeAlias = bytes | os.PathLike[str] | BinaryIO
"""A blob: its bytes, the path of a file, or an open file, which can be read once only."""


@dataclass(frozen=True, slots=True)
class Trust:
    """What the node's trust policy says.

    Attributes:
        accepted: It may run.
        reason: Why, or why not.
    """

    accepted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact in a node's store.

    Attributes:
        digest: Of its manifest or index.
        media_type: The manifest's media type.
        total_bytes: Everything that it reaches, in bytes.
        tags: Names in the store: `host[:port]/repository:tag`.
        created_at: When it came into the store (UTC).
        form: Its form where it can be run; None where it can't.
        artifact_type: `artifactType` of its manifest.
        trust: Whether the trust policy accepts it; None from `list_artifacts`.
        manifest: Its manifest, byte for byte; None from `list_artifacts` and `put_artifact`.
    """

    digest: str
    media_type: str
    total_bytes: int
    tags: tuple[str, ...] = ()
    created_at: datetime | None = None
    form: str | None = None
    artifact_type: str | None = None
    trust: Trust | None = None
    manifest: bytes | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For JSON, without the manifest's bytes."""
        return {
            "digest": self.digest,
            "media_type": self.media_type,
            "total_bytes": self.total_bytes,
            "tags": list(self.tags),
            "created_at": text(self.created_at),
            "form": self.form,
            "artifact_type": self.artifact_type,
            "trust": self.trust and {"accepted": self.trust.accepted, "reason": self.trust.reason},
        }


def from_proto(artifact: pb.Artifact, manifest: bytes | None = None) -> Artifact:
    """What a node says of an artifact."""
    return Artifact(
        digest=artifact.digest,
        media_type=artifact.media_type,
        total_bytes=artifact.total_bytes,
        tags=tuple(artifact.tags),
        created_at=to_time(artifact.created_at) if artifact.HasField("created_at") else None,
        form=artifact.form or None,
        artifact_type=artifact.artifact_type or None,
        trust=Trust(artifact.trust.accepted, artifact.trust.reason) if artifact.HasField("trust") else None,
        manifest=manifest,
    )


class Parts:
    """The messages that carry an artifact, one after the other.

    gRPC calls the iterator from a thread of its own, where nobody sees an exception. So one ends the messages, which makes
    the node turn away what it has so far, and is kept in `failure`.
    """

    def __init__(self, header: pb.PutArtifactHeader, blobs: Mapping[str, Blob]) -> None:
        self._header = header
        self._blobs = blobs
        self.failure: Error | None = None

    def __iter__(self) -> Iterator[pb.PutArtifactRequest]:
        yield pb.PutArtifactRequest(header=self._header)
        for digest, blob in self._blobs.items():
            try:
                yield from (
                    pb.PutArtifactRequest(chunk=pb.BlobChunk(digest=digest, data=data)) for data in _chunks(digest, blob)
                )
            except Error as error:
                self.failure = error
                return


def _chunks(digest: str, blob: Blob) -> Iterator[bytes]:
    if isinstance(blob, bytes | bytearray | memoryview):
        # An empty blob is one empty chunk.
        yield from (bytes(blob[at : at + CHUNK]) for at in range(0, len(blob) or 1, CHUNK))
        return
    try:
        if isinstance(blob, str | os.PathLike):
            with Path(blob).open("rb") as file:
                yield from _read(file)
        else:
            yield from _read(blob)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UsageError(f"the blob {digest} can't be read: {error}") from error


def _read(file: BinaryIO) -> Iterator[bytes]:
    data = file.read(CHUNK)
    yield data
    while data := file.read(CHUNK):
        yield data


def repeatable(blobs: Mapping[str, Blob]) -> bool:
    """Whether all of them can be read again."""
    return all(isinstance(blob, bytes | bytearray | memoryview | str | os.PathLike) for blob in blobs.values())


def header(
    digest: str, manifest: bytes, signatures: tuple[bytes, ...], tag: str | None, media_type: str | None
) -> pb.PutArtifactHeader:
    """The first message.

    Raises:
        UsageError: A value that it can't hold.
    """
    with building("the artifact's header"):
        return pb.PutArtifactHeader(
            digest=digest, manifest=manifest, media_type=media_type or "", signatures=signatures, tag=tag or ""
        )
