"""Growth and density, from bench/results/growth.jsonl alone: tables, pictures, and where a curve stops being what it should."""

import argparse
import html
import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent
IMAGES = PROJECT / "docs/img"
# From one point to the next, what a unit costs grows by no more than this: else the curve has a bend there.
BEND = 1.5
GIB = 1 << 20  # in KiB
COLOURS = ["#2f7d6b", "#c7873a", "#2b6cb0", "#8a4f9e", "#b0413e", "#6b6b6b", "#4f8a2f", "#99604a"]


@dataclass(frozen=True)
class Curve:
    """A case over what grows. `flat`: it should cost the same everywhere; else the same for each unit of what grows."""

    case: str
    flat: bool = False
    tail: bool = False
    drawn: bool = True


@dataclass(frozen=True)
class Family:
    """Curves over the same thing: a table and a picture."""

    part: str
    title: str
    grows: str
    intro: str
    curves: list[Curve]
    axis: Callable[[float], str] = field(default=lambda at: f"{at:,.0f}")


def in_bytes(at: float) -> str:
    return f"{at / (1 << 20):g} MiB" if at >= 1 << 20 else f"{at / 1024:g} KiB"


FAMILIES = [
    Family(
        "tasks",
        "Tasks on record",
        "tasks on record",
        "One more task of `hello` through a node that has so many ended ones, each with its receipt; and what is asked of them. The four\n"
        "nodes ran at the same time and were asked in turns.",
        [
            Curve("submit → end", flat=True, tail=True),
            Curve("submit → start", flat=True, tail=True),
            Curve("newest 100, listed", flat=True),
            Curve("oldest task, by its id", flat=True),
            Curve("a status that none has, all pages"),
            Curve("a label that none has, all pages"),
            Curve("start of the node", flat=True),
            Curve("node's memory", flat=True, drawn=False),
            Curve("database on disk", drawn=False),
        ],
    ),
    Family(
        "artifacts",
        "Artifacts in the store",
        "artifacts",
        "`vyr run` of `hello`, signed and compiled, from a store with so many other artifacts, and what goes over all of them.",
        [
            Curve("vyr run", flat=True, tail=True),
            Curve("vyr inspect", flat=True),
            Curve("vyr artifacts"),
            Curve("vyr gc --dry-run"),
            Curve("layout read in"),
            Curve("database on disk", drawn=False),
        ],
    ),
    Family(
        "modules",
        "Size of a module",
        "code",
        "Made-up modules of so much code, in functions of some 1.2 KiB each of which is another. `vyr run, first` verifies, compiles, seals\n"
        "and runs; each round has a digest of its own. VYR compiles on all cores, the `wasmtime` that `bench -- install` builds on one: CPU\n"
        "time compares the two.",
        [
            Curve("vyr run, first"),
            Curve("wasmtime compile"),
            Curve("vyr run, first: CPU", drawn=False),
            Curve("wasmtime compile: CPU", drawn=False),
            Curve("vyr run, compiled", flat=True),
            Curve("wasmtime run, compiled", flat=True),
            Curve("vyr run, first: memory", drawn=False),
            Curve("wasmtime compile: memory", drawn=False),
        ],
        in_bytes,
    ),
    Family(
        "concurrency",
        "Tasks at the same time",
        "tasks at once",
        "So many tasks that wait a second each, submitted as fast as one client can; a new node each time. *All ended* is the time beyond\n"
        "that second.",
        [
            Curve("all ended"),
            Curve("all submitted"),
            Curve("start, P50"),
            Curve("start, P99"),
            Curve("CPU time of each", flat=True),
            Curve("memory of each", flat=True, drawn=False),
        ],
    ),
]

# Why a curve bends, where that was looked into. Shown only beside a bend that the rule finds.
CAUSES: dict[tuple[str, str], str] = {
    ("artifacts", "database on disk"): "what is small is in the write-ahead log yet, which isn't counted",
}

WAYS = ["VYR task", "vyr run process", "wasmtime process", "crun container", "runc container", "python3 process", "static process"]


