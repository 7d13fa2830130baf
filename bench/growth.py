"""Whether a call costs the same however much there is: `python -m bench.growth` and `python -m bench.growth streams`.

The first has a small deployment (one user, one key, one endpoint) and a large one side by side, and calls both in turn, each
call of the large one with any key to any endpoint, so that what disturbs the machine disturbs both alike. The second holds
10, 500 and 2,000 streams open on one worker. Neither prints anything where the books do not balance.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

from bench.cells import CELLS, Cell, bodies
from bench.deployment import Deployment
from bench.homes import home_of
from bench.population import ORDINARY, Size
from bench.processors import Meter, go_first, own_mb, two_cores
from bench.side import Side

PLAIN = next(each for each in CELLS if each.name == "plain-16")
FIRST = Cell("first", 48, False, "tokens=4", "first call of each key")
CHUNKS_A_SECOND = 2
OPEN = (10, 500, 2000)
_RAMP_SECONDS = 8.0
_SETTLE_SECONDS = 4.0
_IDLE_SECONDS = 5.0


def say(words: str) -> None:
    """To the person who waits."""
    print(words, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.growth", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("objects", "streams"), default="objects")
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--endpoints", type=int, default=1_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--open", default=",".join(map(str, OPEN)), help="streams held open, with commas")
    return parser.parse_args()


async def _side(stack: AsyncExitStack, home: Path, keys: int, size: Size) -> Side:
    cores = two_cores()
    home.mkdir(mode=0o711)
    deployment = Deployment(home, keys=keys, cores=cores, environment={}, size=size)
    return await Side.open(stack, deployment, cores[0])


def _bodies(size: Size) -> list[str]:
    """Bodies of calls of any endpoint."""
    return [each.decode() for name in size.names() for each in bodies(PLAIN, name)]


async def _objects(options: argparse.Namespace, home: Path) -> str:
    async with AsyncExitStack() as stack:
        say("A small deployment and a large one ...")
        sizes = {"small": (1, Size(users=1)), "large": (options.keys, Size(options.users, options.endpoints))}
        sides = {name: await _side(stack, home / name, keys, size) for name, (keys, size) in sizes.items()}
        texts = {name: _bodies(size) for name, (_, size) in sizes.items()}
        rest = {name: own_mb(side.deployment.worker.pid) for name, side in sides.items()}
        began = time.monotonic()
        for name, side in sides.items():
            await side.touch_every_key(FIRST, bodies=texts[name])
        say(f"Every key was used once after {time.monotonic() - began:.0f} s")
        used = {name: own_mb(side.deployment.worker.pid) for name, side in sides.items()}
        samples: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for number in range(-1, options.rounds):
            for name, side in sides.items():
                found = await _round(side, texts[name], options.seconds if number >= 0 else 1.0)
                if number >= 0:
                    samples[name].append(found)
                    say(f"  {name:6} worker {found['worker']:.4f} ms  drainer {found['drainer']:.4f} ms")
        for side in sides.values():
            await side.books.check()
    return _objects_told(options, samples, rest, used)


async def _round(side: Side, texts: list[str], seconds: float) -> dict[str, float]:
    side.oracle.forget()
    meter = Meter(side.deployment.groups())
    meter.start()
    done = await side.loader.run(PLAIN, side.deployment.port, seconds=seconds, most=100_000, bodies=texts)
    calls = await side.answered(done)
    return {
        **{name: each / calls for name, each in meter.stop().items()},
        "p50": done["p50_ms"],
        "p99": done["p99_ms"],
    }


def _objects_told(
    options: argparse.Namespace,
    samples: dict[str, list[dict[str, float]]],
    rest: dict[str, float],
    used: dict[str, float],
) -> str:
    lines = [
        (
            "| CPU ms a plain call, 16 at once | 1 user, 1 key, 1 endpoint "
            f"| {options.users:,} users, {options.keys:,} keys, {options.endpoints:,} endpoints | ratio, round by round |"
        ),
        "|---|---|---|---|",
    ]
    for part in ("worker", "drainer", "redis", "postgresql"):
        one, other = ([each[part] for each in samples[name]] for name in ("small", "large"))
        ratios = [b / a for a, b in zip(one, other, strict=True)]
        lines.append(f"| {part} | {_spread(one)} | {_spread(other)} | {_spread(ratios, 2)} |")
    one, other = (samples[name] for name in ("small", "large"))
    lines.append(
        f"| p50, p99 ms | {_middle(one, 'p50'):.1f}, {_middle(one, 'p99'):.1f} "
        f"| {_middle(other, 'p50'):.1f}, {_middle(other, 'p99'):.1f} | |"
    )
    a_key = (used["large"] - rest["large"]) * 1e3 / options.keys
    lines += [
        "",
        (
            f"The worker's own memory: {rest['small']:.0f} MB at rest and {used['small']:.0f} after (small), {rest['large']:.0f} and "
            f"{used['large']:.0f} (large): {a_key:.2f} KB a key that was used, with its user and what is kept of its endpoint; "
            f"{rest['large'] - rest['small']:.0f} MB of configuration."
        ),
    ]
    return "\n".join(lines)


async def _streams(options: argparse.Namespace, home: Path) -> str:
    async with AsyncExitStack() as stack:
        side = await _side(stack, home / "one", 2_000, ORDINARY)
        await side.touch_every_key(FIRST)
        idle = Meter(side.deployment.groups())
        idle.start()
        await asyncio.sleep(_IDLE_SECONDS)
        rest = {name: each / _IDLE_SECONDS for name, each in idle.stop().items()}
        lines = [
            f"Idle: worker {rest['worker']:.0f} and drainer {rest['drainer']:.0f} ms of CPU a second, taken off below.",
            "",
            "| open streams | worker CPU ms a stream-second | drainer | events/s | own MB, KB a stream | first event p50, p99 ms |",
            "|---|---|---|---|---|---|",
        ]
        for count in map(int, options.open.split(",")):
            say(f"{count:,} streams ...")
            lines.append(await _held(side, count, rest))
        await side.books.check()
    return "\n".join(lines)


async def _held(side: Side, count: int, rest: dict[str, float]) -> str:
    """Streams of 64 chunks half a second apart; what they cost in the middle, when all are open."""
    pause_ms = 1000 // CHUNKS_A_SECOND
    cell = Cell("held", count, True, f"tokens=64 delay={pause_ms}ms", "streams held open")
    side.oracle.forget()
    before = own_mb(side.deployment.worker.pid)
    order = asyncio.create_task(
        side.loader.run(cell, side.deployment.port, seconds=300, most=count, ramp=_RAMP_SECONDS)
    )
    await asyncio.sleep(_RAMP_SECONDS + _SETTLE_SECONDS)
    meter, began = Meter(side.deployment.groups()), time.monotonic()
    meter.start()
    await asyncio.sleep(64 / CHUNKS_A_SECOND - _RAMP_SECONDS - 3 * _SETTLE_SECONDS)
    used, seconds = meter.stop(), time.monotonic() - began
    memory = own_mb(side.deployment.worker.pid)
    done = await order
    await side.answered(done)
    own = {name: (used[name] / seconds - rest[name]) / count for name in ("worker", "drainer")}
    return (
        f"| {count:,} | {own['worker']:.3f} | {own['drainer']:.3f} | {count * CHUNKS_A_SECOND:,} "
        f"| {memory:.0f}, {(memory - before) * 1e3 / count:.0f} | {done['first_p50_ms']:.1f}, {done['first_p99_ms']:.1f} |"
    )


def _middle(samples: list[dict[str, float]], name: str) -> float:
    return median(each[name] for each in samples)


def _spread(values: list[float], digits: int = 4) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def main() -> int:
    """Run and print; the exit status."""
    options = _options()
    go_first()
    with home_of() as home:
        what = _objects if options.what == "objects" else _streams
        print(asyncio.run(what(options, home)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
