"""What prefix affinity is worth: `python -m bench.affinity`, by vLLM's own counters of its prefix cache.

Two real replicas of the demonstration model on the CPU behind a real gateway. Users hold conversations that grow turn by
turn, each about a document in the system prompt, which is the user's own or shared with others; the same conversations are held three times: with calls
sent to the replicas in turn (past the gateway), by the gateway to the least loaded one, and by the gateway with affinity.
The replicas' caches are small, so that one holds its own conversations but not everybody's: with room for all of them
twice over nothing would be forgotten, and only the first call at each replica would differ.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engines.http1.transport import Http1Transport
from engines.local.environment import install
from engines.local.gauges import CACHE_ASKED, CACHE_FOUND, gauges
from engines.local.launch import DEMO_NAME, EngineSpec
from engines.local.supervise import EngineState, Phase, keep_all
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis
from gateway.store.migrate import upgrade
from tests.system.deployment import ENDPOINT, Deployment

Body = dict[str, Any]
Send = Callable[[Body], Awaitable[str]]

ASKED = 1.8
"""How many times the share of the turn-taking this must reach."""
_SUBJECTS = ("orders", "invoices", "travel", "gardens", "bicycles", "weather", "music", "history")
_WORDS = "the gateway weighs every request against permissions limits and budgets before it is let in and again when it leaves"


@dataclass(frozen=True, slots=True)
class Shape:
    """The conversations."""

    users: int
    documents: int
    """System prompts; users are dealt over them."""
    conversations: int
    """One after the other, of each user."""
    turns: int
    document_words: int = 270
    turn_words: int = 50
    answer_tokens: int = 40


@dataclass(slots=True)
class Outcome:
    """What one way of sending calls came to."""

    name: str
    calls: list[int]
    """Of each replica, by prompt tokens: these are what its cache was asked for."""
    found: list[int]
    seconds: list[float]

    @property
    def share(self) -> float:
        """Of all prompt tokens, those that were found in a cache."""
        return sum(self.found) / max(1, sum(self.calls))


def text(rng: random.Random, words: int) -> str:
    """Words that make no sense, but are in the model's vocabulary."""
    return " ".join(rng.choices(_WORDS.split(), k=words))


async def hold(shape: Shape, run: str, send: Send, at_once: int, seed: int) -> list[float]:
    """Hold every user's conversations, a turn of each user a round, in an order drawn anew; seconds of each call."""
    rng = random.Random(seed)
    systems = [
        f"{run}: you answer from {_SUBJECTS[at % len(_SUBJECTS)]} {at}. {text(rng, shape.document_words)}"
        for at in range(shape.documents)
    ]
    openings: list[list[list[str]]] = [
        [
            [f"{user} {number} {text(rng, shape.turn_words)}" for _ in range(shape.turns)]
            for number in range(shape.conversations)
        ]
        for user in range(shape.users)
    ]
    told: list[list[Body]] = [[] for _ in range(shape.users)]
    took: list[float] = []
    gate = asyncio.Semaphore(at_once)

    async def turn(user: int, at: int) -> None:
        number, which = divmod(at, shape.turns)
        if which == 0:
            told[user] = [{"role": "system", "content": systems[user % shape.documents]}]
        told[user].append({"role": "user", "content": openings[user][number][which]})
        async with gate:
            began = time.perf_counter()
            answer = await send(
                {
                    "messages": told[user],
                    "max_tokens": shape.answer_tokens,
                    "temperature": 0,
                    "ignore_eos": True,
                }
            )
            took.append(time.perf_counter() - began)
        told[user].append({"role": "assistant", "content": answer})

    total = shape.conversations * shape.turns
    # Users are at different turns: each begins in another round.
    for number in range(total + shape.turns - 1):
        due = [(user, number - user % shape.turns) for user in range(shape.users)]
        due = [(user, at) for user, at in due if 0 <= at < total]
        rng.shuffle(due)
        await asyncio.gather(*(turn(user, at) for user, at in due))
    return took


async def measured(name: str, transports: Sequence[Http1Transport], held: Awaitable[list[float]]) -> Outcome:
    """What the replicas' counters say of it."""
    before = [await gauges(each) or {} for each in transports]
    seconds = await held
    after = [await gauges(each) or {} for each in transports]

    def grown(metric: str) -> list[int]:
        return [int(now[metric] - then[metric]) for now, then in zip(after, before, strict=True)]

    return Outcome(name, grown(CACHE_ASKED), grown(CACHE_FOUND), seconds)


def in_turn(transports: Sequence[Http1Transport]) -> Send:
    """Past the gateway, to one replica after the other."""
    order = itertools.cycle(transports)

    async def send(body: Body) -> str:
        answer = await next(order).post(
            "/v1/chat/completions",
            msgspec.json.encode(body | {"model": DEMO_NAME}),
            {"content-type": "application/json"},
        )
        if answer.status != 200:
            raise RuntimeError(f"the engine answers {answer.status}: {answer.body[:300]!r}")
        return msgspec.json.decode(answer.body)["choices"][0]["message"]["content"] or ""

    return send


