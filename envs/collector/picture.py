#!/usr/bin/env python3
"""Draws a trace from the file that the Collector wrote: picture.py TRACES.jsonl TRACE_ID > trace.svg"""

import html
import json
import sys


def spans(path, trace):
    """The spans of a trace, by their ids."""
    found = {}
    for line in open(path, encoding="utf-8"):
        for resource in json.loads(line).get("resourceSpans", []):
            for scope in resource["scopeSpans"]:
                found |= {span["spanId"]: span for span in scope["spans"] if span["traceId"] == trace}
    return found


def rows(found):
    """The spans as a tree, each with its depth."""
    def below(parent, depth):
        children = [s for s in found.values() if s.get("parentSpanId", "") == parent]
        for span in sorted(children, key=lambda s: int(s["startTimeUnixNano"])):
            yield depth, span
            yield from below(span["spanId"], depth + 1)

    tops = {s.get("parentSpanId", "") for s in found.values()} - set(found)
    for top in sorted(tops):
        yield from below(top, 0)


def took(nanoseconds):
    for unit, size in (("s", 1e9), ("ms", 1e6), ("µs", 1e3)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.3g} {unit}"
    return f"{nanoseconds} ns"


def draw(found):
    begin = min(int(s["startTimeUnixNano"]) for s in found.values())
    whole = max(int(s["endTimeUnixNano"]) for s in found.values()) - begin
    lines = list(rows(found))
    left, width, row = 230, 640, 22
    height = row * len(lines) + 40
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 90} {height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{left + width + 90}" height="{height}" fill="#ffffff"/>'
    )
    colors = {}
    palette = ["#8a6d3b", "#2f5fd0", "#2f7d6b"]
    for number, (depth, span) in enumerate(lines):
        # The first two are the command's: itself, and its call of the node.
        kind = "a command" if depth < 2 else "a request to a registry" if span["kind"] == 3 else "the node"
        color = colors.setdefault(kind, palette[len(colors) % len(palette)])
        start = int(span["startTimeUnixNano"]) - begin
        length = int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])
        y = 14 + row * number
        x = left + width * start / whole
        yield f'<text x="{12 + 14 * depth}" y="{y + 12}" fill="#222222">{html.escape(span["name"])}</text>'
        yield (
            f'<rect x="{x:.1f}" y="{y}" width="{max(width * length / whole, 1.5):.1f}" height="15" rx="2" fill="{color}"/>'
            f'<text x="{left + width + 12}" y="{y + 12}" fill="#555555">{took(length)}</text>'
        )
    x = left
    for kind, color in colors.items():
        yield f'<rect x="{x}" y="{height - 20}" width="12" height="12" rx="2" fill="{color}"/>'
        yield f'<text x="{x + 18}" y="{height - 10}" fill="#555555">{kind}</text>'
        x += 160
    yield "</svg>"


if __name__ == "__main__":
    wanted = spans(sys.argv[1], sys.argv[2])
    if not wanted:
        sys.exit(f"{sys.argv[1]} holds no span of {sys.argv[2]}")
    print("\n".join(draw(wanted)))
