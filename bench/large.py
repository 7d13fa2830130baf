"""What prompts of megabytes do to everybody else: `python -m bench.large`.

Small calls come at a steady rate, whether answered or not, first alone, then while large prompts pass through the same
worker, then alone again, and then beside a flood; `/healthz` is asked fifty times a second all the while. Said is how long small
calls and health took, how late the worker's event loop was, and how long the same small calls took through nginx while the same
prompts passed there: upstream and load read them too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.cells import CELLS, Cell
from bench.deployment import Deployment
from bench.flood import PROMPTS, STREAMS, waves
from bench.homes import home_of
from bench.loader import Loader
from bench.nginx import Nginx, program
from bench.processors import go_first, pinned, two_cores
from bench.side import Side
from bench.watched import Watched
from gateway.seed import ENDPOINT

SMALL = next(each for each in CELLS if each.name == "plain-16")
KINDS = {
    "one text of 3.5 MB": (3_500_000, 1),
    "9,600 messages, 3.5 MB": (3_500_000, 9_600),
    "one text of 1 MiB": (1 << 20, 1),
}
_WORDS = "Weigh each request on its way in and once more on its way out, then settle the difference. "


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.large", description=__doc__)
    parser.add_argument("--rate", type=float, default=100.0, help="small calls a second (100)")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each part (8)")
    parser.add_argument("--at-once", type=int, default=2, help="large prompts at once (2)")
    return parser.parse_args()


def body(size: int, messages: int) -> str:
    """A prompt of so many bytes in so many messages."""
    each = size // messages
    text = (_WORDS * (each // len(_WORDS) + 1))[: max(each - 60, 40)]
    told = [{"role": "user", "content": text} for _ in range(messages)]
    told[-1]["content"] = f"[[tokens=4]] {text}"
    return json.dumps({"model": ENDPOINT, "messages": told, "max_tokens": 16})


async def _run(options: argparse.Namespace, home: Path) -> str:
    cores = two_cores()
    go_first()
    lines = [
        (
            f"| {options.rate:g} small calls/s, while there pass | large calls/s | small p50, p99, longest ms "
            "| health p99, longest ms | loop late: 99 and 99.9 of 100 turns, longest, at most ms "
            "| through nginx: large calls/s, small p50, p99, longest ms |"
        ),
        "|---|---|---|---|---|---|",
    ]
    async with AsyncExitStack() as stack:
        deployment = Deployment(home, keys=500, cores=cores, environment={})
        side = await Side.open(stack, deployment, cores[0])
        other = await Loader.start(deployment.keys_file, cores[0])
        stack.push_async_callback(other.stop)
        loaders = [side.loader, other]
        nginx = None
        if (found := program()) is not None:
            nginx = Nginx(home / "nginx", deployment.upstream_port)
            with pinned(cores[1]):
                await nginx.start(found, as_root=os.geteuid() == 0)
            stack.push_async_callback(nginx.stop)
        await side.touch_every_key(SMALL)
        for name in ("nothing", *KINDS, "nothing, again"):
            beside = ""
            if nginx is not None:
                _, beside = await _part(loaders, nginx.port, KINDS.get(name), options)
            side.oracle.forget()
            async with Watched(deployment.port) as watched:
                calls, told = await _part(loaders, deployment.port, KINDS.get(name), options)
            large, small = told.split(": ")
            lines.append(f"| {name} | {large} | {small} | {watched} | {beside} |")
            await side.book(calls)
        await side.books.check()
        keys = deployment.keys_file.read_text().split()
        async with Watched(deployment.port) as watched:
            prompt = body(1 << 20, 1)
            flood = asyncio.create_task(waves(other, deployment.port, keys, prompt, 2 * options.seconds))
            small = await side.loader.offer(SMALL, deployment.port, [(options.rate, options.seconds)] * 2)
            waved = await flood
        if set(small["statuses"]) != {"200"} or small["lost"]:
            raise RuntimeError(f"small calls beside the flood: {small['statuses']}, {small['lost']} lost")
        lines.append(
            f"| {PROMPTS} prompts of 1 MiB at once and {STREAMS} streams cut after 5 MiB | {waved.prompts / waved.seconds:.1f} and "
            f"{waved.cut / waved.seconds:.1f} | {', '.join(_times(small))} | {watched} | |"
        )
        # Who was cut has a row as well, and no answer that the oracle's count could be held against.
        await side.books.drained(waved.prompts + waved.cut + small["statuses"]["200"])
    return "\n".join(lines)


async def _part(
    loaders: list[Loader], port: int, kind: tuple[int, int] | None, options: argparse.Namespace
) -> tuple[int, str]:
    """(calls answered, what is said of them)."""
    large = asyncio.create_task(_large(loaders[1], port, kind, options))
    small = await loaders[0].offer(SMALL, port, [(options.rate, options.seconds)] * 2)
    done = await large
    statuses = small["statuses"]
    if set(statuses) != {"200"} or done["failed"] or small["lost"]:
        raise RuntimeError(f"{statuses}, {done['quotes']}")
    return (
        statuses["200"] + done["calls"],
        f"{done['calls'] / done['seconds']:.1f}: {', '.join(_times(small))}",
    )


def _times(offered: dict[str, Any]) -> list[str]:
    """Of the worse phase: p50, p99, longest."""
    figures = ("p50_ms", "p99_ms", "longest_ms")
    return [f"{max(each[figure] for each in offered['phases']):.1f}" for figure in figures]


async def _large(
    loader: Loader, port: int, kind: tuple[int, int] | None, options: argparse.Namespace
) -> dict[str, Any]:
    if kind is None:
        return {"calls": 0, "failed": 0, "quotes": [], "seconds": 1.0}
    cell = Cell("large", options.at_once, False, "", "large prompts")
    return await loader.run(cell, port, seconds=2 * options.seconds, most=10_000, bodies=[body(*kind)])


def main() -> int:
    """Run and print; the exit status."""
    options = _options()
    with home_of() as home:
        print(asyncio.run(_run(options, home)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
