"""A paced stream taken apart: nginx, a byte proxy, passing and the whole gateway, in the same rounds before the same upstream.

    python -m bench.paced

Each is a process of its own on the same core. What one costs beyond the line before it is what it does more: the server and
client, the reading and metering of pieces, and admission, settlement and the drainer. It ends with what worker and drainer
take with nothing to do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import sys
from pathlib import Path
from statistics import median

from bench.books import Books
from bench.cells import CELLS, Cell
from bench.deployment import ROOT, Deployment
from bench.homes import home_of
from bench.loader import Loader
from bench.nginx import Nginx, program
from bench.ports import free_port, until_open
from bench.processors import Meter, go_first, hurry, pinned, two_cores
from bench.rounds import Rounds, Sample

PARTS = ("bytes", "passed")
IDLE_SECONDS = 8.0


class _Turns(Rounds):
    """One turn at a time."""

    async def one(self, cell: Cell, name: str, place: tuple[int, int] | None) -> Sample:
        """One turn of whoever is at this process id and port; None: of the gateway."""
        return await (self._of_gateway(cell) if place is None else self._of_other(cell, name, *place))


async def measure(home: Path, rounds: int, seconds: float) -> str:
    """Measure in turn; a table, and a line on idleness."""
    nginx_program = program()
    if nginx_program is None:
        raise SystemExit("nginx is not installed: everything here is measured beside it")
    cores = two_cores()
    cell = next(each for each in CELLS if each.name == "paced-16")
    async with contextlib.AsyncExitStack() as stack:
        deployment = await stack.enter_async_context(Deployment(home, keys=300, cores=cores, environment={}))
        loader = await Loader.start(deployment.keys_file, cores[0])
        stack.push_async_callback(loader.stop)
        books = await Books.open(deployment.database_url, deployment.redis_url)
        stack.push_async_callback(books.close)
        others: dict[str, tuple[int, int]] = {}
        with pinned(cores[1]):
            nginx = Nginx(home / "nginx", deployment.upstream_port)
            stack.push_async_callback(nginx.stop)
            await nginx.start(nginx_program, as_root=os.geteuid() == 0)
            others["nginx"] = nginx.pid, nginx.port
            for way in PARTS:
                others[way] = await _serve(stack, way, home / way, deployment.upstream_port)
        for way, (pid, port) in others.items():
            await until_open(port, way, home / "none")
            hurry(pid)
        measuring = _Turns(deployment, loader, books, nginx, seconds=seconds, say=lambda _: None)
        await measuring.warm_up([cell])
        idle = await _idle(deployment)
        figures: dict[str, list[float]] = {}
        for number in range(rounds):
            order = [*others, "gateway"]
            for each in reversed(order) if number % 2 else order:
                sample = await measuring.one(cell, each, others.get(each))
                figures.setdefault(each, []).append(sample["cpu_ms"])
        await books.check()
    return (
        f"{table(figures)}\n\nIdle, ms a second: worker {idle['worker']:.1f}, drainer {idle['drainer']:.1f}."
    )


async def _serve(
    stack: contextlib.AsyncExitStack, way: str, home: Path, upstream_port: int
) -> tuple[int, int]:
    home.mkdir()
    port = free_port()
    arguments = ["--serve", way, "--port", str(port), "--upstream", str(upstream_port), "--home", str(home)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.passing", *arguments,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    stack.push_async_callback(process.wait)
    stack.callback(process.kill)
    return process.pid, port


async def _idle(deployment: Deployment) -> dict[str, float]:
    await asyncio.sleep(IDLE_SECONDS / 2)
    meter = Meter(deployment.groups())
    meter.start()
    await asyncio.sleep(IDLE_SECONDS)
    return {name: used / IDLE_SECONDS for name, used in meter.stop().items()}


def table(figures: dict[str, list[float]]) -> str:
    """Medians with least and most, and over nginx's of the same round."""
    lines = ["| 64 chunks 5 ms apart, 16 at once | CPU ms a stream | times nginx |", "|---|---|---|"]
    for each in ("nginx", *PARTS, "gateway"):
        mine = figures[each]
        ratios = [one / floor for one, floor in zip(mine, figures["nginx"], strict=True)]
        lines.append(f"| {each} | {_spread(mine)} | {_spread(ratios)} |")
    return "\n".join(lines)


def _spread(figures: list[float]) -> str:
    return f"{median(figures):.2f} ({min(figures):.2f}-{max(figures):.2f})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.paced", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.6, help="length of one turn in a round (1.6)")
    options = parser.parse_args()
    go_first()
    with home_of() as home:
        print(asyncio.run(measure(home, options.rounds, options.seconds)))


if __name__ == "__main__":
    main()
