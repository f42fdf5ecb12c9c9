"""What measurements of growth stand on: programs, data folders, nodes and their calls, and what the kernel says of a process."""

import contextlib
import functools
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vyr"
# Longer than anything that is waited for.
PATIENCE = 300.0
EMPTY = "application/vnd.oci.empty.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
WASM = "application/wasm"

Words = Sequence[str | Path]


def fail(why: str) -> SystemExit:
    return SystemExit(f"growth: {why}")


@functools.cache
def tool(name: str, demanded: bool = True) -> Path | None:
    """Where envs/tools has it."""
    found = subprocess.run([PROJECT / "envs/tools", "path", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if found.returncode == 0:
        return Path(found.stdout.strip())
    if demanded:
        raise fail(f"{name} is missing; run: envs/tools")
    return None


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def cpu_of(pid: int) -> float:
    """User and system time of a process and of all threads that it had, in seconds: its own clock, finer than the kernel's ticks."""
    return time.clock_gettime((~pid << 3) | 2)


def resident(pid: int) -> float:
    """RSS in KiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def proportional(pid: int) -> float:
    """PSS in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("Pss:")))


def available() -> float:
    """Memory that the whole machine has left, in KiB: what the kernel itself keeps for a process is seen here alone."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("MemAvailable:")))


def mappings(pid: int) -> int:
    return Path(f"/proc/{pid}/maps").read_bytes().count(b"\n")


def version(program: Path, *words: str) -> str:
    said = subprocess.run([program, *words], stdout=subprocess.PIPE, text=True, check=True).stdout
    return " ".join(said.splitlines()[0].split())


class Stage:
    def __init__(self, quick: bool, folder: Path, vyr: Path, wasmtime: Path | None) -> None:
        self.quick, self.folder = quick, folder
        # As its peers are: installed, which is a copy. The file that the linker leaves lies in the page cache in small pages.
        self.vyr = folder / "vyr"
        shutil.copy(vyr, self.vyr)
        self._wasmtime = wasmtime
        self.log = folder / "errors.log"
        self.spawned = 0

    @property
    def wasmtime(self) -> Path:
        path = self._wasmtime or CACHE / "tools/wasmtime/bin/wasmtime"
        if not path.exists():
            raise fail("wasmtime is missing; run: cargo run --release -p bench -- install")
        return path

    def rounds(self, full: int, quick: int = 2) -> int:
        return quick if self.quick else full

    def home(self, name: str) -> Path:
        return self.folder / name

    def environment(self, home: str = "home") -> dict[str, str]:
        return {"VYR_HOME": str(self.home(home)), "HOME": str(self.folder)}

    # Programs

    def spawn(self, words: Words, home: str = "home") -> int:
        """Starts a program with a nearly empty environment, its output swallowed, what it complains of kept."""
        said = [str(word) for word in words]
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, str(self.log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        ]
        return os.posix_spawn(said[0], said, self.environment(home), file_actions=actions)

    def ended(self, words: Words, status: int) -> None:
        if status:
            why = self.log.read_text(errors="replace").strip()[-2000:]
            code = os.waitstatus_to_exitcode(status)
            raise fail(f"{shlex.join(map(str, words))} ended with {code}: {why}")

    def timed(self, words: Words, home: str = "home") -> tuple[float, float]:
        """Start to exit, and user and system time of it and of what it waited for, in seconds. It must succeed."""
        began = time.monotonic()
        pid = self.spawn(words, home)
        _, status, usage = os.wait4(pid, 0)
        wall = time.monotonic() - began
        self.ended(words, status)
        return wall, usage.ru_utime + usage.ru_stime

    def timed_with_memory(self, words: Words, home: str = "home") -> tuple[float, float, float]:
        """Start to exit, user and system time in seconds, and the kernel's high-water mark of its RSS in KiB, looked at every 5 ms.

        `ru_maxrss` isn't it: it begins with what this program itself holds.
        """
        began = time.monotonic()
        pid = self.spawn(words, home)
        peak, over = 0.0, threading.Event()

        def look() -> None:
            nonlocal peak
            while not over.wait(0.005):
                with contextlib.suppress(OSError, StopIteration):
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    peak = float(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))

        looking = threading.Thread(target=look)
        looking.start()
        _, status, usage = os.wait4(pid, 0)
        wall = time.monotonic() - began
        over.set()
        looking.join()
        self.ended(words, status)
        return wall, usage.ru_utime + usage.ru_stime, peak

    def said(self, words: Words, home: str = "home") -> str:
        done = subprocess.run([str(word) for word in words], env=self.environment(home), capture_output=True, text=True)
        if done.returncode:
            raise fail(f"{shlex.join(map(str, words))} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def rate(self, words: Sequence[Words], seconds: float, at_once: int, home: str) -> tuple[float, float, int]:
        """Programs one after the other, so many at once: how many a second, CPU seconds of each, how many. `words` come in turns."""
        count, cpu, running = 0, 0.0, 0
        began = time.monotonic()
        until = began + seconds
        while True:
            while running < at_once and time.monotonic() < until:
                self.spawn(words[self.spawned % len(words)], home)
                self.spawned += 1
                running += 1
            if not running:
                break
            _, status, usage = os.wait4(-1, 0)
            self.ended(words[0], status)
            running -= 1
            count += 1
            cpu += usage.ru_utime + usage.ru_stime
        return count / (time.monotonic() - began), cpu / count, count

    # Artifacts

    def put(self, wasm: bytes, home: str = "home") -> str:
        """Puts a module into a data folder, signed with the folder's own key. Returns the artifact's digest."""
        parts = self.folder / "parts"
        parts.mkdir(exist_ok=True)
        layer = {"mediaType": WASM, "digest": sha256(wasm), "size": len(wasm)}
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": EMPTY, "digest": sha256(b"{}"), "size": 2},
            "layers": [layer],
        }
        for name, content in (("manifest", json.dumps(manifest).encode()), ("config", b"{}"), ("wasm", wasm)):
            (parts / name).write_bytes(content)
        blobs = ["--blob", parts / "config", "--blob", parts / "wasm"]
        digest = self.said([self.vyr, "put", "--manifest", parts / "manifest", *blobs], home)
        self.said([self.vyr, "sign", digest], home)
        shutil.rmtree(parts)
        return digest

    def guest(self, name: str, target: str = "wasm32-wasip1") -> Path:
        """A guest of `workloads/`, made as its own build makes it; for another target than Wasm a static program."""
        made = self.folder / f"{name}-{target}"
        if not made.exists():
            flags = ["-O", "--edition", "2024", "-C", "strip=symbols", "-C", "debuginfo=0", "--target", target]
            # With the caller's environment: that is where the compiler is found.
            subprocess.run(["rustc", *flags, "-o", made, PROJECT / f"workloads/guests/{name}.rs"], check=True)
        return made

    @contextlib.contextmanager
    def node(self, home: str, *flags: str) -> Iterator["Node"]:
        node = Node(self, home, flags)
        try:
            yield node
        finally:
            node.stop()


@functools.cache
def messages() -> dict[str, Any]:
    """The interface's messages by their names, from what the nodes' own reflection serves."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    files = descriptor_pb2.FileDescriptorSet.FromString((PROJECT / "proto/src/descriptors.binpb").read_bytes()).file
    pool = descriptor_pool.DescriptorPool()
    for file in files:
        pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClassesForFiles([file.name for file in files], pool)


