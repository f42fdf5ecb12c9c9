"""Argo Workflows on the cluster, when it is asked for: its controller as one more daemon, and workflows of one step.

It is measured after all else, in a cluster that is brought up for it: its controller would run beside the other rows, and the
API server needs a setting.
"""

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kube import ADDRESS, HELLO, STATE, Api, Refused, archive, image, programs, tool

WORKFLOWS = "/apis/argoproj.io/v1alpha1/namespaces/default/workflows"
# Argo's controller watches from no version on. With this feature, which is on by default, the API server then asks of etcd what
# this one is too old for, and refuses: the controller would see by its list alone, up to 40 s later, that a Pod ended.
APISERVER = "--feature-gates=WatchList=false"
EXECUTOR = "localhost/argoexec:v1"
CASE = "Argo workflow of one step, image present"
# Its own definition of the least that an executor may do: manifests/quick-start/base/executor/emissary.
RULES = [{"apiGroups": ["argoproj.io"], "resources": ["workflowtaskresults"], "verbs": ["create", "patch"]}]
# Inside, no kube-proxy leads from the Service's address to the API server: the executor is told where it is.
SERVER = [{"name": "KUBERNETES_SERVICE_HOST", "value": ADDRESS}, {"name": "KUBERNETES_SERVICE_PORT", "value": "6443"}]


def given() -> bool:
    """Whether `measure --argo` asked for it."""
    return "argo" in json.loads(os.environ.get("BASELINE_TOOLS", "{}"))


def install(api: Api) -> None:
    """Inside: its definitions, the executor's rights and image, and its settings, which are the defaults but for the address."""
    for file in sorted(tool("argo").with_name("crds").glob("argoproj.io_*.yaml")):
        api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", file.read_bytes())
    rights = "/apis/rbac.authorization.k8s.io/v1/namespaces/default"
    api.call("POST", f"{rights}/roles", {"metadata": {"name": "executor"}, "rules": RULES})
    api.call(
        "POST",
        f"{rights}/rolebindings",
        {
            "metadata": {"name": "executor"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "executor"},
            "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}],
        },
    )
    settings = {"executor": json.dumps({"imagePullPolicy": "IfNotPresent", "env": SERVER})}
    body = {"metadata": {"name": "workflow-controller-configmap"}, "data": settings}
    api.call("POST", "/api/v1/namespaces/default/configmaps", body)
    executor = tool("argo").with_name("argoexec").read_bytes()
    archive({EXECUTOR: image(programs()["hello"], {"bin/argoexec": executor})}, STATE / "argoexec.tar")
    ctr = ["ctr", "--namespace", "k8s.io", "images", "import", str(STATE / "argoexec.tar")]
    subprocess.run(ctr, stdout=subprocess.DEVNULL, check=True)
    for resource in ("workflows", "workflowtaskresults", "cronworkflows", "workflowtemplates"):
        while True:
            with contextlib.suppress(Refused):
                api.call("GET", f"/apis/argoproj.io/v1alpha1/{resource}")
                break
            time.sleep(0.05)


def kubeconfig() -> Path:
    made, path = STATE / "certificates", STATE / "argo.kubeconfig"
    user = {"client-certificate": f"{made}/admin.crt", "client-key": f"{made}/admin.key"}
    server = {"server": "https://127.0.0.1:6443", "certificate-authority": f"{made}/ca.crt"}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "it",
        "clusters": [{"name": "it", "cluster": server}],
        "users": [{"name": "it", "user": user}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": "default"}}],
    }
    path.write_text(json.dumps(content))
    return path


@contextlib.contextmanager
def controller() -> Iterator[int]:
    """Its process."""
    command = [str(tool("argo")), "--kubeconfig", str(kubeconfig()), "--executor-image", EXECUTOR]
    log = STATE / "logs/workflow-controller.log"
    with log.open("w") as to:
        # One controller needs no leader, as with Kubernetes' own here.
        environment = {**os.environ, "LEADER_ELECTION_DISABLE": "true"}
        process = subprocess.Popen(command, stdout=to, stderr=to, env=environment)
    try:
        yield process.pid
        if process.poll() is not None:
            raise SystemExit(f"Argo's controller ended with {process.returncode}: {log.read_text()[-2000:]}")
    finally:
        # It was seen to live on for minutes after SIGTERM; nothing of it is to be kept.
        process.kill()
        process.wait()


def workflow(watched: Any, name: str) -> tuple[float, float, float, float]:
    """Submitted, the step's container started, its Pod seen as Succeeded, the workflow Succeeded."""
    container = {"image": HELLO, "imagePullPolicy": "IfNotPresent", "command": ["/hello"]}
    body = {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {"entrypoint": "hello", "templates": [{"name": "hello", "container": container}]},
    }
    began = time.monotonic()
    watched.api.call("POST", WORKFLOWS, body)
    main, ended = "", 0.0
    for moment, thing in watched.until(lambda _, thing: thing["metadata"]["name"] == name):
        status = thing.get("status", {})
        for one in status.get("containerStatuses", []):
            if one["name"] == "main":
                main = one.get("containerID", main).removeprefix("containerd://")
        if thing["kind"] == "Pod" and status.get("phase") == "Succeeded":
            ended = ended or moment
        if thing["kind"] == "Workflow" and status.get("phase") == "Error":
            raise SystemExit(f"failed: {json.dumps(status)}")
        if thing["kind"] == "Workflow" and status.get("phase") == "Succeeded":
            watched.api.call("DELETE", f"{WORKFLOWS}/{name}?propagationPolicy=Background")
            return began, watched.started[main], ended, moment
    raise AssertionError


def measure(watched: Any, count: int, say: Callable[[str, int, float, str, str], None], rest: Callable[[], None]) -> None:
    """All of it; the first workflow isn't measured."""
    install(watched.api)
    watched.attend("workflow", WORKFLOWS)
    clock = "client's monotonic clock, from before the POST to the watch event; in a cluster of its own after all other rows"
    with controller():
        workflow(watched, "workflow-warm")
        for round_ in range(count):
            rest()
            began, started, ended, succeeded = workflow(watched, f"workflow-{round_}")
            how = "containerd's event of the start of the step's container, as it comes"
            say(f"{CASE}: submit → Succeeded", round_, (succeeded - began) * 1e3, "ms", clock)
            say(f"{CASE}: submit → process starts", round_, (started - began) * 1e3, "ms", how)
            say(f"{CASE}: Pod is Succeeded → Succeeded", round_, (succeeded - ended) * 1e3, "ms", "two watch events")
