"""The white paper's pictures as SVG: drawings of the design, told in words below, and plots of raw samples.

They are legible on light and on dark, as docs/img/trust-boundaries.svg is. `docs/paper/make` writes them to docs/img/.
"""

import html
import math
import statistics

from figures import MICROSECONDS, Figures, time

STYLE = """<style>
.page{fill:#fff}.node{fill:#f4f4f4;stroke:#000}.box{fill:#eee;stroke:#000}.bad{fill:#fff;stroke:#000;stroke-dasharray:2 3}
.wall{fill:none;stroke:#b00020;stroke-width:2;stroke-dasharray:7 5}.way{fill:none;stroke:#333;stroke-width:1.2}.no{fill:none;stroke:#b00020;stroke-width:1.2}
.head{fill:#333}.nohead{fill:#b00020}.grid{stroke:#ddd}.vyr{fill:#2f7d6b}.peer{fill:#9a9a9a}.wait{fill:#c7873a}.work{fill:#2f7d6b}.end{fill:#9a9a9a}
text{font-family:Liberation Sans,Helvetica,Arial,sans-serif;font-size:14px;fill:#111}.small{font-size:12px;fill:#444}.mid{text-anchor:middle}.right{text-anchor:end}.strong{font-weight:bold}
@media (prefers-color-scheme:dark){.page{fill:#16181c}.node{fill:#1f2228;stroke:#bbb}.box{fill:#2a2e36;stroke:#bbb}.bad{fill:#16181c;stroke:#bbb}
.wall,.no{stroke:#ff6b81}.nohead{fill:#ff6b81}.way{stroke:#ccc}.head{fill:#ccc}.grid{stroke:#3a3f48}.vyr,.work{fill:#55b39d}.wait{fill:#d9a066}text{fill:#eee}.small{fill:#bbb}}
</style>"""
HEADS = (
    '<defs><marker id="to" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto"><path class="head" d="M0,0 L9,4 L0,8 Z"/></marker>'
    '<marker id="no" markerWidth="9" markerHeight="9" refX="8" refY="4" orient="auto"><path class="nohead" d="M0,0 L9,4 L0,8 Z"/></marker></defs>'
)


