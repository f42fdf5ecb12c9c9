"""docs/overload.md, from bench/results/overload.jsonl alone."""

import argparse
import json
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent

PAGE = """# Overload, slow peers and peers that are gone

A real `vyr serve`, one for each case, on the machine that the attack is made from; meanwhile somebody else calls it, each time
over a connection of its own. `bench/overload` measured it and made this page of `bench/results/overload.jsonl`; it fails where
a bound doesn't hold, and `./test` has its short form, `bench/overload --quick`.

{facts}

| case | what is done | held | KiB each | others P50 | others P99 | ended by the node after | left at the end |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

"KiB each" is the node's own memory, without the kernel's for a socket. "Others" are whole calls of the control API, connection
included, in ms. What is left at the end are MiB that the node holds above what it held before, and descriptors.

## What the limits are

| of | limit |
| --- | --- |
| connections | `--max-connections`, by the port and by the socket each; those beyond are closed at once |
| a TLS handshake | 10 s |
| the first bytes of HTTP, and the headers of a request | 30 s |
| silence within a call's message, within an upload | 60 s; an upload has 1 KiB/s at the least too |
| headers of HTTP/2 | 32 KiB |
| a call's message | 9 MiB |
| calls under way on one connection | 1,024; who resets streams faster than they are answered is told to calm down (`GOAWAY`) |
| a peer that is gone without a word | HTTP/2: asked after 30 s, given up after 50; TCP: after 30 s and 60 |
| a peer that takes nothing of what was sent to it | 60 s |

A connection of HTTP/2 that says nothing but answers pings stays: that is how a client waits. They count towards
`--max-connections`.

## What else was seen

{seen}
"""

WHAT = {
    "idle-tcp": "connections that say nothing",
    "idle-tls": "the same after a TLS handshake",
    "idle-http2": "the same after HTTP/2's preface; no ping is answered",
    "beyond": "twice as many as may be open",
    "slow-head": "a byte of a header each second",
    "slow-body": "calls whose message stops in the middle; pings are answered",
    "no-reader": "followers of 48 MiB of output, who read nothing",
    "slow-reader": "downloads of 32 MiB that nobody takes",
    "half-open": "their cable is cut: HTTP/1 idle and in a header, HTTP/2 in a call",
    "rapid-reset": "streams opened and reset at once (CVE-2023-44487), over two connections without end",
    "streams": "calls without their message, beyond 1,024, over two connections without end",
    "pings": "pings over two connections without end",
    "metadata": "a mebibyte of headers",
    "message": "a message that says it has 64 MiB",
}


def seen(line: dict[str, Any]) -> str | None:
    case = line["case"]
    if "bursts" in line:
        thrown = f"{line['thrown_out']:,} connections were ended by the node"
        return f"- `{case}`: {line['bursts']:,} bursts were sent, {thrown}; it used {line['node_cpus']:g} processors."
    if "answer" in line:
        return f"- `{case}`: answered with {line['answer']}."
    if len(line.get("rounds_mib", [])) > 2:
        rounds = ", ".join(f"{mib:g}" for mib in line["rounds_mib"])
        return f"- `{case}`: {rounds} MiB, each time with as many once more: the allocator keeps it in pieces, which settles slowly."
    if "again_mib" in line:
        twice = f"{line['node_mib']:g} MiB with all of them, and {line['again_mib']:g} MiB with as many once more"
        return f"- `{case}`: {twice}. What was freed stays with the process for the next time."
    if "closed_at_once" in line:
        counts = f"{line['asked_for']:,} were opened, {line['may_be_open']:,} may be"
        return f"- `{case}`: {counts}, {line['closed_at_once']:,} were closed at once."
    return None


def cell(value: object) -> str:
    return "" if value is None else f"{value:,}" if isinstance(value, int | float) else str(value)


def page(lines: list[dict[str, Any]]) -> str:
    head, *cases = lines
    rows = []
    for line in cases:
        wrong = " **" + "; ".join(line["wrong"]) + "**" if line.get("wrong") else ""
        ended = line.get("ended_by_the_node_s")
        left = f"{line.get('left_mib')} MiB, {line.get('left_descriptors')}"
        numbers = (line.get("held"), line.get("kib_each"), line.get("others_p50_ms"), line.get("others_p99_ms"))
        after = "" if ended is None else f"{ended:g} s"
        cells = [f"`{line['case']}`", WHAT[line["case"]] + wrong, *map(cell, numbers), after, left]
        rows.append("| " + " | ".join(cells) + " |")
    machine = f"{head['cores']} × {head['cpu']}, {head['memory_gib']} GiB, Linux {head['kernel']}"
    return PAGE.format(
        facts=f"{head['date']}, {machine}, {', '.join([*head['versions'], *filter(None, [head['note']])])}.",
        rows="\n".join(rows),
        seen="\n".join(filter(None, map(seen, cases))),
    )


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench/overload report")
    parser.add_argument("--results", type=Path, default=PROJECT / "bench/results")
    parser.add_argument("--to", type=Path, default=PROJECT / "docs/overload.md")
    given = parser.parse_args(arguments)
    lines = [json.loads(line) for line in (given.results / "overload.jsonl").read_text().splitlines()]
    given.to.write_text(page(lines))
