"""The part of docs/results-h2.md on hosts that serve Wasm over HTTP, and what it says of peers that the samples don't have."""

from collections.abc import Callable
from typing import Any, Protocol

from summary import shown


class Samples(Protocol):
    """As bench/baseline/report has it."""

    facts: dict[str, Any]

    def values(self, case: str) -> list[float]: ...

    def p50(self, case: str) -> float: ...

    def ratio(self, case: str, of: str) -> float: ...


Row = Callable[[Samples, str, str], list[str]]
Table = Callable[[list[str], list[list[str]]], str]

# What a case of the table of processes is called there, if not by its name; and what only has a row where it was measured.
LABELS = {
    "systemd-run --wait --pipe": "`systemd-run --wait --pipe`",
    "vyr run, S2, beside systemd": "`vyr run`, S2, where that systemd is",
}
HOSTS = ["spin up", "wash dev"]
QUESTIONS = {"vyr serve": "task", "spin up": "request", "wash dev": "request"}

# What may be ahead of VYR, and why: without a reason the report fails.
WARM = (
    "A request leaves nothing behind: an instance is made in a process that is there, and its answer is all that there is. A task is in the database before "
    "it starts, so that no kill of the node loses it, its output is kept, and its end is written there with a signed receipt."
)
SHORT = "A run of two rounds: whatever was slow once is in it."
REASONS = {
    "spin up, warm": WARM,
    "wash dev, warm": WARM,
}


def ahead(samples: Samples, name: str, ours: str, theirs: str) -> tuple[str, str]:
    """VYR ÷ it; and the reason, where it is above 1."""
    ratio = samples.ratio(ours, theirs)
    if ratio <= 1:
        return f"{ratio:.2f} ×", ""
    if name not in REASONS and not samples.facts["quick"]:
        raise SystemExit(f"report: {name} is ahead of VYR by {ratio:.2f}, and no reason is given")
    return f"{ratio:.2f} ×", f"- **{name}** ({ratio:.2f} ×): {REASONS.get(name, SHORT)}\n"


def section(samples: Samples, row: Row, table: Table) -> str:
    """Nothing where none of them was measured."""
    hosts = [host for host in HOSTS if samples.values(f"{host}: process → first answer")]
    if not hosts:
        return ""
    rows, reasons = [], []
    for kind, label, unit in (
        ("first", "{}: process → first answer", "ms"),
        ("warm", "{}, warm: {} → answer", "ms"),
        ("RSS", "{}: RSS", "MiB"),
        ("PSS", "{}: PSS", "MiB"),
    ):
        ours = label.format("vyr serve", QUESTIONS["vyr serve"])
        rows.append([*row(samples, ours, f"{ours}, {unit}"), "1.00 ×"])
        for host in hosts:
            case = label.format(host, QUESTIONS[host])
            ratio, reason = ahead(samples, f"{host}, {kind}", ours, case)
            rows.append([*row(samples, case, f"{case}, {unit}"), ratio])
            reasons.append(reason)
    lost = "".join(reasons)
    return (
        "\n### Hosts that serve\n\nSpin and wasmCloud's `wash dev` start code when an HTTP request comes. In each round each of them, and a node of VYR's, is "
        "started, asked five times on one connection, and ended. *First*: from before its process is made to the end of the first answer. *Warm*: the fifth. "
        "Memory is of the process with what it started, after the fifth. Theirs is a component that answers with the line that `hello` prints, read from a file; a question to VYR is a "
        "task of `hello` by gRPC, and its answer is that the task has ended and is recorded. Each had run the same code in earlier rounds, and may have kept what it "
        "compiled. The last column is VYR ÷ it: above 1, VYR loses.\n\n"
        + table(["", "n", "P50", "95 % of P50", "P90", "P99", "VYR ÷ it"], rows)
        + (f"\nAhead of VYR:\n\n{lost}" if lost else "\nNone of them is ahead of VYR.\n")
    )


def systemd(samples: Samples) -> str:
    """How the row of systemd-run came about, and what VYR took beside it."""
    case = "systemd-run --wait --pipe: process"
    if not samples.values(case):
        return ""
    ours = "vyr run, S2, beside systemd: process"
    return (
        f"\n`systemd-run` asks a systemd that is PID 1 of namespaces of its own, has a bus and nothing else to do, and cgroups of the second version without "
        f"controllers; it and `vyr run` beside it were started from within. There, `vyr run` took {shown(samples.p50(ours))} ms, "
        f"{samples.ratio(ours, case):.2f} × the transient unit, the median over rounds.\n"
    )


def absent(samples: Samples) -> str:
    """Rows for what wasn't measured, or not all of it."""
    rows = []
    if not samples.values("systemd-run --wait --pipe: process"):
        rows.append(
            "| a transient unit of systemd | not in these samples: PID 1 of the machine is no systemd. `measure` starts one as PID 1 of namespaces of its own, where "
            "systemd and dbus-daemon are installed |"
        )
    if not samples.values("spin up: process → first answer"):
        rows.append(
            "| Spin | not in these samples: no registry of packages has it, and the build from its repository lacks dependencies that it names by commit; "
            "[what was tried](../bench/baseline/README.md). `measure --spin FILE` measures one that is built |"
        )
    rows.append(
        "| a command by Spin | its trigger for commands is a plugin in a repository of its own, and wasn't tried; Spin itself has HTTP and Redis |"
    )
    if not samples.values("wash dev: process → first answer"):
        rows.append("| wasmCloud's `wash dev` | not in these samples: `measure --wash FILE` measures it |")
    rows.append(
        "| wasmCloud's `wash host`, and `wash` 0.43 of crates.io | a host takes work only from a scheduler over NATS; `wash up` of the older one downloads its host, NATS and "
        "wadm first, which needs the Internet |"
    )
    return "".join(f"{line}\n" for line in rows)
