"""A campaign of kills under mixed load, and the judgement over the books after it; used by tests and by the soak.

Every kill is one of a process that serves: one that is still starting proves nothing.

A killed stream is billed within [delivered, emitted], whatever the machine does. It is also billed within 64 tokens of
what was emitted: a worker counts a piece in the callback that reads it, so what is missing are the tokens that the
upstream had written and the kernel still held for a worker that did not get to run. Nobody has counted those, and an
engine does not wait for its readers: their number is the stream's pace times that wait. 64 tokens are therefore a promise
about time, and streams here come at an engine's pace, 5 ms a token at the fastest: a worker must have been kept from
running for a third of a second to miss more. (At 1 ms a token, which no engine gives to one stream, 77 ms are enough:
a starved worker was once billed 16 of 93.) Streams without a pace are 64 tokens at most.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from tests.faults.killer import DRAINER_POINTS, armed
from tests.faults.load import Mix, calls, drive, summary
from tests.faults.reconcile import Discrepancy, reconcile, report
from tests.faults.transcript import Transcript
from tests.faults.upstream import Upstream
from tests.system.deployment import ENDPOINT, Deployment

AN_ENGINES_PACE = Mix(model=ENDPOINT, delays_ms=(0, 5, 8))


class Campaign:
    """Load on one side, kills on the other; `judge` holds the three books against each other."""

    def __init__(
        self, gateway: Deployment, upstream: Upstream, *, seed: int, rate: float, who: str = "bulk"
    ) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self.seed = seed
        self.rate = rate
        self.transcripts: list[Transcript] = []
        self.places: Counter[str] = Counter()
        self._who = who
        self._random = random.Random(seed)
        self._first = 0
        self._since = len(upstream.records)
        # Request ids begin with the time in milliseconds.
        self._first_id = str(UUID(int=int(time.time() * 1000) << 80))

    @property
    def kills(self) -> int:
        """How many processes were killed while they served."""
        return self.places.total()

    @asynccontextmanager
    async def load(self) -> AsyncGenerator[None]:
        """Mixed calls at the campaign's rate while the block runs."""
        stop = asyncio.Event()
        specs = calls(
            seed=self.seed, keys=[self.gateway.keys[self._who]], mix=AN_ENGINES_PACE, first=self._first
        )
        running = asyncio.create_task(
            drive(self.gateway.target, specs, rate=self.rate, stop=stop, timeout=30.0)
        )
        try:
            yield
        finally:
            stop.set()
            self.transcripts += await running
            self._first += len(self.transcripts)

    async def kill_at(self, point: str) -> None:
        """Arm a process for a named point; it dies there by the load that reaches it."""
        name = "drainer" if point in DRAINER_POINTS else self._worker()
        nth = self._random.randint(1, 3)
        starts = await self.gateway.arm(name, armed(point, nth))
        await self.gateway.fell(name, starts, timeout=40.0)
        self.places[point] += 1

    async def kill_at_random(self) -> None:
        """kill -9 of a process that serves, after a random while."""
        await asyncio.sleep(self._random.uniform(0.05, 0.6))
        name = "drainer" if self._random.random() < 0.2 else self._worker()
        await self.serving(name)
        await self.gateway.kill(name)
        self.places[f"random {name.partition('-')[0]}"] += 1

    def _worker(self) -> str:
        return f"worker-{self._random.randrange(len(self.gateway.workers()))}"

    async def serving(self, name: str, timeout: float = 40.0) -> None:
        """Wait until a process holds the lock that it takes before it serves."""
        lock = "drainer.lock" if name == "drainer" else "owner.lock"
        async with asyncio.timeout(timeout):
            while not holds_open(self.gateway.pid(name), lock):
                await asyncio.sleep(0.02)

    def told(self) -> str:
        """What happened, for people."""
        places = ", ".join(f"{place} {count}" for place, count in sorted(self.places.items()))
        return f"{self.kills} kills ({places}); {summary(self.transcripts)}"

    async def findings(self) -> list[Discrepancy]:
        """Every broken rule, once the books are complete."""
        await self.gateway.ready()
        await self.gateway.drained(timeout=60.0)
        await self.upstream.until(lambda records: all(each.ended != "open" for each in records), 10.0)
        rows = await self.gateway.query(
            "SELECT * FROM gateway.requests WHERE principal_name = $1 AND request_id >= $2::uuid",
            self._who,
            self._first_id,
        )
        return reconcile(rows, self.upstream.records[self._since :], self.transcripts, slack=64)

    async def judge(self) -> None:
        """Fail with every broken rule."""
        found = await self.findings()
        assert not found, f"seed {self.seed}: {report(found)}"


def holds_open(pid: int, name: str) -> bool:
    """Whether a process has a file of that name open."""
    try:
        for each in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if each.readlink().name == name:
                    return True
            except OSError:
                continue
    except OSError:
        return False
    return False
