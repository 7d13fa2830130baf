"""One worker of many that share a limit: a process that asks a real Redis and plays the model's answers itself.

It reads orders from stdin and answers on stdout, a line of JSON each. An order is a piece of work, answered once it is
connected; or the wall-clock moment at which a piece begins, answered with what was seen. Pieces run side by side, each
with counters of its own.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import msgspec

from gateway.counters.reservations import Reservations
from gateway.errors import GatewayError
from policies.catalog import Endpoint, EntityKind, Price, ServedEntity, Snapshot
from policies.estimate import LEAST_STREAM, STREAM_SLICE
from policies.limits import Limit, Metric, Mode, ScopeKind
from policies.principal import Caller, Principal, PrincipalKind
from policies.windows import Rolling

_ENTITY = ServedEntity("e1", "mixtral", EntityKind.LOCAL, "vllm", "mixtral-demo", Price("free"))
_ENDPOINT = Endpoint("ep", "chat", "llm/v1/chat", (_ENTITY,))
_CHUNK = 64
"""Tokens that a played stream gives at a time."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker is to do."""

    redis: str
    worker: int
    workers: int
    seed: int
    workload: str
    """`bursts`, `even` or `streams`."""
    tokens: int
    window_ms: int
    seconds: float
    mode: Mode = Mode.STRICT
    load: float = 1.0
    """Tokens offered by all workers, as a multiple of the limit."""
    timeout_seconds: float = 5.0


class Order(msgspec.Struct, frozen=True):
    """What one worker is told of a piece of work: first what it is, then when it begins."""

    piece: int
    work: Work | None = None
    begin: float = 0.0


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One call as this side saw it."""

    asked_ms: int
    admitted_ms: int
    """0: refused."""
    code: str = ""
    degraded: str | None = None
    used: int = 0
    """Tokens that the played model really gave, the prompt included."""
    charges: list[tuple[int, int]] = []
    """(sub-bucket, tokens) of every grant, in order."""


class Heard(msgspec.Struct, frozen=True):
    """What one worker answers: that it is connected, then what it saw and whether Redis took every settlement."""

    piece: int
    drained: bool = False
    seen: list[Seen] | None = None


@dataclass(slots=True)
class Player:
    """Makes calls against one limit that all workers share, and remembers each."""

    work: Work
    reservations: Reservations
    rng: random.Random
    seen: list[Seen]
    numbers: Iterator[int] = field(default_factory=count)
    """No two calls share an id: the second would be answered as a repetition of the first."""

    async def call(self, prompt: int, output: int, *, stream: bool = False) -> None:
        """One call whose model would give `output` tokens; a stream reserves in slices and ends where a limit ends it."""
        work, asked_ms = self.work, round(time.time() * 1000)
        allowed = STREAM_SLICE if stream else output
        try:
            hold = await self.reservations.reserve(
                _snapshot(work),
                Caller(Principal("u", PrincipalKind.USER, "alice")),
                _ENDPOINT,
                request_id=f"{work.seed:08x}-{work.worker:04x}-7000-8000-{next(self.numbers):012x}",
                prompt_tokens=prompt,
                output_tokens=allowed,
                least_output=LEAST_STREAM if stream else output,
            )
        except GatewayError as error:
            self.seen.append(Seen(asked_ms=asked_ms, admitted_ms=0, code=error.code))
            return
        given = await self._stream(hold, output) if stream else output
        self.reservations.settle(hold, prompt_tokens=prompt, completion_tokens=given, cost_nano_usd=0)
        charges = [(each.position, each.fixed) for each in (*hold.charges, *hold.local) if each.kind == "r"]
        self.seen.append(
            Seen(
                asked_ms=asked_ms,
                admitted_ms=hold.admitted_at_ms,
                degraded=hold.degraded,
                used=prompt + given,
                charges=charges,
            )
        )

    async def _stream(self, hold: Any, length: int) -> int:
        """The rule of the line: at half use of the last slice ask for one more; what is refused ends the stream."""
        given, slice_size, ended = 0, hold.granted_output, False
        while given < min(length, hold.granted_output):
            await asyncio.sleep(0.005)
            given = min(given + _CHUNK, length, hold.granted_output)
            if not ended and given < length and hold.granted_output - given <= slice_size // 2:
                more = await self.reservations.top_up(hold, STREAM_SLICE)
                slice_size, ended = more, more == 0
        return given


def _snapshot(work: Work) -> Snapshot:
    window = Rolling(work.window_ms)
    limit = Limit("shared", ScopeKind.USER, Metric.TOTAL_TOKENS, window, work.tokens, "u", mode=work.mode)
    return Snapshot(1, limits=(limit,))


async def play(work: Work, begin: float, player: Player) -> None:
    """Offer the workload from `begin` for so many seconds."""
    rng, running = player.rng, set[asyncio.Task[None]]()
    window = work.window_ms / 1000
    at = begin
    ends = begin + work.seconds
    while at < ends:
        await asyncio.sleep(max(0.0, at - time.time()))
        match work.workload:
            case "bursts":
                # All at once around an edge of the wall clock's windows: where a fixed window would admit twice.
                for _ in range(rng.randint(4, 12)):
                    prompt, output = rng.randint(1, 40), rng.randint(1, work.tokens // 40)
                    running.add(asyncio.create_task(player.call(prompt, output)))
                step = window if rng.random() < 0.5 else window / rng.randint(4, 40)
                at = (at // window + 1) * window + rng.uniform(-0.03, 0.03) if step == window else at + step
            case "even":
                size = rng.randint(50, 150)
                running.add(asyncio.create_task(player.call(size // 2, size - size // 2)))
                at += 100 * window * work.workers / (work.tokens * work.load)
            case _:
                length = rng.randint(32, 800)
                running.add(asyncio.create_task(player.call(rng.randint(8, 60), length, stream=True)))
                at += 450 * window * work.workers / (work.tokens * work.load)
    await asyncio.gather(*running)


async def do(piece: int, work: Work, begin: asyncio.Future[float]) -> None:
    """Connect, wait for the word, play, tell."""
    reservations = await Reservations.connect(
        work.redis,
        f"worker-{work.worker}",
        deployment=deployment_of(work.seed),
        timeout_seconds=work.timeout_seconds,
    )
    player = Player(work, reservations, random.Random(f"{work.seed}/{work.worker}"), [])
    say(Heard(piece))
    # Evenly means that the workers take turns, too.
    apart = 0.0 if work.workload == "bursts" else work.window_ms / 1000 / 20 * work.worker / work.workers
    await play(work, await begin + apart, player)
    drained = await reservations.close(seconds=5.0)
    say(Heard(piece, drained, player.seen))


def say(heard: Heard) -> None:
    """Answer an order."""
    print(msgspec.json.encode(heard).decode(), flush=True)


def deployment_of(seed: int) -> str:
    """The name before every counter of a piece of work."""
    return f"seed{seed}"


async def main() -> None:
    """Work until there is no more."""
    begins: dict[int, asyncio.Future[float]] = {}
    running: set[asyncio.Task[None]] = set()
    while line := await asyncio.to_thread(sys.stdin.readline):
        order = msgspec.json.decode(line, type=Order)
        if order.work is None:
            begins.pop(order.piece).set_result(order.begin)
            continue
        begins[order.piece] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(do(order.piece, order.work, begins[order.piece]))
        running.add(task)
        task.add_done_callback(running.discard)


if __name__ == "__main__":
    asyncio.run(main())
