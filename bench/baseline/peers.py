"""Peers that need more than a process of their own: a systemd as PID 1, and hosts that serve Wasm over HTTP (Spin, `wash`).

Each measures itself and VYR in the same place by the same clock, in the same round.
"""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

Say = Callable[[str, int, float, str, str], None]
Environment = dict[str, str]

PROCESS = "client's monotonic clock, from before the process is made to after its end"
START = "client's monotonic clock, from before the process is made to the end of the first {}'s answer; tried each ms"
WARM = "client's monotonic clock, from before the {0} to its answer; one connection, the fifth {0} on it"
MEMORY = "sum of /proc/PID/smaps_rollup over the process and what it started, after five {}s"
LINE = b"hello from wasm\n"


def tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


# What is asked over HTTP or gRPC.


def tree(pid: int) -> Iterator[int]:
    """The process and all that it started."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from tree(int(child))


def held(pid: int) -> dict[str, float]:
    """MiB of the process and of what it started."""
    sums = {"RSS": 0.0, "PSS": 0.0}
    for process in tree(pid):
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.upper() in sums:
                sums[name.upper()] += int(value.split()[0]) / 1024
    return sums


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Served:
    """A program that is started, asked five times, and ended."""

    def __init__(self, say: Say, name: str, folder: Path, what: str, environment: Environment) -> None:
        self.say, self.name, self.folder, self.what = say, name, folder, what
        self.environment = {**os.environ, **environment}

    def command(self) -> Sequence[object]:
        raise NotImplementedError

    def connect(self) -> tuple[Callable[[], bool], Callable[[], None]] | None:
        """How to ask on a connection of its own, and how to close that; None where nothing listens yet."""
        raise NotImplementedError

    def first(self, process: subprocess.Popen[bytes], log: Path) -> tuple[Callable[[], bool], Callable[[], None]]:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if connected := self.connect():
                    ask, close = connected
                    if ask():
                        return connected
                    close()
            time.sleep(0.001)
        raise SystemExit(f"{self.name} doesn't answer: {tail(log)}")

    def round(self, round_: int) -> None:
        words = [str(word) for word in self.command()]
        log = self.folder / "log"
        with log.open("wb") as out:
            began = time.monotonic()
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        try:
            ask, close = self.first(process, log)
            start = time.monotonic() - began
            for _ in range(3):
                ask()
            began = time.monotonic()
            answered = ask()
            warm = time.monotonic() - began
            if not answered:
                raise SystemExit(f"{self.name} gave no answer to a later {self.what}: {tail(log)}")
            self.say(f"{self.name}: process → first answer", round_, start * 1e3, "ms", START.format(self.what))
            self.say(f"{self.name}, warm: {self.what} → answer", round_, warm * 1e3, "ms", WARM.format(self.what))
            for kind, value in held(process.pid).items():
                self.say(f"{self.name}: {kind}", round_, value, "MiB", MEMORY.format(self.what))
            close()
        finally:
            self.end(process)

    @staticmethod
    def end(process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


class Http(Served):
    """Spin or `wash`, with a component that answers each request with the same line."""

    def __init__(self, say: Say, name: str, folder: Path, environment: Environment) -> None:
        super().__init__(say, name, folder, "request", environment)
        self.port = 0

    def connect(self) -> tuple[Callable[[], bool], Callable[[], None]] | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

        def ask() -> bool:
            connection.request("GET", "/")
            with connection.getresponse() as answer:
                return answer.status == 200 and answer.read() == LINE

        try:
            connection.connect()
        except OSError:
            connection.close()
            return None
        return ask, connection.close


class Spin(Http):
    def __init__(self, say: Say, spin: Path, wasm: Path, folder: Path) -> None:
        super().__init__(say, "spin up", folder, {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / "cache")})
        self.spin = shutil.copy(spin, folder / "spin")
        shutil.copy(wasm, folder / "http.wasm")
        (folder / "spin.toml").write_text(
            'spin_manifest_version = 2\n[application]\nname = "hello"\n'
            '[[trigger.http]]\nroute = "/..."\ncomponent = "hello"\n[component.hello]\nsource = "http.wasm"\n'
        )

    def command(self) -> Sequence[object]:
        self.port = port()
        return (self.spin, "up", "--from", self.folder / "spin.toml", "--listen", f"127.0.0.1:{self.port}", "--quiet")


class Wash(Http):
    """`wash dev` with nothing to build: `wash host` takes its work from a scheduler over NATS and runs nothing by itself."""

    def __init__(self, say: Say, wash: Path, wasm: Path, folder: Path) -> None:
        super().__init__(say, "wash dev", folder, {"HOME": str(folder)})
        self.wash = Path(shutil.copy(wash, folder / "wash"))
        self.wash.chmod(0o755)
        shutil.copy(wasm, folder / "http.wasm")
        (folder / ".wash").mkdir()

    def command(self) -> Sequence[object]:
        self.port = port()
        settings = {"build": {"command": "true", "component_path": "http.wasm"}, "dev": {"address": f"127.0.0.1:{self.port}"}}
        (self.folder / ".wash/config.yaml").write_text(json.dumps(settings))
        return (self.wash, "--non-interactive", "dev")


class Node(Served):
    """VYR's node, of a home in which the artifact is known."""

    def __init__(self, say: Say, vyr: Path, reference: str, folder: Path, environment: Environment) -> None:
        super().__init__(say, "vyr serve", folder, "task", environment)
        # Of its own: so that no page of it is shared with the node that runs all the time.
        self.vyr = shutil.copy(vyr, folder / "vyr")
        self.reference, self.address = reference, folder / "address"

    def command(self) -> Sequence[object]:
        self.address.unlink(missing_ok=True)
        return (self.vyr, "serve", "--listen", "127.0.0.1:0", "--no-socket", "--address-file", self.address)

    def connect(self) -> tuple[Callable[[], bool], Callable[[], None]] | None:
        import vyr

        if not self.address.exists() or not (said := self.address.read_text().split()):
            return None
        client = vyr.Client(f"http://{said[0]}")
        return lambda: client.submit(self.reference, wait=60).succeeded, client.close


