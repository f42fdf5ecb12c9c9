"""Sums up raw samples as tables of all rows.

python3 bench/baseline/summary.py [FILE]     prints them; FILE is bench/results/h2.jsonl unless given
"""

import json
import math
import random
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
RAW = HERE.parent / "results/h2.jsonl"
RESAMPLED = 2000


def quantile(values: list[float], share: float) -> float:
    """By the nearest rank, as in VYR's own tables."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def interval(values: list[float]) -> str:
    """The 95 % confidence interval of the median, by resampling; the seed is fixed: the same file gives the same text."""
    if len(values) < 3:
        return ""
    drawn = random.Random(1)
    medians = sorted(statistics.median(drawn.choices(values, k=len(values))) for _ in range(RESAMPLED))
    return f"{shown(medians[round(0.025 * RESAMPLED)])} – {shown(medians[round(0.975 * RESAMPLED) - 1])}"


def shown(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def summary(raw: Path) -> str:
    facts, *samples = map(json.loads, raw.read_text().splitlines())
    cases: dict[str, list[dict]] = {}
    for sample in samples:
        cases.setdefault(sample["case"], []).append(sample)
    quick = " **A short run that shows that the harness works: no figures.**" if facts["quick"] else ""
    machine = f"{facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB, Linux {facts['kernel']}"
    lines = [
        f"{machine}; {facts['date']}; {'; '.join(facts['versions'])}.{quick}",
        "",
        f"{facts['note'][0].upper()}{facts['note'][1:]}.",
        "",
        "| case | unit | n | P50 | 95 % of P50 | P90 | P99 | max |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    single = ["", "| count | value | method, or what was counted |", "| --- | ---: | --- |"]
    for case, of_case in cases.items():
        values, unit = [sample["value"] for sample in of_case], of_case[0]["unit"]
        if unit == "count" or case.endswith("programs on disk"):
            counted = f"{values[0]:.0f}" if unit == "count" else f"{shown(values[0])} {unit}"
            single.append(f"| {case} | {counted} | {of_case[0]['method']} |")
            continue
        figures = [
            shown(quantile(values, 0.5)),
            interval(values),
            *(shown(quantile(values, share)) for share in (0.9, 0.99)),
            shown(max(values)),
        ]
        lines.append(f"| {case} | {unit} | {len(values)} | {' | '.join(figures)} |")
    return "\n".join([*lines, *single]) + "\n"


def main() -> None:
    print(summary(Path(sys.argv[1]) if sys.argv[1:] else RAW), end="")


if __name__ == "__main__":
    main()
