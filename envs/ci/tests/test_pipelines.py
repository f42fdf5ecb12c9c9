"""The pipelines' files: valid by their schemas, and their commands run as a runner would, in their order."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CI, PATIENCE, Project
from ruamel.yaml import YAML

STEPS = {"tools", "build", "push", "sign", "run", "collect"}
# Changes the machine that it runs on, so it isn't run here. The packages are those of Debian 13, whose oras and cosign are
# tried by test_the_tools_of_the_last_stable_debian_do.
INSTALLS = "apt-get update -qq && apt-get install -qq --no-install-recommends oras cosign jq"


def read(name: str) -> Any:
    return YAML(typ="safe").load((CI / name).read_text())


@pytest.mark.parametrize(
    ("name", "schema"), [("github-actions.yml", "vendor.github-workflows"), ("gitlab-ci.yml", "vendor.gitlab-ci")]
)
def test_they_are_valid(name: str, schema: str) -> None:
    tool = Path(sys.executable).parent / "check-jsonschema"
    checked = subprocess.run([tool, "--builtin-schema", schema, CI / name], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_what_others_made_is_pinned_by_its_commit() -> None:
    text = (CI / "github-actions.yml").read_text()
    used = re.findall(r"uses: (.*)", text)
    assert len(used) == 4
    for line in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line
    image = read("gitlab-ci.yml")["vyr"]["image"]
    assert re.fullmatch(r"rust:\d+\.\d+-trixie", image)


def test_they_have_an_identity_and_no_more_rights_than_they_need() -> None:
    github = read("github-actions.yml")
    assert github["permissions"] == {"contents": "read", "packages": "write", "id-token": "write"}
    gitlab = read("gitlab-ci.yml")["vyr"]
    assert gitlab["id_tokens"] == {"SIGSTORE_ID_TOKEN": {"aud": "sigstore"}}


def test_they_keep_what_happened_whatever_happened() -> None:
    *_, collect, upload = read("github-actions.yml")["jobs"]["run"]["steps"]
    assert (collect["if"], upload["if"]) == ("always()", "always()")
    assert upload["with"]["path"] == "vyr-ci/"
    artifacts = read("gitlab-ci.yml")["vyr"]["artifacts"]
    assert (artifacts["when"], artifacts["paths"]) == ("always", ["vyr-ci/"])


def commands(name: str) -> list[tuple[str, bool]]:
    """The shell commands in their order, each with whether it runs after a failure too."""
    if name == "github-actions.yml":
        steps = read(name)["jobs"]["run"]["steps"]
        return [(step["run"], step.get("if") == "always()") for step in steps if "run" in step]
    job = read(name)["vyr"]
    before = [(line, False) for line in [*job["before_script"], *job["script"]]]
    return before + [(line, True) for line in job["after_script"]]


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_they_only_call_the_recipe(name: str) -> None:
    lines = [line for line, _ in commands(name) if line != INSTALLS]
    called = [re.fullmatch(r"ci/recipe\.sh (\w+)( .*)?", line) for line in lines]
    assert all(called), lines
    assert [call[1] for call in called if call] == ["tools", "build", "push", "sign", "run", "collect"]


def variables(name: str, project: Project) -> dict[str, str]:
    """The job's variables, with what a runner would put in. What has no value here is set in the project's settings."""
    if name == "github-actions.yml":
        given, pattern = read(name)["jobs"]["run"]["env"], r"\$\{\{ ([\w.]+) \}\}"
    else:
        given, pattern = read(name)["vyr"]["variables"], r"\$(\w+)"
    values = {
        "github.repository": "team/App",
        "github.actor": "",
        "github.token": "",
        "vars.VYR_NODE": project.env["VYR_NODE"],
        "secrets.VYR_TOKEN": "",
        "vars.VYR_CI_VYR_URL": "",
        "vars.VYR_CI_VYR_SHA256": "",
        "CI_REGISTRY_IMAGE": project.env["VYR_CI_REPOSITORY"],
        "CI_REGISTRY_USER": "",
        "CI_REGISTRY_PASSWORD": "",
    }
    filled = {key: re.sub(pattern, lambda found: values[found[1]], value) for key, value in given.items()}
    registry = project.env["VYR_CI_REPOSITORY"].partition("/")[0]
    return {key: value.replace("ghcr.io", registry) for key, value in filled.items()}


@pytest.mark.parametrize(("guest", "more", "code"), [("hello", "", 0), ("exit-p1", " -- 7", 7)])
@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_they_run(make_project: Any, name: str, guest: str, more: str, code: int) -> None:
    project: Project = make_project(guest)
    # Instead of the identity that only a real pipeline has, the key that the node trusts.
    env = {**project.env, **variables(name, project)}
    status = 0
    for line, always in commands(name):
        if line == INSTALLS or (status and not always):
            continue
        words = line + more if line.startswith("ci/recipe.sh run") else line
        # As both runners do.
        done = subprocess.run(["bash", "-e", "-c", words], env=env, cwd=project.folder, capture_output=True, timeout=PATIENCE)
        status = status or done.returncode
    assert status == code
    assert {path.name for path in project.out.iterdir()} == {"reference", "task.json", "trace.json", "logs.jsonl"}
