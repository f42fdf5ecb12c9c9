"""What chaos is made in: a cable to cut, a disk to fill, a clock to move, and a node on all of it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from growth_stage import EMPTY, INDEX, MANIFEST, Stage, messages, sha256, tool

# The node's network is this program's own, the registry's one at the other end of a cable.
NODE, CENTRE = "10.84.0.2", "10.84.0.1"
PORT = 7171
REGISTRY = f"{CENTRE}:5000"
OWN = f"localhost:{PORT}"
DISK_BYTES, QUICK_DISK_BYTES = 6 << 30, 1 << 30
# Stands in the arguments of each container guest, so that they are found whoever their parent is.
MARK = "chaos-guest"
# In place of the exit status of a node that did not end in time.
TOO_LONG = -1000


def fail(why: str) -> SystemExit:
    return SystemExit(f"chaos: {why}")


BEGAN = time.monotonic()


def progress(text: str) -> None:
    print(f"chaos: {time.monotonic() - BEGAN:5.0f} s: {text}", file=sys.stderr, flush=True)


def call(*words: str | Path) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise fail(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Cable:
    """Two namespaces and what joins them. This program was started in a namespace of its own."""

    def __init__(self) -> None:
        call("ip", "link", "set", "lo", "up")
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        own = Path("/proc/self/ns/net").readlink()
        while Path(f"/proc/{self.holder.pid}/ns/net").readlink() == own:
            time.sleep(0.005)
        call("ip", "link", "add", "cable", "type", "veth", "peer", "name", "centre", "netns", str(self.holder.pid))
        call("ip", "address", "add", f"{NODE}/24", "dev", "cable")
        call("ip", "link", "set", "cable", "up")
        # The registry's address is on a device that stays: whoever is at the centre reaches it while the cable is cut.
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{CENTRE}/32", "dev", "lo"],
            ["address", "add", "10.84.0.3/24", "dev", "centre"],
            ["link", "set", "centre", "up"],
        ):
            call(*self.far("ip", *words))

    def far(self, *words: str | Path) -> list[str | Path]:
        """A command, as it is run at the other end."""
        return ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *words]

    def set(self, *, up: bool) -> None:
        # The far end's: addresses and routes of this one stay, and packets fall into nothing.
        call(*self.far("ip", "link", "set", "centre", "up" if up else "down"))

    def end(self) -> None:
        self.holder.kill()
        self.holder.wait()


class Disk:
    """An ext4 of its own in a file, which a ballast fills."""

    def __init__(self, image: Path, at: Path, size: int) -> None:
        self.at = at
        with image.open("wb") as file:
            file.truncate(size)
        # No share that is root's alone: full means full.
        call("mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", image)
        at.mkdir()
        call("mount", "-o", "loop", image, at)

    def fill(self, but: int) -> int:
        """Leaves about so many bytes. Returns what it took."""
        free = os.statvfs(self.at)
        size = max(free.f_bavail * free.f_frsize - but, 0)
        with (self.at / "ballast").open("wb") as file:
            # What other writers take meanwhile is missing then.
            for _ in range(20):
                try:
                    os.posix_fallocate(file.fileno(), 0, max(size, 1))
                    break
                except OSError:
                    size -= 1 << 20
        return size

    def free(self) -> None:
        (self.at / "ballast").unlink(missing_ok=True)

    def end(self) -> None:
        self.free()
        subprocess.run(["umount", "--lazy", self.at], check=False)


class Clock:
    """What the node takes for the time: libfaketime reads the offset from a file, again every second."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        library = tool("faketime")
        self.environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, seconds: int) -> None:
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}s\n")
        new.rename(self.file)


