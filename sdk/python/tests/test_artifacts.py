"""Artifacts, put from their parts, with both clients."""

from __future__ import annotations

import asyncio
import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeClient
from support import Node, Proxy

import vyr

EMPTY = b"{}"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def parts(wasm: bytes, note: str) -> tuple[str, bytes, dict[str, bytes]]:
    """An artifact as `oras push` makes it: digest, manifest, blobs."""
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "artifactType": "application/vnd.test",
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(EMPTY), "size": len(EMPTY)},
            "layers": [{"mediaType": "application/wasm", "digest": digest(wasm), "size": len(wasm)}],
            "annotations": {"note": note},
        }
    ).encode()
    return digest(manifest), manifest, {digest(EMPTY): EMPTY, digest(wasm): wasm}


def test_what_is_put_is_there_with_its_manifest(client: Any, guests: dict[str, Path], tmp_path: Path) -> None:
    wasm = guests["trap"].read_bytes()
    assert len(wasm) > 2 << 20, "more than one message"
    name, manifest, blobs = parts(wasm, str(uuid.uuid4()))
    file = tmp_path / "layer"
    file.write_bytes(wasm)
    tag = f"registry.example/{uuid.uuid4()}:v1"
    put = client.put_artifact(name, manifest, {**blobs, digest(wasm): file}, tag=tag)
    assert (put.digest, put.manifest) == (name, None)
    for reference in (name, tag):
        got = client.get_artifact(reference)
        assert (got.digest, got.manifest, got.tags) == (name, manifest, (tag,))
        assert got.artifact_type == "application/vnd.test"
        assert got.total_bytes >= len(wasm)
        assert not got.trust.accepted
        assert "signature" in got.trust.reason
    assert name in {artifact.digest for artifact in client.list_artifacts()}
    assert json.loads(json.dumps(got.to_dict()))["digest"] == name


def test_an_open_file_is_a_blob_and_what_the_store_has_may_be_left_out(client: Any, guests: dict[str, Path]) -> None:
    wasm = guests["exit-p1"].read_bytes()
    name, manifest, blobs = parts(wasm, "b")
    with guests["exit-p1"].open("rb") as file:
        client.put_artifact(name, manifest, {**blobs, digest(wasm): file})
    again, manifest, _ = parts(wasm, "b, of blobs that are there")
    assert client.put_artifact(again, manifest).digest == again


def test_what_does_not_match_is_refused_by_its_kind(client: Any, guests: dict[str, Path], tmp_path: Path) -> None:
    wasm = guests["hello"].read_bytes() + b"never put"
    name, manifest, blobs = parts(wasm, "c")
    with pytest.raises(vyr.NotFoundError):
        client.put_artifact(name, manifest, {digest(EMPTY): EMPTY})
    with pytest.raises(vyr.RefusedError):
        client.put_artifact(name, manifest, {**blobs, digest(wasm): wasm[:-1] + b"!"})
    with pytest.raises(vyr.UsageError):
        client.put_artifact(name, manifest, {digest(b"other"): b"other"})
    with pytest.raises(vyr.UsageError):
        client.put_artifact(name, b"no manifest", {})
    with pytest.raises(vyr.UsageError, match="can't be read"):
        client.put_artifact(name, manifest, {**blobs, digest(wasm): tmp_path / "none"})
    with pytest.raises(vyr.UsageError, match="can't be made"):
        client.put_artifact(name, manifest, blobs, signatures=["text"])
    with pytest.raises(vyr.NotFoundError):
        client.get_artifact(name)


def test_a_put_is_made_again_only_where_its_blobs_can_be_read_again(
    node: Node, make_client: MakeClient, guests: dict[str, Path]
) -> None:
    wasm = guests["trap"].read_bytes()
    for tries, blob in ((2, guests["trap"]), (2, wasm), (1, guests["trap"].open("rb"))):
        proxy = Proxy(node.port)
        client = make_client(proxy.address, retry=vyr.Retry(tries=3, initial_backoff=0.01))
        name, manifest, blobs = parts(wasm, f"d{proxy.port}")
        proxy.takes_bytes = 1_000_000
        try:
            if tries == 1:
                with pytest.raises(vyr.UnavailableError):
                    client.put_artifact(name, manifest, {**blobs, digest(wasm): blob})
            else:
                assert client.put_artifact(name, manifest, {**blobs, digest(wasm): blob}).digest == name
            assert proxy.connections == tries
        finally:
            proxy.close()
            if not isinstance(blob, bytes | Path):
                blob.close()


def test_why_a_large_blob_is_refused_is_known_though_more_was_to_be_sent(client: Any) -> None:
    large = bytes(64 << 20)
    name, manifest, blobs = parts(large, str(uuid.uuid4()))
    for _ in range(5):
        # The node answers at the first message of what it didn't expect.
        with pytest.raises(vyr.UsageError, match="does not name"):
            client.put_artifact(name, manifest, {digest(b"other"): large, **blobs})


async def test_a_put_is_given_up_with_its_awaiter_and_with_its_client(node: Node) -> None:
    large = bytes(256 << 20)
    name, manifest, blobs = parts(large, str(uuid.uuid4()))
    client = vyr.AsyncClient(node.address, retry=None)
    putting = asyncio.create_task(client.put_artifact(name, manifest, blobs))
    await client.get_node()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    putting = asyncio.create_task(client.put_artifact(name, manifest, blobs))
    await client.get_node()
    await client.close()
    with pytest.raises(vyr.CancelledError):
        await putting