class Drawing:
    def __init__(self, width: int, height: int, title: str, tells: str):
        self.width, self.height = width, height
        self.out = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="100%" style="max-width: {width}px;" viewBox="0 0 {width} {height}" role="img" aria-labelledby="title desc">',
            f'<title id="title">{html.escape(title)}</title>',
            f'<desc id="desc">{html.escape(tells)}</desc>',
            STYLE,
            HEADS,
            f'<rect class="page" width="{width}" height="{height}"/>',
        ]

    def text(self, x: float, y: float, words: str, kind: str = "") -> None:
        self.out.append(
            f'<text class="{kind}" x="{x:g}" y="{y:g}">{html.escape(words)}</text>'
            if kind
            else f'<text x="{x:g}" y="{y:g}">{html.escape(words)}</text>'
        )

    def box(self, x: float, y: float, w: float, h: float, words: str, below: str = "", kind: str = "box") -> None:
        """A box with a name in its middle and smaller words below it, one line each."""
        self.out.append(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="5"/>')
        lines = below.split("|") if below else []
        top = y + h / 2 + 5 - 9 * len(lines)
        self.text(x + w / 2, top, words, "mid")
        for i, line in enumerate(lines):
            self.text(x + w / 2, top + 18 * (i + 1), line, "mid small")

    def frame(self, x: float, y: float, w: float, h: float, words: str) -> None:
        self.out.append(f'<rect class="node" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="6"/>')
        self.text(x + 14, y + 22, words, "strong")

    def way(self, *points: tuple[float, float], no: bool = False) -> None:
        path = " L".join(f"{x:g},{y:g}" for x, y in points)
        self.out.append(f'<path class="{"no" if no else "way"}" marker-end="url(#{"no" if no else "to"})" d="M{path}"/>')

    def bar(self, x: float, y: float, w: float, h: float, kind: str, opacity: float = 1) -> None:
        faint = f' opacity="{opacity:g}"' if opacity != 1 else ""
        self.out.append(f'<rect class="{kind}" x="{x:.1f}" y="{y:g}" width="{max(w, 1.5):.1f}" height="{h:g}" rx="2"{faint}/>')

    def line(self, x: float, top: float, bottom: float) -> None:
        self.out.append(f'<line class="grid" x1="{x:.1f}" y1="{top:g}" x2="{x:.1f}" y2="{bottom:g}"/>')

    def svg(self) -> str:
        return "\n".join([*self.out, "</svg>"]) + "\n"


def architecture() -> str:
    d = Drawing(
        940,
        500,
        "The parts of VYR",
        "Registries, bundles, clients and web browsers are outside. Inside of one process are the server, the node with its queue, the operations resolve, pull, verify, prepare and run, "
        "and below them store, trust, engine, fallback and state. Guests run in the process, containers beside it. States are synced to a registry.",
    )
    d.box(16, 96, 166, 56, "registries, bundles", "artifacts, signatures", "bad")
    d.box(16, 222, 166, 56, "clients", "gRPC, oras, a browser", "bad")
    d.box(16, 404, 166, 56, "a registry far away", "segments of states", "bad")
    d.frame(222, 16, 494, 468, "one process, one data folder")
    d.box(246, 52, 206, 52, "server", "gRPC, /v2/, page, who calls")
    d.box(486, 52, 206, 52, "node", "queue, attempts, outputs")
    d.box(246, 136, 446, 52, "operations", "resolve → pull → verify → prepare → run")
    d.box(246, 222, 136, 56, "store", "bytes by digest")
    d.box(401, 222, 136, 56, "trust", "policy → Verified")
    d.box(556, 222, 136, 56, "receipt", "what happened")
    d.box(246, 312, 136, 56, "engine", "Wasmtime, WASI")
    d.box(401, 312, 136, 56, "fallback", "may it, and why")
    d.box(556, 312, 136, 56, "tasks on disk", "one writer")
    d.box(246, 404, 446, 56, "states", "folders and keys, quotas, segments")
    d.box(756, 222, 168, 56, "Wasm guests", "in the node's process", "bad")
    d.box(756, 312, 168, 56, "containers", "on the node's kernel", "bad")
    d.way((182, 124), (242, 158))
    d.way((182, 250), (206, 250), (206, 78), (242, 78))
    d.way((452, 78), (482, 78))
    d.way((589, 104), (589, 132))
    for x in (314, 469, 624):
        d.way((x, 188), (x, 218))
    d.way((314, 278), (314, 308))
    d.way((469, 278), (469, 308))
    d.way((624, 278), (624, 308))
    d.way((382, 328), (391, 328), (391, 294), (736, 294), (736, 250), (752, 250))
    d.way((537, 350), (546, 350), (546, 386), (736, 386), (736, 340), (752, 340))
    d.way((314, 368), (314, 400))
    d.way((242, 432), (186, 432))
    return d.svg()


def task() -> str:
    d = Drawing(
        940,
        330,
        "The life of a task",
        "A submit makes a task that is queued, prepared or running. Preparing resolves, pulls, verifies and compiles, and may end in refused or failed. Before the guest's first instruction, "
        "running is on disk. A running task ends as succeeded, failed, timed out, cancelled, or lost when the node died.",
    )
    d.box(16, 96, 104, 56, "submit", "", "bad")
    d.box(170, 96, 130, 56, "queued", "on disk")
    d.box(360, 96, 190, 56, "preparing", "resolve, pull, verify, compile")
    d.box(630, 96, 130, 56, "running", "on disk first")
    for i, (words, below) in enumerate(
        [("succeeded", ""), ("failed", "its own exit, a trap"), ("timed out", ""), ("cancelled", ""), ("lost", "the node died")]
    ):
        d.box(812, 10 + 60 * i, 116, 46, words, below, "node")
    d.box(360, 232, 90, 46, "refused", "", "node")
    d.box(460, 232, 90, 46, "failed", "not started", "node")
    d.way((120, 124), (166, 124))
    d.way((300, 124), (356, 124))
    d.way((550, 124), (626, 124))
    d.way((405, 152), (405, 228), no=True)
    d.way((505, 152), (505, 228), no=True)
    for i in (1, 2, 3, 4, 0):
        d.way((760, 124), (784, 124), (784, 33 + 60 * i), (808, 33 + 60 * i), no=i > 0)
    d.way((695, 152), (695, 196), (235, 196), (235, 156))
    d.text(514, 190, "another attempt, if asked for", "small")
    d.text(328, 116, "a place", "small mid")
    d.text(588, 116, "may have run", "small mid")
    d.text(16, 300, "A submit that was answered is on disk. An end is told when it is on disk, and is not taken back.", "small")
    d.text(
        16,
        318,
        "A cancel ends a task in any of the first three states. What was queued or being prepared when the node died runs at its next start.",
        "small",
    )
    return d.svg()


def trust() -> str:
    d = Drawing(
        940,
        360,
        "From a reference to a guest that may start",
        "The reference gives a digest. The bytes have that digest or are refused. The policy's longest matching rule asks for a signature over that digest by a key or an identity that it names; without one it is refused. "
        "What passes is Verified and the only thing that the engine and the fallback accept. Native code needs a right of its own.",
    )
    d.box(16, 40, 130, 60, "reference", "names a digest", "bad")
    d.box(196, 40, 150, 60, "bytes", "each hashed on arrival")
    d.box(396, 40, 170, 60, "rule", "longest matching prefix")
    d.box(616, 40, 150, 60, "signature", "one, good in every way")
    d.box(800, 40, 124, 60, "Verified", "a type", "node")
    d.box(800, 160, 124, 60, "engine", "Wasmtime")
    d.box(800, 262, 124, 74, "fallback", "a container, where|the Wasm can't start")
    d.box(196, 190, 570, 52, "refused: exit code 126, and why, and what to do next", "", "node")
    d.box(396, 284, 370, 52, "code compiled elsewhere", "by a key with that right, and an exact fit; else compiled here", "bad")
    d.way((146, 70), (192, 70))
    d.way((346, 70), (392, 70))
    d.way((566, 70), (612, 70))
    d.way((766, 70), (796, 70))
    d.way((862, 100), (862, 156))
    d.way((862, 220), (862, 258))
    d.way((271, 100), (271, 186), no=True)
    d.way((481, 100), (481, 186), no=True)
    d.way((691, 100), (691, 186), no=True)
    d.way((766, 310), (783, 310), (783, 190), (796, 190))
    d.text(279, 148, "another digest", "small")
    d.text(489, 148, "a rule that rejects", "small")
    d.text(699, 148, "none, or a stranger's", "small")
    d.text(16, 352, "red: a refusal, which nothing gets round", "small")
    return d.svg()


def chain() -> str:
    d = Drawing(
        940,
        314,
        "How a state is synced",
        "A guest closes a file in the outbox: a record, acknowledged and on disk. Records and changed files become segments, each with the digest of the one before. They are pushed to a repository when it can be reached, and signed. "
        "The far side reads from the first to the head, verifies digests, order and signature, or names what is missing. Two nodes that go on from one segment fork, and both chains stay.",
    )
    d.frame(16, 16, 250, 236, "the device")
    d.box(40, 52, 202, 50, "a guest closes a file", "in outbox/: acknowledged, on disk")
    d.box(40, 126, 202, 50, "sealed as a segment", "the digest of the one before in it")
    d.box(40, 192, 202, 44, "waits", "counted to the quota")
    d.frame(320, 16, 300, 236, "a repository of any registry")
    for i in range(3):
        d.box(342 + 90 * i, 60, 76, 50, f"segment {i + 1}", "", "box")
    d.way((432, 78), (421, 78))
    d.way((522, 78), (511, 78))
    d.text(470, 134, "each names the digest before it", "small mid")
    d.box(342, 152, 120, 44, "head", "moved at the end", "node")
    d.box(484, 152, 114, 44, "signature", "by the node's key", "node")
    d.text(470, 222, "nothing that was pushed is changed", "small mid")
    d.frame(674, 16, 250, 236, "the far side")
    d.box(698, 52, 202, 50, "reads 1 … head", "no gap, in order")
    d.box(698, 126, 202, 50, "verifies", "digests, lineage, signer")
    d.box(698, 192, 202, 44, "files, or an error", "that names what is wrong")
    d.way((141, 102), (141, 122))
    d.way((141, 176), (141, 188))
    d.way((242, 214), (292, 214), (292, 86), (338, 86))
    d.way((620, 86), (646, 86), (646, 77), (694, 77))
    d.way((799, 102), (799, 122))
    d.way((799, 176), (799, 188))
    d.text(
        16,
        280,
        "The link may be down for as long as the quota lasts. A push that broke is repeated: a segment's name is its content, so twice is once.",
        "small",
    )
    d.text(
        16,
        300,
        "Two nodes that go on from one segment fork: both chains stay, and both nodes and every reader say so. Nothing is merged, and no clock decides.",
        "small",
    )
    return d.svg()


def axis(d: Drawing, low: int, high: int, left: float, width: float, top: float, bottom: float) -> None:
    for decade in range(low, high + 1):
        x = left + width * (decade - low) / (high - low)
        d.line(x, top, bottom)
        d.text(
            x,
            bottom + 18,
            f"{10**decade / 1e6:g} s" if decade >= 6 else f"{10**decade / 1e3:g} ms" if decade >= 3 else f"{10**decade:g} µs",
            "mid small",
        )


def spans(figures: Figures, rows: list[tuple[str, str, str, str]], title: str, foot: str) -> str:
    """A bar from P10 to P90 on a log scale, a mark and the number for the median, of (words, file, case, kind)."""
    found = [(words, figures.samples(file, case), kind) for words, file, case, kind in rows]
    ends = [value for _, s, _ in found for value in (s.p(0.1), s.p(0.9))]
    low, high = math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends)))
    left, width, step = 330.0, 490.0, 28
    height = 16 + step * len(found) + 50
    d = Drawing(
        940, height, title, "; ".join(f"{words}: median {time(s.p(0.5))}, n = {len(s.values)}" for words, s, _ in found)
    )
    axis(d, low, high, left, width, 8, 16 + step * len(found))
    for i, (words, s, kind) in enumerate(found):
        y = 16 + step * i
        at = lambda us: left + width * (math.log10(us) - low) / (high - low)
        d.text(left - 12, y + 14, words, "right")
        d.bar(at(s.p(0.1)), y + 2, at(s.p(0.9)) - at(s.p(0.1)), 14, kind, 0.45)
        d.bar(at(s.p(0.5)) - 1.5, y, 3, 18, kind)
        d.text(max(at(s.p(0.9)), at(s.p(0.5))) + 8, y + 14, f"{time(s.p(0.5))}  (n = {len(s.values)})", "small")
    d.text(left, height - 8, foot, "small")
    return d.svg()