class Results:
    def __init__(self, path: Path) -> None:
        self.facts, *lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        self.values: dict[tuple[str, str], dict[float, list[float]]] = {}
        self.units: dict[tuple[str, str], str] = {}
        self.methods: dict[tuple[str, str], dict[float, str]] = {}
        for line in lines:
            key = (line["part"], line["case"])
            self.values.setdefault(key, {}).setdefault(line["at"], []).append(line["value"])
            self.units[key] = line["unit"]
            self.methods.setdefault(key, {})[line["at"]] = line["method"]

    def medians(self, part: str, case: str) -> dict[float, float]:
        found = self.values.get((part, case), {})
        return {at: statistics.median(values) for at, values in sorted(found.items())}

    def pooled(self, part: str, case: str) -> list[float]:
        return [value for values in self.values.get((part, case), {}).values() for value in values]


def table(head: list[str], rows: list[list[str]], right: set[int]) -> str:
    """A table whose columns are aligned in the text too."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: list[str]) -> str:
        padded = (c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        return "| " + " | ".join(padded) + " |"

    rule = "| " + " | ".join("-" * (w - 1) + ":" if i in right else "-" * w for i, w in enumerate(widths)) + " |"
    return "\n".join([line(head), rule, *map(line, rows)]) + "\n"


def plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def shown(value: float, unit: str) -> str:
    if unit == "ms":
        unit, value = ("s", value / 1e3) if value >= 1e3 else ("µs", value * 1e3) if value < 1 else (unit, value)
    if unit in ("KiB", "MiB"):
        while value >= 1024 and unit != "GiB":
            unit, value = {"KiB": "MiB", "MiB": "GiB"}[unit], value / 1024
    return f"{plain(value)} {unit}"


def quantile(values: list[float], share: float) -> float:
    """By the nearest rank, as in VYR's own tables."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


@dataclass(frozen=True)
class Bend:
    before: float
    at: float
    factor: float


def bend(points: dict[float, float], flat: bool) -> Bend | None:
    """The first point at which a unit costs more than 1.5 × what it cost at the point before."""
    steps = list(points.items())
    for (before, low), (at, high) in zip(steps, steps[1:], strict=False):
        factor = high / low if flat else (high / at) / (low / before)
        if factor > BEND:
            return Bend(before, at, factor)
    return None


def growth_table(results: Results, family: Family) -> str:
    rows = []
    places = sorted({at for curve in family.curves for at in results.medians(family.part, curve.case)})
    for curve in family.curves:
        key = (family.part, curve.case)
        points = results.medians(*key)
        if not points:
            continue
        for share in (0.5, 0.99) if curve.tail else (0.5,):
            name = f"{curve.case}, P{share * 100:.0f}" if curve.tail else curve.case
            cells = [
                shown(points[at] if share == 0.5 else quantile(results.values[key][at], share), results.units[key]) if at in points else "-"
                for at in places
            ]
            rows.append([name, *cells])
    return table([family.grows, *map(family.axis, places)], rows, set(range(1, len(places) + 1)))


def bends(results: Results, family: Family) -> str:
    rows = []
    for curve in family.curves:
        points = results.medians(family.part, curve.case)
        if len(points) < 2:
            continue
        found = bend(points, curve.flat)
        last = family.axis(max(points))
        should = "the same" if curve.flat else "in proportion"
        if found:
            per = "" if curve.flat else " for each"
            at = f"at {family.axis(found.at)}: {found.factor:.1f} × what it was{per} at {family.axis(found.before)}"
            rows.append([curve.case, should, at, CAUSES.get((family.part, curve.case), "not looked into")])
        else:
            rows.append([curve.case, should, f"not up to {last}", ""])
    return table(["", "should stay", "leaves that", "because"], rows, set())


