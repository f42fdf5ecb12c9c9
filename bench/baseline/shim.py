"""A containerd Wasm shim, if one is given: what the users of runwasi run under a RuntimeClass, or by `ctr run`."""

import os
import subprocess
from pathlib import Path

from kube import STATE, Api, archive, image

NAME = "containerd-shim-wasmtime-v1"
RUNTIME = "io.containerd.wasmtime.v1"
CLASS = "wasmtime"
IMAGE = "localhost/hello-wasm:v1"
JOB = "Wasm shim, image present"
NOTE = "the Wasm shim runs the module that VYR runs, from a file of a usual layer, and compiles it at each start"
CTR = "containerd with a Wasm shim, by ctr run"


def given() -> Path | None:
    """The one that `measure --wasm-shim` named."""
    path = os.environ.get("BASELINE_WASM_SHIM")
    return Path(path) if path else None


def check(path: Path) -> Path:
    """Containerd finds a shim by its runtime's name, so the file must have that of it."""
    if not path.is_file() or path.name != NAME:
        raise SystemExit(f"measure: --wasm-shim needs a file that is called {NAME}, as runwasi's build makes it; got {path}")
    return path.resolve()


def version(path: Path) -> str:
    """What it says of itself: `Version: 0.6.0` and `Revision: …`, each in a line of its own."""
    said = subprocess.run([path, "-v"], stdout=subprocess.PIPE, text=True, check=True).stdout
    fields = dict(line.strip().split(": ", 1) for line in said.splitlines() if ": " in line)
    return f"{NAME} {fields['Version'].strip()} (runwasi, revision {fields['Revision'].strip()[:12]})"


def settings() -> str:
    """Its part of containerd's settings."""
    if not given():
        return ""
    return f"""  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{CLASS}]
    runtime_type = "{RUNTIME}"
"""


def install(api: Api, wasm: Path) -> None:
    """Inside: the RuntimeClass, and an image whose one layer holds the module that VYR runs."""
    archive({IMAGE: image(wasm)}, STATE / "wasm.tar")
    ctr = ["ctr", "--namespace", "k8s.io", "images", "import", str(STATE / "wasm.tar")]
    subprocess.run(ctr, stdout=subprocess.DEVNULL, check=True)
    body = {"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": CLASS}, "handler": CLASS}
    api.call("POST", "/apis/node.k8s.io/v1/runtimeclasses", body)


def ctr(name: str) -> list[str]:
    """A start without Kubernetes."""
    return ["ctr", "--namespace", "k8s.io", "run", "--rm", "--runtime", RUNTIME, IMAGE, name]
