"""The workloads as they are run in a place: each run gives one record, the same fields everywhere."""

import hashlib
import json
import threading
import time

from .centre import REGISTRY
from .common import ENVS, Failure, call, say

STEPS = (ENVS / "runner/steps.sh").read_text(encoding="utf-8")
# Which device it is.
SEED = 11
# What a node says that can't have the addresses it wants.
RESERVED = "failed to reserve"
NO_NODE = "no node starts here, its pool of memory wants more addresses than a process of this kernel has"


class Runs:
    """All that is run in one place, and the records of it."""

    def __init__(self, place, centre, write):
        self.place, self.centre, self.write = place, centre, write

    def sh(self, script, **more):
        return self.place.sh(". ./steps.sh\n" + script, **more)

    def record(self, workload, case, number, **more):
        line = {"environment": self.place.name, "kind": self.place.kind, "emulated": self.place.emulated, "workload": workload, "case": case, "run": number, **more}
        self.write(line)
        return line

    def prepare(self):
        """Whom the place trusts. Only a place that is meant to compile nothing trusts the compiler as well."""
        names = ["ca.pem", "signer.pub"] + (["compiler.pub"] if self.place.trusts_compiled else [])
        files = "".join(f"cat >keys/{name} <<'END'\n{(self.centre.folder / name).read_text(encoding='utf-8').strip()}\nEND\n" for name in names)
        self.place.sh(f"mkdir -p keys\n{files}cat >steps.sh <<'END-OF-STEPS'\n{STEPS}END-OF-STEPS\n")

    def measured(self, workload, case, number, script, timeout, **more):
        """Runs a script that ends with `result`, and notes what went over the link meanwhile."""
        before, began = self.place.wire(), time.monotonic()
        answer = self.sh(script, timeout=timeout)
        after = self.place.wire()
        try:
            got = json.loads(answer.out)
        except json.JSONDecodeError:
            raise Failure(f"{self.place.name}: no result of {workload}: {answer.out}\n{answer.err}") from None
        report = got["report"] or {}
        # Of a node it is the list of its tasks, newest first.
        report = report[0] if isinstance(report, list) else report
        fields = ("digest", "start_tier", "code_origin", "prepare_us", "instantiate_us", "run_us", "peak_memory_bytes")
        report.setdefault("start_tier", report.get("tier"))
        return self.record(
            workload, case, number,
            **{name: report.get(name) for name in fields},
            **{name: got["took"][name] for name in ("wall_us", "user_us", "system_us", "peak_kib")},
            wire={way: after[way] - before[way] for way in before},
            seen_s=round(time.monotonic() - began, 3),
            outputs=got["outputs"], **more,
        )

    def starts(self, name, counts):
        """A small artifact from nothing, from the store, and with compiled code, so many times each."""
        reference, run = self.centre.artifacts[name], "measured vyr run --report report.json"
        for number in range(counts["S0"]):
            self.measured(name, "S0", number, f"fresh starts\n{run} {reference} -- one 'two words'\nresult", 300)
        for number in range(counts["S1"]):
            self.measured(name, "S1", number, f"fresh starts\nvyr pull {reference} >/dev/null 2>&1\n{run} {reference} -- one 'two words'\nresult", 300)
        for number in range(counts["S2"]):
            self.measured(name, "S2", number, f"export VYR_HOME=$HOME/starts\n{run} {reference} -- one 'two words'\nresult", 120)

    def tasks(self, name, repeats):
        """The same artifact as tasks of a node, where one starts: in the cloud through TLS with a token."""
        serve, reference = self.place.serve_arguments(), self.centre.artifacts[name]
        try:
            self.sh(f"fresh tasks\n{self.place.before_node(self.centre)}\nstart_node {serve}")
        except Failure as failure:
            if RESERVED not in str(failure):
                raise
            say(f"{self.place.name}: {NO_NODE}")
            return
        submit = (
            "export VYR_HOME=$HOME/tasks\n"
            f"measured vyr submit $NODE --logs {reference} -- one 'two words'\nvyr tasks $NODE --limit 1 --output json >report.json\nresult"
        )
        for number in range(repeats + 1):
            self.measured(name, "task" if number else "task, first", max(number - 1, 0), submit, 300)
        self.sh("stop_node")

    def events(self, count, repeats):
        """The events are made in the place by a guest, then transformed: once from nothing, then with what is there."""
        make, transform = self.centre.artifacts["event-generate"], self.centre.artifacts["event-transform"]
        self.measured(
            "event-generate", "S0", 0,
            f"fresh events\nrm -rf in\nmkdir in\nmeasured vyr run --report report.json --dir $HOME/in::/in {make} -- --seed 7 --events {count} --to /in\n"
            "result in/*",
            3600, events=count,
        )
        run = (
            "rm -rf made\nmkdir made\n"
            f"measured vyr run --report report.json --dir $HOME/in::/in:ro --dir $HOME/made::/made {transform} -- "
            "/in/events.ndjson --reference /in/devices.csv --to /made\n"
            "result made/*"
        )
        size = int(self.sh("wc -c <in/events.ndjson").out)
        # The one without anything has the artifact to pull, of which the generator's folder knows nothing.
        self.measured("event-transform", "S0", 0, "fresh transform\n" + run, 3600, events=count, input_bytes=size)
        for number in range(repeats):
            self.measured("event-transform", "S2", number, "export VYR_HOME=$HOME/transform\n" + run, 3600, events=count, input_bytes=size)
        self.sh("rm -rf in made")


