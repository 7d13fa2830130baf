"""What a second worker gives: `python -m bench.workers`.

One worker and two, on all cores there are, are offered the same calls a second, well below what either can carry, and then
as many as each can take. Where load, upstream and stores have cores of their own the second figure is the one to read;
where they share the workers', only the first one says something: what a call costs must not grow with a neighbour.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from bench.cells import CELLS
from bench.deployment import Deployment
from bench.homes import home_of
from bench.processors import Meter, go_first
from bench.side import Side

CELL = next(each for each in CELLS if each.name == "plain-64")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.workers", description=__doc__)
    parser.add_argument("--rate", type=float, default=300.0, help="calls a second that both can carry (300)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    return parser.parse_args()


async def _run(options: argparse.Namespace, home: Path) -> str:
    cores = sorted(os.sched_getaffinity(0))
    # Of the same two cores for both, so that nothing but the number of workers differs.
    pair = cores[0], cores[-1]
    go_first()
    costs: dict[int, list[float]] = {1: [], 2: []}
    rates: dict[int, list[float]] = {1: [], 2: []}
    shares: dict[int, list[float]] = {1: [], 2: []}
    async with AsyncExitStack() as stack:
        sides: dict[int, Side] = {}
        for workers in (1, 2):
            at = home / str(workers)
            at.mkdir(mode=0o711)
            deployment = Deployment(at, keys=500, cores=pair, environment={}, workers=workers, roam=True)
            sides[workers] = side = await Side.open(stack, deployment, *pair)
            await side.touch_every_key(CELL)
        for _ in range(options.rounds):
            for workers, side in sides.items():
                deployment, loader = side.deployment, side.loader
                side.oracle.forget()
                meter = Meter(deployment.groups())
                meter.start()
                offered = await loader.offer(CELL, deployment.port, [(options.rate, options.seconds)] * 2)
                used = meter.stop()
                calls = offered["statuses"]["200"]
                costs[workers].append(used["worker"] / calls)
                done = await loader.run(CELL, deployment.port, seconds=options.seconds, most=200_000)
                rates[workers].append(done["calls"] / done["seconds"])
                each = Meter({str(child.pid): (child.pid,) for child in deployment.workers})
                each.start()
                more = await loader.run(CELL, deployment.port, seconds=1.0, most=200_000)
                by_worker = each.stop().values()
                shares[workers].append(max(by_worker) / sum(by_worker))
                calls += done["calls"] + more["calls"]
                await side.book(calls)
        for side in sides.values():
            await side.books.check()
    ratios = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    dearer = [two / one for one, two in zip(costs[1], costs[2], strict=True)]
    return "\n".join(
        [
            f"{len(cores)} cores, of which two are used by everything, load and stores included.",
            "",
            "| | 1 worker | 2 workers | ratio, round by round |",
            "|---|---|---|---|",
            (
                f"| workers' CPU ms a call at {options.rate:g} calls/s | {median(costs[1]):.3f} | {median(costs[2]):.3f} "
                f"| {median(dearer):.2f} ({min(dearer):.2f}-{max(dearer):.2f}) |"
            ),
            (
                f"| calls/s, 64 at once | {median(rates[1]):,.0f} | {median(rates[2]):,.0f} "
                f"| {median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
            ),
            f"| share of the busier worker | | {median(shares[2]):.0%} | |",
        ]
    )


def main() -> int:
    """Run and print; the exit status."""
    options = _options()
    with home_of() as home:
        print(asyncio.run(_run(options, home)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
