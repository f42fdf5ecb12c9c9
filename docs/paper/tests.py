"""What `docs/paper/make` is there to refuse: python3 docs/paper/tests.py."""

import json
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
RAW = ["bench/results", "envs/results", "oci-fallback/corpus/results", "proto/vyr"]
# As they will be measured; in their place here are numbers of no meaning.
CASES = [
    ("vyr run, S0: process", 170, "ms"),
    ("vyr run, S1: process", 45_000, "us"),
    ("vyr run, S2: process", 4, "ms"),
    ("vyr task, S3: submit → completed", 0.7, "ms"),
    ("vyr task, S3: submit → first instruction", 340, "us"),
    ("vyr: nothing installed → first result", 0.9, "s"),
    ("wasmtime run, compiled: process", 3, "ms"),
    ("crun run: process", 7, "ms"),
    ("runc run: process", 30, "ms"),
    ("python3 -c pass: process", 14, "ms"),
]


class Make(unittest.TestCase):
    """Each test has a copy of the raw files, and pages made of it."""

    def setUp(self) -> None:
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for folder in RAW:
            shutil.copytree(PROJECT / folder, self.root / folder)
        shutil.copytree(PROJECT / "docs/paper", self.root / "docs/paper")
        (self.root / "bench/results/h2.jsonl").unlink(missing_ok=True)

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(self.root / "docs/paper/make"), *arguments], capture_output=True, text=True)

    def made(self) -> Path:
        done = self.make()
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.root / "docs/whitepaper.md"

    def measured(self, cases: list[tuple[str, float, str]]) -> None:
        lines = (self.root / "bench/results/kubernetes.jsonl").read_text(encoding="utf-8").splitlines()
        lines += [
            json.dumps({"case": case, "round": n, "value": value * (1 + n / 100), "unit": unit, "method": ""})
            for case, value, unit in cases
            for n in range(9)
        ]
        (self.root / "bench/results/h2.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def test_what_is_made_is_what_the_check_wants(self) -> None:
        self.made()
        self.assertEqual(self.make("--check").returncode, 0)

    def test_a_number_that_was_changed_is_named_with_both(self) -> None:
        page = self.made()
        text = page.read_text(encoding="utf-8")
        start = text.index("quicker than `docker-registry`'s (") + len("quicker than `docker-registry`'s (")
        page.write_text(text[:start] + "0.11" + text[start + 4 :], encoding="utf-8")
        done = self.make("--check")
        self.assertEqual(done.returncode, 1)
        self.assertIn("push.by.registry: the text has '0.11', the raw files give", done.stderr)

    def test_a_sample_that_was_changed_is_found(self) -> None:
        self.made()
        raw = self.root / "bench/results/run-process.jsonl"
        lines = [json.loads(line) for line in raw.read_text(encoding="utf-8").splitlines()]
        for line in lines[1:]:
            line["wall_us"] *= 2
        raw.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        done = self.make("--check")
        self.assertEqual(done.returncode, 1)
        self.assertIn("run.vyr.p50", done.stderr)

    def test_a_picture_that_was_changed_is_named(self) -> None:
        self.made()
        with (self.root / "docs/img/paper-kubernetes.svg").open("a", encoding="utf-8") as svg:
            svg.write("<!-- -->")
        self.assertIn("docs/img/paper-kubernetes.svg", self.make("--check").stderr)

    def test_a_number_with_a_unit_that_somebody_typed_is_refused(self) -> None:
        with (self.root / "docs/paper/whitepaper.md.in").open("a", encoding="utf-8") as template:
            template.write("\nIt takes 3 ms.\n")
        done = self.make()
        self.assertEqual(done.returncode, 1)
        self.assertIn("'3 ms' is a number that nothing keeps true", done.stderr)

    def test_h2_is_told_once_it_is_measured_and_a_missing_case_is_named(self) -> None:
        self.measured(CASES[:-1])
        done = self.make()
        self.assertEqual(done.returncode, 1)
        self.assertIn("bench/results/h2.jsonl has no case `python3 -c pass: process`", done.stderr)
        self.measured(CASES)
        text = self.made().read_text(encoding="utf-8")
        self.assertIn("VYR starts sooner, warm", text)
        self.assertIn("img/paper-h2.svg", text)
        self.assertNotIn("no ratio is claimed", text)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
