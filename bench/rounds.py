"""The rounds: every cell against every target in turn, so that what disturbs the machine disturbs all alike.

A measurement of the gateway ends when the ledger has its calls: the drain is inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bench.books import Books, Oracle, Unbalanced
from bench.cells import Cell
from bench.deployment import Deployment
from bench.loader import Loader
from bench.nginx import Nginx
from bench.peers import Peer
from bench.ports import NotUp
from bench.processors import Meter

Sample = dict[str, float]
"""One cell of one round: rates, times, and processor milliseconds a call by group."""
MOST_CALLS = 200_000


class Rounds:
    """Measures; `samples[cell][target]` holds one sample a round."""

    def __init__(
        self,
        deployment: Deployment,
        loader: Loader,
        books: Books,
        nginx: Nginx | None,
        *,
        peers: Sequence[Peer] = (),
        seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self.samples: dict[str, dict[str, list[Sample]]] = {}
        self._deployment = deployment
        self._loader = loader
        self._books = books
        self._nginx = nginx
        self._peers = peers
        self._seconds = seconds
        self._say = say
        self._oracle = Oracle(deployment.upstream_port)

    async def warm_up(self, cells: list[Cell]) -> None:
        """Let the gateway see every key once and every cell for a moment."""
        first = Cell("warm", 32, False, "tokens=4", "first call of each key")
        self._oracle.forget()
        calls = _answered(await self._loader.touch_every_key(first, self._deployment.port), "warm-up")
        for cell in cells:
            done = await self._loader.run(cell, self._deployment.port, seconds=0.5, most=2000)
            calls += _answered(done, cell.name)
        await self._books.drained(calls)
        self._books.note(calls, self._oracle.counted())
        if self._nginx is not None:
            for cell in cells:
                await self._loader.run(cell, self._nginx.port, seconds=0.2, most=2000)
        for peer in self._peers:
            for cell in cells:
                await self._loader.run(cell, peer.port, seconds=1.0, most=2000, **peer.more)

    async def round(self, cells: list[Cell]) -> None:
        """One round."""
        for cell in cells:
            if self._nginx is not None:
                self._keep(
                    cell, "nginx", await self._of_other(cell, "nginx", self._nginx.pid, self._nginx.port)
                )
            for peer in self._peers:
                self._keep(
                    cell, peer.name, await self._of_other(cell, peer.name, peer.pid, peer.port, **peer.more)
                )
            self._keep(cell, "gateway", await self._of_gateway(cell))

    async def _of_other(self, cell: Cell, name: str, pid: int, port: int, **more: Any) -> Sample:
        meter = Meter({name: (pid,), "load": (self._loader.pid,)})
        meter.start()
        done = await self._loader.run(cell, port, seconds=self._seconds, most=MOST_CALLS, **more)
        used = meter.stop()
        if not done["calls"]:
            raise NotUp(f"{name} answered nothing: {done['quotes']}")
        return _sample(done, {"cpu": used[name], "load": used["load"]})

    async def _of_gateway(self, cell: Cell) -> Sample:
        self._oracle.forget()
        meter = Meter({**self._deployment.groups(), "load": (self._loader.pid,)})
        meter.start()
        done = await self._loader.run(cell, self._deployment.port, seconds=self._seconds, most=MOST_CALLS)
        calls = _answered(done, cell.name)
        await self._books.drained(calls)
        used = meter.stop()
        self._books.note(calls, self._oracle.counted())
        return _sample(done, {"cpu": used["worker"] + used["drainer"], **used})

    def _keep(self, cell: Cell, target: str, sample: Sample) -> None:
        self.samples.setdefault(cell.name, {}).setdefault(target, []).append(sample)
        self._say(
            f"  {cell.name:9} {target:8} {sample['rps']:8,.0f}/s  p50 {sample['p50_ms']:7.2f} ms  "
            f"first {sample['first_p50_ms']:7.2f} ms  cpu {sample['cpu_ms']:.4f} ms"
        )


def _answered(done: dict[str, Any], name: str) -> int:
    if done["failed"] or not done["calls"]:
        raise Unbalanced(f"{name}: {done['failed']} calls failed, {done['calls']} did not: {done['quotes']}")
    return int(done["calls"])


def _sample(done: dict[str, Any], used_ms: dict[str, float]) -> Sample:
    calls = done["calls"]
    return {
        "calls": calls,
        "failed": done["failed"],
        "rps": calls / done["seconds"],
        "p50_ms": done["p50_ms"],
        "p99_ms": done["p99_ms"],
        "first_p50_ms": done["first_p50_ms"],
        "first_p99_ms": done["first_p99_ms"],
        **{f"{name}_ms": value / calls for name, value in used_ms.items()},
    }
