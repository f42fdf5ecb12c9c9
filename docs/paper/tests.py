"""What `docs/paper/make` is there to refuse: python3 docs/paper/tests.py."""

import json
import re
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


class Claims(unittest.TestCase):
    """A claim that nothing shows would be one like any other to its reader."""

    def setUp(self) -> None:
        text = (PROJECT / "docs/claims.md").read_text(encoding="utf-8")
        self.rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and not line.startswith("| ---")]
        self.shown = [row[-1] for row in self.rows]

    def test_each_claim_has_what_shows_it(self) -> None:
        self.assertGreater(len(self.rows), 60)
        for row in self.rows:
            self.assertRegex(row[2], r"\]\(|`|^shown by|^made by$|^the same$", " | ".join(row))

    def test_each_part_that_shows_something_is_asked_for(self) -> None:
        for page in sorted((PROJECT / "docs/claims").glob("*.md")):
            for heading in re.findall(r"^## (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE):
                anchor = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
                place = f"(claims/{page.name}#{anchor})"
                self.assertTrue(any(place in shown for shown in self.shown), place)

    def test_each_test_that_is_named_is_there(self) -> None:
        """A filter that fits no test would pass."""
        named = re.findall(r"`\./test (--\S+(?: e2e)?) ([\w:]+)", "\n".join(self.shown))
        self.assertGreater(len(named), 10)
        for where, words in named:
            *modules, name = words.split("::")
            if (where, words) == ("--test", "frozen"):
                self.assertTrue((PROJECT / "proto/tests/frozen.rs").exists())
                continue
            root = PROJECT / ("tests/e2e" if where == "--test e2e" else "src")
            sources = [file for file in root.rglob("*.rs") if all(part in file.with_suffix("").parts for part in modules)]
            tests = [test for file in sources for test in re.findall(r"fn (\w+)\(", file.read_text(encoding="utf-8"))]
            self.assertTrue(any(name in test for test in tests), f"{where} {words}")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    unittest.main()
