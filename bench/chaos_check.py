"""The account after chaos: what was acknowledged is compared with what the node, its registry and the centre have."""

import base64
import collections
import http.client
import itertools
import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from chaos_load import LINE, Intent, Journal, Load
from chaos_stage import PORT, REGISTRY, Client, Node, call, marked, progress, run_words
from growth_stage import Stage, sha256

STATUSES = ["", "queued", "preparing", "running", "succeeded", "failed", "cancelled", "timed_out", "refused", "lost"]
SUCCEEDED, FAILED, CANCELLED, TIMED_OUT, LOST = 4, 5, 6, 7, 9
EXITED, NODE_STOPPED, COULD_NOT_START, SIGNALLED = 1, 6, 9, 10
# How long all that was under way may take once nothing is broken any more.
DRAIN = 180.0


def all_tasks(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = {}
    token = ""
    while True:
        page = client.call("ListTasks", page_size=1000, page_token=token, deadline=60)
        for task in page.tasks:
            if task.id in found:
                raise AssertionError(f"{task.id} is listed twice")
            found[task.id] = task
        token = page.next_page_token
        if not token:
            return found


class Account:
    def __init__(self, stage: Stage, node: Node, load: Load, faults: collections.Counter[str]) -> None:
        self.stage, self.node, self.load, self.faults = stage, node, load, faults
        self.journal: Journal = load.journal
        self.client = Client()
        self.result: dict[str, Any] = {}

    def find(self, finding: str) -> None:
        self.journal.find(finding)

    def all(self) -> dict[str, Any]:
        self.drain()
        self.states()
        tasks = all_tasks(self.client)
        self.tasks(tasks)
        progress(f"{len(tasks):,} tasks listed")
        self.receipts_and_outputs(tasks)
        progress("receipts and outputs read")
        self.pushes()
        progress("pushes read back")
        self.once_more(tasks)
        self.afterwards()
        progress("accounted for")
        return self.result

    # The way to rest

    def drain(self) -> None:
        began = time.monotonic()
        while True:
            state = self.client.call("GetNode").node
            if not state.queued and not state.running:
                break
            if time.monotonic() - began > DRAIN:
                self.find(
                    f"{state.queued} tasks wait and {state.running} run {DRAIN:g} s after the last fault and the last submit"
                )
                break
            time.sleep(0.1)
        self.result["tasks_drained_s"] = round(time.monotonic() - began, 1)
        pending = {}
        while True:
            states = self.client.call("ListStates").states
            pending = {state.name: state.segments_pending for state in states if state.segments_pending}
            if not pending:
                break
            # The node may be waiting after a failure, for up to five minutes.
            if time.monotonic() - began > DRAIN + 300:
                self.find(f"segments are pending {DRAIN + 300:g} s after the last fault: {pending}")
                break
            time.sleep(0.1)
        self.result["segments_drained_s"] = round(time.monotonic() - began, 1)
        progress(
            f"at rest: tasks after {self.result['tasks_drained_s']} s, segments after {self.result['segments_drained_s']} s"
        )

    def states(self) -> None:
        # What the centre knows of the node is its public key, which is there since its first segment.
        self.stage.said([self.stage.vyr, "trust", "add", "--key", self.node.home / "keys/machine.pub"], "far")
        told_all = whole_all = records_all = 0
        for state in self.client.call("ListStates").states:
            # Whatever a killed writer left is sealed with the end of the next one.
            spec = {
                "reference": self.load.guests["state"],
                "args": ["ls:/state/out"],
                "states": [{"state": state.name, "alias": "out"}],
            }
            last = self.client.call("SubmitTask", spec=spec, wait={"seconds": 60}, deadline=70).task
            if last.status != SUCCEEDED:
                self.find(f"a writer of {state.name} after all faults: {last}")
            environment = {"VYR_HOME": str(self.node.home), "HOME": str(self.stage.folder)}
            words = [self.stage.vyr, "state", "sync", "--plain-http", state.name]
            code, _, err = run_words(words, environment, 600)
            if code:
                self.find(f"{state.name} can't be synced: {err.strip()}")
                continue
            copy = self.stage.folder / f"copy-{state.name}"
            environment["VYR_HOME"] = str(self.stage.home("far"))
            words = self.load.cable.far(
                self.stage.vyr, "state", "pull", "--plain-http", f"{REGISTRY}/{state.name}", "--to", copy
            )
            code, _, err = run_words(words, environment, 1800)
            if code:
                self.find(f"{state.name} can't be pulled at the centre: {err.strip()}")
                continue
            told, whole, records = self.records(state.name, self.node.home / "state" / state.id / "data", copy)
            told_all, whole_all, records_all = told_all + told, whole_all + whole, records_all + records
        self.result |= {"records_acknowledged": told_all, "records_whole": whole_all, "records_at_the_centre": records_all}

    def records(self, name: str, own: Path, copy: Path) -> tuple[int, int, int]:
        """How many records guests were told are taken, how many of them are at the centre, whole, and how many are there."""
        at_centre: dict[str, int] = {}
        contents: dict[str, str] = {}
        for path in sorted((copy / "outbox").iterdir()) if (copy / "outbox").exists() else []:
            seq, _, record = path.name.partition("-")
            if record in at_centre:
                self.find(f"{name}: the record {record} is at the centre twice, at {at_centre[record]} and {seq}")
            at_centre[record] = int(seq)
            contents[record] = path.read_text()
            # A guest whose write failed on a full disk ends, which closes the file with what is in it; it told nobody.
            if not f"record {record}\n".startswith(contents[record]):
                self.find(f"{name}: the record {record} has another content: {contents[record][:80]!r}")
        told = whole = 0
        spans = []
        for path in sorted(own.glob("told-*")):
            # The last line may be half there: what a full disk or a kill left of one write.
            lines = path.read_text().split("\n")[:-1]
            told += len(lines)
            if missing := [line for line in lines if line not in at_centre]:
                self.find(f"{name}: acknowledged and not at the centre: {missing[:5]} and {len(missing)} in all")
            if partial := [line for line in lines if line in contents and contents[line] != f"record {line}\n"]:
                self.find(f"{name}: acknowledged, and not whole at the centre: {partial[:5]} and {len(partial)} in all")
            whole += len(lines) - len(missing) - len(partial)
            places = [at_centre[line] for line in lines if line in at_centre]
            if places != sorted(places):
                self.find(f"{name}: the records of {path.name} are in another order at the centre")
            if places:
                spans.append((places[0], places[-1], path.name))
            there = copy / path.name
            if not there.exists() or there.read_bytes() != path.read_bytes():
                self.find(f"{name}: {path.name} is another one at the centre")
        spans.sort()
        for (_, end, first), (begin, _, second) in itertools.pairwise(spans):
            if begin <= end:
                self.find(f"{name}: records of {first} and {second} are mixed, though one writes at a time")
        return told, whole, len(at_centre)

    # Tasks

    def tasks(self, tasks: dict[str, Any]) -> None:
        by_key: dict[str, list[Any]] = collections.defaultdict(list)
        for task in tasks.values():
            if key := task.spec.labels.get("chaos"):
                by_key[key].append(task)
        ends: collections.Counter[str] = collections.Counter()
        kinds: collections.Counter[str] = collections.Counter()
        acknowledged = accounted = unanswered = cancelled = kept = early = early_kept = 0
        for key, intent in self.journal.intents.items():
            there = by_key.pop(key, [])
            acknowledged += bool(intent.id)
            if len(there) > 1:
                self.find(f"the key {key} made {len(there)} tasks: {[task.id for task in there]}")
            if not there:
                if intent.id:
                    self.find(f"acknowledged and gone: {intent.id} ({key})")
                continue
            task = there[0]
            if not intent.id:
                unanswered += 1
            elif task.id != intent.id:
                self.find(f"{key} was acknowledged as {intent.id}, and is {task.id}")
            elif task.HasField("end") and task.HasField("ended_at"):
                accounted += 1
            kinds[intent.kind] += 1
            ends[f"{STATUSES[task.status]}: {self.reason(task)}"] += 1
            told_end = intent.cancelled >= SUCCEEDED
            cancelled += told_end
            kept += told_end and intent.cancelled == task.status
            told_early = bool(intent.cancelled) and not told_end
            early += told_early
            early_kept += told_early and not self.goes_on(intent, task)
            if why := self.wrong_end(intent, task):
                self.find(f"{intent.kind} {task.id}: {why}: {task.status} {task.end}".replace("\n", " "))
        if by_key:
            self.find(f"tasks that nobody submitted: {list(by_key)[:5]}")
        self.result |= {
            "tasks_acknowledged": acknowledged,
            "tasks_accounted_for": accounted,
            "tasks_made_by_submits_that_were_never_answered": unanswered,
            "cancels_answered_with_an_end": cancelled,
            "cancels_kept": kept,
            "cancels_answered_before_the_end": early,
            "cancels_before_the_end_kept": early_kept,
            "tasks_by_kind": dict(kinds.most_common()),
            "ends": dict(ends.most_common()),
            "run_again": sum(task.interruptions for task in tasks.values()),
            "ends_told_to_watchers": sum(len(intent.told) for intent in self.journal.intents.values()),
        }

    def reason(self, task: Any) -> str:
        names = task.end.DESCRIPTOR.fields_by_name["reason"].enum_type.values_by_number
        reason: str = names[task.end.reason].name.removeprefix("END_REASON_").lower()
        return f"{reason}, {task.end.error_kind}" if task.end.error_kind else reason

    def goes_on(self, intent: Intent, task: Any) -> bool:
        """Whether a kill overtook a cancel that was answered. The task's own end may have come before it was stopped."""
        return bool(task.status == LOST or task.attempt > intent.cancelled_in)

    def wrong_end(self, intent: Intent, task: Any) -> str:
        """What is wrong with how a task ended, if anything."""
        status, end = task.status, task.end
        if not task.HasField("end") or status < SUCCEEDED:
            return "has no end"
        if len(intent.told) > 1:
            return f"watchers were told several ends: {intent.told}"
        if intent.told and (status, end.reason) not in intent.told:
            return f"watchers were told {intent.told}"
        again = intent.spec["on_interrupt"] == 2
        if intent.cancelled >= SUCCEEDED and intent.cancelled != status:
            return f"a cancel was answered with {STATUSES[intent.cancelled]}"
        # One that had ended before stays as it was, lost or not.
        if 0 < intent.cancelled < SUCCEEDED and self.goes_on(intent, task):
            return "a cancel was answered, and it is lost or was run again"
        if status == LOST:
            return "lost, though it was to run again" if again or not self.faults["kill"] else ""
        if status == CANCELLED:
            known = self.faults["stop"] if end.reason == NODE_STOPPED else intent.cancel_tried
            return "" if known else "nobody cancelled it"
        if end.reason == COULD_NOT_START:
            full = end.error_kind in ("storage", "exhausted") and self.faults["disk full"]
            away = end.error_kind == "unavailable" and self.faults["cut"] and intent.kind == "fresh"
            return "" if full or away else "could not be started"
        if intent.kind == "spin":
            return "" if status == TIMED_OUT else "did not time out"
        if intent.kind == "exit":
            return "" if status == FAILED and end.exit_code == int(intent.spec["args"][0]) else "another exit code"
        if intent.kind == "container" and status == FAILED and self.faults["guest killed"]:
            return "" if end.reason in (EXITED, SIGNALLED) else "failed otherwise than by its signal"
        return "" if status == SUCCEEDED and end.exit_code == 0 else "did not succeed"

    def receipts_and_outputs(self, tasks: dict[str, Any]) -> None:
        receipts = outputs = dropped = 0
        output_bytes = 0
        for task in tasks.values():
            if not task.HasField("end"):
                continue
            try:
                bundle = json.loads(self.client.call("GetReceipt", id=task.id).bundle)
                payload = base64.b64decode(bundle["dsseEnvelope"]["payload"])
                if task.id.encode() not in payload:
                    self.find(f"the receipt of {task.id} is another's")
                receipts += 1
            except (grpc.RpcError, KeyError, ValueError) as error:
                why = error.details() if isinstance(error, grpc.RpcError) else error
                self.find(f"{task.id} ({STATUSES[task.status]}) has no receipt: {why}")
            intent = self.journal.intents.get(task.spec.labels.get("chaos", ""))
            if intent is None:
                continue
            got, lost = self.output(task)
            outputs += 1
            dropped += lost
            output_bytes += len(got)
            if why := self.wrong_output(intent, task, got, lost):
                self.find(f"the output of {intent.kind} {task.id} ({STATUSES[task.status]}, attempt {task.attempt}): {why}")
        self.result |= {
            "receipts": receipts,
            "outputs_read": outputs,
            "output_bytes": output_bytes,
            "output_bytes_dropped": dropped,
        }

    def output(self, task: Any) -> tuple[bytes, int]:
        """What the last attempt wrote to stdout, and how much was dropped of all."""
        got, lost = b"", 0
        for answer in self.client.stream("StreamLogs", id=task.id, stream=1):
            lost = answer.dropped_bytes or lost
            got += b"".join(entry.data for entry in answer.entries if entry.attempt == task.attempt)
        return got, lost

    def wrong_output(self, intent: Intent, task: Any, got: bytes, lost: int) -> str:
        expected = {
            "hello": b"hello from wasm\n",
            "fresh": b"hello from wasm\n",
            "sleep": b"sleeping\nwoke\n",
            "container": b"begun\ndone\n",
        }.get(intent.kind)
        if intent.kind == "noisy":
            size = int(intent.spec["args"][0])
            expected = (LINE * (size // len(LINE) + 1))[:size]
        if expected is None:
            return ""
        if lost and self.faults["disk full"]:
            # What a full disk didn't take is counted, over all attempts.
            return "" if len(got) + lost >= len(expected) or task.status != SUCCEEDED else f"{len(got)} kept and {lost} dropped"
        if not expected.startswith(got):
            return f"something else: {got[:80]!r}"
        if task.status == SUCCEEDED and got != expected:
            return f"{len(got)} of {len(expected)} bytes, and {lost} are said to be dropped"
        return ""

    # The registry

    def pushes(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60)

        def get(path: str) -> bytes:
            connection.request("GET", path, headers={"Accept": "*/*"})
            answer = connection.getresponse()
            body = answer.read()
            return body if answer.status == 200 else f"{answer.status} {body[:200]!r}".encode()

        whole = 0
        for repository, manifest, content, _size in self.journal.pushes:
            path = repository.partition("/")[2]
            for kind, digest in (("manifests", manifest), ("blobs", content)):
                got = get(f"/v2/{path}/{kind}/{digest}")
                if sha256(got) != digest:
                    self.find(f"acknowledged and not there, whole: {repository}@{digest}: {got[:60]!r}")
                else:
                    whole += kind == "blobs"
        blobs = 0
        for path, digest in self.journal.blobs:
            got = get(f"/v2/{path}/blobs/{digest}")
            if sha256(got) != digest:
                self.find(f"a blob was acknowledged and is not there, whole: {path}@{digest}: {got[:60]!r}")
            else:
                blobs += 1
        connection.close()
        folder = self.stage.home("last-pulls")
        folder.mkdir()
        for push in self.journal.pushes[-10:]:
            if not self.load.pull(folder, push):
                self.find(f"oras can't pull {push}")
        self.result |= {"pushes_acknowledged": len(self.journal.pushes), "pushes_whole": whole}
        self.result |= {"blobs_acknowledged": len(self.journal.blobs), "blobs_whole": blobs}

    # The end

    def once_more(self, before: dict[str, Any]) -> None:
        """Ends that were told stay as they are, over one more kill."""
        self.node.end(signal.SIGKILL)
        if not self.node.ensure():
            self.find(f"the node does not start after all faults: {self.node.refused_starts[-1]}")
            return
        after = all_tasks(self.client)
        for id_, task in before.items():
            if id_ not in after or (after[id_].status, after[id_].end.reason) != (task.status, task.end.reason):
                self.find(f"{id_} ended as {STATUSES[task.status]}, and is {after.get(id_)} after a restart")

    def afterwards(self) -> None:
        if left := marked():
            self.find(f"processes of containers are left: {left}")
        pid = self.node.process.pid if self.node.process else 0
        self.result["node_fds_at_the_end"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        status = self.node.end(signal.SIGTERM)
        if status:
            self.find(f"the node ended with {status} after SIGTERM")
        environment = {"VYR_HOME": str(self.node.home), "HOME": str(self.stage.folder), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        code, out, err = run_words([self.stage.vyr, "doctor"], environment, 120)
        self.result["doctor"] = code
        if code:
            self.find(f"vyr doctor ended with {code}: {out} {err}")
        log = self.node.log.read_text(errors="replace")
        if "panicked" in log:
            self.find(f"a thread of the node panicked: {log[log.index('panicked') - 200 :][:1000]}")
        # The store's own word: everything hashed once more, without VYR.
        wrong = list(unsound(self.node.home / "store/blobs/sha256"))
        for path in wrong:
            self.find(f"the store has {path} with another content")
        self.result["store_unsound"] = len(wrong)
        self.result["disk_used_mib"] = int(call("du", "-sm", self.node.home).split()[0])


def unsound(blobs: Path) -> Iterator[str]:
    for path in blobs.iterdir():
        if sha256(path.read_bytes()) != f"sha256:{path.name}":
            yield path.name
