"""The package as it is built: what is in it, what it needs."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import distribution, files
from pathlib import Path

from support import REPOSITORY

import vyr
from vyr._proto import task_pb2

PYTHON = REPOSITORY / "sdk/python"


def pins(name: str) -> dict[str, str]:
    lines = (PYTHON / f"requirements/{name}.txt").read_text().splitlines()
    return dict(line.split("==", 1) for line in lines if not line.startswith("#"))


def test_the_wheel_is_what_is_tested_and_holds_all_that_it_needs() -> None:
    installed = Path(vyr.__file__).resolve()
    assert not installed.is_relative_to(PYTHON), "the sources stand before the wheel"
    held = {str(file) for file in files("vyr") or ()}
    assert {"vyr/py.typed", "vyr/_proto/__init__.py", "vyr/_proto/task_pb2.py", "vyr/_proto/task_pb2.pyi"} <= held
    assert [name for name in held if name.endswith("licenses/LICENSE")]
    assert not [name for name in held if name.split("/")[0] in {"tests", "examples", "hatch_build.py"}]
    # Nothing of it is made for one system, and nothing is left that would need grpcio-tools to be there.
    wheel = distribution("vyr").read_text("WHEEL") or ""
    assert "Tag: py3-none-any" in wheel
    assert "Root-Is-Purelib: true" in wheel


def test_the_interface_is_the_repository_s() -> None:
    made = {message.name for message in task_pb2.DESCRIPTOR.message_types_by_name.values()}
    written = re.findall(r"^message (\w+)", (REPOSITORY / "proto/vyr/control/v0/task.proto").read_text(), re.MULTILINE)
    assert made == set(written)
    # As protoc's own names have it, so that somebody's own stubs of the same files can be loaded beside these.
    assert task_pb2.DESCRIPTOR.name == "vyr/control/v0/task.proto"


def test_the_lower_bounds_are_those_that_are_tested() -> None:
    project = tomllib.loads((PYTHON / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["opentelemetry"]]
    bounds = dict(one.partition(",")[0].split(">=") for one in wanted)
    lowest = pins("lowest")
    for name, bound in bounds.items():
        assert lowest[name].removesuffix(".0") == bound.removesuffix(".0"), name
        assert version(pins("newest")[name]) > version(bound), name
    # Code that was made for a version of protobuf can't be loaded by an earlier one.
    code = (Path(task_pb2.__file__)).read_text()
    made_for = re.search(r"Protobuf Python Version: ([\d.]+)", code)
    assert made_for is not None
    assert version(made_for[1]) <= version(bounds["protobuf"])
    hook = re.search(r'"grpcio-tools==([\d.]+)"', (PYTHON / "hatch_build.py").read_text())
    assert hook is not None
    assert hook[1] == pins("build")["grpcio-tools"]


def version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))