class Schedule(threading.Thread):
    """Takes the link away and gives it back, by the settings, until it is over."""

    def __init__(self, network, link, plan):
        super().__init__(daemon=True)
        self.network, self.link, self.plan = network, link, plan
        self.over, self.down_s, self.cuts = threading.Event(), 0.0, 0

    def run(self):
        each = self.plan["seconds"] / self.plan["stretches"]
        for _ in range(self.plan["stretches"]):
            self.network.link(self.link, False)
            self.cuts += 1
            began = time.monotonic()
            self.over.wait(each * self.plan["down"])
            self.down_s += time.monotonic() - began
            self.network.link(self.link, True)
            if self.over.wait(each * (1 - self.plan["down"])):
                return


class ByNode:
    """The collector as a task of a node, which pushes by itself."""

    name = "node"

    def __init__(self, runs, arguments):
        self.runs, self.arguments, self.task = runs, arguments, None

    def start(self):
        self.runs.sh(f"export VYR_HOME=$HOME/node\nstart_node {self.runs.place.serve_arguments()}")

    def begin(self):
        self.task = self.runs.sh(f"export VYR_HOME=$HOME/node\nvyr submit $NODE --on-interrupt run-again {self.arguments}").out.strip()

    def look(self):
        return f"vyr status $NODE {self.task} --output json"

    @staticmethod
    def over(seen):
        """What came of it, or None while it runs."""
        if seen["status"] not in ("succeeded", "failed", "lost", "cancelled", "timed_out", "refused"):
            return None
        if seen["status"] != "succeeded":
            raise Failure(f"the collector ended as {seen['status']}: {seen.get('message')}")
        return seen

    def end(self):
        self.runs.sh("stop_node")


class ByRuns:
    """The collector as a process of its own, and a `vyr state sync` every few seconds: for a kernel on which no node starts."""

    name = "runs"

    def __init__(self, runs, arguments):
        self.runs, self.arguments = runs, arguments

    def start(self):
        self.runs.sh(
            "export VYR_HOME=$HOME/node\nrm -f stop\n"
            f"[ -e done.json ] || run_on vyr run --report going.json {self.arguments}\nsync_on readings"
        )

    def begin(self):
        pass

    def look(self):
        return "cat done.json 2>/dev/null || echo null"

    @staticmethod
    def over(seen):
        return seen

    def end(self):
        self.runs.sh("touch stop")