# A systemd of its own.

UNITS = {
    "alongside.target": "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\nAfter=dbus.socket\n",
    # What a unit depends on by itself.
    **dict.fromkeys(("sysinit.target", "basic.target", "shutdown.target"), "[Unit]\nDefaultDependencies=no\n"),
    "dbus.socket": "[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    "dbus.service": "[Unit]\nDefaultDependencies=no\nRequires=dbus.socket\n[Service]\nType=notify\nNotifyAccess=main\n"
    "ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation\n",
}
# What it is given: a folder, the name of its cgroup, and the folder in which may be written. No unit but those above is known
# to it; the kernel's settings and the rest of the system's folders are read-only; cgroups are those of the second version,
# from its own on; and the mounts are seen by it alone.
ENTER = """
mount --make-rprivate /
umount --recursive /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir "/sys/fs/cgroup/$2"
echo 0 >"/sys/fs/cgroup/$2/cgroup.procs"
exec unshare --cgroup sh -euc '
  umount /sys/fs/cgroup
  mount --bind "$2" "$2"
  mount --options remount,bind,ro /
  mount --bind /proc/sys /proc/sys
  mount --options remount,bind,ro /proc/sys
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
  mount --bind "$1/run" /run
  exec env -i container=alongside SYSTEMD_UNIT_PATH="$1/units" PATH=/usr/sbin:/usr/bin:/sbin:/bin \\
    /lib/systemd/systemd --system --unit=alongside.target --show-status=no --log-target=console --log-level=notice
' sh "$1" "$3"
"""
LEAVE = """
umount --recursive /sys/fs/cgroup
# Without that version there is nothing to remove.
mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 0
for try in $(seq 500); do
  [ -d "/sys/fs/cgroup/$1" ] || exit 0
  # What was in it ended, and the kernel may not have noticed yet.
  find "/sys/fs/cgroup/$1" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.01
done
echo "can't remove the cgroup $1" >&2
exit 1
"""


