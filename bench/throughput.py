"""`python -m bench.throughput`: what provisioned throughput is worth on the real engine, measured.

Three things are told, each beside what was asked: what the engine can do and at how many calls at once; the first
tokens of a group with a provision while another floods, against those of an idle engine; and how much of the engine
the others get while that group is idle, by the engine's own count of tokens. A machine is now faster, now slower: so
what is compared is measured in turn, in short pieces, and what is lent right before and right after what it is compared to.

The engine is given few seats, for which a step is short, and the flood waits in the gateway. Seats beyond what the engine
gains from only lengthen its steps.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import random
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from engines.errors import ConnectFailed
from engines.http1.transport import Http1Transport
from engines.local.environment import install
from engines.local.launch import EngineSpec
from engines.local.process import EngineProcess
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis
from gateway.seed import ENDPOINT
from gateway.store.migrate import upgrade
from policies.throughput import LONGEST_WINDOW_MS
from tests.faults.transcript import Transcript
from tests.faults.wire import Client, Spec, Target
from tests.system.deployment import Deployment, Person

ENOUGH = 0.97
"""The slots of the pool are the fewest calls at once that reach so much of the best rate."""
SPARE = 1
"""Seats that the engine has beyond the pool's slots: a covered call takes one at once, whatever was lent."""
WORDS = [
    "expert",
    "router",
    "token",
    "gate",
    "layer",
    "weight",
    "dense",
    "sparse",
    "model",
    "batch",
    "cache",
    "prompt",
    "answer",
    "budget",
    "ledger",
    "limit",
]
SETTLED = 2.0
"""Seconds until workers and the engine go by a provision that came or went."""
DRAINED = 4.0
"""Seconds until calls that came while nothing was provisioned have left the engine: they go before lent ones there."""
PAIRS = 3
"""How often in a round what is lent is compared to what others get unprovisioned."""
_COUNTED = re.compile(r"^vllm:(?:prompt|generation)_tokens_total\{.*\} ([0-9.e+]+)$", re.MULTILINE)
_serial = itertools.count(1)
Flooding = Callable[[float, int], Awaitable["Phase"]]


