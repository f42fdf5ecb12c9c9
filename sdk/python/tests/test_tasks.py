"""The task cycle against a real node, with both clients."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import grpc
import pytest
from conftest import MakeNode
from support import PATIENCE, TRACEPARENT, Node, Proxy, until

import vyr


def test_a_task_goes_from_submit_to_its_end(client: Any, pushed: dict[str, str]) -> None:
    task = client.submit(vyr.TaskSpec(pushed["hello"], args=["one", "two words"], labels={"of": "cycle"}))
    assert uuid.UUID(task.id).version == 7
    assert task.spec.args == ("one", "two words")
    # A key was made, so that the submit could be repeated.
    assert uuid.UUID(task.idempotency_key).version == 4
    ended = client.wait(task.id)
    assert (ended.status, ended.succeeded, ended.exit_code) == (vyr.TaskStatus.SUCCEEDED, True, 0)
    assert ended.end.reason is vyr.EndReason.EXITED
    assert ended.execution.path is vyr.ExecutionPath.WASM
    assert ended.execution.digest == pushed["hello"].partition("@")[2]
    assert ended.execution.run > timedelta(0)
    assert ended.submitted_at <= ended.started_at <= ended.ended_at
    assert ended.check() is ended
    assert client.get_task(task.id) == ended
    entries = list(client.logs(task.id))
    assert b"".join(entry.data for entry in entries) == b"hello from wasm\none\ntwo words\n"
    assert {entry.stream for entry in entries} == {vyr.LogStream.STDOUT}


def test_a_reference_alone_is_a_specification_and_run_does_it_all(client: Any, pushed: dict[str, str]) -> None:
    outcome = client.run(pushed["hello"])
    assert (outcome.stdout, outcome.stderr, outcome.exit_code) == (b"hello from wasm\n", b"", 0)
    assert outcome.check() is outcome


def test_everything_that_the_guest_is_given_arrives(client: Any, pushed: dict[str, str]) -> None:
    spec = vyr.TaskSpec(pushed["echo-env-p1"], args=["a b"], env={"MODE": "fast"}, stdin=b"\x00\xff in")
    outcome = client.run(spec)
    assert b"MODE" in outcome.stdout + outcome.stderr
    assert b"\x00\xff in" in outcome.stdout
    # Neither comes back.
    assert (outcome.task.spec.env, outcome.task.spec.stdin) == ({"MODE": ""}, b"")


@pytest.mark.parametrize(
    ("guest", "spec", "status", "reason", "code"),
    [
        ("exit-p1", {"args": ["7"]}, "failed", "exited", 7),
        ("trap", {"args": ["unreachable"]}, "failed", "trapped", 134),
        ("spin", {"limits": vyr.Limits(timeout=0.2)}, "timed_out", "wall_clock_limit", 124),
        ("spin", {"limits": vyr.Limits(cpu=timedelta(seconds=0.2))}, "timed_out", "cpu_limit", 124),
    ],
)
def test_each_end_has_its_reason_and_its_exit_code(
    client: Any, pushed: dict[str, str], guest: str, spec: dict[str, Any], status: str, reason: str, code: int
) -> None:
    outcome = client.run(vyr.TaskSpec(pushed[guest], **spec))
    assert (outcome.task.status, outcome.task.end.reason, outcome.exit_code) == (status, reason, code)
    with pytest.raises(vyr.TaskFailed) as failed:
        outcome.check()
    assert (failed.value.exit_code, failed.value.task) == (code, outcome.task)
    assert failed.value.message == outcome.task.end.message


def test_what_is_wrong_with_the_artifact_is_the_task_s_end(client: Any, node: Node) -> None:
    missing = client.run(f"{node.registry}/nothing:v1").task
    assert (missing.end.reason, missing.end.error_kind, missing.exit_code) == ("could_not_start", "not_found", 127)


def test_waiting_has_its_bounds(client: Any, pushed: dict[str, str]) -> None:
    task = client.submit(pushed["sleep"], wait=0.05)
    assert not task.ended
    assert not client.get_task(task.id, wait=timedelta(milliseconds=50)).ended
    for bound in (0, 0.3):
        with pytest.raises(vyr.TimedOutError, match="passed before the end") as error:
            client.wait(task.id, timeout=bound)
        assert "it goes on" in (error.value.next or "")
    assert client.cancel(task.id, wait=PATIENCE).ended
    assert client.wait(task.id, timeout=0).ended


def test_cancelling_ends_it_and_again_is_no_error(client: Any, pushed: dict[str, str]) -> None:
    task = client.submit(pushed["spin"])
    cancelled = client.cancel(task.id, wait=PATIENCE)
    assert (cancelled.status, cancelled.exit_code) == (vyr.TaskStatus.CANCELLED, 130)
    assert cancelled.end.cancel_latency >= timedelta(0)
    assert client.cancel(task.id) == cancelled


def test_watching_begins_with_what_it_is_and_ends_with_its_end(client: Any, pushed: dict[str, str]) -> None:
    task = client.submit(pushed["sleep"])
    seen = []
    for change in client.watch(task.id):
        seen.append(change)
        if change.status is vyr.TaskStatus.RUNNING:
            client.cancel(task.id)
    assert seen[-1].status is vyr.TaskStatus.CANCELLED
    assert seen[-1] == client.get_task(task.id)
    assert len(seen) == len(set(map(repr, seen)))
    # Of one that has ended: its end.
    assert list(client.watch(task.id)) == [seen[-1]]


def test_a_stream_that_is_closed_is_over(client: Any, pushed: dict[str, str]) -> None:
    task = client.submit(pushed["sleep"])
    with client.watch(task.id) as changes:
        next(changes)
    assert list(changes) == []
    with client.logs(task.id, follow=True) as entries:
        pass
    assert list(entries) == []
    client.cancel(task.id)


def test_closing_from_elsewhere_wakes_who_reads(client: Any, pushed: dict[str, str]) -> None:
    task = client.submit(pushed["sleep"])
    entries = client.logs(task.id, follow=True)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.extend(entry.data for entry in entries))
    reader.start()
    # It waits for more then, or is about to.
    until(lambda: client.get_task(task.id).logs.stdout_bytes, "it has written")
    entries.close()
    reader.join(PATIENCE)
    assert not reader.is_alive()
    assert read in ([], [b"sleeping\n"])
    client.cancel(task.id)


def test_output_comes_whole_in_order_and_by_stream(client: Any, pushed: dict[str, str]) -> None:
    task = client.submit(vyr.TaskSpec(pushed["noisy"], args=["300000"]))
    follower = client.logs(task.id, follow=True)
    data = b"".join(entry.data for entry in follower)
    line = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+\n"
    assert data == (line * 5000)[:300000]
    assert follower.dropped_bytes == 0
    assert list(client.logs(task.id, stream="stderr")) == []
    assert b"".join(entry.data for entry in client.logs(task.id, stream=vyr.LogStream.STDOUT)) == data
    with pytest.raises(vyr.UsageError, match="stream"):
        client.logs(task.id, stream="stdin")


def test_output_over_the_limit_is_dropped_and_counted(client: Any, pushed: dict[str, str]) -> None:
    spec = vyr.TaskSpec(pushed["noisy"], args=["100000"], limits=vyr.Limits(log_bytes=1000))
    outcome = client.run(spec)
    assert len(outcome.stdout) == 1000
    assert outcome.task.logs == vyr.LogSummary(1000, 0, 99_000)
    entries = client.logs(outcome.task.id)
    assert len(list(entries)) > 0
    assert entries.dropped_bytes == 99_000


def test_reading_goes_on_from_an_offset(client: Any, pushed: dict[str, str]) -> None:
    task = client.run(vyr.TaskSpec(pushed["noisy"], args=["300000"])).task
    entries = client.logs(task.id)
    read = b""
    offsets: list[tuple[int, int]] = []
    for entry in entries:
        read += entry.data
        if not offsets or entries.next_offset != offsets[-1][0]:
            offsets.append((entries.next_offset, len(read)))
        else:
            # Within a group the offset is still that of the group before, which would give this entry again.
            offsets[-1] = (offsets[-1][0], min(offsets[-1][1], len(read)))
    assert len(offsets) > 2
    whole = read
    for offset, length in offsets[1:]:
        rest = b"".join(entry.data for entry in client.logs(task.id, offset=offset))
        assert rest == whole[length:], offset
    assert list(client.logs(task.id, offset=entries.next_offset)) == []


def test_only_the_last_attempt_s_output_is_an_outcome_s(client: Any, pushed: dict[str, str]) -> None:
    spec = vyr.TaskSpec(
        pushed["echo-env-p1"], args=["--exit", "3"], retry=vyr.RetryPolicy(3, ["failure"], initial_backoff=0.01)
    )
    outcome = client.run(spec)
    assert (outcome.task.attempt, outcome.exit_code) == (3, 3)
    written = {entry.attempt for entry in client.logs(outcome.task.id)}
    assert written == {1, 2, 3}
    alone = b"".join(e.data for e in client.logs(outcome.task.id, stream="stdout") if e.attempt == 3)
    assert outcome.stdout == alone != b""


def test_tasks_are_listed_over_pages_and_found_again(client: Any, pushed: dict[str, str]) -> None:
    label = str(uuid.uuid4())
    spec = vyr.TaskSpec(pushed["hello"], labels={"of": label})
    made = [client.submit(spec).id for _ in range(120)]
    assert [task.id for task in client.list_tasks(labels={"of": label})] == made[::-1]
    assert [task.id for task in client.list_tasks(labels={"of": label}, limit=3)] == made[:-4:-1]
    assert client.list_tasks(labels={"of": label}, limit=0) == []
    client.wait(made[-1])
    until(lambda: len(client.list_tasks(labels={"of": label}, statuses=["succeeded"])) == 120, "all have ended")
    assert client.list_tasks(labels={"of": label}, statuses=["queued", vyr.TaskStatus.LOST]) == []
    assert client.list_tasks(labels={"of": label}, submitter="somebody") == []
    assert len(client.list_tasks(labels={"of": label}, submitter="anonymous")) == 120


def test_a_key_makes_repeated_submits_one_task(client: Any, pushed: dict[str, str]) -> None:
    key = str(uuid.uuid4())
    first = client.submit(pushed["hello"], key=key)
    assert client.submit(pushed["hello"], key=key).id == first.id
    assert client.submit(pushed["hello"]).id != first.id
    with pytest.raises(vyr.ConflictError, match=first.id) as error:
        client.submit(pushed["exit-p1"], key=key)
    assert error.value.code is grpc.StatusCode.ALREADY_EXISTS


def test_each_mistake_is_named_by_its_field(client: Any) -> None:
    with pytest.raises(vyr.UsageError) as error:
        client.submit(vyr.TaskSpec("not a reference", env={"A=B": "x"}))
    assert {field.path for field in error.value.fields} >= {"spec.reference"}
    for nobody in (lambda: client.get_task("nonsense"), lambda: list(client.watch("nonsense"))):
        with pytest.raises(vyr.UsageError) as error:
            nobody()
        assert error.value.fields[0].path == "id"
    unknown = "01a213e3-fbed-734d-8c3f-ce8ad56a33c0"
    for call in (
        lambda: client.get_task(unknown),
        lambda: client.wait(unknown),
        lambda: client.cancel(unknown),
        lambda: list(client.watch(unknown)),
        lambda: list(client.logs(unknown)),
        lambda: client.get_trace(unknown),
        lambda: client.get_receipt(unknown),
    ):
        with pytest.raises(vyr.NotFoundError):
            call()


def test_a_task_is_part_of_the_caller_s_trace(
    client: Any, node: Node, make_client: Any, pushed: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = TRACEPARENT.split("-")[1]
    assert client.run(pushed["hello"]).task.trace_id != ours
    given = make_client(node.address, traceparent=TRACEPARENT).run(pushed["hello"]).task
    assert given.trace_id == ours
    monkeypatch.setenv("TRACEPARENT", TRACEPARENT)
    task = client.run(pushed["hello"]).task
    assert task.trace_id == ours
    trace = client.get_trace(task.id)
    assert trace.trace_id == ours
    assert (trace.spans[0].name, trace.spans[0].parent_span_id) == ("task", TRACEPARENT.split("-")[2])
    span = trace.spans[0]
    assert 0 < span.took_ns < PATIENCE * 1e9
    assert span.started_at <= span.ended_at
    assert {"execute", "complete"} <= {span.name for span in trace.spans}
    monkeypatch.setenv("TRACEPARENT", "nonsense")
    assert client.run(pushed["hello"]).task.trace_id != ours


def test_json_is_that_of_the_command(client: Any, node: Node, pushed: dict[str, str]) -> None:
    trapped = client.run(vyr.TaskSpec(pushed["trap"], args=["unreachable"])).task
    outcome = client.run(vyr.TaskSpec(pushed["echo-env-p1"], args=["--exit", "3"], labels={"a": "b"}))
    for task in (trapped, outcome.task):
        theirs = json.loads(node.home.vyr("status", task.id, "--output", "json"))
        ours = json.loads(json.dumps(task.to_dict()))
        assert ours == {name: theirs[name] for name in ours}
    assert json.loads(json.dumps(outcome.to_dict()))["task"] == ours
    lines = node.home.vyr("logs", task.id, "--output", "jsonl").splitlines()
    assert [entry.to_dict() for entry in client.logs(task.id)] == [json.loads(line) for line in lines] != []
    trace = json.loads(node.home.vyr("trace", task.id, "--output", "json"))
    otlp = client.get_trace(task.id).to_otlp()
    del trace["resourceSpans"][0]["scopeSpans"][0]["scope"]["version"]
    assert otlp == trace
    assert json.loads(json.dumps(client.get_trace(task.id).to_dict()))["trace_id"] == task.trace_id
    binary = vyr.LogEntry(vyr.LogStream.STDOUT, b"\xff\x00")
    assert binary.to_dict()["data_base64"] == "/wA="


def test_a_receipt_is_a_bundle(client: Any, pushed: dict[str, str]) -> None:
    task = client.run(pushed["hello"]).task
    bundle = json.loads(client.get_receipt(task.id))
    assert bundle["mediaType"].startswith("application/vnd.dev.sigstore.bundle")


def test_a_node_says_what_it_is(client: Any) -> None:
    node = client.get_node()
    assert node.version == vyr.__version__
    assert "wasi-0.2" in node.capabilities
    assert node.memory_budget_bytes > 0
    assert not node.stopping
    assert json.loads(json.dumps(node.to_dict()))["version"] == vyr.__version__


def test_a_full_queue_is_waited_for_and_then_named(make_node: MakeNode, make_client: Any, guests: Any) -> None:
    node = make_node("--max-running", "1", "--max-queued", "1")
    sleep = node.push(guests["sleep"], "sleep")
    client = make_client(node.address, retry=vyr.Retry(tries=2, initial_backoff=0.01))
    running = client.submit(sleep)
    waiting = client.submit(sleep)
    with pytest.raises(vyr.ExhaustedError) as error:
        client.submit(sleep)
    # The second try came no sooner than the node said.
    assert (error.value.retry_after or 0) > 0
    patient = make_client(node.address, retry=vyr.Retry(tries=50))
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(patient.submit(sleep)))
    thread.start()
    client.cancel(waiting.id, wait=PATIENCE)
    thread.join(PATIENCE)
    assert done[0].id not in {running.id, waiting.id}


def test_many_threads_share_one_client_and_one_connection(
    node: Node, pushed: dict[str, str], make_proxy: Callable[[Node], Proxy]
) -> None:
    proxy = make_proxy(node)
    client = vyr.Client(proxy.address)
    with ThreadPoolExecutor(32) as threads:
        specs = [vyr.TaskSpec(pushed["hello"], args=[str(n)]) for n in range(100)]
        outcomes = list(threads.map(client.run, specs))
    client.close()
    assert [outcome.check().stdout.split()[-1] for outcome in outcomes] == [str(n).encode() for n in range(100)]
    assert proxy.connections == 1


async def test_many_at_once_over_one_connection(node: Node, pushed: dict[str, str]) -> None:
    async with vyr.AsyncClient(node.address) as client:
        specs = [vyr.TaskSpec(pushed["hello"], args=[str(n)]) for n in range(200)]
        outcomes = await asyncio.gather(*(client.run(spec) for spec in specs))
    assert [outcome.check().stdout.split()[-1] for outcome in outcomes] == [str(n).encode() for n in range(200)]


async def test_a_cancelled_await_is_one_and_the_task_goes_on(node: Node, pushed: dict[str, str]) -> None:
    async with vyr.AsyncClient(node.address) as client:
        task = await client.submit(pushed["sleep"])
        waiter = asyncio.create_task(client.wait(task.id))
        entries = client.logs(task.id, follow=True)
        await anext(entries)
        reader = asyncio.create_task(anext(entries))
        # Both have been sent.
        await client.get_node()
        for one in (waiter, reader):
            one.cancel()
            with pytest.raises(asyncio.CancelledError):
                await one
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.wait(task.id), 0.05)
        assert not (await client.get_task(task.id)).ended
        await client.cancel(task.id)


async def test_who_waits_when_the_client_is_closed_is_told(node: Node, pushed: dict[str, str]) -> None:
    client = vyr.AsyncClient(node.address)
    task = await client.submit(pushed["sleep"])
    waiter = asyncio.create_task(client.wait(task.id))
    await client.get_node()
    await client.close()
    with pytest.raises(vyr.CancelledError):
        await waiter
    with pytest.raises(vyr.UsageError, match="closed"):
        await client.get_node()
    async with vyr.AsyncClient(node.address) as other:
        await other.cancel(task.id)


def test_who_waits_in_a_thread_when_the_client_is_closed_is_told(node: Node, pushed: dict[str, str]) -> None:
    client = vyr.Client(node.address)
    task = client.submit(pushed["sleep"])
    said: list[vyr.Error] = []

    def wait() -> None:
        try:
            client.wait(task.id)
        except vyr.Error as error:
            said.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    until(lambda: client.get_node().running, "it runs")
    client.close()
    thread.join(PATIENCE)
    assert isinstance(said[0], vyr.CancelledError)
    with vyr.Client(node.address) as other:
        other.cancel(task.id)
