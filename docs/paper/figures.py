"""The named values of the white paper, each computed from raw files and from nothing else.

A template says `{{NAME}}`; `docs/paper/make` asks `Figures.text(NAME)`. Nothing is read before it is asked for. A case that is not in
its file, or a file that isn't there, is an error with the case's name.

Times are in microseconds inside and are shown with three digits in the unit that fits. P50, P90 and P99 are by the nearest rank, as
in docs/benchmarks.md; intervals are those of bench/baseline/summary (resampled, with a fixed seed).
"""

import json
import math
import random
import re
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

MICROSECONDS = {"ns": 0.001, "us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}
KIB = {"B": 1 / 1024, "KiB": 1.0, "MiB": 1024.0, "GiB": 1024.0 * 1024}
ENVIRONMENTS = ["laptop", "edge-uml", "cloud", "edge-qemu", "edge-aarch64", "cloud-qemu"]
RESAMPLED = 2000
# What a system that runs workloads needs beside them.
PROCESSES = "processes that must run, none of them a workload's"


class Missing(Exception):
    """A value that can't be had, in words for whoever runs `make`."""


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def digits(value: float) -> str:
    size = abs(value)
    return f"{value:,.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def time(us: float) -> str:
    if us < 1000:
        return f"{digits(us)} µs"
    return f"{digits(us / 1e3)} ms" if us < 1e6 else f"{digits(us / 1e6)} s"


def memory(kib: float) -> str:
    if kib < 1024:
        return f"{digits(kib)} KiB"
    return f"{digits(kib / 1024)} MiB" if kib < 10 << 20 else f"{digits(kib / (1 << 20))} GiB"


def size(count: float) -> str:
    return f"{count:,.0f} B" if count < 1024 else memory(count / 1024)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def times(ratio: float) -> str:
    return digits(ratio) if ratio < 10 else f"{ratio:,.0f}"


def table(head: list[str], rows: list[list[object]], right: set[int] = frozenset()) -> str:
    text = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *text]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths))) + " |"

    rule = "| " + " | ".join("-" * (w - 1) + ":" if i in right else "-" * w for i, w in enumerate(widths)) + " |"
    return "\n".join([line(head), rule, *map(line, text)])


def wilson(good: int, all_: int) -> tuple[float, float]:
    z, share = 1.959964, good / all_
    middle, room = share + z * z / (2 * all_), z * math.sqrt(share * (1 - share) / all_ + z * z / (4 * all_ * all_))
    return (middle - room) / (1 + z * z / all_), (middle + room) / (1 + z * z / all_)


class Samples:
    """The samples of one case, in microseconds, KiB or plain numbers."""

    def __init__(self, case: str, values: list[float], kind: str):
        self.case, self.values, self.kind = case, values, kind

    def show(self, value: float) -> str:
        return {"time": time, "memory": memory}.get(self.kind, digits)(value)

    def p(self, share: float) -> float:
        return quantile(self.values, share)

    def interval(self) -> tuple[float, float]:
        """Of the median, at 95 %."""
        if len(self.values) < 3:
            return self.p(0.5), self.p(0.5)
        drawn = random.Random(1)
        medians = sorted(statistics.median(drawn.choices(self.values, k=len(self.values))) for _ in range(RESAMPLED))
        return medians[round(0.025 * RESAMPLED)], medians[round(0.975 * RESAMPLED) - 1]

    def span(self) -> str:
        low, high = (self.show(value) for value in self.interval())
        (a, unit_a), (b, unit_b) = low.split(" ", 1), high.split(" ", 1)
        return f"{a} to {b} {unit_b}" if unit_a == unit_b else f"{low} to {high}"


