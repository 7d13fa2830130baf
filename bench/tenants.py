"""What a tenant who floods a worker is to others: `python -m bench.overload --tenants`.

Tenant A has one user's keys: it holds slow streams open, and then floods the worker with several times what it carries as well. Ten
other tenants call once a second each, an engine whose first token takes a while. Said are the times of their first tokens, alone and
beside A, and how A is answered. Each sends from a process of its own. On few cores the flood keeps loads and engines waiting too: the
same calls straight to an engine of their own, in the same seconds, show how much of it is that.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bench.books import Books, Oracle
from bench.cells import CHUNKS, Cell
from bench.deployment import ROOT, Deployment
from bench.loader import Loader
from bench.population import KEYS_A_USER
from bench.ports import free_port, until_open
from bench.processors import go_first, pinned, two_cores

USERS = 64
OTHERS = 10
FIRST_MS = 100
"""Until the engine's first token."""
FLOOD = Cell("burst-64", 64, True, f"tokens={CHUNKS}", "64 chunks at once")
SLOW = Cell("held", 500, True, f"tokens={CHUNKS} delay=500ms", "streams of two chunks a second")
OTHER = Cell("other", 1, True, f"tokens=4 first={FIRST_MS}ms", "a first token after a while")
TOUCH = Cell("first", 8, False, "tokens=4", "first call of each key")


async def tenants(options: argparse.Namespace, home: Path) -> str:
    """The three phases, as a table."""
    cores = two_cores()
    go_first()
    async with AsyncExitStack() as stack:
        deployment = await stack.enter_async_context(
            Deployment(home, keys=USERS * KEYS_A_USER, cores=cores, environment={})
        )
        # Key after key belongs to the next user, and begins again at the first.
        keys = deployment.keys_file.read_text().split()
        parts = {"a": keys[::USERS], "others": keys[1 : 1 + OTHERS]}
        for name, its in parts.items():
            (home / name).write_text("\n".join(its) + "\n")
        flooding = await _loader(stack, home / "a", cores[0])
        holding = await _loader(stack, home / "a", cores[0])
        others = await _loader(stack, home / "others", cores[0])
        straight = await _loader(stack, home / "others", cores[0])
        engine_port = await _engine(stack, home, cores[0])
        books = await Books.open(deployment.database_url, deployment.redis_url)
        stack.push_async_callback(books.close)
        oracle, port = Oracle(deployment.upstream_port), deployment.port
        oracle.forget()
        calls = 0
        for each in (flooding, others):
            calls += (await each.touch_every_key(TOUCH, port))["calls"]
        closed = await flooding.run(FLOOD, port, seconds=4, most=100_000)
        calls += closed["calls"]
        capacity = closed["calls"] / closed["seconds"]

        async def asked(name: str) -> str:
            nonlocal calls
            order = [(float(OTHERS), options.seconds)]
            found, past = await asyncio.gather(
                others.offer(OTHER, port, order), straight.offer(OTHER, engine_port, order)
            )
            calls += found["statuses"].get("200", 0)
            return _row(name, found, past["phases"][0])

        rows = [await asked("nobody")]
        streams = asyncio.create_task(holding.run(SLOW, port, seconds=300, most=SLOW.concurrency, ramp=2.0))
        await asyncio.sleep(2.5)
        rows.append(await asked(f"A's {SLOW.concurrency} slow streams"))
        flood = asyncio.create_task(
            flooding.offer(FLOOD, port, [(capacity * options.times, options.seconds + 2.0)])
        )
        await asyncio.sleep(1.0)
        rows.append(await asked(f"these, and a flood of {options.times:g} times capacity"))
        flooded, held = await flood, await streams
        # Nothing of A's may be left.
        await asyncio.sleep(1.0)
        rows.append(await asked("nobody again"))
        calls += flooded["statuses"].get("200", 0) + held["calls"]
        await books.drained(calls)
        books.note(calls, oracle.counted())
        await books.check()
    answered = flooded["phases"][0]
    return "\n".join(
        [
            f"Capacity, 64 at once: {capacity:,.0f} calls/s. {OTHERS} others call once a second each; the engine's first token takes {FIRST_MS} ms.",
            "",
            "| beside | others' calls: answered, turned away | first token: p50, p99, longest ms | straight to an engine meanwhile |",
            "|---|---|---|---|",
            *rows,
            "",
            (
                f"A's flood: {answered['offered']:,.0f} calls/s offered, {answered['goodput']:,.0f} answered (p50, p99 "
                f"{answered['p50_ms']:.0f}, {answered['p99_ms']:.0f} ms), {answered['turned_share']:.1%} turned away. "
                f"Its streams: "
                f"{held['calls']} whole, {held['failed']} not."
            ),
        ]
    )


async def _loader(stack: AsyncExitStack, keys: Path, core: int) -> Loader:
    loader = await Loader.start(keys, core)
    stack.push_async_callback(loader.stop)
    return loader


async def _engine(stack: AsyncExitStack, home: Path, core: int) -> int:
    """Start another upstream; its port."""
    port, log = free_port(), home / "engine.log"
    with pinned(core), log.open("wb") as into:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.upstream", "--port", str(port), cwd=ROOT, stdout=into, stderr=into
        )  # fmt: skip

    async def end() -> None:
        process.terminate()
        await process.wait()

    stack.push_async_callback(end)
    await until_open(port, "engine", log)
    return port


def _row(name: str, found: dict[str, Any], straight: dict[str, Any]) -> str:
    turned = found["statuses"].get("503", 0) + found["statuses"].get("429", 0)
    return f"| {name} | {found['statuses'].get('200', 0)}, {turned} | {_times(found['phases'][0])} | {_times(straight)} |"


def _times(phase: dict[str, Any]) -> str:
    return f"{phase['first_p50_ms']:.0f}, {phase['first_p99_ms']:.0f}, {phase['first_longest_ms']:.0f}"
