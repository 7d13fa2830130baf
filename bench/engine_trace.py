"""Record what a real vLLM and the ledger say of the same minutes: `python -m bench.engine_trace`.

A real gateway before the demonstration model on the CPU, with its adapter: callers with short and long prompts, plain and
streamed, one who floods, one who leaves in the middle, calls past the gateway, a while without any call, and the engine
killed under load. Kept are the ledger's calls (no prompt, no answer), every look at the engine's metrics as the gateway's own
meter takes them, and, to hold the meter against, how often the engine was found at work by a look four times a second.
Tests replay the file through the gateway's own accounting.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from engines.errors import EngineError
from engines.http1.transport import Http1Transport
from engines.local.environment import install
from engines.local.gauges import RUNNING, gauges, version
from engines.local.launch import DEMO_NAME, EngineSpec, command
from engines.local.models import local_model
from engines.local.supervise import EngineState, Phase, keep_all
from gateway.adapter_notes import read_standings
from gateway.cli.engine_cost import engine_cost
from gateway.embedded.postgres import EmbeddedPostgres
from gateway.embedded.redis import EmbeddedRedis
from gateway.engine_meter import LOOK_SECONDS, Look, look_at
from gateway.seed import SQL_ENDPOINT
from gateway.store.migrate import upgrade
from gateway.supervise.engine import Replicas
from tests.faults.wire import BEFORE_FIRST, MID_STREAM, NEVER, Client, Spec
from tests.system.deployment import BULK, ENDPOINT, Deployment

OUT = Path(__file__).parents[1] / "tests" / "auditor" / "engine-trace.json"
CALL = (
    "principal", "endpoint", "stream", "admitted_at_ms", "started_at_ms", "model", "outcome", "first_byte_us",
    "duration_us", "fresh_input", "cache_read", "cache_write", "output", "reasoning",
)  # fmt: skip
_CALLS = """
SELECT r.principal_name AS principal, r.endpoint_name AS endpoint, r.stream,
       (extract(epoch FROM r.admitted_at) * 1000)::bigint AS admitted_at_ms,
       (extract(epoch FROM a.started_at) * 1000)::bigint AS started_at_ms,
       a.model, a.outcome, a.first_byte_us, a.duration_us, a.fresh_input, a.cache_read,
       a.cache_write, a.output, a.reasoning