def parts(figures: Figures) -> str:
    """Where the time of a Pod and of a Job goes: the means of the parts of each round, which add up."""
    file, kinds = "h2", []
    for kind, whole, names in [
        (figures.POD, "submit → Succeeded", ["submit → process starts", "process ended → Succeeded"]),
        (
            figures.JOB,
            "submit → Complete",
            ["submit → process starts", "process ended → Pod is Succeeded", "Pod is Succeeded → Complete"],
        ),
    ]:
        for name in [whole, *names]:
            figures.samples(file, f"{kind}: {name}")
        rounds = [
            {s["round"]: s["value"] * MICROSECONDS[s["unit"]] for s in figures.bench(file)[f"{kind}: {name}"]}
            for name in [whole, *names]
        ]
        shared = [at for at in rounds[0] if all(at in of for of in rounds)]
        whole_mean, *means = (statistics.mean(of[at] for at in shared) for of in rounds)
        kinds.append((kind.split(",")[0], len(shared), whole_mean, means))
    words = [
        ("the way to the process's start", "work"),
        ("the process itself, too short to be seen", "end"),
        ("until the kubelet says so", "wait"),
        ("until the Job is Complete", "peer"),
    ]
    most = math.ceil(max(whole for *_, whole, _ in kinds) / 5e5) * 5e5
    left, width = 130.0, 700.0
    d = Drawing(
        940,
        196,
        "Where the time of a Pod and of a Job goes",
        "; ".join(f"{kind}: {time(whole)}, of which {', '.join(time(m) for m in means)}" for kind, _, whole, means in kinds),
    )
    for half in range(int(most // 5e5) + 1):
        x = left + width * half * 5e5 / most
        d.line(x, 8, 112)
        d.text(x, 130, f"{half / 2:g} s", "mid small")
    for i, (kind, n, whole, means) in enumerate(kinds):
        y, x = 16 + 48 * i, left
        lived = whole - sum(means)
        d.text(left - 12, y + 20, kind, "right")
        for length, style in zip([means[0], lived, *means[1:]], ["work", "end", "wait", "peer"]):
            d.bar(x, y, width * length / most, 30, style, 1 if style == "work" else 0.75)
            if length > most / 14:
                d.text(x + width * length / most / 2, y + 20, time(length), "mid")
            x += width * length / most
        d.text(x + 8, y + 20, f"n = {n}", "small")
    x = left
    for said, style in [words[0], words[2], words[3]]:
        d.bar(x, 150, 14, 14, style, 1 if style == "work" else 0.75)
        d.text(x + 20, 162, said, "small")
        x += 236
    d.text(
        left,
        186,
        f"means of the parts of each round, which add up; the process itself lives for {time(statistics.median(figures.lived()))} (median)",
        "small",
    )
    return d.svg()


def compared(figures: Figures) -> str:
    h2 = "h2"
    rows = [
        ("vyr task, warm: first instruction", h2, "vyr task, S3: submit → first instruction", "vyr"),
        ("vyr task, warm: completed", h2, "vyr task, S3: submit → completed", "vyr"),
        ("vyr run, compiled code on disk", h2, "vyr run, S2: process", "vyr"),
        ("vyr run, not compiled", h2, "vyr run, S1: process", "vyr"),
        ("vyr run, nothing there", h2, "vyr run, S0: process", "vyr"),
        ("vyr: nothing installed → first result", h2, "vyr: nothing installed → first result", "vyr"),
        ("wasmtime run, precompiled", h2, "wasmtime run, compiled: process", "peer"),
        ("crun run", h2, "crun run: process", "peer"),
        ("runc run", h2, "runc run: process", "peer"),
        ("python3 -c pass", h2, "python3 -c pass: process", "peer"),
        ("Kubernetes Pod: process starts", h2, f"{figures.POD}: submit → process starts", "wait"),
        ("Kubernetes Pod: Succeeded", h2, f"{figures.POD}: submit → Succeeded", "wait"),
        ("Kubernetes Job: Complete", h2, f"{figures.JOB}: submit → Complete", "wait"),
        ("Kubernetes Job, image absent: Complete", h2, f"{figures.ABSENT}: submit → Complete", "wait"),
        ("Kubernetes: nothing → first Job", h2, "nothing running → first Job Complete", "wait"),
    ]
    return spans(
        figures, rows, "Starts, VYR beside its peers", "bar from P10 to P90, mark and number the median; a logarithmic scale"
    )


def pictures(figures: Figures) -> dict[str, str]:
    return {
        "paper-architecture.svg": architecture(),
        "paper-task.svg": task(),
        "paper-trust.svg": trust(),
        "paper-chain.svg": chain(),
        "paper-kubernetes.svg": parts(figures),
        "paper-h2.svg": compared(figures),
    }