def say(words: str) -> None:
    """To the person who waits."""
    print(words, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Shape:
    """What one side's calls are like."""

    words: int
    tokens: int


@dataclass(slots=True)
class Phase:
    """What was seen of one side in one phase."""

    seen: list[Transcript] = field(default_factory=list[Transcript])
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Tokens a second, prompts and answers, of calls that ended well."""
        done = [each for each in self.seen if each.how == "complete" and each.status == 200]
        return sum((each.usage_prompt or 0) + each.delivered for each in done) / self.seconds

    @property
    def tokens(self) -> float:
        """Of one call, on average."""
        return statistics.mean((each.usage_prompt or 0) + each.delivered for each in self.seen)

    @property
    def firsts(self) -> list[float]:
        """Milliseconds to the first token."""
        return [
            each.first_byte_ms for each in self.seen if each.first_byte_ms is not None and each.status == 200
        ]

    @property
    def failed(self) -> int:
        """Calls that did not end well."""
        return sum(each.how != "complete" or each.status != 200 for each in self.seen)


def spec(key: str, shape: Shape, random_: random.Random) -> Spec:
    """One streamed call whose prompt nobody has cached."""
    number = next(_serial)
    text = f"{random_.random()} " + " ".join(random_.choice(WORDS) for _ in range(shape.words))
    body = {
        "model": ENDPOINT,
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": shape.tokens,
        "temperature": 1.0,
        "ignore_eos": True,
    }
    return Spec(number, json.dumps(body).encode(), True, key)


async def drive(
    target: Target, key: str, shape: Shape, *, callers: int, seconds: float, pause: float = 0.0
) -> Phase:
    """So many callers, one call after the other, for so long; a pause is drawn anew before each call."""
    phase, random_ = Phase(), random.Random()
    client = Client(target, timeout=180.0)
    until = time.perf_counter() + seconds

    async def calling() -> None:
        while time.perf_counter() < until:
            if pause:
                await asyncio.sleep(random_.uniform(0.5, 1.5) * pause)
            phase.seen.append(await client.call(spec(key, shape, random_)))

    began = time.perf_counter()
    await asyncio.gather(*(calling() for _ in range(callers)))
    phase.seconds = time.perf_counter() - began
    client.close()
    return phase


def _drive(target: Target, key: str, shape: Shape, callers: int, seconds: float) -> Phase:
    return asyncio.run(drive(target, key, shape, callers=callers, seconds=seconds))


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent do not exceed; the nearest rank."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * int(percent) // 100) - 1)] if ordered else float("nan")


@asynccontextmanager
async def engine(home: Path, venv: Path, seats: int) -> AsyncGenerator[str]:
    """The real engine with the demo model, which takes so many calls into a step."""
    made = await install(venv, lambda line: say(f"engine: {line}"))
    found = EngineSpec(
        python=made.python,
        socket=home / "engine.sock",
        cache=venv.parent / "engine-cache",
        log=home / "engine.log",
        extra=("--max-num-seqs", str(seats)),
    )
    process = EngineProcess(found)
    await process.start()
    try:
        await process.wait_ready(300)
        yield found.url
    finally:
        await asyncio.shield(process.stop())


@asynccontextmanager
async def deployed(home: Path, venv: Path, seats: int) -> AsyncGenerator[tuple[Deployment, str]]:
    """A whole gateway of one worker before the engine, with the users `reserved` and `flood`; and the engine's address."""
    postgres, redis = EmbeddedPostgres(home), EmbeddedRedis(home)
    async with engine(home, venv, seats) as url:
        try:
            await asyncio.gather(postgres.start(), redis.start())
            await upgrade(postgres.url("weighbridge_owner"))
            async with Deployment(
                home=home / "gateway",
                database_url=postgres.url(),
                redis_url=redis.url(),
                # The view is for auditors.
                books_url=postgres.url("weighbridge_owner"),
                engine_url=url,
                workers=1,
                people={"reserved": Person(), "flood": Person()},
            ) as gateway:
                yield gateway, url
        finally:
            await redis.stop()
            await postgres.stop()


async def provision(gateway: Deployment, slots: int, rate: int, share: float, target_ms: int) -> list[str]:
    """Say what the engine can do and keep a share of it for the group of `reserved`; the paths of both."""
    group = await gateway.administer("POST", "/groups", {"name": f"reserved-{next(_serial)}"})
    member = {"member_kind": "user", "member_id": gateway.ids["reserved"]}
    await gateway.administer("POST", f"/groups/{group['id']}/members", member)
    # The flood waits as long as it takes: what is measured is who goes first, not who gives up.
    pool = {"name": "local", "tokens_per_second": rate, "slots": slots, "queue": 1_000, "queue_ms": 120_000}
    made = await gateway.administer("POST", "/throughput-pools", pool)
    wanted = {
        "name": f"reserved-{next(_serial)}",
        "scope": "group",
        "subject_id": group["id"],
        "units": int(rate * share),
        "first_token_ms": target_ms,
    }
    kept = await gateway.administer("POST", "/throughput-provisions", wanted)
    return [f"/throughput-provisions/{kept['id']}", f"/throughput-pools/{made['id']}"]


async def withdraw(gateway: Deployment, paths: Sequence[str]) -> None:
    """Provision nothing any more."""
    for path in paths:
        await gateway.administer("DELETE", path)


async def capacity(flooding: Flooding, seconds: float, seats: int) -> tuple[int, int]:
    """Slots and rate of the engine."""
    rates: list[tuple[int, float]] = []
    for callers in sorted({1, 4, seats // 2, seats - SPARE, seats, 2 * seats}):
        phase = await flooding(seconds, callers)
        rates.append((callers, phase.rate))
        say(
            f"  {callers:3d} calls at once: {phase.rate:7.0f} tokens/s,"
            f" first token p50 {percentile(phase.firsts, 50):.0f} ms"
        )
    best = max(rate for _, rate in rates)
    slots = next(callers for callers, rate in rates if rate >= ENOUGH * best)
    return min(slots, seats - SPARE), int(best)


class Counted:
    """Tokens of prompts and answers that the engine has gone through, as it counts them itself."""

    def __init__(self, url: str) -> None:
        self._engine = Http1Transport(url)

    async def rate(self, seconds: float) -> float:
        """Tokens a second, from now on for so long."""
        before, began = await self._sum(), time.perf_counter()
        await asyncio.sleep(seconds)
        after = await self._sum()
        return (after - before) / (time.perf_counter() - began)

    async def close(self) -> None:
        """Ask no more."""
        await self._engine.aclose()

    async def _sum(self) -> float:
        try:
            answer = await self._engine.get("/metrics")
        except ConnectFailed:
            # The engine had closed the kept connection in between.
            answer = await self._engine.get("/metrics")
        page = answer.body.decode()
        return sum(float(each) for each in _COUNTED.findall(page))


@dataclass(slots=True)
class Found:
    """What was measured, round by round."""

    slots: int
    rate: int
    target_ms: int
    unloaded: list[Phase] = field(default_factory=list[Phase])
    loaded: list[Phase] = field(default_factory=list[Phase])
    unguarded: list[Phase] = field(default_factory=list[Phase])
    lent: list[float] = field(default_factory=list[float])
    """Tokens a second while the group is idle."""
    ungoverned: list[float] = field(default_factory=list[float])
    """The same with nothing provisioned, each between two of them."""
    beside: list[float] = field(default_factory=list[float])
    """While the group calls, its own included."""
    floods: list[Phase] = field(default_factory=list[Phase])
    view: dict[str, str] = field(default_factory=dict[str, str])


async def measure(gateway: Deployment, url: str, options: argparse.Namespace) -> Found:
    """All phases; what was measured."""
    flood, reserved = Shape(options.flood_words, options.flood_tokens), Shape(options.words, options.tokens)
    keys, seconds, piece = gateway.keys, options.seconds, options.piece
    loop = asyncio.get_running_loop()
    # In a process of its own: who measures first tokens has nothing else to do.
    others = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
    engine = Counted(url)

    async def flooding(long: float, callers: int = options.flood) -> Phase:
        return await loop.run_in_executor(others, _drive, gateway.target, keys["flood"], flood, callers, long)

    await flooding(2, 4)
    say("capacity, as calls at once grow:")
    slots, rate = await capacity(flooding, options.capacity_seconds, options.seats)
    slots = options.slots or slots
    pause = options.pause

    async def own() -> Phase:
        return await drive(
            gateway.target,
            keys["reserved"],
            reserved,
            callers=options.callers,
            seconds=seconds,
            pause=pause,
        )

    alone = await own()
    # Half of what is kept for it: a guarantee is for those who stay within it.
    pause = max(pause, options.callers * alone.tokens / (0.5 * options.share * rate))
    found = Found(slots, rate, max(1, int(options.target * percentile(alone.firsts, 95))), [alone])
    say(f"pool: {slots} slots, {rate} tokens/s; unloaded {middle(alone)}, target {found.target_ms} ms")
    paths = await provision(gateway, slots, rate, options.share, found.target_ms)
    # Until the group counts as idle, the pieces and what lies between them, and the group's calls, in the first round twice.
    idle = LONGEST_WINDOW_MS / 1000 + 1
    flooded = idle + (2 * PAIRS + 1) * piece + PAIRS * (SETTLED + DRAINED) + seconds + 1
    for turn in range(options.rounds):
        found.unloaded.append(await own())
        under_way = asyncio.create_task(flooding(flooded + (seconds if turn == 0 else 0)))
        await asyncio.sleep(idle)
        found.lent.append(await engine.rate(piece))
        for pair in range(PAIRS):
            await withdraw(gateway, paths)
            await asyncio.sleep(SETTLED)
            found.ungoverned.append(await engine.rate(piece))
            if turn == pair == 0:
                found.unguarded.append(await own())
            paths = await provision(gateway, slots, rate, options.share, found.target_ms)
            await asyncio.sleep(DRAINED)
            found.lent.append(await engine.rate(piece))
        # What is lent has to come back first: the calls of the first second are counted like all others.
        loaded, beside = await asyncio.gather(own(), engine.rate(seconds))
        found.loaded.append(loaded)
        found.beside.append(beside)
        found.floods.append(await under_way)
        say(
            f"round {turn + 1}: first token p50 and p95 unloaded {middle(found.unloaded[-1])}, beside the flood {middle(loaded)},"
            f" not provisioned {middle(found.unguarded[-1])}; tokens/s while idle {listed(found.lent[-PAIRS - 1 :])},"
            f" ungoverned {listed(found.ungoverned[-PAIRS:])}, while in use {beside:.0f}"
        )
        if options.every:
            say(f"  beside the flood, in order: {' '.join(f'{each:.0f}' for each in loaded.firsts)}")
    await gateway.drained()
    (row,) = await gateway.query(
        "SELECT sum(covered_requests) AS covered, sum(awaited_requests) AS awaited, sum(lent_requests) AS lent,"
        " sum(within_target) AS within, sum(timed_requests) AS timed FROM serving.provisioned_throughput"
    )
    found.view = {name: str(value) for name, value in row.items()}
    others.shutdown()
    await engine.close()
    return found


def middle(phase: Phase) -> str:
    """Its median and its 95th percentile."""
    return f"{percentile(phase.firsts, 50):.0f} and {percentile(phase.firsts, 95):.0f} ms"


def listed(rates: Sequence[float]) -> str:
    """One after the other."""
    return " ".join(f"{each:.0f}" for each in rates)


def report(found: Found) -> bool:
    """Print what was asked beside what was measured; whether all of it holds."""

    def firsts(phases: Sequence[Phase]) -> list[float]:
        return [each for phase in phases for each in phase.firsts]

    unloaded, loaded, unguarded = firsts(found.unloaded), firsts(found.loaded), firsts(found.unguarded)
    longer = percentile(loaded, 95) / percentile(unloaded, 95) - 1
    lent, ungoverned = statistics.mean(found.lent), statistics.mean(found.ungoverned)
    share = lent / ungoverned
    failed = sum(phase.failed for phase in (*found.unloaded, *found.loaded, *found.unguarded, *found.floods))
    print(f"pool: {found.slots} slots, {found.rate} tokens/s; target {found.target_ms} ms; {found.view}")
    for percent in (50, 90, 95, 99):
        print(
            f"p{percent} to the first token: unloaded {percentile(unloaded, percent):.0f} ms of {len(unloaded)} calls, beside the"
            f" flood {percentile(loaded, percent):.0f} ms of {len(loaded)}; not provisioned {percentile(unguarded, percent):.0f} ms"
        )
    print(f"p95 is longer by {longer:+.1%} (asked: within 20 %)")
    print(
        f"the engine while the group is idle: {lent:.0f} of {ungoverned:.0f} tokens/s: {share:.1%} (asked: at least 95 %);"
        f" while it calls {statistics.mean(found.beside):.0f}, its own included"
    )
    print(f"calls that failed: {failed} (asked: 0)")
    return longer <= 0.2 and share >= 0.95 and not failed


def main() -> int:
    """Run it all; 0 where what was asked holds."""
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=14.0, help="that the group with the provision calls")
    parser.add_argument("--piece", type=float, default=5.0, help="seconds that a rate is measured for")
    parser.add_argument("--capacity-seconds", type=float, default=5.0)
    parser.add_argument("--every", action="store_true", help="tell of every call beside the flood")
    parser.add_argument(
        "--target", type=float, default=1.1, help="for the first token, times the unloaded p95"
    )
    parser.add_argument(
        "--seats", type=int, default=24, help="calls in one step of the engine: more make each step longer"
    )
    parser.add_argument("--slots", type=int, default=0, help="of the pool; 0: as measured")
    parser.add_argument("--share", type=float, default=0.95, help="of the capacity that is provisioned")
    parser.add_argument("--callers", type=int, default=1, help="of the group with the provision")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between its calls, on average")
    parser.add_argument("--words", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--flood", type=int, default=40, help="callers of the flood")
    parser.add_argument("--flood-words", type=int, default=20)
    parser.add_argument("--flood-tokens", type=int, default=96)
    parser.add_argument("--venv", type=Path, default=Path("var/engine-venv"))
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="wb-thr-"))

    async def run() -> Found:
        async with deployed(home, options.venv.resolve(), options.seats) as (gateway, url):
            return await measure(gateway, url, options)

    try:
        return 0 if report(asyncio.run(run())) else 1
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