FROM gateway.requests r JOIN gateway.attempts a USING (request_id) WHERE a.outcome <> 'excluded' ORDER BY a.started_at, r.request_id
"""
_WORDS = "the gateway weighs every request against permissions limits and budgets before it is let in and again when it leaves"
_QUESTIONS = (
    "Show me cost by user this month.",
    "How many requests did each group make today?",
    "Which keys exist?",
)
_POLLS_A_SECOND = 4
_WINDOW = 5 * 10**6


class Callers:
    """Those who call, each in its own way, until told to stop."""

    def __init__(self, gateway: Deployment, seed: int) -> None:
        self._gateway = gateway
        self._rng = random.Random(seed)
        self._number = 0

    async def _call(
        self,
        who: str,
        words: int,
        tokens: int,
        *,
        stream: bool,
        model: str = ENDPOINT,
        leave: float | None = None,
    ) -> None:
        self._number += 1
        asked = " ".join(self._rng.choices(_WORDS.split(), k=words))
        if model == SQL_ENDPOINT:
            asked = self._rng.choice(_QUESTIONS)
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": f"{self._number} {asked}"}],
            "max_tokens": tokens,
            "stream": stream,
        }
        if model == ENDPOINT:
            body["ignore_eos"] = True
        how = NEVER if leave is None else MID_STREAM if stream else BEFORE_FIRST
        await Client(self._gateway.target).call(
            Spec(self._number, json.dumps(body).encode(), stream, self._gateway.keys[who], how, leave or 0.0)
        )

    async def alice(self) -> None:
        """Asks this and that."""
        while True:
            await self._call(
                "alice",
                self._rng.randint(5, 120),
                self._rng.randint(10, 150),
                stream=self._rng.random() < 0.5,
            )
            await asyncio.sleep(self._rng.expovariate(1 / 1.5))

    async def carol(self) -> None:
        """Has much read and little written."""
        while True:
            await self._call("carol", 1200, self._rng.randint(1, 12), stream=False)
            await asyncio.sleep(self._rng.expovariate(1 / 3))

    async def demo(self) -> None:
        """Asks the adapter."""
        while True:
            await self._call("demo", 0, 80, stream=self._rng.random() < 0.5, model=SQL_ENDPOINT)
            await asyncio.sleep(self._rng.expovariate(1 / 2))

    async def dave(self) -> None:
        """Leaves in the middle."""
        while True:
            stream = self._rng.random() < 0.7
            await self._call("dave", 30, 400, stream=stream, leave=20.0 if stream else 0.5)
            await asyncio.sleep(self._rng.expovariate(1 / 5))

    async def bob(self) -> None:
        """Floods."""

        async def one() -> None:
            while True:
                await self._call("bob", 40, self._rng.randint(200, 300), stream=True)
                await asyncio.sleep(0.3)

        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(one())


async def for_a_while(seconds: float, *calls: Any) -> None:
    """Let these run so long."""
    tasks = [asyncio.create_task(each) for each in calls]
    await asyncio.sleep(seconds)
    for each in tasks:
        each.cancel()
    for each in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(each, Exception):
            raise each


async def past_the_gateway(transport: Http1Transport, calls: int) -> None:
    """Calls that no ledger knows of."""
    body = {
        "model": DEMO_NAME,
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": 300,
        "ignore_eos": True,
    }
    for _ in range(calls):
        answer = await transport.post(
            "/v1/chat/completions", msgspec.json.encode(body), {"content-type": "application/json"}
        )
        if answer.status != 200:
            raise EngineError(f"the engine answers {answer.status}")


async def look_on(transport: Http1Transport, into: list[Look]) -> None:
    """Look as the gateway's meter does."""
    while True:
        into.append(await look_at(transport))
        await asyncio.sleep(LOOK_SECONDS)


