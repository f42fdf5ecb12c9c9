"""A node, a project with the recipe in it, and the real tools."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

CI = Path(__file__).resolve().parents[1]
REPOSITORY = CI.parents[1]
GUESTS = ("hello", "exit-p1", "sleep")
PATIENCE = 60.0


def tool(name: str) -> Path:
    found = subprocess.run([REPOSITORY / "envs/tools", "path", name], capture_output=True, text=True)
    if found.returncode:
        pytest.fail(found.stderr)
    return Path(found.stdout.strip())


@pytest.fixture(scope="session")
def vyr() -> Path:
    named = os.environ.get("VYR_BIN")
    if not named:
        pytest.fail("VYR_BIN is not set: it is the path of the `vyr` to test with; see ./check")
    return Path(named).absolute()


@pytest.fixture(scope="session")
def guests() -> dict[str, Path]:
    words = ["cargo", "run", "--locked", "--quiet", "--package", "vyr-guests", "--", *GUESTS]
    built = subprocess.run(words, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return dict(zip(GUESTS, map(Path, built.stdout.split()), strict=True))


class Machine:
    """A home with the tools, as a pipeline's runner has them; nothing of this user's own is read or changed."""

    def __init__(self, folder: Path, vyr: Path, older: bool = False) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir(parents=True)
        suffix = "-older" if older else ""
        for name, path in {"oras": tool(f"oras{suffix}"), "cosign": tool(f"cosign{suffix}"), "vyr": vyr}.items():
            (self.bin / name).symlink_to(path)
        self.env = {
            "PATH": f"{self.bin}:/usr/bin:/bin",
            "HOME": str(folder),
            "VYR_HOME": str(folder / "home"),
            "DOCKER_CONFIG": str(folder / "docker"),
            "COSIGN_PASSWORD": "",
            **{f"GIT_{who}_{what}": "ci@example.com" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    def run(self, *words: str | Path, cwd: Path | None = None, expect: int = 0) -> str:
        done = subprocess.run(words, env=self.env, cwd=cwd or self.folder, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == expect, f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout


class Node:
    """A running `vyr serve`, which is the registry too."""

    def __init__(self, machine: Machine, *arguments: str | Path) -> None:
        self.machine = machine
        address, log = machine.folder / "address", machine.folder / "serve.log"
        words = ["vyr", "serve", "--listen", "127.0.0.1:0", "--address-file", str(address), *arguments]
        with log.open("wb") as output:
            self.process = subprocess.Popen(words, env=machine.env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        began = time.monotonic()
        while not address.exists():
            assert self.process.poll() is None, log.read_text()
            assert time.monotonic() - began < PATIENCE, log.read_text()
            time.sleep(0.01)
        self.port = address.read_text().strip().rpartition(":")[2]
        self.registry = f"localhost:{self.port}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="session")
def machine(vyr: Path, tmp_path_factory: pytest.TempPathFactory) -> Machine:
    return Machine(tmp_path_factory.mktemp("node") / "machine", vyr)


@pytest.fixture(scope="session")
def node(machine: Machine) -> Iterator[Node]:
    """One that trusts `cosign.key` of its machine for repositories below `team`."""
    machine.run("cosign", "generate-key-pair")
    started = Node(machine)
    machine.run("vyr", "trust", "add", "--key", "cosign.pub", "--repository", f"{started.registry}/team")
    yield started
    started.kill()


class Project:
    """A project of somebody's with the recipe in it, checked out by a pipeline."""

    def __init__(self, machine: Machine, node: Node, folder: Path, wasm: Path) -> None:
        self.machine = machine
        self.folder = folder
        self.out = folder / "vyr-ci"
        self.env = {
            **machine.env,
            "VYR_NODE": f"http://127.0.0.1:{node.port}",
            "VYR_CI_REPOSITORY": f"{node.registry}/team/App",
            "VYR_CI_BUILD": "cp source.wasm app.wasm",
            "VYR_CI_WASM": "app.wasm",
            "COSIGN_PRIVATE_KEY": (machine.folder / "cosign.key").read_text(),
        }
        del self.env["VYR_HOME"]
        (folder / "ci").mkdir(parents=True)
        shutil.copy(CI / "recipe.sh", folder / "ci")
        shutil.copy(wasm, folder / "source.wasm")
        for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "a workload"]):
            machine.run("git", *words, cwd=folder)
        self.commit = machine.run("git", "rev-parse", "HEAD", cwd=folder).strip()

    def recipe(self, *words: str, expect: int = 0, **env: str) -> str:
        """Runs steps of it; what it said."""
        done = subprocess.run(
            ["ci/recipe.sh", *words],
            env={**self.env, **env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == expect, f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}"
        assert done.stdout == "", "a pipeline's page shows both streams as one; what is for programs is in files"
        return done.stderr


@pytest.fixture
def make_project(machine: Machine, node: Node, guests: dict[str, Path], tmp_path: Path):  # type: ignore[no-untyped-def]
    count = iter(range(100))

    def make(guest: str, **env: str) -> Project:
        project = Project(machine, node, tmp_path / f"project-{next(count)}", guests[guest])
        project.env.update(env)
        return project

    return make
