"""Fixtures: nodes, guests, clients."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from support import REPOSITORY, Blocking, Home, Loop, Node, Proxy

import vyr

# `Client`, or `AsyncClient` behind its face.
MakeClient: TypeAlias = Callable[..., Any]
MakeHome: TypeAlias = Callable[[], Home]
MakeNode: TypeAlias = Callable[..., Node]

# Those that end with a code of their own are modules: a component of WASI 0.2 can only say that it failed.
GUESTS = ("hello", "echo-env-p1", "exit-p1", "trap", "spin", "sleep", "noisy", "state")


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have a node of their own."""
    for name in list(os.environ):
        if name.startswith(("VYR_", "OTEL_")) or name == "TRACEPARENT":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def vyr_bin() -> Path:
    named = os.environ.get("VYR_BIN")
    if not named:
        pytest.fail("VYR_BIN is not set: it is the path of the `vyr` to test with; see ./check")
    return Path(named).absolute()


@pytest.fixture(scope="session")
def guests() -> dict[str, Path]:
    """The compiled guests by their names."""
    words = ["cargo", "run", "--locked", "--quiet", "--package", "vyr-guests", "--", *GUESTS]
    built = subprocess.run(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(GUESTS, map(Path, built.stdout.split()), strict=True))


@pytest.fixture
def make_home(vyr_bin: Path, tmp_path: Path) -> MakeHome:
    count = iter(range(100))
    return lambda: Home(vyr_bin, tmp_path / f"machine-{next(count)}")


@pytest.fixture
def make_node(make_home: MakeHome) -> Iterator[MakeNode]:
    """Starts nodes, each of a home of its own; with these arguments."""
    nodes: list[Node] = []

    def make(*arguments: str | Path, home: Home | None = None) -> Node:
        node = Node(home or make_home(), *arguments)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        node.kill()


@pytest.fixture(scope="session")
def node(vyr_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One that all tests share which do it no harm."""
    shared = Node(Home(vyr_bin, tmp_path_factory.mktemp("shared") / "machine"))
    yield shared
    shared.kill()


@pytest.fixture(scope="session")
def pushed(node: Node, guests: dict[str, Path]) -> dict[str, str]:
    """The references of the guests in that node's registry."""
    return {name: node.push(wasm, name) for name, wasm in guests.items()}


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made.close()


@pytest.fixture(params=["sync", "async"])
def make_client(request: pytest.FixtureRequest, loop: Loop) -> Iterator[MakeClient]:
    """Makes clients of one kind; each test runs with both kinds."""
    made: list[Any] = []

    def make(*args: Any, **kwargs: Any) -> Any:
        client = vyr.Client(*args, **kwargs) if request.param == "sync" else Blocking(loop, vyr.AsyncClient(*args, **kwargs))
        made.append(client)
        return client

    yield make
    for client in made:
        client.close()


@pytest.fixture
def client(node: Node, make_client: MakeClient) -> Any:
    """A client of the shared node."""
    return make_client(node.address)


@pytest.fixture
def make_proxy() -> Iterator[Callable[[Node], Proxy]]:
    made: list[Proxy] = []

    def make(node: Node) -> Proxy:
        proxy = Proxy(node.port)
        made.append(proxy)
        return proxy

    yield make
    for proxy in made:
        proxy.close()
