"""States, with both clients."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeNode
from support import Node

import vyr


@pytest.fixture
def name() -> str:
    return f"s-{uuid.uuid4()}"


def test_a_state_outlives_its_tasks(client: Any, pushed: dict[str, str], name: str) -> None:
    made = client.create_state(name, quota_bytes=1 << 20, time_to_live=timedelta(hours=1))
    assert (made.name, made.state_class, made.kind) == (name, vyr.StateClass.NODE, vyr.StateKind.FILES)
    assert (made.quota_bytes, made.used_bytes) == (1 << 20, 0)
    assert timedelta(minutes=59) < made.expires_at - datetime.now(UTC) < timedelta(minutes=61)
    bound = [vyr.StateBinding(name, "s")]
    client.run(vyr.TaskSpec(pushed["state"], args=["text:/state/s/note:kept"], states=bound)).check()
    read = client.run(vyr.TaskSpec(pushed["state"], args=["read:/state/s/note"], states=bound)).check()
    assert b"kept" in read.stdout
    assert client.get_state(name).used_bytes > 0
    assert client.get_state(made.id).name == name
    readers = [vyr.StateBinding(name, "s", read_only=True)]
    denied = client.run(vyr.TaskSpec(pushed["state"], args=["text:/state/s/note:other"], states=readers))
    assert b"denied" in denied.stdout
    client.delete_state(name)
    with pytest.raises(vyr.NotFoundError):
        client.get_state(name)


def test_a_state_bound_to_an_artifact_is_seen_by_its_tasks(client: Any, pushed: dict[str, str], name: str) -> None:
    client.create_state(name, "node", kind="kv")
    repository = pushed["state"].partition("@")[0]
    bound = client.bind_state(name, repository, name)
    assert bound.bindings == (vyr.ArtifactBinding(repository, name, read_only=False),)
    outcome = client.run(vyr.TaskSpec(pushed["state"], args=[f"ls:/state/{name}"])).check()
    assert b"ok" in outcome.stdout
    assert [state.name for state in client.list_states() if state.name == name] == [name]
    # For the other tests of this node.
    other = client.get_state(name)
    assert other.bindings
    client.delete_state(name)


def test_json_is_that_of_the_command(client: Any, node: Node, name: str) -> None:
    state = client.create_state(name, "synced", sync_target=f"{node.registry}/{name}")
    theirs = json.loads(node.home.vyr("state", "show", name, "--output", "json"))
    ours = json.loads(json.dumps(state.to_dict()))
    assert ours == {key: theirs[key] for key in ours}
    assert ours["sync"]["target"] == f"{node.registry}/{name}"
    client.delete_state(name)


def test_mistakes_are_named(client: Any, name: str) -> None:
    with pytest.raises(vyr.UsageError) as error:
        client.create_state("Not A Name")
    assert error.value.fields[0].path == "name"
    with pytest.raises(vyr.UsageError, match="class_"):
        client.create_state(name, "eternal")
    client.create_state(name)
    with pytest.raises(vyr.ConflictError):
        client.create_state(name)
    client.delete_state(name)
    for call in (client.get_state, client.delete_state, client.sync_state, lambda s: client.bind_state(s, "a/b", "x")):
        with pytest.raises(vyr.NotFoundError):
            call(name)


def test_a_synced_state_is_pushed(
    make_node: MakeNode, client: Any, guests: dict[str, Path], node: Node, pushed: dict[str, str], name: str
) -> None:
    client.create_state(name, vyr.StateClass.SYNCED, sync_target=f"{node.registry}/{name}")
    spec = vyr.TaskSpec(pushed["state"], args=["text:/state/s/note:kept"], states=[vyr.StateBinding(name, "s")])
    client.run(spec).check()
    synced = client.sync_state(name)
    assert (synced.segments_pending, synced.sync_error) == (0, None)
    assert synced.segments_sealed > 0
    assert synced.synced_at is not None
