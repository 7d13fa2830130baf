"""`python -m bench.throughput`: what provisioned throughput is worth on the real engine, measured.

Three things are told, each beside what was asked: what the engine can do and at how many calls at once; the first
tokens of a group with a provision while another floods, against those of an idle engine; and how much of the engine
the others get while that group is idle. Every phase is repeated in turn, so that a busy machine spoils all alike.

A call that comes waits for the step under way, and its prompt is read beside what runs: so the engine is given few seats, for which a
step is short, and the flood waits in the gateway. Seats beyond what the engine gains from only lengthen its steps.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import random
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
from typing import Any

from engines.local.environment import install
from engines.local.launch import EngineSpec
from engines.local.process import EngineProcess
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis
from gateway.seed import ENDPOINT
from gateway.store.migrate import upgrade
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
async def deployed(home: Path, venv: Path, seats: int) -> AsyncGenerator[Deployment]:
    """A whole gateway of one worker before the engine, with the users `reserved` and `flood`."""
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
                yield gateway
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


async def capacity(
    flooding: Flooding, seconds: float, seats: int
) -> tuple[int, int, list[tuple[int, float]]]:
    """Slots and rate of the engine, and the rate at each number of calls at once."""
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
    return min(slots, seats - SPARE), int(best), rates


async def measure(gateway: Deployment, options: argparse.Namespace) -> dict[str, Any]:
    """All phases; what was measured."""
    flood, reserved = Shape(options.flood_words, options.flood_tokens), Shape(options.words, options.tokens)
    keys, seconds = gateway.keys, options.seconds
    loop = asyncio.get_running_loop()
    # In a process of its own: who measures first tokens has nothing else to do.
    others = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))

    async def flooding(long: float, callers: int = options.flood) -> Phase:
        return await loop.run_in_executor(others, _drive, gateway.target, keys["flood"], flood, callers, long)

    await flooding(2, 4)
    say("capacity, as calls at once grow:")
    slots, rate, rates = await capacity(flooding, options.capacity_seconds, options.seats)
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
    target = max(1, int(1.2 * percentile(alone.firsts, 95)))
    say(
        f"pool: {slots} slots, {rate} tokens/s; unloaded p95 {percentile(alone.firsts, 95):.1f} ms, target {target} ms"
    )
    found: dict[str, Any] = {"slots": slots, "rate": rate, "rates": rates, "target_ms": target}
    unloaded, loaded, unguarded = [alone], list[Phase](), list[Phase]()
    lent, ungoverned, beside = list[Phase](), list[Phase](), list[Phase]()
    for turn in range(options.rounds):
        ungoverned.append(await flooding(seconds))
        both = await asyncio.gather(own(), flooding(seconds))
        unguarded.append(both[0])
        paths = await provision(gateway, slots, rate, options.share, target)
        unloaded.append(await own())
        lent.append(await flooding(seconds))
        # What is lent has to come back first, within a second: the calls of the first one are counted like all others.
        both = await asyncio.gather(own(), flooding(seconds))
        loaded.append(both[0])
        beside.append(both[1])
        await gateway.drained()
        found["view"] = [
            {name: str(value) for name, value in row.items()}
            for row in await gateway.query(
                "SELECT covered_requests, awaited_requests, lent_requests, first_token_p95_ms, within_target,"
                " timed_requests, target_kept FROM serving.provisioned_throughput ORDER BY period DESC, provision_id DESC LIMIT 1"
            )
        ]
        await withdraw(gateway, paths)
        if turn + 1 == options.rounds:
            others.shutdown()
        say(
            f"round {turn + 1}: first token p95 unloaded {percentile(unloaded[-1].firsts, 95):.1f} ms, beside the flood"
            f" {percentile(loaded[-1].firsts, 95):.1f} ms (not provisioned {percentile(unguarded[-1].firsts, 95):.1f});"
            f" flood alone {lent[-1].rate:.0f} of {ungoverned[-1].rate:.0f} tokens/s, beside {beside[-1].rate:.0f}; {found['view']}"
        )
    found |= {
        "unloaded_p95_ms": percentile([each for phase in unloaded for each in phase.firsts], 95),
        "unloaded_p50_ms": percentile([each for phase in unloaded for each in phase.firsts], 50),
        "loaded_p95_ms": percentile([each for phase in loaded for each in phase.firsts], 95),
        "loaded_p50_ms": percentile([each for phase in loaded for each in phase.firsts], 50),
        "unguarded_p95_ms": percentile([each for phase in unguarded for each in phase.firsts], 95),
        "lent_rate": statistics.mean(phase.rate for phase in lent),
        "ungoverned_rate": statistics.mean(phase.rate for phase in ungoverned),
        "beside_rate": statistics.mean(phase.rate for phase in beside),
        "calls": sum(len(phase.seen) for phase in loaded),
        "failed": sum(phase.failed for phase in (*unloaded, *loaded, *lent, *beside)),
    }
    return found


def report(found: dict[str, Any]) -> bool:
    """Print what was asked beside what was measured; whether all of it holds."""
    longer = found["loaded_p95_ms"] / found["unloaded_p95_ms"] - 1
    share = found["lent_rate"] / found["ungoverned_rate"]
    print(f"pool: {found['slots']} slots, {found['rate']} tokens/s; rates {found['rates']}")
    print(
        f"p95 to the first token: unloaded {found['unloaded_p95_ms']:.1f} ms, beside the flood {found['loaded_p95_ms']:.1f} ms:"
        f" {longer:+.0%} (asked: within 20 %); not provisioned {found['unguarded_p95_ms']:.1f} ms; {found['calls']} calls"
    )
    print(
        f"p50: unloaded {found['unloaded_p50_ms']:.1f} ms, beside the flood {found['loaded_p50_ms']:.1f} ms;"
        f" the flood beside the group had {found['beside_rate']:.0f} tokens/s"
    )
    print(
        f"others while the group is idle: {found['lent_rate']:.0f} of {found['ungoverned_rate']:.0f} tokens/s:"
        f" {share:.1%} (asked: at least 95 %)"
    )
    print(f"calls that failed: {found['failed']} (asked: 0)")
    return longer <= 0.2 and share >= 0.95 and not found["failed"]


def main() -> int:
    """Run it all; 0 where what was asked holds."""
    parser = argparse.ArgumentParser(prog="python -m bench.throughput", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of a phase")
    parser.add_argument("--capacity-seconds", type=float, default=8.0)
    parser.add_argument(
        "--seats", type=int, default=16, help="calls in one step of the engine: more make each step longer"
    )
    parser.add_argument("--slots", type=int, default=0, help="of the pool; 0: as measured")
    parser.add_argument("--share", type=float, default=0.9, help="of the capacity that is provisioned")
    parser.add_argument("--callers", type=int, default=1, help="of the group with the provision")
    parser.add_argument("--pause", type=float, default=0.3, help="seconds between its calls, on average")
    parser.add_argument("--words", type=int, default=400)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--flood", type=int, default=64, help="callers of the flood")
    parser.add_argument("--flood-words", type=int, default=20)
    parser.add_argument("--flood-tokens", type=int, default=96)
    parser.add_argument("--venv", type=Path, default=Path("var/engine-venv"))
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="wb-thr-"))

    async def run() -> dict[str, Any]:
        async with deployed(home, options.venv.resolve(), options.seats) as gateway:
            return await measure(gateway, options)

    try:
        return 0 if report(asyncio.run(run())) else 1
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    raise SystemExit(main())
