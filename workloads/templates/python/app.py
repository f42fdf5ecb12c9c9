"""Adds up numbers: its arguments or, without any, the lines of its input.

A guest has only what it is given: no file, no network and no variable otherwise. See README.md.
"""

import sys
from pathlib import Path

from wit_world import exports

# A folder that outlives a run, where one is given: `vyr run --state totals REF`.
STATE = Path("/state/totals")


class Run(exports.Run):
    def run(self) -> None:
        words = sys.argv[1:] or list(sys.stdin)
        try:
            total = sum(float(word) for word in words)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
        print(f"{len(words)} numbers, sum {total:g}")

        if STATE.is_dir():
            file = STATE / "sum"
            if file.exists():
                total += float(file.read_text())
            file.write_text(str(total))
            print(f"sum of all runs {total:g}")
