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


class Make(unittest.TestCase):
    """Each test has a copy of the raw files, and pages made of it."""

    def setUp(self) -> None:
        self.root = Path(self.enterContext(tempfile.TemporaryDirectory()))
        for folder in RAW:
            shutil.copytree(PROJECT / folder, self.root / folder)
        shutil.copytree(PROJECT / "docs/paper", self.root / "docs/paper")

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, str(self.root / "docs/paper/make"), *arguments], capture_output=True, text=True)

    def made(self) -> Path:
        done = self.make()
        self.assertEqual(done.returncode, 0, done.stderr)
        return self.root / "docs/whitepaper.md"

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

    def test_a_case_that_was_not_measured_is_named(self) -> None:
        raw = self.root / "bench/results/h2.jsonl"
        lines = raw.read_text(encoding="utf-8").splitlines()
        raw.write_text("\n".join(line for line in lines if '"python3 -c pass: process"' not in line), encoding="utf-8")
        done = self.make()
        self.assertEqual(done.returncode, 1)
        self.assertIn("bench/results/h2.jsonl has no case `python3 -c pass: process`", done.stderr)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
