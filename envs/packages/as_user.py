"""The quick start from Python, as an ordinary user: submit, logs, trace, cancel, by the installed package alone.

Run by ./as-user in a Debian root, where a node runs that has both programs and trusts them.

    python as_user.py localhost:7070/hello@sha256:… localhost:7070/sleep@sha256:…
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import vyr


@contextmanager
def step(words: str) -> Iterator[None]:
    """Shows what is done, and what it took."""
    print(f">>> {words}", flush=True)
    began = time.monotonic()
    yield
    print(f"  # {time.monotonic() - began:.2f} s", flush=True)


def main() -> None:
    """Ends with an error where anything is otherwise than it should be."""
    hello, sleep = sys.argv[1:]
    with vyr.Client() as client:
        with step("client.submit(TaskSpec(hello, args=['one', 'two']))"):
            task = client.submit(vyr.TaskSpec(hello, args=["one", "two"]))
            print(task.id)
        with step("client.logs(task.id, follow=True)"):
            wrote = b"".join(entry.data for entry in client.logs(task.id, follow=True)).decode()
            print(wrote, end="")
        if wrote != "hello from wasm\none\ntwo\n":
            sys.exit("the task wrote something else")
        with step("client.get_trace(task.id)"):
            trace = client.get_trace(task.id)
            for span in trace.spans:
                print(f"{span.name:<12} {(span.took_ns or 0) / 1e6:8.3f} ms")
        if "execute" not in {span.name for span in trace.spans}:
            sys.exit("the trace has no execution")

        with step("client.submit(sleep), client.logs(task.id, follow=True), client.cancel(task.id)"):
            task = client.submit(sleep)
            for entry in client.logs(task.id, follow=True):
                print(entry.data.decode(), end="")
                client.cancel(task.id)
            task = client.wait(task.id, timeout=10)
            print(f"{task.status}, exit code {task.exit_code}")
        if task.status is not vyr.TaskStatus.CANCELLED:
            sys.exit("it wasn't cancelled")


if __name__ == "__main__":
    main()
