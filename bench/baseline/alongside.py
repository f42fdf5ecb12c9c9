"""What is measured beside Kubernetes in the same rounds: VYR itself, and what else a user would start a program with.

All of it runs in the cluster's own namespaces, so that network, registry and clock are the same.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kube import HELLO, PROJECT, digest, image, programs, tool
from peers import Peers, tree

sys.path.insert(0, str(PROJECT / "sdk/python/src"))

PROCESS = "client's monotonic clock, from before the process is made to after its end"
CLIENT = "client's monotonic clock, from before the call to its answer; the project's Python SDK, one connection"
NODE = "the node's own clock, from the arrival of the request to the guest's first instruction"
Say = Callable[[str, int, float, str, str], None]


def output(*command: object, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout.strip()


def busy() -> float:
    """Seconds of CPU that all of the machine has used, what is stolen and what waits left out."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _, _, irq, soft = map(int, fields[1:8])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


class Alongside:
    """A node, homes for the three tiers of `vyr run`, and bundles for the peers."""

    def __init__(self, say: Say, registry: str, vyr: Path, wasm: Path, *, quick: bool) -> None:
        """A quick one does without the wasmtime command, which takes ten minutes to build."""
        self.say, self.registry, self.quick = say, registry, quick
        self.folder = Path(tempfile.mkdtemp(prefix="alongside-"))
        # Installed, which is a copy: the file that the linker leaves lies in the page cache in small pages.
        self.vyr = self.folder / "vyr"
        subprocess.run(["install", "-s", vyr, self.vyr], check=True)
        self.first = {"vyr run": self.vyr}
        if before := os.environ.get("BASELINE_BEFORE"):
            self.first["vyr run before"] = self.folder / "before"
            subprocess.run(["install", "-s", before, self.folder / "before"], check=True)
        self.wasm = wasm
        self.home = {name: self.folder / name for name in ("push", "S0", "S1", "S2", "node")}
        self.policy = self.folder / "trust.toml"
        self.node: subprocess.Popen | None = None

    # What is there before the first round.

    def prepare(self) -> None:
        output(self.vyr, "keygen", self.folder / "signer", **self.of("push"))
        output(self.vyr, "trust", "add", "--key", self.folder / "signer.pub", **self.of("push"))
        self.reference = self.push("hello", self.wasm)
        for tier in ("S1", "S2"):
            output(self.vyr, "pull", self.reference, **self.of(tier))
        shutil.copytree(self.home["S1"], self.folder / "S1.template", symlinks=True)
        output(self.vyr, "run", self.reference, **self.of("S2"))
        bundle = self.folder / "bundle"
        (bundle / "rootfs").mkdir(parents=True)
        self.native = programs()["hello"]
        shutil.copy(self.native, bundle / "rootfs/hello")
        output("sh", "-c", f"cd {bundle} && {tool('runc')} spec")
        config = json.loads((bundle / "config.json").read_text())
        config["process"] |= {"terminal": False, "args": ["/hello"]}
        config["linux"]["cgroupsPath"] = "/alongside"
        (bundle / "config.json").write_text(json.dumps(config))
        self.bundle = bundle
        self.compiled = self.folder / "hello.cwasm"
        if not self.quick:
            output(self.wasmtime(), "compile", self.wasm, "-o", self.compiled)
        layout = self.folder / "image"
        self.layout(layout)
        self.dual = self.push("dual", self.wasm, "--fallback", f"oci:{layout}:v1")
        self.peers = Peers(lambda *sample: self.say(*sample), self.folder, self.native, self.vyr, self.reference, self.of("S2"))

    def of(self, tier: str) -> dict[str, str]:
        return {"VYR_HOME": str(self.home[tier]), "VYR_TRUST_POLICY": str(self.policy)}

    def push(self, name: str, wasm: Path, *more: str) -> str:
        key = ("--sign-key", self.folder / "signer.key")
        pushed = output(self.vyr, "push", *key, *more, f"{self.registry}/{name}:v1", wasm, **self.of("push"))
        repository, digest = pushed.splitlines()[-1].split("@")
        return f"{repository.rsplit(':', 1)[0]}@{digest}"

    def layout(self, folder: Path) -> None:
        """The image that Kubernetes runs, as a layout."""
        manifest, config, layer = image(self.native)
        (folder / "blobs/sha256").mkdir(parents=True)
        for blob in (manifest, config, layer):
            (folder / "blobs" / digest(blob).replace(":", "/")).write_bytes(blob)
        entry = {
            "mediaType": json.loads(manifest)["mediaType"],
            "digest": digest(manifest),
            "size": len(manifest),
            "annotations": {"org.opencontainers.image.ref.name": "v1"},
        }
        (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')

    @staticmethod
    def wasmtime() -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        found = cache / "vyr/tools/wasmtime/bin/wasmtime"
        if not found.exists():
            raise SystemExit("wasmtime is missing; run: cargo run --release -p bench -- install")
        return found

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        self.prepare()
        self.start()
        try:
            yield
        finally:
            self.stop()
            self.peers.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        import vyr

        address = self.folder / "address"
        address.unlink(missing_ok=True)
        self.node = subprocess.Popen(
            [self.vyr, "serve", "--listen", "127.0.0.1:0", "--no-socket", "--address-file", address],
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "node.log").open("w"),
            env={**os.environ, **self.of("node")},
        )
        while not address.exists() or not (said := address.read_text().split()):
            if self.node.poll() is not None:
                raise SystemExit(f"the node ended: {(self.folder / 'node.log').read_text()}")
            time.sleep(0.001)
        self.client = vyr.Client(f"http://{said[0]}")
        self.client.connect()

    def stop(self) -> None:
        if self.node:
            self.client.close()
            self.node.terminate()
            self.node.wait()
            self.node = None

    # A round.

    def process(self, case: str, round_: int, *command: object, **environment: str) -> None:
        words = [str(word) for word in command]
        merged = {**os.environ, **environment}
        began = time.monotonic()
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=merged, check=False
        )
        wall = time.monotonic() - began
        if done.returncode:
            raise SystemExit(f"{words} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-2000:]}")
        self.say(f"{case}: process", round_, wall * 1e3, "ms", PROCESS)

    def task(self, case: str, round_: int, reference: str, path: str | None = None, tier: str | None = None) -> None:
        import vyr

        spec = vyr.TaskSpec(reference, path=path) if path else vyr.TaskSpec(reference)
        began = time.monotonic()
        task = self.client.submit(spec, wait=60)
        wall = time.monotonic() - began
        if not task.succeeded:
            raise SystemExit(f"task {task.id}: {task.status} {task.end}")
        if tier and str(task.execution.tier).upper() != tier:
            raise SystemExit(f"task {task.id} began as {task.execution.tier}, and {case} is of {tier}")
        self.say(f"{case}: submit → completed", round_, wall * 1e3, "ms", CLIENT)
        start = task.execution.submit_to_start.total_seconds()
        self.say(f"{case}: submit → first instruction", round_, start * 1e3, "ms", NODE)

    def round(self, round_: int) -> None:
        for name in sorted(self.first, reverse=round_ % 2 == 1):
            for tier in ("S0", "S1"):
                shutil.rmtree(self.home[tier], ignore_errors=True)
            shutil.copytree(self.folder / "S1.template", self.home["S1"], symlinks=True)
            for tier in ("S0", "S1"):
                self.process(f"{name}, {tier}", round_, self.first[name], "run", self.reference, **self.of(tier))
        self.process("vyr run, S2", round_, self.vyr, "run", self.reference, **self.of("S2"))
        if not self.quick:
            self.process("wasmtime run, compiled", round_, self.wasmtime(), "run", "--allow-precompiled", self.compiled)
            self.process("wasmtime run, from .wasm", round_, self.wasmtime(), "run", self.wasm)
        name = f"alongside-{os.getpid()}-{round_}"
        for runtime in ("crun", "runc"):
            self.process(f"{runtime} run", round_, tool(runtime), "run", "--bundle", self.bundle, f"{name}-{runtime}")
        ctr = ("ctr", "--namespace", "k8s.io", "run", "--rm", HELLO, f"{name}-ctr")
        self.process("containerd, by ctr run", round_, *ctr)
        self.process("python3 -c pass", round_, sys.executable, "-c", "pass")
        self.process("the same program, native", round_, self.native)
        self.peers.round(round_)
        self.task("vyr task, S3", round_, self.reference)
        self.task("vyr task, container", round_, self.dual, "container")

    def warm(self) -> None:
        say, self.say = self.say, lambda *_: None
        for number in range(3):
            self.round(1_000_000 + number)
        self.say = say

    def new(self, name: str) -> str:
        """Pushes the workload as an artifact that no other has the digest of."""
        made = self.folder / f"{name}.wasm"
        # A custom section of its own (WebAssembly core specification, 5.5.3): its size, its name's size, name and content.
        content = f"{time.time_ns():020}".encode()
        made.write_bytes(self.wasm.read_bytes() + bytes([0, 1 + 5 + len(content), 5]) + b"round" + content)
        reference = self.push(name, made)
        made.unlink()
        return reference

    def cold(self, round_: int) -> None:
        """Tasks of artifacts that the node hasn't run: it has to pull, to verify and to compile the first; another process put
        the second into its store, and compiled code of the third beside it."""
        self.task("vyr task, artifact absent", round_, self.new(f"wasm-absent-{round_}"), tier="S0")
        for tier, verb in (("S1", "pull"), ("S2", "run")):
            reference = self.new(f"wasm-{tier.lower()}-{round_}")
            output(self.vyr, verb, reference, **self.of("node"))
            self.task(f"vyr task, {tier}", round_, reference, tier=tier)

    def burst(self, round_: int, count: int) -> None:
        used, began = busy(), time.monotonic()
        tasks = [self.client.submit(self.reference) for _ in range(count)]
        for task in tasks:
            self.client.wait(task.id)
        wall, used = time.monotonic() - began, busy() - used
        self.say(f"{count} vyr tasks at once: first submit → last completed", round_, wall * 1e3, "ms", CLIENT)
        how = "user and system time of all the machine in /proc/stat over the burst, the client's part of it too"
        self.say(f"{count} vyr tasks at once: CPU time a task", round_, used / count * 1e3, "ms", how)

    def bootstrap(self, round_: int) -> None:
        """From nothing: no home, no store, no database."""
        self.stop()
        shutil.rmtree(self.home["node"], ignore_errors=True)
        began = time.monotonic()
        self.start()
        answered = (time.monotonic() - began) * 1e3
        self.say("vyr: nothing running → node answers", round_, answered, "ms", "monotonic clock, program on disk, no state")
        task = self.client.submit(self.reference, wait=60)
        if not task.succeeded:
            raise SystemExit(f"task {task.id}: {task.status} {task.end}")
        self.say(
            "vyr: nothing running → first task completed",
            round_,
            (time.monotonic() - began) * 1e3,
            "ms",
            "pulled, verified and compiled in it; monotonic clock",
        )

    def components(self) -> None:
        def count(what: str, things: list[str]) -> None:
            self.say(f"vyr, mandatory components: {what}", 0, len(things), "count", ", ".join(things) or "none")

        names = [Path(f"/proc/{pid}/comm").read_text().strip() for pid in tree(self.node.pid)] if self.node else []
        count("processes that must run, none of them a workload's", names)
        count("packages", ["vyr", "ca-certificates"])
        count("images beside the workload's", [])
        count("certificates and keys to make", ["the signer's key"])
        count("files of settings to write", ["trust.toml (by `vyr trust add`)"])
        count("TCP ports listened on", [self.client.address.rsplit(":", 1)[-1]])
        self.say("vyr, programs on disk", 0, self.vyr.stat().st_size / 2**20, "MiB", "vyr, as installed")