def density(results: Results) -> str:
    """What each way to run something takes, and how often it goes into 2 GiB. A way that wasn't measured has no row."""
    rows = []
    fixed = results.medians("density", "sleeping tasks: PSS").get(0, 0) * 1024
    for way in WAYS:
        idle = results.pooled("density", f"idle: {way}")
        if not idle:
            continue
        machine = results.pooled("density", f"idle, of the machine: {way}")
        least = max(statistics.median(idle), statistics.median(machine))
        start = fixed if way == "VYR task" else 0
        (measured,) = results.values["density", f"idle: {way}"]
        rows.append(
            [
                way,
                f"{measured:,.0f}",
                shown(statistics.median(idle), "KiB"),
                shown(statistics.median(machine), "KiB") if statistics.median(machine) > 0 else "less than the noise",
                f"{(2 * GIB - start) / least:,.0f}",
            ]
        )
    idle_table = table(["idle", "measured with", "PSS of each", "of the machine, each", "in 2 GiB, extrapolated"], rows, {1, 2, 3, 4})
    rows = []
    for way in WAYS:
        rates, cpu = results.pooled("density", f"a second: {way}"), results.pooled("density", f"CPU: {way}")
        if not rates:
            continue
        least, most = min(rates), max(rates)
        count = sum(at * len(values) for at, values in results.values["density", f"CPU: {way}"].items())
        first = statistics.median(results.pooled("density", "CPU: VYR task"))
        one = statistics.median(cpu)
        rows.append(
            [way, f"{count:,.0f}", f"{statistics.median(rates):,.0f} ({least:,.0f} to {most:,.0f})", shown(one, "ms"), f"{one / first:.1f} ×"]
        )
    running = table(["`hello`", "measured with", "ended in a second", "CPU time of each", "÷ VYR task"], rows, {1, 2, 3, 4})
    return idle_table + "\n" + running + "\n" + under_load(results)


def under_load(results: Results) -> str:
    """What limits the ends in a second: not the memory."""
    held = results.pooled("density", "memory of the node under load")
    one, client = (statistics.median(results.pooled("density", f"{case}: VYR task")) for case in ("CPU", "CPU, its client"))
    cores = results.facts["cores"]
    return (
        f"The cores end first, not the memory: under that load the node held {shown(statistics.median(held), 'MiB')}, and its client, a Python\n"
        f"program on the same cores, took {shown(client, 'ms')} of CPU time for each task. {cores} cores without a client would do some\n"
        f"{cores * 1e3 / one:,.0f} a second, extrapolated from the CPU time; `bench api` has what a client in Rust reaches.\n"
    )


def limits(results: Results) -> str:
    """How many at once one node really had."""
    points = {at: value for at, value in results.medians("density", "sleeping tasks: PSS").items() if at}
    if not points:
        return ""
    most = max(points)
    each = (points[most] - results.medians("density", "sleeping tasks: PSS")[0]) / most * 1024
    found = bend(points, flat=False)
    text = (
        f"Tried, not extrapolated: one node with {most:,.0f} sleeping tasks held {shown(points[most], 'MiB')}, {shown(each, 'KiB')} for each"
        + (f"; the line bends at {found.at:,.0f}" if found else "; the line is straight up to there")
        + ".\n"
    )
    for at, method in results.methods.get(("density", "sleeping tasks: those that run at the end"), {}).items():
        running = results.medians("density", "sleeping tasks: those that run at the end")[at]
        text += f"Of {at:,.0f} only {running:,.0f} ran: {method}.\n"
    allowed = results.medians("density", "running at once, allowed")
    rows = [["allowed", *(f"{value:,.0f}" for value in allowed.values())]]
    return text + "\n" + table(["`--max-running`", *(f"{at:,.0f}" for at in allowed)], rows, set(range(1, len(allowed) + 1)))