def through(gateway: Deployment) -> Send:
    """Through the gateway."""

    async def send(body: Body) -> str:
        answer = await gateway.ask(
            "POST",
            "/v1/chat/completions",
            body | {"model": ENDPOINT},
            key=gateway.keys["bulk"],
            timeout=300.0,
        )
        if answer.status != 200:
            raise RuntimeError(f"the gateway answers {answer.status}: {answer.body[:300]!r}")
        return answer.json()["choices"][0]["message"]["content"] or ""

    return send


async def set_affinity(gateway: Deployment, *, on: bool) -> None:
    """Whether the endpoint's conversations are kept together."""
    (endpoint,) = (await gateway.administer("GET", f"/endpoints?name={ENDPOINT}"))["items"]
    entities = [{**each, "calling": {"affinity": on}} for each in endpoint["served_entities"]]
    await gateway.administer("PATCH", f"/endpoints/{endpoint['id']}", {"served_entities": entities})


def table(outcomes: Sequence[Outcome]) -> str:
    """For people, in Markdown."""
    first = outcomes[0].share
    lines = [
        "| calls go | prompt tokens | found | share | times turn-taking | tokens by replica | median call |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in outcomes:
        spread = " / ".join(f"{100 * one / max(1, sum(each.calls)):.0f} %" for one in each.calls)
        lines.append(
            f"| {each.name} | {sum(each.calls):,} | {sum(each.found):,} | {100 * each.share:.1f} % |"
            f" {each.share / first:.2f} | {spread} | {statistics.median(each.seconds):.2f} s |"
        )
    return "\n".join(lines)


async def measure(shape: Shape, options: argparse.Namespace) -> int:
    """Start everything, hold the conversations three times, print the table; 1 where affinity falls short."""
    root = Path(os.environ.get("WEIGHBRIDGE_HOME", "var")).resolve()
    made = await install(root / "engine-venv", lambda line: print(line, file=sys.stderr))
    home = Path(tempfile.mkdtemp(prefix="wb-affinity-"))
    home.chmod(0o711)
    specs = [
        EngineSpec(
            python=made.python,
            socket=home / f"engine-{number}.sock",
            cache=root / "engine-cache",
            log=home / "logs" / f"vllm-{number}.log",
            kv_cache_bytes=options.cache_kib << 10,
            adapters=False,
            extra=("--block-size", str(options.block)),
        )
        for number in range(2)
    ]
    ready = [asyncio.Event() for _ in specs]

    def report(number: int, state: EngineState) -> None:
        print(f"engine {number} {state.phase} {state.detail}", file=sys.stderr)
        if state.phase is Phase.READY:
            ready[number].set()

    engines = asyncio.create_task(keep_all(specs, report))
    transports = [Http1Transport(each.url) for each in specs]
    try:
        await asyncio.gather(*(each.wait() for each in ready))
        async with EmbeddedPostgres(home) as postgres, EmbeddedRedis(home) as redis:
            await upgrade(postgres.url("weighbridge_owner"))
            deployment = Deployment(
                home=home / "gateway",
                database_url=postgres.url(),
                redis_url=redis.url(),
                engine_url=",".join(each.url for each in specs),
                workers=options.workers,
            )
            async with deployment as gateway:
                outcomes: list[Outcome] = []
                for name, send, affinity in (
                    ("in turn", in_turn(transports), None),
                    ("to the least loaded", through(gateway), False),
                    ("where they were", through(gateway), True),
                ):
                    if affinity is not None:
                        await set_affinity(gateway, on=affinity)
                    held = hold(shape, name, send, options.at_once, options.seed)
                    outcomes.append(await measured(name, transports, held))
                    print(f"{name}: {100 * outcomes[-1].share:.1f} %", file=sys.stderr)
    finally:
        for each in transports:
            await each.aclose()
        engines.cancel()
        await asyncio.gather(engines, return_exceptions=True)
    calls = shape.users * shape.conversations * shape.turns
    print(
        f"{calls} calls a row: {shape.users} users, {shape.documents} documents, {shape.conversations} conversations "
        f"each of {shape.turns} turns; {sum(outcomes[-1].calls) // calls} prompt tokens a call on average, a cache of "
        f"{options.cache_kib:,} KiB a replica in blocks of {options.block} tokens, {options.workers} workers.\n"
    )
    print(table(outcomes))
    times = outcomes[-1].share / outcomes[0].share if outcomes[0].share else float("inf")
    print(f"\nAffinity finds {times:.2f} times the share that turn-taking does; {ASKED} were asked for.")
    return 0 if times >= ASKED else 1


def main() -> int:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(prog="python -m bench.affinity", description=__doc__)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--documents", type=int, default=32, help="that they talk about (32: each has one)")
    parser.add_argument("--conversations", type=int, default=2, help="of each user, one after the other (2)")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--words", type=int, default=270, help="of a document (270)")
    parser.add_argument("--cache-kib", type=int, default=9 << 10, help="a replica's; a token takes 1 KiB")
    parser.add_argument("--block", type=int, default=32, help="tokens of a block of the cache (32)")
    parser.add_argument("--at-once", type=int, default=2, help="calls under way (2)")
    parser.add_argument("--workers", type=int, default=2, help="of the gateway (2)")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    shape = Shape(options.users, options.documents, options.conversations, options.turns, options.words)
    return asyncio.run(measure(shape, options))


if __name__ == "__main__":
    sys.exit(main())
