"""The recipe, run as a script against a real node: with oras, cosign, jq and vyr."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import CI, PATIENCE, Machine, Node, Project


def read(project: Project, name: str) -> Any:
    return json.loads((project.out / name).read_text())


def test_a_good_workload_is_green(make_project: Any, node: Node) -> None:
    project: Project = make_project("hello")
    said = project.recipe("all", "--label", "team=blue", "--", "one", "two words")
    assert "hello from wasm\none\ntwo words\n" in said
    reference = (project.out / "reference").read_text().strip()
    assert reference.startswith(f"{node.registry}/team/app@sha256:")
    task = read(project, "task.json")
    assert (task["status"], task["exit_code"], task["reference"]) == ("succeeded", 0, reference)
    assert task["acceptance"].startswith("signed by ")
    assert task["labels"] == {"team": "blue", "revision": project.commit}
    spans = read(project, "trace.json")["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert {"task", "execute"} <= {span["name"] for span in spans}
    assert {span["traceId"] for span in spans} == {task["trace_id"]}
    lines = [json.loads(line) for line in (project.out / "logs.jsonl").read_text().splitlines()]
    assert "".join(line["data"] for line in lines) == "hello from wasm\none\ntwo words\n"
    assert {path.name for path in project.out.iterdir()} == {"reference", "task.json", "trace.json", "logs.jsonl"}


def test_a_failing_workload_is_red_with_its_own_code(make_project: Any) -> None:
    project: Project = make_project("exit-p1")
    said = project.recipe("all", "--", "7", expect=7)
    assert "failed: the guest exited with code 7" in said
    task = read(project, "task.json")
    assert (task["status"], task["end_reason"], task["exit_code"]) == ("failed", "exited", 7)
    # What is to be looked at is there all the same.
    assert read(project, "trace.json")["resourceSpans"]
    assert (project.out / "logs.jsonl").exists()


def test_a_limit_is_one_of_vyr_submit(make_project: Any) -> None:
    project: Project = make_project("sleep")
    assert "wall clock limit" in project.recipe("all", "--timeout", "200ms", expect=124)
    assert read(project, "task.json")["status"] == "timed_out"


def test_the_same_commit_has_the_same_digest_and_the_same_job_the_same_task(make_project: Any) -> None:
    project: Project = make_project("hello")
    job: dict[str, Any] = {"GITHUB_RUN_ID": f"{os.getpid()}-{time.time_ns()}", "GITHUB_RUN_ATTEMPT": "1", "GITHUB_JOB": "run"}
    seen = []
    for _ in range(2):
        project.recipe("all", **job)
        seen.append((read(project, "task.json")["id"], (project.out / "reference").read_text()))
    assert seen[0] == seen[1]
    project.recipe("run", **{**job, "GITHUB_RUN_ATTEMPT": "2"})
    assert read(project, "task.json")["id"] != seen[0][0]


def test_what_another_key_signed_is_refused(make_project: Any, machine: Machine, tmp_path: Path) -> None:
    machine.run("cosign", "generate-key-pair", cwd=tmp_path)
    project: Project = make_project("hello", COSIGN_PRIVATE_KEY=(tmp_path / "cosign.key").read_text())
    # Another digest than what the trusted key has signed.
    project.env["VYR_CI_TAG"] = "other"
    with (project.folder / "source.wasm").open("ab") as wasm:
        wasm.write(b"\x00\x08\x05other\x00\x00")
    said = project.recipe("all", expect=126)
    assert "vyr trust add" in said
    assert read(project, "task.json")["status"] == "refused"


def test_a_node_that_is_not_there_is_red_and_leaves_nothing_to_collect(make_project: Any) -> None:
    project: Project = make_project("hello", VYR_NODE="http://127.0.0.1:9")
    said = project.recipe("all", expect=125)
    assert "vyr serve" in said
    assert "nothing to collect" in said
    assert {path.name for path in project.out.iterdir()} == {"reference"}


@pytest.mark.parametrize("step", ["run", "all"])
def test_a_job_that_is_cancelled_cancels_its_task(make_project: Any, machine: Machine, node: Node, step: str) -> None:
    project: Project = make_project("sleep")
    for before in ("build", "push", "sign"):
        project.recipe(before)
    job = subprocess.Popen(
        ["ci/recipe.sh", step], env=project.env, cwd=project.folder, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert job.stderr is not None
    # It runs: the guest says so.
    for line in job.stderr:
        if line == "sleeping\n":
            break
    job.send_signal(signal.SIGTERM)
    said = job.communicate(timeout=PATIENCE)[1]
    assert job.returncode == 130, said
    task = read(project, "task.json")
    assert (task["status"], task["end_reason"]) == ("cancelled", "cancelled_by_client")
    assert (project.out / "trace.json").exists() == (step == "all")


def test_the_tools_of_the_last_stable_debian_do(
    vyr: Path, node: Node, machine: Machine, guests: dict[str, Path], tmp_path: Path
) -> None:
    older = Machine(tmp_path / "older", vyr, older=True)
    assert "1.2.0" in older.run("oras", "version")
    (older.folder / "cosign.key").write_text((machine.folder / "cosign.key").read_text())
    project = Project(older, node, tmp_path / "project", guests["hello"])
    project.recipe("all")
    assert read(project, "task.json")["status"] == "succeeded"


def test_it_logs_in_to_a_registry_that_wants_it(vyr: Path, guests: dict[str, Path], tmp_path: Path) -> None:
    machine = Machine(tmp_path / "machine", vyr)
    machine.run("cosign", "generate-key-pair")
    token = machine.run("vyr", "token", "add", "ci", "--file", "tokens").strip()
    node = Node(machine, "--token-file", machine.folder / "tokens")
    try:
        machine.run("vyr", "trust", "add", "--key", "cosign.pub", "--repository", f"{node.registry}/team")
        project = Project(machine, node, tmp_path / "project", guests["hello"])
        project.recipe("build")
        assert "unauthorized" in project.recipe("push", expect=1).lower()
        project.env.update(VYR_CI_USER="ci", VYR_CI_PASSWORD=token, VYR_TOKEN=token)
        said = project.recipe("all")
        assert token not in said
        assert read(project, "task.json")["submitter"] == "ci"
    finally:
        node.kill()


@pytest.mark.parametrize(
    ("steps", "env", "words"),
    [
        (["push"], {}, "run the step `build` first"),
        (["sign"], {}, "run the step `push` first"),
        (["run"], {}, "run the step `push` first"),
        (["build", "push"], {"VYR_CI_REPOSITORY": ""}, "VYR_CI_REPOSITORY is not set"),
        (["build"], {"VYR_CI_BUILD": "echo text > app.wasm"}, "app.wasm is no Wasm"),
        (["build"], {"VYR_CI_BUILD": "exit 3"}, ""),
        (["build"], {"VYR_CI_BUILD": "true", "VYR_CI_WASM": ""}, "VYR_CI_WASM is not set"),
        (["build", "push", "sign"], {"COSIGN_PRIVATE_KEY": ""}, "nothing to sign with"),
        (["build now"], {}, "unknown step"),
    ],
)
def test_what_is_missing_is_said(make_project: Any, steps: list[str], env: dict[str, str], words: str) -> None:
    project: Project = make_project("hello", **env)
    *before, last = steps
    for step in before:
        project.recipe(step)
    code = 3 if env.get("VYR_CI_BUILD") == "exit 3" else 1
    assert words in project.recipe(last, expect=code)


def test_all_stops_where_a_step_fails(make_project: Any) -> None:
    project: Project = make_project("hello", COSIGN_PRIVATE_KEY="nonsense")
    project.recipe("all", expect=1)
    assert not (project.out / "task.json").exists()


def test_a_missing_tool_is_named(vyr: Path, make_project: Any, tmp_path: Path) -> None:
    project: Project = make_project("hello")
    assert project.recipe("tools").count("/bin/") == 4
    bare = Machine(tmp_path / "bare", vyr)
    (bare.bin / "cosign").unlink()
    assert "cosign is missing; see https://" in project.recipe("tools", expect=1, PATH=bare.env["PATH"])


def test_vyr_is_got_by_its_checksum(vyr: Path, make_project: Any, tmp_path: Path) -> None:
    tarball = tmp_path / "vyr.tar.gz"
    # As envs/packages makes it. The binary of the tests is large, so it is a link to it here.
    with tarfile.open(tarball, "w:gz") as tar:
        link = tarfile.TarInfo("vyr-0.1.0-linux-x86_64/bin/vyr")
        link.type, link.linkname = tarfile.SYMTYPE, str(vyr)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("vyr-0.1.0-linux-x86_64/README.md"))
    bare = Machine(tmp_path / "bare", vyr)
    (bare.bin / "vyr").unlink()
    project: Project = make_project("hello", PATH=bare.env["PATH"], VYR_CI_VYR_URL=tarball.as_uri())
    assert "VYR_CI_VYR_SHA256 is not set" in project.recipe("tools", expect=1)
    wrong = hashlib.sha256(b"another").hexdigest()
    assert "is not what VYR_CI_VYR_SHA256 says" in project.recipe("tools", expect=1, VYR_CI_VYR_SHA256=wrong)
    assert not (project.folder / ".vyr-ci-tools/vyr").exists()
    project.env["VYR_CI_VYR_SHA256"] = hashlib.sha256(tarball.read_bytes()).hexdigest()
    assert ".vyr-ci-tools/vyr" in project.recipe("tools")
    project.recipe("all")
    assert {path.name for path in (project.folder / ".vyr-ci-tools").iterdir()} == {"vyr"}


def test_a_page_of_the_pipeline_sums_it_up(make_project: Any, tmp_path: Path) -> None:
    page = tmp_path / "summary.md"
    project: Project = make_project("exit-p1", GITHUB_STEP_SUMMARY=str(page))
    project.recipe("all", "--", "7", expect=7)
    row = page.read_text().splitlines()[-1]
    assert "| failed | 7 |" in row
    assert read(project, "task.json")["id"] in row


def test_help_is_the_head_of_the_file() -> None:
    said = subprocess.run([CI / "recipe.sh", "--help"], capture_output=True, text=True, check=True).stdout
    assert "recipe.sh collect" in said
    assert "set -euo" not in said


def test_shellcheck_finds_nothing() -> None:
    checked = subprocess.run([Path(sys.executable).parent / "shellcheck", CI / "recipe.sh"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


def test_without_a_key_the_digest_is_signed_by_the_pipeline_s_identity(make_project: Any, vyr: Path, tmp_path: Path) -> None:
    # The identity needs Sigstore's public services, so what is held here is how cosign is called.
    bare = Machine(tmp_path / "bare", vyr)
    asked = tmp_path / "asked"
    (bare.bin / "cosign").unlink()
    (bare.bin / "cosign").write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{asked}\n')
    (bare.bin / "cosign").chmod(0o755)
    project: Project = make_project("hello", COSIGN_PRIVATE_KEY="", PATH=bare.env["PATH"])
    project.recipe("build")
    project.recipe("push")
    reference = (project.out / "reference").read_text().strip()
    for variable in ("ACTIONS_ID_TOKEN_REQUEST_URL", "SIGSTORE_ID_TOKEN"):
        asked.unlink(missing_ok=True)
        project.recipe("sign", **{variable: "x"})  # type: ignore[arg-type]
        assert asked.read_text().split() == ["sign", "--yes", reference]


def test_what_cannot_be_collected_is_said(make_project: Any) -> None:
    project: Project = make_project("hello")
    project.recipe("all")
    said = project.recipe("collect", expect=125, VYR_NODE="http://127.0.0.1:9")
    # Both were tried.
    assert said.count("no node answers") == 2
