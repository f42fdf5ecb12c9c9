"""Runs many tasks at once with asyncio, over one connection.

python asyncio_many.py localhost:5000/hello:v1 1000
"""

import asyncio
import sys
import time

import vyr


async def main() -> None:
    """Says how many succeeded, and how fast."""
    reference, count = sys.argv[1], int(sys.argv[2])
    async with vyr.AsyncClient() as client:
        began = time.monotonic()
        specs = (vyr.TaskSpec(reference, args=[str(n)]) for n in range(count))
        outcomes = await asyncio.gather(*(client.run(spec) for spec in specs))
        took = time.monotonic() - began
    good = sum(outcome.task.succeeded for outcome in outcomes)
    print(f"{good} of {count} succeeded, {count / took:.0f} a second")


if __name__ == "__main__":
    asyncio.run(main())