def collector(runs, count, rate, plan):
    """Collects readings through whatever the plan does to the link and the power; the centre counts what arrived."""
    place, centre = runs.place, runs.centre
    repository = f"{REGISTRY}/h1/readings-{place.name}"
    before = place.wire()
    runs.sh(f"fresh node\nrm -f device.acked done.json\n{place.before_node(centre)}\nvyr state create readings --quota 32MiB --sync {repository}")
    # What goes over the link for the artifact is not the readings'.
    runs.sh(f"export VYR_HOME=$HOME/node\nvyr pull {centre.artifacts['collector']} >/dev/null 2>&1", timeout=300)
    pulled = place.wire()
    arguments = (
        f"--allow-net 127.0.0.1:9900 --state readings {centre.artifacts['collector']} -- --from 127.0.0.1:9900 --to /state/readings --count {count}"
    )
    device = f"setsid device-simulator --listen 127.0.0.1:9900 --seed {SEED} --rate {rate} --acked device.acked >>device.log 2>&1 </dev/null &\necho $! >device.pid"
    runs.sh(device)
    way = ByNode(runs, arguments)
    try:
        way.start()
    except Failure as failure:
        if RESERVED not in str(failure):
            raise
        say(f"{place.name}: {NO_NODE}; runs instead")
        way = ByRuns(runs, arguments)
        way.start()
    way.begin()
    schedule = Schedule(place.network, place.link, plan) if plan else None
    began, cut, held, seen, after = time.monotonic(), 0, 0, None, 0
    if schedule:
        schedule.start()
    while True:
        passed = time.monotonic() - began
        # One in each part, in the middle of the time that the link is down.
        if plan and cut < plan["power-cuts"] and passed > (cut + 0.4) * plan["seconds"] / plan["power-cuts"]:
            cut += 1
            place.power_cut()
            runs.sh(device)
            way.start()
            say(f"{place.name}: power cut {cut}, booted in {place.boots[-1]} s")
        got = runs.sh(f'export VYR_HOME=$HOME/node\nprintf \'[%s,%s]\' "$({way.look()})" "$(memory)"', timeout=60).out
        try:
            status, memory = json.loads(got)
        except json.JSONDecodeError:
            raise Failure(f"{place.name}: {way.name} answers `{got}`") from None
        held = max(held, memory)
        if status:
            seen = way.over(status)
        if seen and not after:
            after = passed
        if seen and (not plan or passed >= plan["seconds"]):
            break
        if passed > (plan["seconds"] if plan else 0) + count / rate + 300:
            raise Failure(f"{place.name}: the collector doesn't end: {runs.sh('tail -n 5 collect.log serve.log 2>&1', check=False).out}")
        time.sleep(1)
    lasted = time.monotonic() - began
    if schedule:
        schedule.over.set()
        schedule.join()
    synced = time.monotonic()
    runs.sh("export VYR_HOME=$HOME/node\nuntil vyr state sync readings | tee sync.txt | grep -q ', 0 pending'; do sleep 0.5; done", timeout=600)
    lag = time.monotonic() - synced
    public = runs.sh("cat $HOME/node/keys/machine.pub").out
    wire = {way: amount - pulled[way] for way, amount in place.wire().items()}
    arrived = _verify(runs, centre, repository, public, count)
    way.end()
    runs.sh("kill $(cat device.pid) 2>/dev/null || :\nrm -rf node")
    return runs.record(
        "collector", way.name, 0,
        digest=seen["digest"], start_tier=seen.get("start_tier") or seen.get("tier"), attempts=seen.get("attempt") or seen.get("attempts"),
        acknowledged=arrived["acknowledged"], verified=arrived["verified"], segments=arrived["segments"], segment_bytes=arrived["bytes"],
        power_cuts=cut, link_cuts=schedule.cuts if schedule else 0, link_down_s=round(schedule.down_s, 1) if schedule else 0.0,
        lasted_s=round(lasted, 2), collected_s=round(after, 2), sync_lag_s=round(lag, 2), wire=wire,
        pull_wire={way: pulled[way] - before[way] for way in before}, memory_kib=held, rate=rate, schedule=plan, boots_s=getattr(place, "boots", None),
        outputs={"readings": arrived["readings"]},
    )


def _verify(runs, centre, repository, public, count):
    """Rebuilds the readings at the centre from the registry alone, and has them checked one by one."""
    key = centre.folder / f"{runs.place.name}.pub"
    key.write_text(public, encoding="utf-8")
    centre.run("trust", "add", "--key", key, "--repository", repository)
    copy = centre.folder / f"copy-{runs.place.name}"
    pulled = json.loads(centre.run("state", "pull", repository, "--to", copy, "--output", "json"))
    # In the device's own words, and all of them in one file, whose digest says that every environment sent the same.
    acked, whole = centre.folder / "device.acked", centre.folder / "readings"
    acked.write_text(runs.sh("cat device.acked").out, encoding="ascii")
    words = [centre.programs / "collector-verify", copy, "--seed", SEED, "--count", count, "--acked", acked, "--to", whole]
    checked = call(*words, check=False)
    if checked.returncode != 0:
        raise Failure(f"{runs.place.name}: what arrived at the centre isn't what was collected: {checked.stdout}{checked.stderr}")
    with open(whole, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    said = json.loads(checked.stdout)
    return {"segments": pulled["segments"], "bytes": pulled["bytes"], "acknowledged": said["acknowledged"], "verified": said["verified"], "readings": digest}