class Node:
    """A `vyr serve`, and calls to it over loopback."""

    def __init__(self, stage: Stage, home: str, flags: Sequence[str]) -> None:
        import grpc

        written, self.errors = stage.folder / f"{home}.address", stage.folder / f"{home}.log"
        written.unlink(missing_ok=True)
        words = [stage.vyr, "serve", "--listen", "127.0.0.1:0", "--no-socket", "--address-file", written, *flags]
        began = time.monotonic()
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [str(word) for word in words],
                env=stage.environment(home),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
        address, before = "", None
        while not address or address != before:
            before = address
            # Read alike twice: a port that is half written would do too.
            with contextlib.suppress(FileNotFoundError):
                address = written.read_text().strip()
            if self.process.poll() is not None or time.monotonic() - began > PATIENCE:
                self.process.kill()
                raise fail(f"the node of {home} wrote no address: {self.errors.read_text(errors='replace')}")
            time.sleep(0.001)
        self.ready_in = time.monotonic() - began
        self.pid = self.process.pid
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1), ("grpc.enable_retries", 0)]
        self.channel = grpc.insecure_channel(address, options=options)
        self.methods: dict[str, Any] = {}
        # The address is written a moment before a SIGTERM is waited for: an answer comes after both.
        self.state()

    def message(self, name: str, **fields: Any) -> Any:
        return messages()[f"vyr.control.v0.{name}"](**fields)

    def method(self, name: str) -> Any:
        if name not in self.methods:
            self.methods[name] = self.channel.unary_unary(
                f"/vyr.control.v0.Control/{name}",
                request_serializer=lambda request: request.SerializeToString(),
                response_deserializer=messages()[f"vyr.control.v0.{name}Response"].FromString,
            )
        return self.methods[name]

    def call(self, name: str, **fields: Any) -> Any:
        return self.method(name)(self.message(f"{name}Request", **fields), timeout=PATIENCE)

    def submit(self, reference: str, wait: bool = False) -> Any:
        """A submit under way: `.result()` is its answer."""
        held = {"wait": {"seconds": 60}} if wait else {}
        request = self.message("SubmitTaskRequest", spec={"reference": reference}, **held)
        return self.method("SubmitTask").future(request, timeout=PATIENCE)

    def run(self, reference: str) -> Any:
        """A task, ended well."""
        return good(self.call("SubmitTask", spec={"reference": reference}, wait={"seconds": 60}).task)

    def state(self) -> Any:
        return self.call("GetNode").node

    def until(self, what: str, reached: Any) -> Any:
        """Waits until the node is as it should be."""
        began = time.monotonic()
        while True:
            state = self.state()
            if reached(state):
                return state
            if time.monotonic() - began > PATIENCE:
                raise fail(f"the node did not come to {what}: {state}")
            time.sleep(0.02)

    def kill(self) -> None:
        """Ends it with whatever it runs."""
        self.channel.close()
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.channel.close()
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def good(task: Any) -> Any:
    if task.status != 4:  # TASK_STATUS_SUCCEEDED
        raise fail(f"a task did not succeed: {task}")
    return task


def seconds(duration: Any) -> float:
    """Of a duration or a time of the interface."""
    return duration.seconds + duration.nanos / 1e9


def progress(text: str) -> None:
    print(f"growth: {text}", file=sys.stderr, flush=True)