async def look_often(transport: Http1Transport, into: list[tuple[int, bool]]) -> None:
    """When the engine was there, and whether it had a call then."""
    while True:
        found = await gauges(transport)
        if found is not None:
            into.append((time.time_ns() // 1000, found.get(RUNNING, 0) > 0))
        await asyncio.sleep(1 / _POLLS_A_SECOND)


def _in_windows(polls: Sequence[tuple[int, bool]]) -> list[list[int]]:
    """Start of each window, how often the engine was there in it, and how often at work."""
    found: dict[int, list[int]] = {}
    for at, busy in polls:
        each = found.setdefault(at - at % _WINDOW, [0, 0])
        each[0] += 1
        each[1] += busy
    return [[at, *counts] for at, counts in sorted(found.items())]


async def record(out: Path, seed: int, pace: float) -> None:
    """Start everything, let them call, write the file."""
    root = Path(os.environ.get("WEIGHBRIDGE_HOME", "var")).resolve()
    made = await install(root / "engine-venv", lambda line: print(line, file=sys.stderr))
    home = Path(tempfile.mkdtemp(prefix="wb-trace-"))
    home.chmod(0o711)
    spec = EngineSpec(
        python=made.python,
        socket=home / "engine-0.sock",
        cache=root / "engine-cache",
        log=home / "logs" / "vllm-0.log",
    )
    replicas = Replicas(home / "gateway", [spec.url], local_model(None))
    replicas.started_as([tuple(command(spec))])
    ready = asyncio.Condition()
    state = EngineState(Phase.INSTALLING)

    async def tell() -> None:
        async with ready:
            ready.notify_all()

    telling: set[asyncio.Task[None]] = set()

    def report(number: int, now: EngineState) -> None:
        nonlocal state
        state = now
        replicas.changed(number, now)
        telling.add(asyncio.create_task(tell()))

    async def until_ready(starts: int) -> None:
        async with asyncio.timeout(400), ready:
            await ready.wait_for(lambda: state.phase is Phase.READY and state.starts >= starts)
        async with asyncio.timeout(60):
            while (
                not (found := read_standings(home / "gateway" / "run").get(SQL_ENDPOINT)) or not found.loaded
            ):
                await asyncio.sleep(0.2)

    engine = asyncio.create_task(keep_all([spec], report))
    transport = Http1Transport(spec.url)
    looks: list[Look] = []
    polls: list[tuple[int, bool]] = []
    watching: Sequence[asyncio.Task[None]] = ()
    try:
        await until_ready(1)
        async with EmbeddedPostgres(home) as postgres, EmbeddedRedis(home) as redis:
            await upgrade(postgres.url("weighbridge_owner"))
            deployment = Deployment(
                home=home / "gateway",
                database_url=postgres.url(),
                redis_url=redis.url(),
                engine_url=spec.url,
                people=dict.fromkeys(("alice", "bob", "carol", "dave"), BULK),
                workers=2,
            )
            async with deployment as gateway:
                watching = [
                    asyncio.create_task(look_on(transport, looks)),
                    asyncio.create_task(look_often(transport, polls)),
                ]
                began = time.time_ns() // 1000
                callers = Callers(gateway, seed)

                def usual() -> list[Any]:
                    return [callers.alice(), callers.carol(), callers.demo(), callers.dave()]

                await for_a_while(60 * pace, *usual())
                await for_a_while(40 * pace, *usual(), callers.bob())
                await asyncio.sleep(8 * pace)
                await past_the_gateway(transport, 4)
                await asyncio.sleep(15 * pace)
                under_load = asyncio.create_task(for_a_while(40 * pace, *usual(), callers.bob()))
                await asyncio.sleep(20 * pace)
                assert state.pid is not None
                os.killpg(state.pid, signal.SIGKILL)
                killed = time.time_ns() // 1000
                print("the engine is killed", file=sys.stderr)
                await under_load
                await until_ready(2)
                await for_a_while(30 * pace, *usual())
                # Until what they left has ended, and been looked at.
                await asyncio.sleep(2 * LOOK_SECONDS)
                ended = time.time_ns() // 1000
                for each in watching:
                    each.cancel()
                await gateway.drained()
                calls = await gateway.query(_CALLS)
                said = await version(transport)
                # Until the meter has handed the last minute over.
                await asyncio.sleep(60 - time.time() % 60 + LOOK_SECONDS + 2)
                print(
                    await engine_cost(
                        gateway.settings,
                        since=datetime.fromtimestamp(began / 1e6, UTC).isoformat(),
                        until=datetime.fromtimestamp(ended / 1e6, UTC).isoformat(),
                        by="principal",
                        hour_price=2.5,
                        replicas=None,
                        prompt_weight=0.1,
                        prompt_price=0.5,
                        answer_price=1.0,
                        as_json=False,
                    )
                )
    finally:
        for each in watching:
            each.cancel()
        await transport.aclose()
        engine.cancel()
        await asyncio.gather(engine, *watching, return_exceptions=True)
        await replicas.stop()
    told: dict[str, Any] = {
        "recorded_at": datetime.fromtimestamp(began / 1e6, UTC).isoformat(timespec="seconds"),
        "recorded_by": "python -m bench.engine_trace",
        "engine": f"vLLM {said}, {DEMO_NAME}, {os.cpu_count()} cores shared with the gateway and the callers",
        "began_us": began,
        "ended_us": ended,
        "killed_us": killed,
    }
    columns = {
        "polls": _in_windows(polls),
        "looks": [
            [look.at, look.steady, int(look.away), look.reading and list(astuple(look.reading))]
            for look in looks
        ],
        "calls": [list(CALL), *([row[name] for name in CALL] for row in calls)],
    }
    lines = [f'"{name}": {json.dumps(value)}' for name, value in told.items()]
    lines += [
        f'"{name}": [\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]"
        for name, rows in columns.items()
    ]
    out.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    shutil.rmtree(home, ignore_errors=True)
    print(f"{out}: {len(calls)} calls, {len(looks)} looks, {out.stat().st_size:,} bytes", file=sys.stderr)


def main() -> None:
    """Read the options and record."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine_trace", description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--pace", type=float, default=1.0, help="times the usual length of each part (1)")
    options = parser.parse_args()
    asyncio.run(record(options.out, options.seed, options.pace))


if __name__ == "__main__":
    main()
