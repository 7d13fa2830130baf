"""Seeded mixed traffic against the gateway: plain calls, streams, and clients that leave at every moment.

    transcripts = await drive(Target(port=8080), calls(seed=7, keys=[key]), count=1000, rate=100)

The seed alone decides what is sent and who leaves when; how calls interleave is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count as count_from
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from tests.faults.transcript import Transcript, write_transcripts
from tests.faults.wire import AFTER_DONE, BEFORE_FIRST, MID_STREAM, NEVER, Client, Spec, Target

_encode = msgspec.json.encode
_One = Callable[[Spec], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Mix:
    """What the traffic is made of. Weights of (stream, leave); ranges are inclusive."""

    weights: dict[tuple[bool, str], float] = field(
        default_factory=lambda: {
            (False, NEVER): 4,
            (False, BEFORE_FIRST): 1,
            (False, AFTER_DONE): 0.5,
            (True, NEVER): 4,
            (True, BEFORE_FIRST): 1,
            (True, MID_STREAM): 2,
            (True, AFTER_DONE): 0.5,
        }
    )
    model: str = "mixtral-demo"
    tokens: tuple[int, int] = (1, 96)
    words: tuple[int, int] = (1, 40)
    first_ms: tuple[int, int] = (0, 30)
    delays_ms: tuple[int, ...] = (0, 1, 5)
    spare: float = 1.25  # max_tokens as a multiple of the tokens that will come
    asks_usage: float = 0.5  # the share of streams that ask for usage
    script: str = ""  # more words for the upstream's script


ONLY_PLAIN: Final = Mix(weights={(False, NEVER): 1})
ONLY_STREAMS: Final = Mix(weights={(True, NEVER): 1})


def calls(
    *, seed: int, keys: Sequence[str] = ("",), mix: Mix | None = None, first: int = 0
) -> Iterator[Spec]:
    """Endless calls; the same seed gives the same calls."""
    mix = mix or Mix()
    kinds, weights = list(mix.weights), list(mix.weights.values())
    for number in count_from(first):
        # Seeded by call, so that a run that starts in the middle sends what the whole run would have sent.
        rng = random.Random(f"{seed}/{number}")
        stream, leave = rng.choices(kinds, weights)[0]
        tokens, first_ms = rng.randint(*mix.tokens), rng.randint(*mix.first_ms)
        delay_ms = rng.choice(mix.delays_ms)
        if leave in (BEFORE_FIRST, MID_STREAM):
            # Somebody has to be there to be left.
            first_ms, delay_ms = (
                max(first_ms, 20),
                max(delay_ms or min(filter(None, mix.delays_ms), default=0), 2),
            )
        if delay_ms == 0:
            # An answer without pace is in the socket's buffer at once: who dies then cannot know of more than this.
            tokens = min(tokens, 64)
        words = " ".join(f"word{n}" for n in range(rng.randint(*mix.words)))
        script = (
            f"[[tokens={tokens} first={first_ms}ms delay={delay_ms}ms{' ' * bool(mix.script)}{mix.script}]]"
        )
        body: dict[str, object] = {
            "model": mix.model,
            "messages": [{"role": "user", "content": f"call {number} {words} {script}"}],
            "max_tokens": max(int(tokens * mix.spare), 1),
        }
        if stream:
            body["stream"] = True
            if rng.random() < mix.asks_usage:
                body["stream_options"] = {"include_usage": True}
        leave_at = 0.0
        if leave == BEFORE_FIRST:
            leave_at = rng.uniform(0.001, (first_ms + delay_ms) / 1000)
        elif leave == MID_STREAM:
            leave_at = rng.randint(1, max(tokens - 1, 1))
        yield Spec(
            call=number,
            body=_encode(body),
            stream=stream,
            key=rng.choice(keys),
            leave=leave,
            leave_at=leave_at,
            abrupt=leave != NEVER and rng.random() < 0.5,
        )


async def drive(
    target: Target,
    specs: Iterator[Spec],
    *,
    count: int | None = None,
    seconds: float | None = None,
    rate: float | None = None,
    concurrency: int = 16,
    timeout: float = 60.0,
    stop: asyncio.Event | None = None,
) -> list[Transcript]:
    """Make calls until `count`, `seconds` or `stop`, at a rate (open loop) or a concurrency (closed loop)."""
    if count is None and seconds is None and stop is None:
        raise ValueError("say when to end: count, seconds or stop")
    client = Client(target, timeout=timeout)
    ends_at = time.monotonic() + seconds if seconds is not None else None
    transcripts: list[Transcript] = []

    def going() -> Iterator[Spec]:
        for spec in islice(specs, count):
            if (ends_at is not None and time.monotonic() >= ends_at) or (stop is not None and stop.is_set()):
                return
            yield spec

    async def one(spec: Spec) -> None:
        transcripts.append(await client.call(spec))

    try:
        async with asyncio.TaskGroup() as group:
            if rate is not None:
                await _open_loop(group, one, going(), rate)
            else:
                queue = going()
                for _ in range(concurrency):
                    group.create_task(_closed_loop(one, queue))
    finally:
        client.close()
    return sorted(transcripts, key=lambda transcript: transcript.call)


async def _open_loop(group: asyncio.TaskGroup, one: _One, specs: Iterator[Spec], rate: float) -> None:
    due = time.monotonic()
    for spec in specs:
        group.create_task(one(spec))
        due += 1 / rate
        await asyncio.sleep(max(due - time.monotonic(), 0))


async def _closed_loop(one: _One, specs: Iterator[Spec]) -> None:
    for spec in specs:
        await one(spec)


def summary(transcripts: Sequence[Transcript]) -> str:
    """One line for people."""
    hows = Counter(f"{t.kind} {t.how}" for t in transcripts)
    tokens = sum(t.delivered for t in transcripts)
    return f"{len(transcripts)} calls, {tokens} tokens delivered; " + ", ".join(
        f"{how} {n}" for how, n in sorted(hows.items())
    )


def main() -> None:
    """Drive mixed traffic at a gateway and append a transcript of every call to a file."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.load", description=main.__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--model", default="mixtral-demo")
    parser.add_argument("--key-file", help="gateway keys, one a line")
    parser.add_argument("--seed", type=int, default=None, help="printed, so that a run can be repeated")
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=float, help="calls a second; without it, by --concurrency")
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--out", help="JSON lines")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", file=sys.stderr)
    parts = urlsplit(options.url)
    target = Target(host=parts.hostname or "127.0.0.1", port=parts.port or 80)
    keys = Path(options.key_file).read_text().split() if options.key_file else [""]
    specs = calls(seed=seed, keys=keys, mix=Mix(model=options.model))
    run = drive(target, specs, seconds=options.seconds, rate=options.rate, concurrency=options.concurrency)
    transcripts = asyncio.run(run)
    if options.out:
        write_transcripts(options.out, transcripts)
    print(summary(transcripts))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