class Node:
    """The `vyr serve` that faults happen to. Its clients see the same address all the time."""

    def __init__(self, stage: Stage, home: Path, clock: Clock) -> None:
        self.stage, self.home, self.clock = stage, home, clock
        self.log = stage.folder / "node.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.refused_starts: list[str] = []
        self.ready_in: list[float] = []
        self.lock = threading.Lock()

    def spawn(self) -> subprocess.Popen[bytes]:
        words = [self.stage.vyr, "serve", "--listen", f"127.0.0.1:{PORT}", "--no-socket", "--plain-http", "--drain", "2s"]
        environment = {"VYR_HOME": str(self.home), "HOME": str(self.stage.folder), "VYR_LOG": "warn", **self.clock.environment}
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [str(word) for word in words], env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start(self) -> None:
        """Until it answers, or has ended by itself: on a full disk it may say so and try again later."""
        began = time.monotonic()
        process = self.spawn()
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}/healthz", timeout=1):
                self.process = process
                self.ready_in.append(time.monotonic() - began)
                return
            if process.poll() is not None:
                lines = self.log.read_text(errors="replace").splitlines()
                last = next((at for at in reversed(range(len(lines))) if lines[at].startswith("error:")), len(lines) - 1)
                self.refused_starts.append("\n".join(lines[last:]))
                return
            if time.monotonic() - began > 60:
                process.kill()
                process.wait()
                raise fail(f"the node did not answer within 60 s of its start: {self.log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)

    def ensure(self) -> bool:
        if self.process is None or self.process.poll() is not None:
            self.process = None
            self.start()
        return self.process is not None

    def end(self, how: signal.Signals) -> int | None:
        """Its exit status, if it was there."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.send_signal(how)
        # One that is frozen hears nothing else.
        process.send_signal(signal.SIGCONT)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return TOO_LONG


def marked() -> list[int]:
    """The processes of container guests."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                program = (entry / "comm").read_text().strip()
                if program in ("sh", "busybox") and MARK.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def stub(channel: Any, name: str, *, stream: bool = False) -> Any:
    kind = channel.unary_stream if stream else channel.unary_unary
    return kind(
        f"/vyr.control.v0.Control/{name}",
        request_serializer=lambda request: request.SerializeToString(),
        response_deserializer=messages()[f"vyr.control.v0.{name}Response"].FromString,
    )


class Client:
    """Calls to the node over a connection of its own."""

    def __init__(self) -> None:
        import grpc

        options = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.min_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 1000),
            ("grpc.enable_retries", 0),
            ("grpc.max_receive_message_length", -1),
        ]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{PORT}", options=options)
        self.stubs: dict[str, Any] = {}

    def call(self, method: str, *, deadline: float = 10, **fields: Any) -> Any:
        if method not in self.stubs:
            self.stubs[method] = stub(self.channel, method)
        return self.stubs[method](messages()[f"vyr.control.v0.{method}Request"](**fields), timeout=deadline)

    def stream(self, method: str, *, deadline: float = 60, **fields: Any) -> Iterator[Any]:
        if method not in self.stubs:
            self.stubs[method] = stub(self.channel, method, stream=True)
        answers: Iterator[Any] = self.stubs[method](messages()[f"vyr.control.v0.{method}Request"](**fields), timeout=deadline)
        return answers


def image(folder: Path, busybox: Path) -> None:
    """An OCI layout with one image: a static busybox."""
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(content: bytes) -> dict[str, Any]:
        digest = sha256(content)
        (blobs / digest.removeprefix("sha256:")).write_bytes(content)
        return {"digest": digest, "size": len(content)}

    layer = folder / "layer.tar"
    with tarfile.open(layer, "w") as tar:
        tar.add(busybox.resolve(), "bin/busybox")
    content = layer.read_bytes()
    layer.unlink()
    config = {
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox"]},
        "rootfs": {"type": "layers", "diff_ids": [sha256(content)]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(json.dumps(config).encode())},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **put(content)}],
    }
    described = {"mediaType": MANIFEST, **put(json.dumps(manifest).encode())}
    described["annotations"] = {"org.opencontainers.image.ref.name": "v1"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [described]}))


def registry(cable: Cable, folder: Path) -> subprocess.Popen[bytes]:
    """A `docker-registry` at the far end."""
    path = folder / "registry.yml"
    path.write_text(
        "version: 0.1\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'registry'}}}}}\n"
        f'http: {{addr: "{REGISTRY}"}}\n'
        "log: {level: error, accesslog: {disabled: true}}\n"
    )
    with (folder / "registry.log").open("wb") as log:
        words = [str(word) for word in cable.far(str(tool("docker-registry")), "serve", path)]
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    began = time.monotonic()
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{REGISTRY}/v2/", timeout=1):
            return process
        if process.poll() is not None or time.monotonic() - began > 30:
            raise fail(f"the registry did not start: {(folder / 'registry.log').read_text()}")
        time.sleep(0.02)


def empty_config() -> dict[str, Any]:
    return {"mediaType": EMPTY, "digest": sha256(b"{}"), "size": 2}


def run_words(words: Sequence[str | Path], environment: dict[str, str], seconds: float = 60) -> tuple[int, str, str]:
    """Exit code, stdout and stderr; a program that takes too long is killed, with 124 for its code."""
    process = subprocess.Popen(
        [str(word) for word in words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
        return process.returncode, out, err
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        return 124, out, err
