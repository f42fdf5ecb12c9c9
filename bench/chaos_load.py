"""The clients of a node in chaos, and what each was told: only what was acknowledged is accounted for."""

import http.client
import json
import random
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from chaos_stage import MARK, OWN, PORT, REGISTRY, Cable, Client, empty_config, progress, run_words
from growth_guests import variant
from growth_stage import MANIFEST, Stage, sha256, tool

# What a call may fail with while faults go on; anything else is a finding.
PASSING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}
LONGEST_SLEEP = 12_000
LINE = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+\n"
OCTETS = "application/octet-stream"


@dataclass
class Intent:
    """A submit: what it asked for, and what it was told."""

    key: str
    kind: str
    spec: dict[str, Any]
    tries: int = 0
    id: str = ""
    # The status that a cancel was answered with; a cancel that was not answered may have come through.
    cancelled: int = 0
    # The attempt that the answer was of.
    cancelled_in: int = 0
    cancel_tried: bool = False
    # What watchers were told of its end.
    told: set[tuple[int, int]] = field(default_factory=set)


@dataclass
class Journal:
    """All that was acknowledged, in memory and, line by line, in a file that is on none of the disks that fail."""

    path: Path
    intents: dict[str, Intent] = field(default_factory=dict)
    # Repository, digest of the manifest, digest of the content, size.
    pushes: list[tuple[str, str, str, int]] = field(default_factory=list)
    # Blobs by themselves: repository, digest.
    blobs: list[tuple[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, **fields: Any) -> None:
        line = json.dumps({"at": round(time.time(), 3), "what": what, **fields}) + "\n"
        with self.lock, self.path.open("a") as file:
            file.write(line)

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def find(self, finding: str) -> None:
        """Something that must not be."""
        progress(f"FOUND: {finding}")
        with self.lock:
            self.findings.append(finding)
        self.note("finding", finding=finding)


@dataclass
class Load:
    """What the clients share."""

    stage: Stage
    cable: Cable
    journal: Journal
    seed: int
    guests: dict[str, str]
    hello: bytes
    over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def drawn(self, name: str) -> random.Random:
        return random.Random(f"{self.seed}/{name}")

    def pause(self, drawn: random.Random, low: float, high: float) -> bool:
        """Whether to go on."""
        return not self.over.wait(drawn.uniform(low, high))

    def start(self) -> None:
        clients: list[tuple[str, Callable[[str], None]]] = [
            *((f"submitter-{n}", self.submitter) for n in range(3)),
            *((f"observer-{n}", self.observer) for n in range(2)),
            ("canceller", self.canceller),
            ("writer-a", self.writer),
            ("writer-b", self.writer),
            ("pusher-0", self.pusher),
            ("raw-pusher", self.raw_pusher),
            ("puller", self.puller),
            ("publisher", self.publisher),
        ]
        for name, client in clients:
            self.threads.append(threading.Thread(target=self.guarded, args=(name, client), name=name))
            self.threads[-1].start()

    def guarded(self, name: str, client: Callable[[str], None]) -> None:
        try:
            client(name)
        except Exception as error:  # a client that is gone would be a load that nobody sees is missing
            self.journal.find(f"the client {name} broke: {type(error).__name__}: {error}")

    def finish(self) -> None:
        self.over.set()
        for thread in self.threads:
            thread.join(150)
            if thread.is_alive():
                self.journal.find(f"the client {thread.name} did not come to its end")

    # Calls

    def passing(self, error: grpc.RpcError, call: str) -> None:
        code = error.code()
        self.journal.count(f"{call}: {code.name.lower()}")
        if code not in PASSING:
            self.journal.find(f"{call} failed with {code.name}: {error.details()}")

    def submit(self, client: Client, drawn: random.Random, kind: str, spec: dict[str, Any]) -> Intent | None:
        """Submits until it is answered, always with the same key; then perhaps once more, which has to give the same task."""
        key = f"{kind}-{drawn.getrandbits(64):016x}"
        intent = Intent(key, kind, {**spec, "labels": {"chaos": key}})
        with self.journal.lock:
            self.journal.intents[key] = intent
        until = time.monotonic() + 90
        while time.monotonic() < until:
            intent.tries += 1
            try:
                answer = client.call("SubmitTask", spec=intent.spec, idempotency_key=key)
            except grpc.RpcError as error:
                self.passing(error, "submit")
                if self.over.wait(0.2) and intent.tries > 5:
                    return None
                continue
            intent.id = answer.task.id
            self.journal.note("submitted", key=key, id=intent.id, tries=intent.tries)
            if drawn.random() < 0.1:
                try:
                    again = client.call("SubmitTask", spec=intent.spec, idempotency_key=key)
                except grpc.RpcError as error:
                    self.passing(error, "submit")
                else:
                    self.journal.count("submits repeated")
                    if again.task.id != intent.id or not again.existing:
                        self.journal.find(
                            f"the key {key} gave {intent.id}, and then {again.task.id} (existing: {again.existing})"
                        )
            return intent
        return None

    def acknowledged(self, drawn: random.Random) -> Intent | None:
        """One of the newest tasks."""
        with self.journal.lock:
            newest = [intent for intent in list(self.journal.intents.values())[-40:] if intent.id]
        return drawn.choice(newest) if newest else None

    # Clients

    def submitter(self, name: str) -> None:
        client, drawn = Client(), self.drawn(name)
        while self.pause(drawn, 0.02, 0.8):
            kind = drawn.choices(["hello", "sleep", "noisy", "exit", "spin", "container"], [40, 20, 10, 10, 5, 15])[0]
            spec: dict[str, Any] = {"reference": self.guests[kind], "on_interrupt": drawn.choice([1, 2])}
            if kind == "sleep":
                spec["args"] = [str(drawn.randrange(500, LONGEST_SLEEP))]
            elif kind == "noisy":
                spec["args"] = [str(drawn.randrange(1, 2 << 20))]
            elif kind == "exit":
                spec["args"] = [str(drawn.randrange(1, 100))]
            elif kind == "spin":
                spec["limits"] = {"timeout": {"seconds": 1}}
            elif kind == "container":
                script = f': {MARK}; echo begun; sleep {drawn.uniform(0, 4):.1f}; echo "done"'
                spec |= {"path": 2, "container": {"entrypoint": ["/bin/busybox", "sh", "-c"]}, "args": [script]}
            self.submit(client, drawn, kind, spec)

    def writer(self, name: str) -> None:
        """Tasks that put records into a synced state, and write down which were taken."""
        client, drawn, count = Client(), self.drawn(name), 0
        # In an hour a record or two a second are many segments.
        while self.pause(drawn, 0.3, 2.5 if self.stage.quick else 8):
            count += 1
            task = f"{name}-{count}"
            steps = ["mkdir:/state/out/outbox"]
            for part in range(drawn.randrange(1, 4)):
                steps.append(f"logged:/state/out/outbox:{task}.{part}:{drawn.randrange(1, 12)}:/state/out/told-{task}")
                steps.append(f"sleep:{drawn.randrange(0, 300)}")
            states = [{"state": f"out-{name[-1]}", "alias": "out"}]
            # Not run again: its records would have the same names once more.
            spec = {"reference": self.guests["state"], "args": steps, "states": states, "on_interrupt": 1}
            self.submit(client, drawn, "writer", spec)

    def canceller(self, name: str) -> None:
        client, drawn = Client(), self.drawn(name)
        while self.pause(drawn, 0.5, 3):
            chosen = self.acknowledged(drawn)
            if not chosen or chosen.kind not in ("sleep", "spin", "container", "hello"):
                continue
            wait: dict[str, Any] = {"wait": {"seconds": 5}} if drawn.random() < 0.5 else {}
            chosen.cancel_tried = True
            try:
                answer = client.call("CancelTask", id=chosen.id, **wait)
            except grpc.RpcError as error:
                self.passing(error, "cancel")
                continue
            chosen.cancelled, chosen.cancelled_in = answer.task.status, answer.task.attempt
            self.journal.note("cancelled", key=chosen.key, status=answer.task.status)
            self.journal.count("cancels")

    def observer(self, name: str) -> None:
        """Follows one task's changes or output at a time, over breaks too."""
        client, drawn = Client(), self.drawn(name)
        while self.pause(drawn, 0.05, 0.5):
            chosen = self.acknowledged(drawn)
            if not chosen:
                continue
            follow = drawn.random() < 0.4
            for _ in range(30):
                try:
                    if follow:
                        for _answer in client.stream("StreamLogs", id=chosen.id, follow=True):
                            pass
                        self.journal.count("outputs followed")
                    else:
                        last = None
                        for answer in client.stream("WatchTask", id=chosen.id):
                            last = answer.task
                        if last is None or not last.HasField("end"):
                            self.journal.find(f"a watch of {chosen.id} was over before the task was: {last}")
                        else:
                            chosen.told.add((last.status, last.end.reason))
                            self.journal.count("ends watched")
                    break
                except grpc.RpcError as error:
                    self.passing(error, "logs" if follow else "watch")
                if self.over.wait(0.3):
                    break

    def pusher(self, name: str) -> None:
        """A real oras, which pushes to the node's own registry."""
        drawn, oras = self.drawn(name), tool("oras")
        folder = self.stage.folder / name
        folder.mkdir()
        environment = {"HOME": str(folder), "PATH": "/nonexistent"}
        count = 0
        while self.pause(drawn, 0.5, 3):
            count += 1
            content = drawn.randbytes(int(2 ** drawn.uniform(8, 22)))
            (folder / "content").write_bytes(content)
            repository = f"{OWN}/{name}/{drawn.choice('abcd')}"
            words = [oras, "push", "--no-tty", "--disable-path-validation", "--format", "go-template={{.digest}}"]
            words += [f"{repository}:v{count}", f"{folder / 'content'}:{OCTETS}"]
            code, out, err = run_words([str(word) for word in words], environment, 30)
            if code == 0:
                with self.journal.lock:
                    self.journal.pushes.append((repository, out.strip(), sha256(content), len(content)))
                self.journal.note("pushed", repository=repository, digest=out.strip())
            else:
                self.journal.count("oras push: failed")
                self.journal.note("not pushed", why=err.strip()[-300:])
        shutil.rmtree(folder)

    def raw_pusher(self, name: str) -> None:
        """The protocol itself, since oras doesn't say which blob was answered with 201 before it broke."""
        drawn = self.drawn(name)
        while self.pause(drawn, 0.5, 3):
            content = drawn.randbytes(int(2 ** drawn.uniform(6, 21)))
            repository, digest = f"{name}/{drawn.choice('abcd')}", sha256(content)
            connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=15)

            def ask(method: str, path: str, body: bytes = b"", kind: str = OCTETS, *, to: Any = connection) -> tuple[int, str]:
                to.request(method, path, body, {"Content-Type": kind, "Content-Length": str(len(body))})
                answer = to.getresponse()
                answer.read()
                return int(answer.status), str(answer.getheader("Location") or "")

            try:
                _, at = ask("POST", f"/v2/{repository}/blobs/uploads/")
                for begin in range(0, len(content), 1 << 18):
                    status, at = ask("PATCH", at, content[begin : begin + (1 << 18)])
                    if status != 202:
                        break
                joint = "&" if "?" in at else "?"
                status, _ = ask("PUT", f"{at}{joint}digest={digest}") if at else (0, "")
                if status != 201:
                    self.journal.count("raw push: refused")
                    continue
                with self.journal.lock:
                    self.journal.blobs.append((repository, digest))
                self.journal.note("blob pushed", repository=repository, digest=digest)
                config = empty_config()
                ask("POST", f"/v2/{repository}/blobs/uploads/?digest={config['digest']}", b"{}")
                layer = {"mediaType": OCTETS, "digest": digest, "size": len(content)}
                manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}).encode()
                status, _ = ask("PUT", f"/v2/{repository}/manifests/{sha256(manifest)}", manifest, MANIFEST)
                if status == 201:
                    with self.journal.lock:
                        self.journal.pushes.append((f"{OWN}/{repository}", sha256(manifest), digest, len(content)))
                    self.journal.note("pushed", repository=repository, digest=sha256(manifest))
                else:
                    self.journal.count("raw push: refused")
            except (OSError, http.client.HTTPException):
                self.journal.count("raw push: broken")
            finally:
                connection.close()

    def puller(self, name: str) -> None:
        drawn = self.drawn(name)
        folder = self.stage.folder / name
        folder.mkdir()
        while self.pause(drawn, 0.5, 4):
            with self.journal.lock:
                chosen = drawn.choice(self.journal.pushes) if self.journal.pushes else None
            if chosen:
                self.pull(folder, chosen)
        shutil.rmtree(folder)

    def pull(self, folder: Path, push: tuple[str, str, str, int]) -> bool:
        """Whether a real oras got the blob, whole."""
        repository, _, content, _ = push
        got = folder / "got"
        got.unlink(missing_ok=True)
        words = [str(tool("oras")), "blob", "fetch", "--no-tty", "--output", str(got), f"{repository}@{content}"]
        code, _, err = run_words(words, {"HOME": str(folder), "PATH": "/nonexistent"}, 30)
        if code == 0:
            self.journal.count("pulls")
            if sha256(got.read_bytes()) != content:
                self.journal.find(f"a pull of {content} gave something else")
            return True
        self.journal.count("pull: failed")
        if "not found" in err.lower():
            self.journal.find(f"acknowledged and not found: {repository}@{content}: {err.strip()[-300:]}")
        return False

    def publisher(self, name: str) -> None:
        """New artifacts at the centre, which the node has to fetch when they are asked for, whether the cable is up or not."""
        client, drawn, count = Client(), self.drawn(name), 0
        wasm = self.stage.folder / "fresh.wasm"
        while self.pause(drawn, 2, 8):
            count += 1
            wasm.write_bytes(variant(self.hello, f"{self.seed} {count}"))
            environment = {"VYR_HOME": str(self.stage.home("developer")), "HOME": str(self.stage.folder)}
            words = self.cable.far(self.stage.vyr, "push", "--plain-http", f"{REGISTRY}/fresh:v{count}", wasm)
            code, out, err = run_words(words, environment)
            if code:
                self.journal.find(f"the developer could not push to the centre, beside which they are: {err.strip()[-300:]}")
                continue
            retry = {"max_attempts": 5, "on": [3], "initial_backoff": {"seconds": 1}}
            spec = {"reference": out.strip(), "on_interrupt": drawn.choice([1, 2]), "retry": retry}
            self.submit(client, drawn, "fresh", spec)