def section(results: Path, images: str = "img") -> str:
    """The chapters "Growth" and "Density". `results` is the folder of raw samples, `images` where the page finds the pictures."""
    read = Results(results / "growth.jsonl")
    facts = read.facts
    quick = " **A short run that shows that the harness works: no figures.**" if facts["quick"] else ""
    taken = ", ".join(f"{part} {values[0][0]:.0f} s" for (part, case), values in read.values.items() if case == "taken in")
    parts = [
        "## Growth\n",
        f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}; {'; '.join(facts['versions'])};\n"
        f"{facts['date']}. Raw: `bench/results/growth.jsonl`, made by `bench/growth` ({taken}).{quick}\n",
        f"{facts['note'][0].upper()}{facts['note'][1:]}.\n",
        f"A curve *leaves* what it should be at the first point where one costs more than {BEND} × what it cost at the point before. Medians,\n"
        "where nothing else is said.\n",
    ]
    for family in FAMILIES:
        if any(read.medians(family.part, curve.case) for curve in family.curves):
            picture = f"![{family.title}: cost over {family.grows}]({images}/h2-growth-{family.part}.svg)\n"
            parts += [f"### {family.title}\n", family.intro + "\n", growth_table(read, family), picture, bends(read, family)]
    if read.pooled("density", "idle: VYR task"):
        parts += [
            "## Density\n",
            "Idle: a guest that wrote to all of its 64 KiB and sleeps; a container and a process that sleep. PSS is what the kernel counts for\n"
            "the processes; *of the machine* is by how much its available memory fell, which has page tables, cgroups and namespaces too, and\n"
            "noise. What fits is by the larger of the two, and extrapolated: nothing else in the 2 GiB, no limit met before.\n",
            density(read),
            limits(read),
            f"![Memory of idle tasks]({images}/h2-growth-density.svg)\n",
            "CPU time stands for energy, which this machine doesn't tell. Of a VYR task it has the signed receipt and what makes it durable;\n"
            "the others keep nothing.\n",
        ]
    return "\n".join(parts)


# Pictures


def decades(low: float, high: float) -> list[float]:
    return [10.0**n for n in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)]


@dataclass
class Line:
    name: str
    points: dict[float, float]
    dashed_from: float = math.inf


def plot(lines: list[Line], across: Callable[[float], str], up: Callable[[float], str], foot: str, mark: tuple[float, str] | None = None) -> str:
    """Lines on two logarithmic scales, each named at its end."""
    width, height, left, right, top, bottom = 800.0, 420.0, 84.0, 550.0, 16.0, 356.0
    xs = [at for line in lines for at in line.points]
    ys = [max(value, 1e-6) for line in lines for value in line.points.values()]
    x_low, x_high = min(xs), max(max(xs), min(xs) * 10)
    rungs = decades(min(ys), max(ys))
    y_low, y_high = rungs[0], rungs[-1] if len(rungs) > 1 else rungs[0] * 10
    x = lambda at: left + (right - left) * math.log10(at / x_low) / math.log10(x_high / x_low)
    y = lambda value: bottom - (bottom - top) * math.log10(max(value, 1e-6) / y_low) / math.log10(y_high / y_low)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif" font-size="12">'
        f'<rect width="{width:.0f}" height="{height:.0f}" fill="#ffffff"/>'
    ]
    for rung in rungs:
        out.append(
            f'<line x1="{left}" y1="{y(rung):.1f}" x2="{right}" y2="{y(rung):.1f}" stroke="#dddddd"/>'
            f'<text x="{left - 8}" y="{y(rung) + 4:.1f}" text-anchor="end" fill="#555555">{html.escape(up(rung))}</text>'
        )
    shown_at: list[float] = []
    for at in sorted(set(xs)):
        out.append(f'<line x1="{x(at):.1f}" y1="{top}" x2="{x(at):.1f}" y2="{bottom}" stroke="#eeeeee"/>')
        if not shown_at or x(at) - x(shown_at[-1]) > 48:
            shown_at.append(at)
            out.append(f'<text x="{x(at):.1f}" y="{bottom + 18:.1f}" text-anchor="middle" fill="#555555">{html.escape(across(at))}</text>')
    if mark:
        value, name = mark
        out.append(
            f'<line x1="{left}" y1="{y(value):.1f}" x2="{right}" y2="{y(value):.1f}" stroke="#222222" stroke-dasharray="2 3"/>'
            f'<text x="{left + 6}" y="{y(value) - 5:.1f}" fill="#222222">{html.escape(name)}</text>'
        )
    names = []
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        places = sorted(line.points)
        for before, at in zip(places, places[1:], strict=False):
            dash = ' stroke-dasharray="5 4"' if at > line.dashed_from else ""
            out.append(
                f'<line x1="{x(before):.1f}" y1="{y(line.points[before]):.1f}" x2="{x(at):.1f}" y2="{y(line.points[at]):.1f}" '
                f'stroke="{colour}" stroke-width="2"{dash}/>'
            )
        for at in places:
            if at <= line.dashed_from:
                out.append(f'<circle cx="{x(at):.1f}" cy="{y(line.points[at]):.1f}" r="3" fill="{colour}"/>')
        names.append([y(line.points[places[-1]]), x(places[-1]), line.name, colour])
    # Names that would lie on one another are moved apart.
    names.sort(key=lambda entry: entry[0])
    for number in range(1, len(names)):
        names[number].append(max(names[number][0], (names[number - 1][-1] if len(names[number - 1]) > 4 else names[number - 1][0]) + 15))
    for entry in names:
        end, from_, name, colour, *moved = entry
        at = moved[0] if moved else end
        out.append(
            f'<line x1="{from_ + 4:.1f}" y1="{end:.1f}" x2="{right + 14}" y2="{at:.1f}" stroke="{colour}" stroke-width="0.7"/>'
            f'<text x="{right + 18}" y="{at + 4:.1f}" fill="{colour}">{html.escape(name)}</text>'
        )
    out.append(f'<text x="{left}" y="{height - 12:.1f}" fill="#777777">{html.escape(foot)}</text></svg>\n')
    return "".join(out)


