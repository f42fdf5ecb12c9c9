"""What the tests stand on: a real node, its guests, a proxy that breaks connections, and one face for both clients."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import vyr

REPOSITORY = Path(__file__).resolve().parents[3]
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# What a test may have to wait for at most, in seconds: only a failure takes so long.
PATIENCE = 60.0


def until(done: Callable[[], Any], what: str) -> Any:
    """Waits for what gives no event of its own."""
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE:
        if found := done():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {PATIENCE} s: {what}")


class Home:
    """A data folder, with the `vyr` command over it."""

    def __init__(self, vyr_bin: Path, folder: Path) -> None:
        self.vyr_bin = vyr_bin
        self.folder = folder
        self.data = folder / "home"
        self.data.mkdir(parents=True)
        (folder / "docker").mkdir()
        # Nothing of this user's own settings, keys or store is read or changed.
        kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
        self.env = {**kept, "HOME": str(folder), "VYR_HOME": str(self.data), "DOCKER_CONFIG": str(folder / "docker")}

    def vyr(self, *words: str | Path, expect: int = 0) -> str:
        """Runs a verb; its standard output."""
        done = subprocess.run(
            [self.vyr_bin, *words], env=self.env, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == expect, f"vyr {words} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout


class Node:
    """A running `vyr serve` of one home. It keeps its port over a restart."""

    def __init__(self, home: Home, *arguments: str | Path) -> None:
        self.home = home
        self.arguments = arguments
        self.port = 0
        self.start()

    def start(self, *, wait: bool = True) -> None:
        self.file = self.home.folder / "address"
        self.file.unlink(missing_ok=True)
        with (self.home.folder / "serve.log").open("ab") as log:
            words = ["serve", "--listen", f"127.0.0.1:{self.port}", "--address-file", str(self.file), *self.arguments]
            self.process = subprocess.Popen(
                [self.home.vyr_bin, *words], env=self.home.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        if wait:
            until(self._is_ready, "the node is ready")
            self.port = int(self.file.read_text().strip().rpartition(":")[2])

    def _is_ready(self) -> bool:
        ended = self.process.poll()
        assert ended is None, f"the node ended with {ended}: {(self.home.folder / 'serve.log').read_text()}"
        return self.file.exists()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def registry(self) -> str:
        return f"localhost:{self.port}"

    def kill(self) -> None:
        """As a power cut would end its process."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)

    def push(self, wasm: Path, name: str) -> str:
        """Puts a guest into its registry, signed with this home's own key; the reference with its digest."""
        return self.home.vyr("push", f"{self.registry}/{name}:v1", wasm).strip()


class Proxy:
    """Passes connections on, and breaks them as a test says."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self.answered: dict[int, int] = {}
        """How many bytes of the node's answers were passed on, by the connection's number."""
        self.deaf = False
        """What the node answers is swallowed."""
        self.answers_bytes: int | None = None
        """How many bytes of the node's answers each connection passes on before it is cut; None: all."""
        self.takes_bytes: int | None = None
        """After how many bytes from the client one connection is cut, once; None: none is."""
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            try:
                node = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                reset(client)
                continue
            self._pairs.append((client, node))
            threading.Thread(target=self._pump, args=(client, node, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(node, client, self.connections), daemon=True).start()

    def _pump(self, of: socket.socket, to: socket.socket, connection: int | None) -> None:
        passed, answers = 0, connection is not None
        with contextlib.suppress(OSError):
            while data := of.recv(1 << 14):
                passed += len(data)
                if answers and self.deaf:
                    continue
                if answers and self.answers_bytes is not None and passed > self.answers_bytes:
                    # A reset would take away what has come and wasn't read yet.
                    to.shutdown(socket.SHUT_WR)
                    reset(of)
                    return
                if not answers and self.takes_bytes is not None and passed > self.takes_bytes:
                    self.takes_bytes = None
                    break
                to.sendall(data)
                if connection is not None:
                    self.answered[connection] = passed
        reset(of)
        reset(to)

    def has_answered(self, connection: int, count: int) -> bool:
        """Whether so many bytes of answers were passed on over this connection."""
        return self.answered.get(connection, 0) >= count

    def cut(self) -> None:
        """Breaks all connections that there are."""
        pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for end in pair:
                reset(end)

    def close(self) -> None:
        self._listener.close()
        self.cut()


def reset(end: socket.socket) -> None:
    """Ends a connection as a crash would: with a reset."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # A thread that reads it notices only this.
        end.shutdown(socket.SHUT_RDWR)
    end.close()


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, awaited: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaited, self.loop).result(PATIENCE * 2)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Blocking:
    """The asyncio client behind the face of the other one, so that each test is run with both."""

    def __init__(self, loop: Loop, wrapped: Any) -> None:
        self._loop = loop
        self._wrapped = wrapped

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._wrapped, name)
        if not callable(found):
            return found

        def called(*args: Any, **kwargs: Any) -> Any:
            async def inside() -> Any:
                answer = found(*args, **kwargs)
                return await answer if inspect.isawaitable(answer) else answer

            answer = self._loop.run(inside())
            if answer is self._wrapped:
                return self
            return Blocking(self._loop, answer) if isinstance(answer, vyr.AsyncLogs | vyr.AsyncWatch) else answer

        return called

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        async def step() -> Any:
            # An exception that ends iterations can't leave a coroutine.
            return [item async for item in Once(self._wrapped)]

        items = self._loop.run(step())
        if not items:
            raise StopIteration
        return items[0]

    def __enter__(self) -> Self:
        self._loop.run(self._wrapped.__aenter__())
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run(self._wrapped.__aexit__(*error))


class Once:
    """An iterator's next item alone."""

    def __init__(self, of: Any) -> None:
        self._of: Any | None = of

    def __aiter__(self) -> Once:
        return self

    async def __anext__(self) -> Any:
        of, self._of = self._of, None
        if of is None:
            raise StopAsyncIteration
        return await anext(of)
