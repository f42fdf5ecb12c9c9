"""docs/results-h1.md and its pictures, from the raw results and from nothing else."""

import html
import json
import math
import statistics

from .common import PROJECT, say

INTRO = """# One digest, three environments

The direct test of H1: each workload is pushed once and signed once, and the same digest runs on a laptop, on a constrained edge
device and on a cloud machine, by the same script. `envs/run` made all of it and wrote this page from the raw results in
[envs/results/](../envs/results/); [envs/README.md](../envs/README.md) says what the environments are.
"""


def read(folder):
    """Facts, link and runs of each environment, in the order of the page."""
    order = ["laptop", "edge-uml", "edge-qemu", "edge-aarch64", "cloud", "cloud-qemu"]
    found = {}
    for file in folder.glob("*.jsonl"):
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        facts = next((line["facts"] for line in lines if "facts" in line), None)
        if facts and any("run" in line for line in lines):
            links = [line["link"] for line in lines if "link" in line]
            found[file.stem] = {"facts": facts, "link": links[0] if links else None, "runs": [line for line in lines if "run" in line]}
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else 99))


def table(head, rows, right=()):
    """A table whose columns are aligned in the text too."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells):
        return "| " + " | ".join(c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(cells, widths))) + " |"

    rule = "| " + " | ".join("-" * (w - 1) + ":" if i in right else "-" * w for i, w in enumerate(widths)) + " |"
    return "\n".join([line(head), rule, *map(line, rows)]) + "\n"


def ms(us):
    value = us / 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms" if value < 10_000 else f"{value / 1000:.1f} s"


def size(count):
    for unit, step in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"


def quantile(values, q):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(q * len(ordered)) - 1 if q else 0)]


def spread(values, show):
    """The median, and where there are several, the least and the most."""
    middle = show(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({show(min(values))} to {show(max(values))})"


def named(environment, found):
    return f"{environment} *" if found[environment]["facts"]["emulated"] else environment


def select(found, environment, workload, case=None):
    return [run for run in found[environment]["runs"] if run["workload"] == workload and case in (None, run["case"])]


def start_us(run):
    """From the request to a guest that can begin."""
    return run["prepare_us"] + run["instantiate_us"]


def environments(found):
    rows = []
    for name, parts in found.items():
        facts = parts["facts"]
        link = facts["settings"]["link"]
        shape = f"{link['rate-kbit']} kbit/s, {link['delay-ms']} ± {link['jitter-ms']} ms, {link['loss-percent']} % lost" if link["shaped"] else "not shaped"
        memory = facts.get("limits", {}).get("memory") or size(int(facts["memory_kib"]) << 10)
        rows.append([named(name, found), f"{facts['kernel']}, {facts['kernel_of']}", facts["usable_processors"], memory, facts["uid"], shape])
    return "## Environments\n\n" + table(["", "kernel", "CPUs", "memory", "uid", "link"], rows, {2, 4}) + starred(found)


def starred(found):
    if not any(parts["facts"]["emulated"] for parts in found.values()):
        return ""
    return (
        "\n\\* Emulated in software: its times are those of the emulation, and say nothing of any device. Such environments may have been run\n"
        "apart; a push of the same file gives the same digest, and the comparison below is over all of them.\n"
    )


def links(found):
    rows = []
    for name, parts in found.items():
        if link := parts["link"]:
            trip, rate = link["round_trip_ms"], link["rate_kbit"]
            rows.append([
                named(name, found), f"{trip['quartiles'][1]} ms", f"{trip['quartiles'][0]} to {trip['quartiles'][2]} ms", f"{link['lost']} of {link['pings']} ({link['lost_expected']} expected)",
                f"{rate['in']} kbit/s", f"{rate['out']} kbit/s",
            ])
    if not rows:
        return ""
    return (
        "## The link, measured\n\nEach way loses its part, so of round trips about twice that is lost. Of an even jitter, half is within half\n"
        "of its bounds: 175 to 225 ms.\n\n" + table(["", "round trip, median", "half of them", "lost pings", "in", "out"], rows, {4, 5})
    )


def identities(found):
    first, rows = {}, []
    for name in found:
        for run in found[name]["runs"]:
            entry = first.setdefault(run["workload"], {"digest": run["digest"], "outputs": run["outputs"], "places": set(), "count": 0})
            if entry["digest"] != run["digest"] or entry["outputs"] != run["outputs"]:
                raise SystemExit(f"{run['workload']} isn't the same everywhere: {run} against {entry}")
            entry["places"].add(name)
            entry["count"] += 1
    for workload, entry in first.items():
        for i, (file, digest) in enumerate(entry["outputs"].items()):
            rows.append(["" if i else workload, "" if i else f"`{entry['digest'][7:19]}…`", file, f"`{str(digest)[:16]}…`" if len(str(digest)) == 64 else f"`{digest}`", "" if i else f"{entry['count']} runs in {len(entry['places'])} environments"])
    return "## One digest, one output\n\n" + table(["workload", "artifact", "output", "sha256", "the same in"], rows)


def starts(found):
    rows = []
    for name in found:
        for case in ("S0", "S1", "S2", "task, first", "task", "service"):
            if runs := select(found, name, "hello", case):
                rows.append([
                    named(name, found), case if case[0] == "S" else f"{case}, {runs[0]['start_tier']}", runs[0]["code_origin"] or "", len(runs), spread([start_us(r) for r in runs if r["prepare_us"] is not None] or [0], ms), spread([r["wall_us"] for r in runs], ms),
                    ms(statistics.median(r["user_us"] + r["system_us"] for r in runs)), size(max(r["peak_kib"] for r in runs) << 10),
                    size(int(statistics.median(sum(r["wire"].values()) for r in runs))),
                ])
    if not rows:
        return ""
    return (
        "## Starts\n\nOf a small artifact (`hello`), as processes of their own. S0: nothing is there; S1: the artifact is in the store; S2: its compiled code\n"
        "too. *Adopted* code was compiled elsewhere by a signer with that right, and came with the artifact. A *task* is handed to a node\n"
        "and waited for, in the cloud through TLS with a token; the process is then the client's. A *service* is the unit of VYR's\n"
        "package under systemd, and its client is at the centre. Medians, with the least and the most.\n\n"
        + table(["", "tier", "code", "runs", "request → guest", "whole process", "CPU", "peak memory", "on the wire"], rows, {3, 4, 5, 6, 7, 8})
        + "\n![Starts in all environments](img/h1-starts.svg)\n"
    )


def transforms(found):
    rows = []
    for name in found:
        for case in ("S0", "S2"):
            if runs := select(found, name, "event-transform", case):
                rate = [r["input_bytes"] / r["run_us"] for r in runs]
                rows.append([
                    named(name, found), case, runs[0]["code_origin"], len(runs), spread([r["wall_us"] for r in runs], ms), f"{statistics.median(rate):.0f} MB/s",
                    ms(statistics.median(r["user_us"] + r["system_us"] for r in runs)), size(max(r["peak_kib"] for r in runs) << 10),
                    size(int(statistics.median(sum(r["wire"].values()) for r in runs))),
                ])
    if not rows:
        return ""
    one = next(run for name in found for run in select(found, name, "event-transform"))
    return (
        f"## Event transform\n\n{one['events']:,} events ({size(one['input_bytes'])}), made in each environment by `event-generate`.\n\n"
        + table(["", "tier", "code", "runs", "whole process", "while it ran", "CPU", "peak memory", "on the wire"], rows, {3, 4, 5, 6, 7, 8})
        + "\n![The transform in all environments](img/h1-events.svg)\n"
    )


def collected(found):
    rows = []
    for name in found:
        for run in select(found, name, "collector"):
            down = f"{100 * run['link_down_s'] / run['lasted_s']:.0f} %" if run["link_down_s"] else "-"
            rows.append([
                named(name, found), run["case"], run["acknowledged"], run["verified"], run["power_cuts"], down, f"{run['lasted_s']:.0f} s", f"{run['sync_lag_s']:.1f} s",
                run["segments"], size(run["memory_kib"] << 10), size(sum(run["wire"].values())),
            ])
    if not rows:
        return ""
    return (
        "## Disconnected collector\n\nReadings from a simulated device go to a synced state; the centre rebuilds them from the registry alone and checks each. Where the\n"
        "power was cut, the guest was killed while it wrote, and booted again on the disk as it was. Bytes are those that the port of the\n"
        "link counted, those of tries that failed included, and the pull of the artifact not. Memory is the most that was seen, once a\n"
        "second, of all processes of VYR together. *By* says how: as a task of a node, or, where no node starts, by `vyr run` and\n"
        "`vyr state sync`.\n\n"
        + table(["", "by", "acknowledged", "verified", "power cuts", "link down", "lasted", "last sync", "segments", "memory", "on the wire"], rows, set(range(2, 11)))
    )


def targets(found):
    """What was promised, against what came out."""
    rows = []

    def hold(what, measured, limit, met):
        rows.append([what, measured, limit, "yes" if met else "**no**"])

    if "edge-uml" in found:
        if runs := select(found, "edge-uml", "hello", "S2"):
            middle = statistics.median(start_us(r) for r in runs)
            hold("S2 start on User-Mode Linux, P50", ms(middle), "50 ms", middle < 50_000)
        edge = [r for r in found["edge-uml"]["runs"] if r.get("code_origin")]
        if edge:
            compiled = sum(r["code_origin"] == "compiled" for r in edge)
            hold("runs on the edge that compiled", f"{compiled} of {len(edge)}", "0", compiled == 0)
        for run in select(found, "edge-uml", "collector"):
            hold("memory of VYR with the collector on the edge", size(run["memory_kib"] << 10), "96 MiB", run["memory_kib"] < 96 << 10)
            hold("readings verified at the centre", run["verified"], f"{run['acknowledged']} acknowledged", run["verified"] == run["acknowledged"])
            ratio = sum(run["wire"].values()) / run["segment_bytes"]
            hold("bytes on the wire for the readings ÷ what is in their files", f"{ratio:.1f}", "1.1", ratio <= 1.1)
        new = found["edge-uml"]["facts"]["artifacts"]
        for name in new:
            if runs := select(found, "edge-uml", name, "S0"):
                wire = statistics.median(r["wire"]["received"] for r in runs)
                ratio = wire / new[name]["pulled_bytes"]
                hold(f"bytes received for the pull of {name} ÷ what is new", f"{ratio:.2f}", "1.1", ratio <= 1.1)
    if not rows:
        return ""
    return "## Against the promises\n\n" + table(["", "measured", "promised", "held"], rows, {1, 2})


COLOURS = {"S0": "#9a9a9a", "S1": "#c7873a", "S2": "#2f7d6b"}


def picture(rows, foot):
    """Bars from the least to the most on a log scale, a mark and the number for the median; rows are (label, case, values in µs)."""
    every = [max(value, 0.1) for _, _, values in rows for value in values]
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    left, width, row = 170.0, 520.0, 26.0
    height = len(rows) * row + 50
    x = lambda us: left + width * (math.log10(max(us, 0.1)) - low) / max(high - low, 1)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 790 {height:.0f}" font-family="sans-serif" font-size="12">'
        f'<rect width="790" height="{height:.0f}" fill="#ffffff"/>'
    ]
    for decade in range(low, high + 1):
        at = x(10**decade)
        label = f"{10**decade / 1e6:g} s" if decade >= 6 else f"{10**decade / 1e3:g} ms" if decade >= 3 else f"{10**decade:g} µs"
        out.append(f'<line x1="{at:.1f}" y1="10" x2="{at:.1f}" y2="{height - 34:.1f}" stroke="#dddddd"/><text x="{at:.1f}" y="{height - 18:.1f}" text-anchor="middle" fill="#555555">{label}</text>')
    for i, (label, case, values) in enumerate(rows):
        y, fill = 14 + row * i, COLOURS[case]
        first, middle, last = x(min(values)), x(statistics.median(values)), x(max(values))
        out.append(
            f'<text x="{left - 10:.1f}" y="{y + 11:.1f}" text-anchor="end" fill="#222222">{html.escape(label)}</text>'
            f'<rect x="{first:.1f}" y="{y:.1f}" width="{max(last - first, 2):.1f}" height="14" rx="2" fill="{fill}" opacity="0.45"/>'
            f'<rect x="{middle - 1.5:.1f}" y="{y - 2:.1f}" width="3" height="18" fill="{fill}"/>'
            f'<text x="{last + 6:.1f}" y="{y + 11:.1f}" fill="#222222">{ms(statistics.median(values))}</text>'
        )
    out.append(f'<text x="{left}" y="{height - 4:.1f}" fill="#777777">{html.escape(foot)}</text></svg>\n')
    return "".join(out)


def pictures(found, folder):
    drawn = {
        "h1-starts.svg": ("hello", ("S0", "S1", "S2"), start_us, "request to guest; bar from the least to the most, mark and number the median; * emulated"),
        "h1-events.svg": ("event-transform", ("S0", "S2"), lambda run: run["wall_us"], "whole process; bar from the least to the most, mark and number the median; * emulated"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, (workload, cases, value, foot) in drawn.items():
        rows = [
            (f"{named(name, found)} {case}", case, [value(run) for run in select(found, name, workload, case)])
            for case in cases for name in found if select(found, name, workload, case)
        ]
        if rows:
            (folder / file).write_text(picture(rows, foot), encoding="utf-8")


def write(results, page=None):
    page = page or PROJECT / "docs/results-h1.md"
    found = read(results)
    if not found:
        raise SystemExit(f"there are no results in {results}; `envs/run` makes them")
    parts = [INTRO, environments(found), links(found), identities(found), targets(found), starts(found), transforms(found), collected(found), versions(found)]
    pictures(found, page.parent / "img")
    page.write_text("\n".join(part for part in parts if part), encoding="utf-8")
    say(f"wrote {page}")


def versions(found):
    facts = next(iter(found.values()))["facts"]
    rows = [[name, f"`{about['reference']}`", size(about["bytes"]), size(about["compiled_bytes"])] for name, about in facts["artifacts"].items()]
    return (
        f"## With what\n\n{facts['vyr']}, of {facts['made_at'][:10]}, on {facts['cpu']}; the cores of the machine are shared with other work, and every environment with\n"
        "a kernel of its own runs on the same ones.\n\n" + table(["artifact", "reference", "Wasm", "compiled"], rows, {2, 3})
    )