def clock(ms: float) -> str:
    return f"{ms / 1e3:g} s" if ms >= 1e3 else f"{ms:g} ms" if ms >= 1 else f"{ms * 1e3:g} µs"


def memory(mib: float) -> str:
    return f"{mib:,.0f} MiB" if mib >= 1 else f"{mib * 1024:.0f} KiB"


def pictures(results: Path, folder: Path = IMAGES) -> list[Path]:
    """Draws docs/img/h2-growth-*.svg."""
    read = Results(results / "growth.jsonl")
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for family in FAMILIES:
        lines = [
            Line(curve.case, points)
            for curve in family.curves
            if curve.drawn and len(points := read.medians(family.part, curve.case)) > 1
        ]
        if lines:
            path = folder / f"h2-growth-{family.part}.svg"
            foot = f"{family.title.lower()}: time over {family.grows}, both scales logarithmic; medians"
            path.write_text(plot(lines, family.axis, clock, foot), encoding="utf-8")
            drawn.append(path)
    sleepers = {at: value for at, value in read.medians("density", "sleeping tasks: PSS").items()}
    if sleepers:
        lines = [Line("VYR tasks, one node", {at: value for at, value in sleepers.items() if at})]
        for way in WAYS[1:]:
            found = read.values.get(("density", f"idle: {way}"))
            if found:
                ((count, values),) = found.items()
                each = max(statistics.median(values), statistics.median(read.pooled("density", f"idle, of the machine: {way}"))) / 1024
                far = max(*sleepers, count + 1)
                lines.append(Line(way.replace("process", "processes").replace("container", "containers"), {count: each * count, far: each * far}, count))
        path = folder / "h2-growth-density.svg"
        foot = "memory of idle tasks, both scales logarithmic; dashed: extrapolated from what was measured at the dot"
        path.write_text(plot(lines, lambda at: f"{at:,.0f}", memory, foot, (2048.0, "2 GiB")), encoding="utf-8")
        drawn.append(path)
    return drawn


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench/growth report", description=__doc__)
    parser.add_argument("--results", type=Path, default=PROJECT / "bench/results")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where the pictures go")
    given = parser.parse_args(arguments)
    print(section(given.results), end="")
    pictures(given.results, given.images)
