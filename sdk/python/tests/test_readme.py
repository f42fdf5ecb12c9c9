"""The README's programs, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from support import PATIENCE, REPOSITORY, Node

README = (REPOSITORY / "sdk/python/README.md").read_text()
PROGRAMS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
WRITTEN = [
    "100 of 100\n",
    "hello from wasm\nsucceeded\n",
    "not_found | there is no task 01a213e3-fbed-734d-8c3f-ce8ad56a33c0 | `vyr tasks` lists the tasks; ended ones are forgotten",
]


@pytest.mark.parametrize(("program", "written"), list(zip(PROGRAMS, WRITTEN, strict=True)))
def test_a_program_of_the_readme(node: Node, pushed: dict[str, str], program: str, written: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace("localhost:7070/hello:v1", pushed["hello"])],
        env={**os.environ, "VYR_NODE": node.address},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(written)


def test_the_readme_names_every_method_and_every_error() -> None:
    import vyr

    named = set(re.findall(r"`(\w+)`", README))
    assert {name for name in vars(vyr.Client) if name[0] != "_"} - {"address"} <= named
    assert {name for name in vyr.__all__ if name.endswith("Error") and name != "Error"} <= named