class Figures:
    def __init__(self, root: Path):
        self.root = root
        self.values: dict[str, Callable[[], str]] = {}
        self.h2 = root / "bench/results/h2.jsonl"
        self.named()

    def text(self, name: str) -> str:
        if name.startswith('"') and name.endswith('"'):
            return name[1:-1]
        if name not in self.values:
            raise Missing(f"no value is named {name} (docs/paper/figures.py)")
        try:
            return self.values[name]()
        except Missing as error:
            raise Missing(f"{name}: {error}") from None

    # Raw files.

    @cache
    def lines(self, file: str) -> list[dict[str, Any]]:
        path = self.root / file
        if not path.exists():
            raise Missing(f"there is no {file}")
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    @cache
    def bench(self, file: str) -> dict[str, list[dict[str, Any]]]:
        facts, *samples = self.lines(f"bench/results/{file}.jsonl")
        if facts.get("quick"):
            raise Missing(f"bench/results/{file}.jsonl is of a short run, which makes no figures")
        cases: dict[str, list[dict[str, Any]]] = {}
        for sample in samples:
            cases.setdefault(sample["case"], []).append(sample)
        return cases

    def facts(self, file: str) -> dict[str, Any]:
        return self.lines(f"bench/results/{file}.jsonl")[0]

    def samples(self, file: str, case: str) -> Samples:
        found = self.bench(file).get(case)
        if not found:
            raise Missing(f"bench/results/{file}.jsonl has no case `{case}`")
        if "wall_us" in found[0]:
            return Samples(case, [s["wall_us"] for s in found], "time")
        unit = found[0]["unit"]
        kind, factor = (
            ("time", MICROSECONDS[unit]) if unit in MICROSECONDS else ("memory", KIB[unit]) if unit in KIB else ("plain", 1.0)
        )
        return Samples(case, [s["value"] * factor for s in found], kind)

    def peak(self, file: str, case: str) -> str:
        self.samples(file, case)
        return memory(max(s["peak_kib"] for s in self.bench(file)[case]))

    def paired(self, file: str, one: str, other: str) -> float:
        """The median over rounds of one by the other: in each round both ran next to each other."""
        self.samples(file, one), self.samples(file, other)
        key = "wall_us" if "wall_us" in self.bench(file)[one][0] else "value"
        others = {s["round"]: s[key] for s in self.bench(file)[other]}
        return statistics.median(s[key] / others[s["round"]] for s in self.bench(file)[one] if s["round"] in others)

    @cache
    def environment(self, name: str) -> dict[str, Any]:
        lines = self.lines(f"envs/results/{name}.jsonl")
        links = [line["link"] for line in lines if "link" in line]
        return {
            "facts": next(line["facts"] for line in lines if "facts" in line),
            "link": links[0] if links else None,
            "runs": [line for line in lines if "run" in line],
        }

    def environments(self) -> list[str]:
        return [name for name in ENVIRONMENTS if (self.root / f"envs/results/{name}.jsonl").exists()]

    def star(self, name: str) -> str:
        return f"{name} *" if self.environment(name)["facts"]["emulated"] else name

    def runs(self, name: str, workload: str, case: str | None = None) -> list[dict[str, Any]]:
        found = [r for r in self.environment(name)["runs"] if r["workload"] == workload and case in (None, r["case"])]
        if not found:
            raise Missing(f"envs/results/{name}.jsonl has no run of {workload}" + (f", case `{case}`" if case else ""))
        return found

    def has(self, name: str, workload: str, case: str | None = None) -> bool:
        return any(r["workload"] == workload and case in (None, r["case"]) for r in self.environment(name)["runs"])

    @cache
    def corpus(self) -> list[dict[str, Any]]:
        return [line for line in self.lines("oci-fallback/corpus/results/cases.jsonl") if "case" in line]

    # Names.

    def name(self, name: str, value: Callable[[], str]) -> None:
        assert name not in self.values, name
        self.values[name] = value

    def family(self, prefix: str, file: str, case: str) -> None:
        """PREFIX.p50, .p90, .p99, .max, .n and .span (the interval of the median) of a case."""
        of = lambda: self.samples(file, case)
        for word, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
            self.name(f"{prefix}.{word}", lambda share=share: of().show(of().p(share)))
        self.name(f"{prefix}.n", lambda: f"{len(of().values):,}")
        self.name(f"{prefix}.span", lambda: of().span())

    def ratio(self, name: str, one: tuple[str, str], other: tuple[str, str]) -> None:
        """Of two medians."""
        self.name(name, lambda: times(self.samples(*one).p(0.5) / self.samples(*other).p(0.5)))

    def named(self) -> None:
        self.named_here()
        self.named_portability()
        self.named_kubernetes()
        self.named_process()
        self.named_node()
        self.named_again()
        self.named_fallback()
        self.named_cited()

    def named_here(self) -> None:
        def machine() -> str:
            seen = {self.shown_machine(file) for file in ("run-process", "in-process", "api-latency", "h2")}
            if len(seen) != 1:
                raise Missing(f"the raw files are of different machines: {'; '.join(sorted(seen))}")
            return seen.pop()

        self.name("machine", machine)
        self.name("wasmtime", lambda: next(v for v in self.facts("in-process")["versions"] if "asmtime" in v))
        self.name("vyr", lambda: next(v for v in self.facts("in-process")["versions"] if v.startswith("vyr")))
        self.name("date", lambda: max(self.dates()))
        self.name("api.calls", lambda: str(len(self.calls())))

    def shown_machine(self, file: str) -> str:
        facts = self.facts(file)
        return f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB of memory, Linux {facts['kernel']}"

    def dates(self) -> list[str]:
        files = ["h2", "run-process", "in-process", "api-latency", "api-throughput", "registry", "pull"]
        made = [self.environment(name)["facts"]["made_at"] for name in self.environments()]
        return [day[:10] for day in [*(self.facts(file)["date"] for file in files), *made]]

    def calls(self) -> list[str]:
        text = (self.root / "proto/vyr/control/v0/control.proto").read_text(encoding="utf-8")
        return re.findall(r"^\s*rpc (\w+)\(", text, re.MULTILINE)

    def named_portability(self) -> None:
        add, ours = self.name, self.environments
        emulated = lambda name: self.environment(name)["facts"]["emulated"]
        add("h1.environments", lambda: str(len(ours())))
        add("h1.measured", lambda: str(sum(not emulated(name) for name in ours())))
        add("h1.emulated", lambda: str(sum(emulated(name) for name in ours())))
        add("h1.runs", lambda: f"{sum(entry['runs'] for entry in self.identities().values())}")
        add("h1.workloads", lambda: str(len(self.identities())))
        add(
            "h1.architectures",
            lambda: " and ".join(sorted({self.environment(n)["facts"]["vyr"].split("/")[-1].strip(")") for n in ours()})),
        )
        for name in ENVIRONMENTS:
            for case in ("S0", "S1", "S2"):
                add(f"h1.{name}.{case}", lambda n=name, c=case: time(self.start(n, c)))
                add(f"h1.{name}.{case}.n", lambda n=name, c=case: str(len(self.runs(n, "hello", c))))
        for name in ("laptop", "edge-uml", "edge-qemu", "cloud"):
            run = lambda n=name: self.runs(n, "collector")[0]
            add(f"h1.{name}.acknowledged", lambda run=run: f"{run()['acknowledged']:,}")
            add(f"h1.{name}.verified", lambda run=run: f"{run()['verified']:,}")
            add(f"h1.{name}.cuts", lambda run=run: str(run()["power_cuts"]))
            add(f"h1.{name}.down", lambda run=run: percent(run()["link_down_s"] / run()["lasted_s"]))
            add(f"h1.{name}.lasted", lambda run=run: f"{run()['lasted_s']:.0f} s")
            add(f"h1.{name}.memory", lambda run=run: memory(run()["memory_kib"]))
            add(f"h1.{name}.wire", lambda run=run: digits(sum(run()["wire"].values()) / run()["segment_bytes"]))
        add("h1.events", lambda: f"{self.runs('laptop', 'event-transform')[0]['events']:,}")
        add("h1.edge.memory", lambda: memory(int(self.environment("edge-uml")["facts"]["memory_kib"])))
        add("h1.edge.given", lambda: f"{self.environment('edge-uml')['facts']['settings']['memory-mib']} MiB")
        add("h1.edge.disk", lambda: f"{self.environment('edge-uml')['facts']['settings']['disk-mib']} MiB")
        link = lambda: self.environment("edge-uml")["facts"]["settings"]["link"]
        add(
            "h1.link",
            lambda: (
                f"{link()['rate-kbit']:,} kbit/s that loses {link()['loss-percent']:g} % each way and delays what goes out by "
                f"{link()['delay-ms']} ± {link()['jitter-ms']} ms"
            ),
        )
        seen = lambda: self.environment("edge-uml")["link"]
        add("h1.link.trip", lambda: f"{seen()['round_trip_ms']['quartiles'][1]:.0f} ms")
        add("h1.link.rate", lambda: f"{seen()['rate_kbit']['in']:,.0f} kbit/s")
        add(
            "h1.link.lost",
            lambda: f"{seen()['lost']} of {seen()['pings']} pings ({seen()['lost_expected']:.0f} were to be expected)",
        )
        add("h1.uml.how", self.how_collected)
        add("h1.compiled", lambda: f"{sum(r.get('code_origin') == 'compiled' for r in self.edge())} of {len(self.edge())}")
        add("h1.promises", lambda: str(len(self.promises())))
        add("h1.broken", lambda: str(sum(not held for *_, held in self.promises())))
        add("h1.table.environments", self.table_environments)
        add("h1.table.identities", self.table_identities)
        add("h1.table.starts", self.table_starts)
        add("h1.table.transform", self.table_transform)
        add("h1.table.collector", self.table_collector)
        add("h1.table.promises", self.table_promises)

    def start(self, name: str, case: str) -> float:
        """From the request to a guest that can begin, the median."""
        return statistics.median(
            r["prepare_us"] + r["instantiate_us"] for r in self.runs(name, "hello", case) if r["prepare_us"] is not None
        )

    def edge(self) -> list[dict[str, Any]]:
        return [r for r in self.environment("edge-uml")["runs"] if r.get("code_origin")]

    def how_collected(self) -> str:
        if self.runs("edge-uml", "collector")[0]["case"] == "node":
            return "as a task of a node"
        return "by `vyr run` and `vyr state sync`, since the node of that version did not start under User-Mode Linux's small address space"

    def identities(self) -> dict[str, dict[str, Any]]:
        """Of each workload its digest, outputs, runs and places; a difference is an error."""
        found: dict[str, dict[str, Any]] = {}
        for name in self.environments():
            for run in self.environment(name)["runs"]:
                entry = found.setdefault(
                    run["workload"], {"digest": run["digest"], "outputs": run["outputs"], "places": set(), "runs": 0}
                )
                if (entry["digest"], entry["outputs"]) != (run["digest"], run["outputs"]):
                    raise Missing(f"{run['workload']} in {name} has another digest or output than elsewhere")
                entry["places"].add(name)
                entry["runs"] += 1
        return found

    def promises(self) -> list[tuple[str, str, str, bool]]:
        start = self.start("edge-uml", "S2")
        compiled = sum(r["code_origin"] == "compiled" for r in self.edge())
        run = self.runs("edge-uml", "collector")[0]
        rows = [
            ("S2 start on User-Mode Linux, P50", time(start), time(50_000), start < 50_000),
            ("runs on the edge that compiled", f"{compiled} of {len(self.edge())}", "0", compiled == 0),
            ("memory of VYR with the collector", memory(run["memory_kib"]), memory(96 << 10), run["memory_kib"] < 96 << 10),
            (
                "readings verified at the centre",
                f"{run['verified']:,}",
                f"{run['acknowledged']:,}",
                run["verified"] == run["acknowledged"],
            ),
        ]
        ratio = sum(run["wire"].values()) / run["segment_bytes"]
        rows.append(("bytes on the wire for the readings, by what is in their files", f"{ratio:.1f}", "1.1", ratio <= 1.1))
        artifacts = self.environment("edge-uml")["facts"]["artifacts"]
        for name in artifacts:
            if self.has("edge-uml", name, "S0"):
                wire = statistics.median(r["wire"]["received"] for r in self.runs("edge-uml", name, "S0"))
                ratio = wire / artifacts[name]["pulled_bytes"]
                rows.append((f"bytes received for the pull of `{name}`, by what is new", f"{ratio:.2f}", "1.1", ratio <= 1.1))
        return rows

    def table_environments(self) -> str:
        rows: list[list[object]] = []
        for name in self.environments():
            facts = self.environment(name)["facts"]
            link = facts["settings"]["link"]
            held = facts.get("limits", {}).get("memory", "").split(" by ")[0] or memory(int(facts["memory_kib"]))
            shape = f"{link['rate-kbit']:,} kbit/s" if link["shaped"] else "not shaped"
            rows.append([self.star(name), facts["kernel_of"], facts["usable_processors"], held, shape])
        return table(["environment", "kernel", "CPUs", "memory", "link"], rows, {2})

    def table_identities(self) -> str:
        rows: list[list[object]] = []
        for workload, entry in self.identities().items():
            outputs = ", ".join(
                f"`{file}` {str(digest)[:8]}…"
                for file, digest in entry["outputs"].items()
                if file != "stdout" or len(entry["outputs"]) == 1
            )
            rows.append([f"`{workload}`", f"`{entry['digest'][7:19]}…`", outputs, entry["runs"], len(entry["places"])])
        return table(["workload", "digest of the artifact", "SHA-256 of the output", "runs", "environments"], rows, {3, 4})

    def table_starts(self) -> str:
        rows: list[list[object]] = []
        for name in self.environments():
            for case in ("S0", "S1", "S2"):
                if not self.has(name, "hello", case):
                    continue
                runs = self.runs(name, "hello", case)
                starts = [r["prepare_us"] + r["instantiate_us"] for r in runs]
                spread = time(statistics.median(starts)) + (
                    f" ({time(min(starts))} to {time(max(starts))})" if len(starts) > 1 else ""
                )
                rows.append(
                    [
                        self.star(name),
                        case,
                        runs[0]["code_origin"],
                        len(runs),
                        spread,
                        time(statistics.median(r["wall_us"] for r in runs)),
                        memory(max(r["peak_kib"] for r in runs)),
                    ]
                )
        return table(["environment", "tier", "code", "n", "request → guest", "process", "peak memory"], rows, {3, 4, 5, 6})

    def table_transform(self) -> str:
        rows: list[list[object]] = []
        for name in self.environments():
            if self.has(name, "event-transform", "S2"):
                runs = self.runs(name, "event-transform", "S2")
                rate = statistics.median(r["input_bytes"] / r["run_us"] for r in runs)
                rows.append(
                    [
                        self.star(name),
                        len(runs),
                        time(statistics.median(r["wall_us"] for r in runs)),
                        f"{rate:.0f} MB/s",
                        memory(max(r["peak_kib"] for r in runs)),
                    ]
                )
        return table(["environment", "n", "process, P50", "while it ran", "peak memory"], rows, {1, 2, 3, 4})

    def table_collector(self) -> str:
        rows: list[list[object]] = []
        for name in self.environments():
            if not self.has(name, "collector"):
                continue
            run = self.runs(name, "collector")[0]
            down = percent(run["link_down_s"] / run["lasted_s"]) if run["link_down_s"] else "–"
            rows.append(
                [
                    self.star(name),
                    f"{run['acknowledged']:,}",
                    f"{run['verified']:,}",
                    run["power_cuts"],
                    down,
                    f"{run['lasted_s']:.0f} s",
                    f"{run['sync_lag_s']:.1f} s",
                    memory(run["memory_kib"]),
                    size(sum(run["wire"].values())),
                ]
            )
        return table(
            [
                "environment",
                "acknowledged",
                "verified",
                "power cuts",
                "link down",
                "lasted",
                "last sync",
                "memory",
                "on the wire",
            ],
            rows,
            set(range(1, 9)),
        )

    def table_promises(self) -> str:
        return table(
            ["promise", "measured", "promised", "held"],
            [[a, b, c, "yes" if held else "**no**"] for a, b, c, held in self.promises()],
            {1, 2},
        )

    # Kubernetes, from h2.jsonl when it is there.

    POD, JOB, ABSENT = "bare Pod, image present", "Job, image present", "Job, image absent"

    def named_kubernetes(self) -> None:
        file, add = "h2", self.name
        for word, case in {
            "k8s.pod": f"{self.POD}: submit → Succeeded",
            "k8s.pod.start": f"{self.POD}: submit → process starts",
            "k8s.pod.told": f"{self.POD}: process ended → Succeeded",
            "k8s.job": f"{self.JOB}: submit → Complete",
            "k8s.job.start": f"{self.JOB}: submit → process starts",
            "k8s.absent": f"{self.ABSENT}: submit → Complete",
            "k8s.absent.start": f"{self.ABSENT}: submit → process starts",
            "k8s.thirty": "30 Jobs at once: first submit → last Complete",
            "k8s.ready": "nothing running → node is Ready",
            "k8s.first": "nothing running → first Job Complete",
            "k8s.rss": "RSS, before load: all 6",
            "k8s.pss": "PSS, before load: all 6",
            "k8s.rss.after": "RSS, after load: all 6",
            "k8s.pss.after": "PSS, after load: all 6",
            "k8s.cpu": "CPU when idle, before load: all 6",
            "k8s.load": "load of the machine",
        }.items():
            self.family(word, file, case)
        for word, case in {
            "processes": PROCESSES,
            "packages": "packages",
            "images": "images beside the workload's",
            "keys": "certificates and keys to make",
            "settings": "files of settings to write",
            "ports": "TCP ports listened on",
        }.items():
            add(f"k8s.{word}", lambda case=case: f"{self.samples(file, f'mandatory components: {case}').values[0]:.0f}")
        add("k8s.disk", lambda: memory(self.samples(file, "programs on disk").values[0]))
        add("k8s.versions", self.versions)
        add(
            "k8s.version",
            lambda: next(v for v in self.facts(file)["versions"] if v.startswith("Kubernetes")).split(" ")[1].lstrip("v"),
        )
        add("k8s.lived", lambda: time(statistics.median(self.lived())))
        add("k8s.pod.waiting", lambda: percent(self.waiting(self.POD, "process ended → Succeeded", "submit → Succeeded")))
        add("k8s.table.starts", self.table_kubernetes)
        add("k8s.table.components", self.table_components)

    def versions(self) -> str:
        words = []
        for line in self.facts("h2")["versions"]:
            if line.startswith(("Kubernetes", "vyr")):
                continue
            name, number = line.split(" ")[0].split("/")[-1], re.search(r"\d+(\.\d+)+", line)
            if number:
                words.append(
                    f"{name.replace('distribution', 'docker-registry') if 'docker-registry' not in line else 'docker-registry'} {number[0]}"
                )
        return ", ".join(words)

    def lived(self) -> list[float]:
        """How long the process of a Pod was there: the whole, less the way to its start and the way from its end."""
        parts = [
            {s["round"]: s["value"] * MICROSECONDS[s["unit"]] for s in self.bench("h2")[f"{self.POD}: {case}"]}
            for case in ("submit → Succeeded", "submit → process starts", "process ended → Succeeded")
        ]
        return [whole - parts[1][at] - parts[2][at] for at, whole in parts[0].items() if at in parts[1] and at in parts[2]]

    def waiting(self, kind: str, part: str, whole: str) -> float:
        self.samples("h2", f"{kind}: {part}"), self.samples("h2", f"{kind}: {whole}")
        return self.paired("h2", f"{kind}: {part}", f"{kind}: {whole}")

    def row(self, file: str, case: str, shown: str | None = None) -> list[object]:
        of = self.samples(file, case)
        return [shown or case, len(of.values), of.show(of.p(0.5)), of.span(), of.show(of.p(0.99)), of.show(of.p(1.0))]

    HEAD = ["case", "n", "P50", "95 % of P50", "P99", "most"]

    def table_kubernetes(self) -> str:
        kinds = [
            (self.POD, ["submit → Succeeded", "submit → process starts", "process ended → Succeeded"]),
            (
                self.JOB,
                [
                    "submit → Complete",
                    "submit → process starts",
                    "process ended → Pod is Succeeded",
                    "Pod is Succeeded → Complete",
                ],
            ),
            (self.ABSENT, ["submit → Complete", "submit → process starts"]),
        ]
        cases = [f"{kind}: {part}" for kind, parts in kinds for part in parts]
        cases += [
            "nothing running → node is Ready",
            "nothing running → first Job Complete",
            "30 Jobs at once: first submit → last Complete",
        ]
        return table(self.HEAD, [self.row("h2", case) for case in cases], {1, 2, 3, 4, 5})

    def component(self, what: str) -> str:
        """How many of something a node of VYR must have."""
        return f"{self.samples('h2', f'vyr, mandatory components: {what}').values[0]:.0f}"

    def table_components(self) -> str:
        """What must be there to run one workload, each counted where it was measured. VYR's column is that of `vyr serve`."""
        text, ours = self.text, self.component
        processes = ours(PROCESSES)
        rows: list[list[object]] = [
            ["processes that must run", text("k8s.processes"), f"{processes} (`vyr run`: none)"],
            ["packages", text("k8s.packages"), f"{ours('packages')} (one of them the system's certificate authorities)"],
            ["images beside the workload's", text("k8s.images"), ours("images beside the workload's")],
            ["certificates and keys to make", text("k8s.keys"), f"{ours('certificates and keys to make')} (the signer's)"],
            ["files of settings to write", text("k8s.settings"), f"{ours('files of settings to write')} (by `vyr trust add`)"],
            ["TCP ports listened on", text("k8s.ports"), ours("TCP ports listened on")],
            [
                "RSS when idle",
                f"{text('k8s.rss.p50')} (n = {text('k8s.rss.n')})",
                f"{text('h2.rss.p50')} (n = {text('h2.rss.n')})",
            ],
            [
                "PSS when idle",
                f"{text('k8s.pss.p50')} (n = {text('k8s.pss.n')})",
                f"{text('h2.pss.p50')} (n = {text('h2.pss.n')})",
            ],
        ]
        return table(["", "Kubernetes, one node", "VYR, one node"], rows, set())

    # VYR beside what users would pick instead, in one file: h2.jsonl.

    def named_process(self) -> None:
        for word, case in {
            "h2.s0": "vyr run, S0: process",
            "h2.s1": "vyr run, S1: process",
            "h2.s2": "vyr run, S2: process",
            "h2.task": "vyr task, S3: submit → completed",
            "h2.first": "vyr task, S3: submit → first instruction",
            "h2.nothing": "vyr: nothing installed → first result",
            "h2.wasmtime": "wasmtime run, compiled: process",
            "h2.crun": "crun run: process",
            "h2.runc": "runc run: process",
            "h2.python": "python3 -c pass: process",
            "h2.rss": "RSS, before load: vyr",
            "h2.pss": "PSS, before load: vyr",
            "h2.argo": "Argo workflow of one step, image present: submit → Succeeded",
            "h2.wash": "wash dev: process → first answer",
            "h2.serve": "vyr serve: process → first answer",
        }.items():
            self.family(word, "h2", case)
        # The same command on another machine.
        for word, case in {
            "xeon.s0": "vyr run, S0: process",
            "xeon.s2": "vyr run, S2: process",
            "xeon.cold": "vyr task, artifact absent: submit → first instruction",
            "xeon.s1": "vyr task, S1: submit → first instruction",
            "xeon.compiling": "wasmtime run, from .wasm: process",
        }.items():
            self.family(word, "h2-xeon", case)
        self.name("xeon.machine", lambda: self.shown_machine("h2-xeon"))
        self.ratio(
            "xeon.job.by.task",
            ("h2-xeon", f"{self.JOB}: submit → Complete"),
            ("h2-xeon", "vyr task, S3: submit → completed"),
        )
        self.family("h2.compiling", "h2", "wasmtime run, from .wasm: process")
        vyr, pod = ("h2", "vyr task, S3: submit → completed"), ("h2", f"{self.POD}: submit → Succeeded")
        self.ratio("h2.pod.by.task", pod, vyr)
        self.ratio("h2.job.by.task", ("h2", f"{self.JOB}: submit → Complete"), vyr)
        self.ratio(
            "h2.start.by.first",
            ("h2", f"{self.POD}: submit → process starts"),
            ("h2", "vyr task, S3: submit → first instruction"),
        )
        self.ratio("h2.start.by.s2", ("h2", f"{self.POD}: submit → process starts"), ("h2", "vyr run, S2: process"))
        self.ratio("h2.start.by.s0", ("h2", f"{self.ABSENT}: submit → process starts"), ("h2", "vyr run, S0: process"))
        self.ratio("h2.job.by.s0", ("h2", f"{self.ABSENT}: submit → Complete"), ("h2", "vyr run, S0: process"))
        self.ratio(
            "h2.first.by.nothing",
            ("h2", "nothing running → first Job Complete"),
            ("h2", "vyr: nothing installed → first result"),
        )
        self.ratio("h2.s2.by.wasmtime", ("h2", "vyr run, S2: process"), ("h2", "wasmtime run, compiled: process"))
        self.ratio("h2.crun.by.s2", ("h2", "crun run: process"), ("h2", "vyr run, S2: process"))
        self.ratio("h2.runc.by.s2", ("h2", "runc run: process"), ("h2", "vyr run, S2: process"))
        self.ratio("h2.argo.by.pod", ("h2", "Argo workflow of one step, image present: submit → Succeeded"), pod)
        self.ratio(
            "h2.systemd.by",
            ("h2", "systemd-run --wait --pipe: process"),
            ("h2", "vyr run, S2, beside systemd: process"),
        )
        self.name("h2.table", self.table_h2)
        self.name("h2.quicker", self.quicker)
        self.name("h2.verdict", self.verdict)
        self.name("h2.held", self.held)

    VYR = [
        "vyr run, S0: process",
        "vyr run, S1: process",
        "vyr run, S2: process",
        "vyr task, S3: submit → completed",
        "vyr task, S3: submit → first instruction",
        "vyr: nothing installed → first result",
    ]
    PEERS = ["wasmtime run, compiled: process", "crun run: process", "runc run: process", "python3 -c pass: process"]

    def table_h2(self) -> str:
        cluster = [
            f"{self.POD}: submit → process starts",
            f"{self.POD}: submit → Succeeded",
            f"{self.JOB}: submit → Complete",
            f"{self.ABSENT}: submit → Complete",
            "nothing running → first Job Complete",
        ]
        return table(self.HEAD, [self.row("h2", case) for case in [*self.VYR, *self.PEERS, *cluster]], {1, 2, 3, 4, 5})

    def quicker(self) -> str:
        """The peers whose median is below that of a compiled, cached, verified `vyr run`."""
        own = self.samples("h2", "vyr run, S2: process").p(0.5)
        found = [
            f"{case.split(':')[0]} ({time(self.samples('h2', case).p(0.5))})"
            for case in self.PEERS
            if self.samples("h2", case).p(0.5) < own
        ]
        return ", ".join(f"`{entry.split(' (')[0]}` ({entry.split(' (')[1]}" for entry in found) or "none of them"

    def parts_of_h2(self) -> list[tuple[str, str, str, str, bool]]:
        pairs = [
            (
                "VYR starts sooner, warm: submit → first instruction, a Pod's process",
                "vyr task, S3: submit → first instruction",
                f"{self.POD}: submit → process starts",
            ),
            (
                "VYR starts sooner with nothing there: the whole run, the start of a Job's process",
                "vyr run, S0: process",
                f"{self.ABSENT}: submit → process starts",
            ),
            (
                "VYR is up sooner: nothing → first result, first Job Complete",
                "vyr: nothing installed → first result",
                "nothing running → first Job Complete",
            ),
        ]
        rows = []
        for what, one, other in pairs:
            a, b = self.samples("h2", one), self.samples("h2", other)
            rows.append((what, time(a.p(0.5)), time(b.p(0.5)), times(b.p(0.5) / a.p(0.5)), a.interval()[1] < b.interval()[0]))
        processes = int(self.text("k8s.processes"))
        own = int(self.component(PROCESSES))
        rows.append(("VYR needs fewer processes", str(own), str(processes), times(processes / own), processes > own))
        return rows

    def held(self) -> str:
        parts = self.parts_of_h2()
        good = sum(held for *_, held in parts)
        return f"its {len(parts)} parts hold" if good == len(parts) else f"{good} of its {len(parts)} parts hold"

    def verdict(self) -> str:
        """H2's parts, each by its medians; one holds where the intervals are apart."""
        return table(
            ["H2", "VYR", "Kubernetes", "times", "held"],
            [[*row, "yes" if held else "**no**"] for *row, held in self.parts_of_h2()],
            {1, 2, 3},
        )

    # VYR alone, and beside peers in its own benchmarks.

    # The file and the case of each.
    CASES = {
        "run.vyr": ("run-process", "vyr run"),
        "run.wasmtime": ("run-process", "wasmtime run"),
        "run.crun": ("run-process", "crun run"),
        "in.s3": ("in-process", "S3 hello-p1"),
        "in.s2": ("in-process", "S2 hello-p1"),
        "in.bare.s3": ("in-process", "bare S3 hello-p1"),
        "in.bare.s2": ("in-process", "bare S2 hello-p1"),
        "in.python": ("in-process", "S2 py-hello"),
        "api.s3": ("api-latency", "S3: first instruction"),
        "api.s3.node": ("api-latency", "S3: submit_to_start"),
        "api.s3.answer": ("api-latency", "S3: submit to answer"),
        "api.s2": ("api-latency", "S2: first instruction"),
        "api.s1": ("api-latency", "S1: submit_to_start"),
        "api.echo": ("api-latency", "S3: echo"),
        "rate.cycles": ("api-throughput", "32 connections: cycles"),
        "rate.echo": ("api-throughput", "32 connections: echo"),
        "rate.long": ("api-throughput", "32 connections: cycles, 1000000 tasks before"),
        "receipts.with": ("api-receipts", "receipts: cycles with"),
        "receipts.without": ("api-receipts", "receipts: cycles without"),
        "telemetry.with": ("api-telemetry", "telemetry: cycles, all sent to a collector"),
        "telemetry.without": ("api-telemetry", "telemetry: cycles, telemetry off"),
        "cancel": ("api-cancel", "cancel: sent to answer"),
        "node.rss": ("api-memory", "node: idle, RSS"),
        "node.pss": ("api-memory", "node: idle, PSS"),
        "node.task": ("api-memory", "waiting: each task, RSS"),
        "node.instance": ("api-memory", "running: each instance, RSS"),
        "pull.vyr": ("pull", "vyr pull 512 MiB"),
        "pull.oras": ("pull", "oras pull 512 MiB"),
        "push.vyr": ("registry", "vyr serve: push 512 MiB"),
        "push.registry": ("registry", "docker-registry: push 512 MiB"),
        "serve.vyr": ("registry", "vyr serve: pull 512 MiB"),
        "serve.registry": ("registry", "docker-registry: pull 512 MiB"),
        "container.vyr": ("containers", "by libcontainer"),
        "container.crun": ("containers", "crun run"),
        "container.run": ("containers", "vyr run, whole process"),
        "store.one": ("store-size", "run, 1 artifact"),
        "store.many": ("store-size", "run, 100000 artifacts"),
    }

    def named_node(self) -> None:
        for word, (file, case) in self.CASES.items():
            self.family(word, file, case)
        for word, file, one, other in [
            ("run.by.wasmtime", "run-process", "vyr run", "wasmtime run"),
            ("run.by.crun", "run-process", "vyr run", "crun run"),
            ("pull.by.oras", "pull", "vyr pull 512 MiB", "oras pull 512 MiB"),
            ("container.by.crun", "containers", "by libcontainer", "crun run"),
            ("push.by.registry", "registry", "vyr serve: push 512 MiB", "docker-registry: push 512 MiB"),
            ("serve.by.registry", "registry", "vyr serve: pull 512 MiB", "docker-registry: pull 512 MiB"),
        ]:
            self.name(word, lambda f=file, a=one, b=other: times(self.paired(f, a, b)))
        self.name("run.slower", self.slower)
        self.ratio("api.by.echo", ("api-latency", "S3: first instruction"), ("api-latency", "S3: echo"))
        self.ratio("receipts.kept", ("api-receipts", "receipts: cycles with"), ("api-receipts", "receipts: cycles without"))
        self.ratio(
            "telemetry.kept",
            ("api-telemetry", "telemetry: cycles, all sent to a collector"),
            ("api-telemetry", "telemetry: cycles, telemetry off"),
        )
        self.name("pull.vyr.peak", lambda: self.peak("pull", "vyr pull 512 MiB"))
        self.name("pull.oras.peak", lambda: self.peak("pull", "oras pull 512 MiB"))
        self.name(
            "fall.limit",
            lambda: time(
                self.samples("fallback-decision", "limit: fell back").p(0.5)
                - self.samples("fallback-decision", "limit: fell back, peer: asked for").p(0.5)
            ),
        )
        self.name("fall.n", lambda: f"{len(self.samples('fallback-decision', 'limit: fell back').values)}")
        self.name("bench.table", self.table_bench)

    def slower(self) -> str:
        self.samples("run-process", "vyr run"), self.samples("run-process", "wasmtime run")
        peers = {s["round"]: s["wall_us"] for s in self.bench("run-process")["wasmtime run"]}
        rounds = [s["wall_us"] > peers[s["round"]] for s in self.bench("run-process")["vyr run"] if s["round"] in peers]
        return f"{sum(rounds)} of {len(rounds)}"

    # What VYR's medians are held against: what it is, VYR's, the peer's, and who that is.
    BESIDE = [
        (
            "whole process, hello module, verified, compiled code on disk (S2)",
            "run.vyr",
            "run.wasmtime",
            "`wasmtime run`, precompiled, no store, no signature",
        ),
        ("the same", "run.vyr", "run.crun", "`crun run` of a bare busybox bundle"),
        ("in process, compiled code mapped (S3)", "in.s3", "in.bare.s3", "bare Wasmtime, pooled"),
        ("in process, compiled code on disk (S2)", "in.s2", "in.bare.s2", "bare Wasmtime"),
        (
            "through the API, durable: submit → first instruction (S3)",
            "api.s3",
            "api.echo",
            "an empty gRPC call on the same stack",
        ),
        ("pull of a layer of 512 MiB, verified and synced", "pull.vyr", "pull.oras", "`oras pull`, not synced"),
        ("push of such a layer by `oras`, synced", "push.vyr", "push.registry", "`docker-registry`, not synced"),
        ("pull of the same by `oras`", "serve.vyr", "serve.registry", "`docker-registry`"),
        (
            "a container, start to exit, all limits on",
            "container.vyr",
            "container.crun",
            "`crun run` of the same bundle without the filter",
        ),
    ]

    def table_bench(self) -> str:
        text = self.text
        rows: list[list[object]] = []
        for what, own, peer, peer_name in self.BESIDE:
            rows.append([what, text(f"{own}.n"), text(f"{own}.p50"), text(f"{own}.p99"), text(f"{peer}.p50"), peer_name])
        return table(["what", "n", "VYR P50", "VYR P99", "peer P50", "peer"], rows, {1, 2, 3, 4})

    # The same once more, of a later commit: bench/results/again/.

    def medians_again(self, word: str) -> tuple[Samples, Samples]:
        """Of a name of `CASES` the samples of both runs."""
        file, case = self.CASES[word]
        return self.samples(file, case), self.samples(f"again/{file}", case)

    def named_again(self) -> None:
        peers = sorted({peer for _, _, peer, _ in self.BESIDE})

        def slower() -> str:
            shares = [later.p(0.5) / first.p(0.5) for first, later in map(self.medians_again, peers)]
            return f"{times(min(shares))} to {times(max(shares))}"

        self.name("again.slower", slower)
        self.name("again.machine", lambda: self.shown_machine("again/run-process"))
        self.name("again.date", lambda: self.facts("again/run-process")["date"][:10])
        self.name("again.table", self.table_again)

    def table_again(self) -> str:
        """VYR's median by the peer's, then and now: what of a figure is the machine's day, and what is VYR's."""
        rows: list[list[object]] = []
        more = [("tasks a second, 32 clients", "rate.cycles", "rate.echo", "the empty call")]
        more.append(("the same, with receipts", "receipts.with", "receipts.without", "without"))
        more.append(("the same, all telemetry to a collector", "telemetry.with", "telemetry.without", "telemetry off"))
        more.append(("a run with 100,000 artifacts in the store", "store.many", "store.one", "with one"))
        for what, own, peer, peer_name in [*self.BESIDE, *more]:
            (own_then, own_now), (peer_then, peer_now) = self.medians_again(own), self.medians_again(peer)
            then, now = own_then.p(0.5) / peer_then.p(0.5), own_now.p(0.5) / peer_now.p(0.5)
            shown = [own_now.show(own_now.p(0.5)), peer_now.show(peer_now.p(0.5))]
            rows.append([what, peer_name.split(",")[0], times(then), times(now), *shown])
        return table(["what", "peer", "VYR ÷ peer, first", "again", "VYR P50, again", "peer P50, again"], rows, {2, 3, 4, 5})

    # The container fallback.

    def named_fallback(self) -> None:
        add = self.name

        def share(of: list[dict[str, Any]]) -> str:
            if not of:
                raise Missing("oci-fallback/corpus/results/cases.jsonl has no such runs")
            good = sum(r["ok"] for r in of)
            low, high = wilson(good, len(of))
            return f"{100 * good / len(of):.1f} % ({good} of {len(of)}; {100 * low:.1f} to {100 * high:.1f})"

        def only(engine: str, rights: str) -> list[dict[str, Any]]:
            return [r for r in self.corpus() if (r["engine"], r["rights"]) == (engine, rights)]

        add("fallback.all", lambda: share(self.corpus()))
        add("fallback.good", lambda: str(sum(r["ok"] for r in self.corpus())))
        add("fallback.runs", lambda: str(len(self.corpus())))
        add("fallback.cases", lambda: str(len({r["case"] for r in self.corpus()})))
        for engine in ("libcontainer", "crun"):
            for rights in ("root", "rootless"):
                add(f"fallback.{engine}.{rights}", lambda e=engine, r=rights: share(only(e, r)))
        bad = lambda: [r for r in self.lines("oci-fallback/corpus/results/bad.jsonl") if "case" in r]
        add("fallback.bad", lambda: f"{sum(r['ok'] for r in bad())} of {len(bad())}")
        add(
            "fallback.table",
            lambda: table(
                ["engine and rights", "did what they should"],
                [[f"{e}, {r}", share(only(e, r))] for e in ("libcontainer", "crun") for r in ("root", "rootless")],
            ),
        )

    # What others publish.

    def named_cited(self) -> None:
        entries = [
            json.loads(line) for line in (Path(__file__).parent / "cited.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        sources = list(dict.fromkeys((e["source"], e["address"]) for e in entries))
        self.name(
            "cited.table", lambda: table(["source", "address"], [[source, f"<{address}>"] for source, address in sources])
        )
        for entry in entries:
            self.name(f"cited.{entry['name']}", lambda e=entry: e["value"])
            self.name(f"cited.{entry['name']}.link", lambda e=entry: f"[{e['source']}]({e['address']})")
