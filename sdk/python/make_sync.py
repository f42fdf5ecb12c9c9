"""Makes `src/vyr/_sync` from `src/vyr/_async`, so that the two clients can't differ: `python make_sync.py`.

What is made is checked in, so that it can be read and found; with `--check` nothing is written, and a difference is an error.
unasync does such a thing, and has had no release for years; what is needed of it is these few words.
"""

import re
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent / "src/vyr"
# `loop` is what differs.
FILES = ("transport.py", "streams.py", "client.py")

WORDS = (
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\b__a(enter|exit|iter|next)__", r"__\1__"),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\bAwaitable\[(\w+)\]", r"\1"),
    (r"\bimport Awaitable, ", "import "),
)


def made(code: str, name: str) -> str:
    """The same without asyncio."""
    for pattern, replacement in WORDS:
        code = re.sub(pattern, replacement, code)
    return f"# Made from _async/{name} by make_sync.py.\n{code}"


def main() -> int:
    """Writes or compares."""
    check = sys.argv[1:] == ["--check"]
    status = 0
    for name in FILES:
        to = PACKAGE / "_sync" / name
        code = made((PACKAGE / "_async" / name).read_text(), name)
        if not check:
            to.write_text(code)
        elif not to.exists() or to.read_text() != code:
            sys.stderr.write(f"{to} is not what _async/{name} makes; run: python make_sync.py\n")
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
