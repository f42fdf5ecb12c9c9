"""docs/chaos.md, from bench/results/chaos.jsonl alone."""

import argparse
import json
import re
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent

PAGE = """# Chaos under load

A real node under load, whose machine is broken at random moments; afterwards everything that it had acknowledged is looked for.
`bench/chaos` made it and this page, from `bench/results/chaos.jsonl`. To have it again, as root: `bench/chaos --minutes 60
--seed {seed}` and `bench/chaos report`. `./test` has the short form, `bench/chaos --quick`.

{facts}

## What was broken

| fault | times | |
| --- | --- | --- |
{faults}

The node was started {starts} times, and answered after {p50} ms at the median and {max} ms at most. {refused}

## What was acknowledged, and what was found

| | acknowledged | accounted for | what counts |
| --- | --- | --- | --- |
{account}

**{verdict}** {minutes} minutes; the last fault over, all tasks had ended after {tasks_drained_s} s and all segments were
at the centre after {segments_drained_s} s. `vyr doctor` ended with {doctor}; every blob of the store was hashed once more by
another program, and {unsound} had another content; one more kill changed no end. {watched} ends that watchers had been told
of are the ends on record.

| how tasks ended | |
| --- | --- |
{ends}

{run_again} attempts that a death of the node cut off were made again, as their submits said. A task whose submit said nothing
is `lost` when the node died while it ran: that is its one truthful end. {unanswered} tasks were made by submits whose answer
never came.

Of {output} of output {dropped} were dropped, and counted as dropped, while the disk was full.

| what clients saw | |
| --- | --- |
{calls}

## What it doesn't show

- Power cuts: a kill leaves what the kernel has. `./test` cuts the power after each system call of the store, of synced states
  and of the tasks, and the [disconnected collector](../workloads/disconnected-collector/README.md) cuts it under a real file
  system.
- Writes that are torn, disks that lie: the same tests.
- The clock that jumps is the one that the node's process is told, by libfaketime; its monotonic clock is the machine's.
- The cable that is cut joins the node to a `docker-registry`; clients are on the node's side of it, and see kills.

## What it has found

| run | what was wrong | mended, with the test |
| --- | --- | --- |
| the seed 20261126 | the check itself: eight cancels of tasks that had ended before, as was answered | `bench/chaos_check.py` |
| the seed 20261128 | a task that was to have its second attempt when the node was killed: what that wrote was told as the first one's | `node::logs::what_an_attempt_writes_is_its_own_also_when_the_node_died_before_it_began` |
| a short form, the seed 88201523 | a connection whose transaction a full disk had ended refused every other one until the node was started anew: segments waited for eight minutes | `sqlite::tests::whose_transaction_a_full_disk_ended_is_replaced_before_the_next_begins`, `node::disk::a_node_whose_disk_was_full_goes_on_when_there_is_room_again` |
| the seed 20261129 | a node that found its disk full when it had taken up its tasks already: threads of guests panicked while it ended | `node::crash::a_node_that_can_not_start_has_not_looked_at_its_tasks` |

## All runs

| date | commit | seed | minutes | faults | acknowledged | lost or wrong |
| --- | --- | --- | --- | --- | --- | --- |
{runs}
"""

PLANNED = ("kill", "stop", "freeze", "guest killed", "disk full", "cut", "clock")
FAULTS = {
    "kill": "SIGKILL for the node; back after up to 3 s",
    "kill while the disk was full": "of these",
    "stop": "SIGTERM, with two seconds for what runs",
    "stop that a full disk held up": "of these, ended by SIGKILL after 30 s",
    "freeze": "SIGSTOP for 0.5 to 4 s",
    "guest killed": "SIGKILL for a process of a container",
    "disk full": "an ext4 of its own with 0 bytes to 1 MiB left, for 2 to 12 s",
    "cut": "no packet between node and registry, for 2 to 25 s",
    "clock": "the node's wall clock jumps, by up to three days either way",
}


def rows(pairs: Any) -> str:
    return "\n".join(
        "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in row) + " |" for row in pairs
    )


def acknowledged(line: dict[str, Any]) -> int:
    return sum(
        line[name] for name in ("tasks_acknowledged", "pushes_acknowledged", "blobs_acknowledged", "records_acknowledged")
    )


def size(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 10240:
            return f"{count:,.0f} {unit}"
        count //= 1024
    return f"{count:,.0f} GiB"


def page(lines: list[dict[str, Any]]) -> str:
    line = max((line for line in lines if not line["quick"]), key=lambda line: (round(line["minutes"] / 10), line["date"]))
    refused = line["starts_refused_on_a_full_disk"]
    versions = ", ".join(line["versions"])
    machine = f"{line['cores']} × {line['cpu']}, {line['memory_gib']} GiB"
    whole = "a task: once under its key, with an end, a receipt and all of its output"
    text = PAGE.format(
        seed=line["seed"],
        facts=f"{line['date']}, commit {line['commit']}, {machine}, Linux {line['kernel']}, {versions}.",
        faults=rows((name, line["faults"].get(name, 0), words) for name, words in FAULTS.items()),
        starts=line["node_starts"],
        p50=line["node_ready_ms"]["p50"],
        max=line["node_ready_ms"]["max"],
        refused=f"{refused:,} starts were refused on a full disk, in words that say so."
        if refused
        else "No start was refused.",
        account=rows(
            [
                ("submits", line["tasks_acknowledged"], line["tasks_accounted_for"], whole),
                ("pushes", line["pushes_acknowledged"], line["pushes_whole"], "manifest and content by their digests, whole"),
                (
                    "blobs alone",
                    line["blobs_acknowledged"],
                    line["blobs_whole"],
                    "answered with 201 before the rest of the push",
                ),
                (
                    "records",
                    line["records_acknowledged"],
                    line["records_whole"],
                    "at the centre once, whole and in their order",
                ),
                (
                    "cancels",
                    line["cancels_answered_with_an_end"],
                    line["cancels_kept"],
                    "answered with the task's end, which is the end on record",
                ),
                (
                    "cancels before the end",
                    line["cancels_answered_before_the_end"],
                    line["cancels_before_the_end_kept"],
                    "answered before the task had ended; it is not lost, and was not run again",
                ),
            ]
        ),
        verdict="Nothing that was acknowledged is missing."
        if not line["findings"]
        else f"{line['findings']} things were found wrong. {line.get('note', '')}".strip(),
        minutes=f"{line['minutes']:g}",
        tasks_drained_s=line["tasks_drained_s"],
        segments_drained_s=line["segments_drained_s"],
        doctor=line["doctor"],
        unsound=line["store_unsound"],
        watched=line["ends_told_to_watchers"],
        ends=rows(line["ends"].items()),
        run_again=f"{line['run_again']:,}",
        unanswered=f"{line['tasks_made_by_submits_that_were_never_answered']:,}",
        output=size(line["output_bytes"]),
        dropped=size(line["output_bytes_dropped"]),
        calls=rows(line["calls"].items()),
        runs=rows(
            (
                line["date"],
                line["commit"],
                str(line["seed"]),
                f"{line['minutes']:g}",
                sum(count for name, count in line["faults"].items() if name in PLANNED),
                acknowledged(line),
                line["findings"],
            )
            for line in lines
            if not line["quick"]
        ),
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="bench/chaos report")
    parser.add_argument("--results", type=Path, default=PROJECT / "bench/results")
    parser.add_argument("--to", type=Path, default=PROJECT / "docs/chaos.md")
    given = parser.parse_args(arguments)
    lines = [json.loads(line) for line in (given.results / "chaos.jsonl").read_text().splitlines()]
    given.to.write_text(page(lines))