class Systemd:
    """A systemd that is PID 1 of namespaces of its own, with a bus, and somebody inside who starts things and keeps the time."""

    def __init__(self, say: Say, folder: Path) -> None:
        self.say, self.folder, self.name = say, folder, f"alongside-{time.time_ns()}"
        (folder / "run").mkdir()
        (folder / "units").mkdir()
        for name, text in UNITS.items():
            (folder / "units" / name).write_text(text)
        namespaces = ("--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc")
        self.log = folder / "log"
        with self.log.open("w") as out:
            self.holder = subprocess.Popen(
                ["unshare", *namespaces, "sh", "-euc", ENTER, "sh", folder, self.name, folder.parent],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.inside: subprocess.Popen[str] | None = None

    @staticmethod
    def missing() -> str | None:
        """What there would have to be."""
        for needed in ("/lib/systemd/systemd", "/usr/bin/systemd-run", "/usr/bin/dbus-daemon"):
            if not Path(needed).exists():
                return f"{needed} is missing"
        return None

    def up(self) -> None:
        deadline = time.monotonic() + 10
        while not (self.folder / "run/dbus/system_bus_socket").exists():
            if self.holder.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"systemd doesn't come up: {tail(self.log)}")
            time.sleep(0.005)
        first = Path(f"/proc/{self.holder.pid}/task/{self.holder.pid}/children").read_text().split()[0]
        enter = ("nsenter", "--target", first, "--mount", "--pid", "--")
        self.inside = subprocess.Popen(
            [*enter, sys.executable, "-B", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log.open("a"),
            text=True,
        )

    def process(self, case: str, round_: int, *command: object, environment: Environment | None = None) -> None:
        if not self.inside or not self.inside.stdin or not self.inside.stdout:
            raise RuntimeError("systemd isn't up")
        print(json.dumps([[str(word) for word in command], environment or {}]), file=self.inside.stdin, flush=True)
        if not (line := self.inside.stdout.readline()):
            raise RuntimeError(f"{command}: nobody is inside any more: {tail(self.log)}")
        wall, code, said = json.loads(line)
        if code:
            raise RuntimeError(f"{command} ended with {code}: {said}; {tail(self.log)}")
        self.say(f"{case}: process", round_, wall * 1e3, "ms", f"{PROCESS}; in the namespaces of a systemd")

    def down(self) -> None:
        if self.inside:
            self.inside.terminate()
            self.inside.wait()
        # It takes all else in the namespace with it.
        self.holder.kill()
        self.holder.wait()
        subprocess.run(["unshare", "--mount", "sh", "-euc", LEAVE, "sh", self.name], check=True)


def inside() -> None:
    """Starts what comes on stdin, a line each, and tells how long it took."""
    for line in sys.stdin:
        words, environment = json.loads(line)
        merged = {**os.environ, **environment}
        try:
            began = time.monotonic()
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=merged,
                check=False,
                timeout=20,
            )
            wall = time.monotonic() - began
            said = "" if LINE in done.stdout else f"no hello, but {done.stdout!r}"
            print(
                json.dumps([wall, done.returncode or bool(said), said + done.stderr.decode(errors="replace")[-2000:]]),
                flush=True,
            )
        except subprocess.TimeoutExpired as late:
            print(json.dumps([20, 1, f"no end in {late.timeout} s"]), flush=True)


def take(**files: Path | None) -> None:
    """Keeps what was asked for where those who run inside find it, with the component that they serve."""
    asked = {name: file.resolve() for name, file in files.items() if file}
    for name, file in asked.items():
        if not os.access(file, os.X_OK):
            raise SystemExit(f"--{name} {file}: not a program; bench/baseline/README.md says where one comes from")
    if asked:
        guest = ("cargo", "run", "--locked", "--quiet", "--package", "vyr-guests", "--", "http")
        asked["http"] = Path(subprocess.run(guest, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())
    os.environ["BASELINE_PEERS"] = json.dumps({name: str(file) for name, file in asked.items()})


def given() -> dict[str, Path]:
    return {name: Path(path) for name, path in json.loads(os.environ.get("BASELINE_PEERS", "{}")).items()}


class Peers:
    """All of them that are there."""

    def __init__(self, say: Say, folder: Path, native: Path, vyr: Path, reference: str, environment: Environment) -> None:
        self.native, self.vyr, self.reference, self.environment = native, vyr, reference, environment
        asked = given()
        self.served: list[Served] = []
        for name, kind in (("spin", Spin), ("wash", Wash)):
            if name in asked:
                (folder / name).mkdir()
                self.served.append(kind(say, asked[name], asked["http"], folder / name))
        if self.served:
            (folder / "serve").mkdir()
            home = folder / "serve/home"
            shutil.copytree(environment["VYR_HOME"], home, symlinks=True)
            self.served.append(Node(say, vyr, reference, folder / "serve", {**environment, "VYR_HOME": str(home)}))
        self.systemd: Systemd | None = None
        if why := Systemd.missing():
            print(f"no systemd: {why}", file=sys.stderr)
            return
        (folder / "systemd").mkdir()
        self.systemd = Systemd(say, folder / "systemd")
        try:
            self.systemd.up()
            # Its bus starts when it is first asked.
            self.systemd.say = lambda *_: None
            self.unit(self.systemd, 0)
            self.systemd.say = say
        except (OSError, RuntimeError) as error:
            print(f"no systemd: {error}", file=sys.stderr)
            self.close()

    def unit(self, systemd: Systemd, round_: int) -> None:
        transient = ("systemd-run", "--wait", "--pipe", "--quiet", "--", self.native)
        systemd.process("systemd-run --wait --pipe", round_, *transient)
        ours = (self.vyr, "run", self.reference)
        systemd.process("vyr run, S2, beside systemd", round_, *ours, environment=self.environment)

    def round(self, round_: int) -> None:
        if self.systemd:
            self.unit(self.systemd, round_)
        for served in self.served:
            served.round(round_)

    def close(self) -> None:
        if self.systemd:
            self.systemd.down()
            self.systemd = None


if __name__ == "__main__":
    inside()
