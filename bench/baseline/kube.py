"""What the cluster and its measurement share: where things are, container images, and a client of the API server."""

import functools
import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import ssl
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vyr/baseline"
STATE = CACHE / "cluster"  # exists as long as the cluster does
NODE = "baseline"
ADDRESS = "10.200.0.1"
PAUSE = "localhost/pause:3.10.2"
HELLO = "localhost/hello:v1"


@functools.cache
def tool(name: str) -> Path:
    """Where envs/tools has it. It was asked already, where a cluster is being started: that costs 20 ms each."""
    if found := json.loads(os.environ.get("BASELINE_TOOLS", "{}")).get(name):
        return Path(found)
    found = subprocess.run([PROJECT / "envs/tools", "path", name], stdout=subprocess.PIPE, text=True, check=False)
    if found.returncode:
        raise SystemExit(f"baseline: {name} is missing; run: envs/tools {'argo' if name == 'argo' else 'kubernetes'}")
    return Path(found.stdout.strip())


def programs() -> dict[str, Path]:
    """The static programs that the images hold, built once: the workload of VYR's own benchmarks, and Kubernetes' pause."""
    built = {name: CACHE / "programs" / name for name in ("hello", "pause")}
    built["hello"].parent.mkdir(parents=True, exist_ok=True)
    if not built["hello"].exists():
        target = f"{platform.machine()}-unknown-linux-musl"
        source = PROJECT / "workloads/guests/hello.rs"
        part = built["hello"].with_suffix(".part")
        subprocess.run(["rustc", "-O", "-C", "strip=symbols", "--target", target, source, "-o", part], check=True)
        part.rename(built["hello"])
    if not built["pause"].exists():
        go = [tool("go"), "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes"]
        module = Path(subprocess.run(go, cwd=HERE, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
        part = built["pause"].with_suffix(".part")
        source = module / "build/pause/linux/pause.c"
        subprocess.run(["cc", "-Os", "-static", "-s", "-DVERSION=3.10.2", source, "-o", part], check=True)
        part.rename(built["pause"])
    return built


def image(program: Path, also: dict[str, bytes] | None = None) -> tuple[bytes, bytes, bytes]:
    """Manifest, config and the one layer of an image that runs that program."""
    tree = io.BytesIO()
    with tarfile.open(fileobj=tree, mode="w") as tar:
        for name, content in {program.name: program.read_bytes(), **(also or {})}.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    layer = gzip.compress(tree.getvalue(), compresslevel=6, mtime=0)
    arch = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    config = json.dumps(
        {
            "architecture": arch,
            "os": "linux",
            "config": {"Entrypoint": [f"/{program.name}"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(tree.getvalue())]},
        }
    ).encode()
    oci = "application/vnd.oci.image"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{oci}.manifest.v1+json",
            "config": {"mediaType": f"{oci}.config.v1+json", "digest": digest(config), "size": len(config)},
            "layers": [{"mediaType": f"{oci}.layer.v1.tar+gzip", "digest": digest(layer), "size": len(layer)}],
        }
    ).encode()
    return manifest, config, layer


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def archive(images: dict[str, tuple[bytes, bytes, bytes]], path: Path) -> None:
    """An OCI layout as a tar, which `ctr images import` reads."""
    index, files = [], {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}
    for name, blobs in images.items():
        files |= {"blobs/" + digest(blob).replace(":", "/"): blob for blob in blobs}
        index.append(
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest(blobs[0]),
                "size": len(blobs[0]),
                "annotations": {"io.containerd.image.name": name},
            }
        )
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": index}).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))


class Refused(Exception):
    """The API server's answer isn't a success."""


class Api:
    """One connection to the API server, as the cluster's administrator. Not for two threads at once."""

    def __init__(self, certificates: Path = STATE / "certificates") -> None:
        self.tls = ssl.create_default_context(cafile=certificates / "ca.crt")
        self.tls.load_cert_chain(certificates / "admin.crt", certificates / "admin.key")
        self.connection: http.client.HTTPSConnection | None = None

    def connect(self, timeout: float | None) -> http.client.HTTPSConnection:
        return http.client.HTTPSConnection("127.0.0.1", 6443, timeout=timeout, context=self.tls)

    def call(self, method: str, path: str, body: object = None) -> dict:
        """Bytes are YAML, as in a file."""
        self.connection = self.connection or self.connect(30)
        try:
            content = body if body is None or isinstance(body, bytes) else json.dumps(body)
            kind = "yaml" if isinstance(body, bytes) else "json"
            self.connection.request(method, path, content, {"Content-Type": f"application/{kind}"})
            answer = self.connection.getresponse()
            read = answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            self.connection = None
            raise
        if answer.status >= 300:
            raise Refused(f"{method} {path}: {answer.status} {read.decode(errors='replace')[:400]}")
        return json.loads(read) if read.startswith(b"{") else {}

    def watch(self, path: str, version: str) -> Iterator[tuple[float, dict]]:
        """Each event with the moment at which it came. The server ends a watch after some time between half an hour and an
        hour: then it is asked again, from the last event on."""
        while True:
            connection = self.connect(None)
            connection.request("GET", f"{path}?watch=1&allowWatchBookmarks=true&resourceVersion={version}")
            answer = connection.getresponse()
            if answer.status != 200:
                raise Refused(f"watching {path}: {answer.status} {answer.read()[:400]!r}")
            while line := answer.readline():
                moment, event = time.monotonic(), json.loads(line)
                if event["type"] == "ERROR":
                    raise Refused(f"watching {path}: {event['object']}")
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    yield moment, event
            connection.close()


def condition(thing: dict, kind: str) -> bool:
    """Whether a condition of its status is true."""
    return any(c["type"] == kind and c["status"] == "True" for c in thing.get("status", {}).get("conditions", []))
