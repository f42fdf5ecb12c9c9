"""The examples, run as a user does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE, REPOSITORY, Node

EXAMPLES = REPOSITORY / "sdk/python/examples"


def run(node: Node, example: str, *words: str | Path, expect: int = 0) -> str:
    # Warnings that Python hides by default are shown.
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLES / f"{example}.py", *words],
        env={**os.environ, "VYR_NODE": node.address},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert done.stderr == "" or expect != 0
    return done.stdout


def test_each_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"submit", "cancel", "state", "artifact", "asyncio_many"}


def test_submit(node: Node, pushed: dict[str, str]) -> None:
    assert run(node, "submit", pushed["hello"], "one", "two words").endswith("hello from wasm\none\ntwo words\n")
    run(node, "submit", pushed["exit-p1"], "7", expect=7)


def test_cancel(node: Node, pushed: dict[str, str]) -> None:
    assert "cancelled" in run(node, "cancel", pushed["sleep"])


def test_state(node: Node, pushed: dict[str, str]) -> None:
    assert "kept" in run(node, "state", pushed["state"])


@pytest.mark.parametrize("guest", ["hello", "exit-p1"])
def test_artifact(node: Node, guests: dict[str, Path], guest: str) -> None:
    shown = json.loads(run(node, "artifact", guests[guest], f"registry.example/by-{guest}:v1"))
    assert shown["tags"] == [f"registry.example/by-{guest}:v1"]
    assert shown["trust"]["accepted"] is False


def test_asyncio_many(node: Node, pushed: dict[str, str]) -> None:
    assert run(node, "asyncio_many", pushed["hello"], "50").startswith("50 of 50 succeeded")
