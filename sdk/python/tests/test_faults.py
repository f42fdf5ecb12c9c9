"""Nodes that die and connections that break, with both clients."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeClient, MakeHome, MakeNode
from support import PATIENCE, Node, Proxy, until

import vyr
from vyr import _channel

MakeProxy = Callable[[Node], Proxy]


class Background:
    """Runs something in a thread; its result or its error."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._result: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._result = work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert self.done, "it hangs"
        if self._error:
            raise self._error
        return self._result


@pytest.fixture
def idle(make_node: MakeNode, guests: dict[str, Path]) -> tuple[Node, str]:
    """A node that a test may harm, and a guest of it that never ends."""
    node = make_node()
    return node, node.push(guests["sleep"], "sleep")


def test_a_node_that_is_not_there_is_said_with_what_to_do(make_client: MakeClient, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for address in (f"http://127.0.0.1:{port}", f"unix:{tmp_path / 'none.sock'}"):
        client = make_client(address, retry=None)
        for call in (client.connect, client.get_node, lambda c=client: list(c.watch("x"))):
            with pytest.raises(vyr.UnavailableError) as error:
                call()
            assert error.value.message.startswith(f"no node answers at {address}: ")
            assert error.value.next == "start one with `vyr serve`, or name another"
        with pytest.raises(vyr.UnavailableError), make_client(address, retry=None):
            pytest.fail("it is found out when the block is entered")


def test_what_answers_but_is_no_node_is_said(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    end, _ = server.accept()
                    end.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    end.close()

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(vyr.UnavailableError, match=f"127.0.0.1:{port}"):
            make_client(f"http://127.0.0.1:{port}", retry=None).get_node()


def test_what_takes_connections_and_is_silent_is_given_up(make_client: MakeClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = make_client(f"http://127.0.0.1:{server.getsockname()[1]}", retry=None, connect_timeout=0.3)
        began = time.monotonic()
        with pytest.raises(vyr.UnavailableError):
            client.get_node()
        assert time.monotonic() - began < 5.0


def test_an_answer_that_does_not_come_is_given_up(node: Node, make_client: MakeClient, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(node)
    client = make_client(proxy.address, retry=None, answer_timeout=0.3)
    client.get_node()
    proxy.deaf = True
    with pytest.raises(vyr.UnavailableError, match=r"didn't answer within 0\.3 s"):
        client.get_node()
    # The time that the caller set comes first.
    with pytest.raises(vyr.UnavailableError, match="didn't answer within"):
        client.wait("01a213e3-fbed-734d-8c3f-ce8ad56a33c0", timeout=0.1)


def test_a_stream_whose_other_side_is_gone_without_a_word_is_given_up(
    node: Node, make_client: MakeClient, make_proxy: MakeProxy, pushed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_channel, "_KEEP_ALIVE", 2000)
    proxy = make_proxy(node)
    client = make_client(proxy.address, retry=None)
    task = client.submit(pushed["sleep"])
    entries = client.logs(task.id, follow=True)
    assert next(entries).data == b"sleeping\n"
    # As where a cable is pulled: nothing comes, and nothing is reset.
    proxy.deaf = True
    began = time.monotonic()
    with pytest.raises(vyr.UnavailableError):
        Background(partial(next, entries)).result()
    # The node too asks whether there is somebody, and gives up after 50 s.
    assert time.monotonic() - began < 20.0
    with vyr.Client(node.address) as direct:
        direct.cancel(task.id)


def test_a_node_that_starts_meanwhile_is_waited_for(make_node: MakeNode, make_client: MakeClient, make_home: MakeHome) -> None:
    node = make_node()
    node.kill()
    client = make_client(node.address, retry=vyr.Retry(tries=100, deadline=PATIENCE))
    connecting = Background(client.connect)
    time.sleep(0.3)
    assert not connecting.done
    node.start()
    connecting.result()
    assert client.get_node().version


def test_a_node_killed_between_submit_and_wait(
    make_node: MakeNode, make_client: MakeClient, guests: dict[str, Path], pushed: dict[str, str]
) -> None:
    node = make_node("--max-running", "1")
    sleep, hello = node.push(guests["sleep"], "sleep"), node.push(guests["hello"], "hello")
    client = make_client(node.address, retry=vyr.Retry(tries=100, deadline=PATIENCE))
    running = client.submit(sleep)
    waiting = client.submit(vyr.TaskSpec(hello, args=["after"]))
    client.get_task(running.id)
    until(lambda: client.get_task(running.id).status == "running", "it runs")
    node.kill()
    # Both wait already when the node comes back.
    ends = [Background(partial(client.wait, task.id)) for task in (running, waiting)]
    changes = Background(lambda: list(client.watch(running.id)))
    time.sleep(0.2)
    node.start()
    lost, done = (end.result() for end in ends)
    assert (lost.status, lost.end.reason, lost.exit_code) == ("lost", "node_died", 125)
    assert done.check().succeeded
    assert b"".join(entry.data for entry in client.logs(waiting.id)) == b"hello from wasm\nafter\n"
    assert changes.result()[-1] == lost


def test_a_submit_whose_answer_was_lost_is_one_task(
    node: Node, make_client: MakeClient, make_proxy: MakeProxy, pushed: dict[str, str]
) -> None:
    proxy = make_proxy(node)
    client = make_client(proxy.address, retry=vyr.Retry(tries=20))
    client.get_node()
    label = str(uuid.uuid4())
    proxy.deaf = True
    submitting = Background(lambda: client.submit(vyr.TaskSpec(pushed["hello"], labels={"of": label})))
    with vyr.Client(node.address) as direct:
        made = until(lambda: direct.list_tasks(labels={"of": label}), "the node has it")
        assert not submitting.done
        proxy.deaf = False
        proxy.cut()
        assert submitting.result().id == made[0].id
        assert len(direct.list_tasks(labels={"of": label})) == 1
    assert proxy.connections == 2


def test_output_goes_on_over_broken_connections_with_nothing_lost_or_twice(
    node: Node, make_client: MakeClient, make_proxy: MakeProxy, pushed: dict[str, str]
) -> None:
    with vyr.Client(node.address) as direct:
        task = direct.run(vyr.TaskSpec(pushed["noisy"], args=["2000000"])).task
        whole = b"".join(entry.data for entry in direct.logs(task.id))
    assert len(whole) == 2_000_000
    proxy = make_proxy(node)
    client = make_client(proxy.address, retry=vyr.Retry(tries=8, initial_backoff=0.01))
    # More often than there are tries: what got on counts anew.
    proxy.answers_bytes = 150_001
    assert b"".join(entry.data for entry in client.logs(task.id, follow=True)) == whole
    assert proxy.connections > 12


def test_output_goes_on_when_the_node_is_started_again(
    idle: tuple[Node, str], make_client: MakeClient, guests: dict[str, Path]
) -> None:
    node, _ = idle
    state = node.push(guests["state"], "state")
    client = make_client(node.address, retry=vyr.Retry(tries=100, deadline=PATIENCE))
    # Says a word, and again after a while.
    spec = vyr.TaskSpec(state, args=["sleep:1", "sleep:600000"], on_interrupt="run_again")
    task = client.submit(spec)
    entries = client.logs(task.id, follow=True)
    first = next(entries)
    assert (first.attempt, b"ok" in first.data) == (1, True)
    # What a guest wrote survives its node once it is in the file, which takes 250 ms as a rule.
    file = node.home.data / "logs" / task.id[-2:] / f"{task.id}.log"
    until(lambda: file.exists() and file.stat().st_size, "the output is on disk")
    node.kill()
    rest = Background(lambda: next(entries))
    node.start()
    again = rest.result()
    assert (again.attempt, again.data) == (2, first.data)
    client.cancel(task.id, wait=PATIENCE)
    assert list(entries) == []


def test_a_watch_goes_on_over_broken_connections(
    idle: tuple[Node, str], make_client: MakeClient, make_proxy: MakeProxy
) -> None:
    node, sleep = idle
    proxy = make_proxy(node)
    client = make_client(proxy.address, retry=vyr.Retry(tries=100, initial_backoff=0.01))
    task = client.submit(sleep)
    changes = client.watch(task.id)
    while next(changes).status != "running":
        pass
    told = Background(lambda: list(changes))
    for count in range(2, 8):
        proxy.cut()
        # A task is longer than what HTTP/2 says at the beginning of a connection.
        until(partial(proxy.has_answered, count, 400), "it came back and was told of the task")
    assert not told.done
    with vyr.Client(node.address) as direct:
        end = direct.cancel(task.id, wait=PATIENCE)
    *before, last = told.result()
    assert last == end
    # Each time the stream was opened it began with the task as it stood, which is told only if something changed: the
    # number of bytes that it wrote, say.
    assert len(before) == len(set(map(repr, before))) < 3


def test_a_stream_is_given_up_after_its_tries(idle: tuple[Node, str], make_client: MakeClient) -> None:
    node, sleep = idle
    client = make_client(node.address, retry=vyr.Retry(tries=3, initial_backoff=0.01))
    task = client.submit(sleep)
    entries, changes = client.logs(task.id, follow=True), client.watch(task.id)
    reading = [Background(lambda: list(entries)), Background(lambda: list(changes))]
    until(lambda: client.get_task(task.id).status == "running", "it runs")
    node.kill()
    for one in reading:
        with pytest.raises(vyr.UnavailableError):
            one.result()


def test_a_node_that_stops_ends_what_it_streams_and_the_follower_finds_its_successor(
    make_node: MakeNode, make_client: MakeClient, guests: dict[str, Path]
) -> None:
    node = make_node("--drain", "0s")
    sleep = node.push(guests["sleep"], "sleep")
    client = make_client(node.address, retry=vyr.Retry(tries=100, deadline=PATIENCE))
    task = client.submit(sleep)
    following = Background(lambda: list(client.logs(task.id, follow=True)))
    watching = Background(lambda: list(client.watch(task.id)))
    until(lambda: client.get_task(task.id).logs.stdout_bytes, "it has written")
    node.stop()
    node.start()
    assert [entry.data for entry in following.result()] == [b"sleeping\n"]
    assert watching.result()[-1].end.reason == "node_stopped"


def test_retries_can_be_turned_off(node: Node, make_client: MakeClient, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(node)
    client = make_client(proxy.address, retry=None)
    client.get_node()
    proxy.deaf = True
    asking = Background(client.get_node)
    time.sleep(0.1)
    proxy.cut()
    with pytest.raises(vyr.UnavailableError):
        asking.result()


def test_a_repeated_create_and_delete_are_told_from_others(node: Node, make_client: MakeClient, make_proxy: MakeProxy) -> None:
    proxy = make_proxy(node)
    client = make_client(proxy.address, retry=vyr.Retry(tries=20))
    client.get_node()
    name = f"s-{uuid.uuid4()}"

    def lost(call: Callable[[], Any], happened: Callable[[], Any]) -> Any:
        """The result of a call whose first answer was lost."""
        proxy.deaf = True
        calling = Background(call)
        until(happened, "the node did it")
        proxy.deaf = False
        proxy.cut()
        return calling.result()

    with vyr.Client(node.address) as direct:
        made = lost(
            lambda: client.create_state(name, quota_bytes=1 << 20),
            lambda: [state for state in direct.list_states() if state.name == name],
        )
        assert (made.name, made.quota_bytes) == (name, 1 << 20)
        with pytest.raises(vyr.ConflictError):
            client.create_state(name, quota_bytes=1 << 20)
        lost(
            lambda: client.delete_state(name),
            lambda: not [state for state in direct.list_states() if state.name == name],
        )
        with pytest.raises(vyr.NotFoundError):
            client.delete_state(name)
