"""What a worker does with four times what it can carry: `python -m bench.overload`.

Calls are streams of 64 chunks at once: of all calls that is the one for which the worker does most and upstream, stores and load
least, so that on few cores the worker is what gives out. Capacity is found first (64 at once, closed loop). Then calls are
offered whether answered or not: half of capacity, four times capacity, half of it again. Said are goodput, times of what was accepted, how much was turned away and whether it
was told when to come back, and how long after the flood the worker was itself again. `--unbounded` leaves the worker
without its bounds. Prints nothing where the books do not balance.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from bench.books import Books, Oracle
from bench.cells import CHUNKS, Cell
from bench.deployment import Deployment
from bench.homes import home_of
from bench.loader import Loader
from bench.processors import Meter, go_first, own_mb, two_cores
from bench.tenants import tenants

CELL = Cell("burst-64", 64, True, f"tokens={CHUNKS}", "64 chunks at once")
FIRST = Cell("first", 32, False, "tokens=4", "first call of each key")
UNBOUNDED = {"overload_ms": 60_000, "max_calls": 1 << 20}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--times", type=float, default=4.0, help="how much of capacity is offered (4)")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the flood (10)")
    parser.add_argument("--keys", type=int, default=2000, help="API keys that call at random (2,000)")
    parser.add_argument("--unbounded", action="store_true", help="a worker that turns nobody away")
    parser.add_argument(
        "--tenants", action="store_true", help="what one who floods is to others (bench/tenants.py)"
    )
    return parser.parse_args()


async def _run(options: argparse.Namespace, home: Path) -> dict[str, Any]:
    settings: dict[str, Any] = UNBOUNDED if options.unbounded else {}
    cores = two_cores()
    go_first()
    async with Deployment(home, keys=options.keys, cores=cores, environment={}, **settings) as deployment:
        loader = await Loader.start(deployment.keys_file, cores[0])
        books = await Books.open(deployment.database_url, deployment.redis_url)
        oracle = Oracle(deployment.upstream_port)
        try:
            oracle.forget()
            done = await loader.touch_every_key(FIRST, deployment.port)
            closed = await loader.run(CELL, deployment.port, seconds=5, most=100_000)
            capacity = closed["calls"] / closed["seconds"]
            before = own_mb(deployment.worker.pid)
            phases = [(capacity / 2, 5.0), (capacity * options.times, options.seconds), (capacity / 2, 5.0)]
            meter = Meter({**deployment.groups(), "load": (loader.pid,)})
            order = asyncio.create_task(loader.offer(CELL, deployment.port, phases))
            await asyncio.sleep(phases[0][1] + 1.0)
            meter.start()
            await asyncio.sleep(options.seconds - 2.0)
            used = meter.stop()
            offered = await order
            after = own_mb(deployment.worker.pid)
            calls = done["calls"] + closed["calls"] + offered["statuses"].get("200", 0)
            await books.drained(calls)
            books.note(calls, oracle.counted())
            checked = await books.check()
        finally:
            await books.close()
            await loader.stop()
    return {
        "capacity": capacity,
        "closed_p99_ms": closed["p99_ms"],
        "own_mb": (before, after),
        "busy": {name: each / 1e3 / (options.seconds - 2.0) for name, each in used.items()},
        "books": checked,
        **offered,
    }


def _printed(found: dict[str, Any], options: argparse.Namespace) -> str:
    lines = [
        f"Capacity, 64 at once: {found['capacity']:,.0f} calls/s (p99 {found['closed_p99_ms']:.0f} ms).",
        "",
        "| offered | calls/s | answered/s | p50, p99, longest ms of the answered | turned away | their p50, p99 ms |",
        "|---|---|---|---|---|---|",
    ]
    names = ("half of capacity", f"{options.times:g} times capacity", "half again")
    lines += [
        f"| {name} | {each['offered']:,.0f} | {each['goodput']:,.0f} "
        f"| {each['p50_ms']:.0f}, {each['p99_ms']:.0f}, {each['longest_ms']:.0f} "
        f"| {each['turned_share']:.1%} | {each['turned_p50_ms']:.0f}, {each['turned_p99_ms']:.0f} |"
        for name, each in zip(names, found["phases"], strict=True)
    ]
    before, after = found["own_mb"]
    return "\n".join(
        [
            *lines,
            "",
            (
                f"Answers by status: {json.dumps(found['statuses'])}; {found['unsent']} could not be sent, {found['lost']} were "
                f"lost; {found['unguided']} refusals did not say when to come back."
            ),
            "Cores busy in the middle of the flood: "
            + ", ".join(f"{name} {share:.0%}" for name, share in found["busy"].items())
            + ".",
            f"After the flood the last refusal or call of over 100 ms began {found['well_after']:.2f} s into the quiet phase.",
            (
                f"The worker's own memory: {before:.0f} MB before, {after:.0f} after. Books: {found['books']['calls']:,} calls, all of"
                " them and nothing else in the ledger; nothing is open."
            ),
        ]
    )


def main() -> int:
    """Run and print; the exit status."""
    options = _options()
    with home_of() as home:
        if options.tenants:
            print(asyncio.run(tenants(options, home)))
        else:
            print(_printed(asyncio.run(_run(options, home)), options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
