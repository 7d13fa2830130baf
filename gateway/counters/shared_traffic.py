"""Workers tell each other of circuits, loads and where conversations are, twice a second, off every call's path; oftener of provisioned throughput.

Each writes one field of one hash and reads the others'. Of two opinions the younger holds, so nothing has to be locked
but the right to make a probe, which Redis gives to one worker. With Redis away each goes by what it sees itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import msgspec

from engines.beats import beat
from gateway.counters.commands import Commands, pairs
from gateway.counters.connection import RedisAway
from gateway.counters.lua import command
from gateway.counters.seats import SharedSeats
from gateway.routing.gate_news import GateNews
from gateway.routing.traffic import Home, Target, Traffic
from policies.circuits import Circuit, State, due

PERIOD_SECONDS = 0.5
GATED_SECONDS = 0.2
"""While calls pass a gate: what is lent has to be back within a second, told and heard."""
_QUIET_MS = 3_000
"""A worker not heard of for longer counts as gone."""
_MOST_TOLD = 1_000
_LEAVE_MS = b"10000"
"""How long the leave to make a probe outlives a worker that dies with it."""

log = logging.getLogger(__name__)


class Told(msgspec.Struct, array_like=True):
    """What one worker says of one address."""

    key: str
    calls: int
    tokens: int
    state: str
    until_ms: int
    opened: int
    changed_ms: int
    reason: str


class News(msgspec.Struct, array_like=True):
    """What one worker says of all of them."""

    at_ms: int
    targets: list[Told]
    gate: GateNews | None = None
    homes: list[Home] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(News).decode


class SharedTraffic:
    """Keeps one worker's Traffic up to date with the others'."""

    def __init__(self, redis_url: str, worker_id: str, traffic: Traffic, *, deployment: str = "wb") -> None:
        self._redis = Commands(redis_url, seconds=1.0)
        self._hash = f"{{{deployment}}}:traffic".encode()
        self._probe = f"{{{deployment}}}:probe:".encode()
        self._worker = worker_id.encode()
        self._traffic = traffic
        self._seats = SharedSeats(redis_url, worker_id, deployment=deployment)
        traffic.seats = self._seats
        self._complained = False
        self._leaves: set[str] = set()
        """Targets whose probe is ours to make, or is being made by us."""

    async def close(self) -> None:
        """Say that this worker is gone, and disconnect."""
        try:
            await self._redis.ask(command(b"HDEL", self._hash, self._worker))
        except RedisAway:
            log.debug("the other workers will find out by themselves")
        await self._seats.close()
        await self._redis.close()

    async def follow(self) -> None:
        """Tell and listen for ever."""
        while True:
            try:
                await self.exchange()
                self._complained = False
            except RedisAway as error:
                self._traffic.alone = True
                self._traffic.gate.alone(self._traffic.workers)
                if not self._complained:
                    log.warning("circuits and loads are not shared for now (%s)", error)
                    self._complained = True
            except Exception:
                # Nobody waits for this task: it must outlive whatever it meets.
                log.exception("circuits and loads were not shared this time")
                self._traffic.alone = True
            await beat(GATED_SECONDS if self._traffic.gate.active else PERIOD_SECONDS)

    async def exchange(self) -> None:
        """Tell once and listen once; raises RedisAway."""
        traffic = self._traffic
        traffic.sweep()
        before = traffic.now_ms()
        (seconds, micros), _, _, found = await self._redis.ask(
            command(b"TIME"),
            command(b"HSET", self._hash, self._worker, self._news(before)),
            command(b"PEXPIRE", self._hash, b"60000"),
            command(b"HGETALL", self._hash),
        )
        now = int(seconds) * 1000 + int(micros) // 1000
        # Half of the way there is as good as a clock gets here; circuits are a matter of seconds.
        drift = now - (before + traffic.now_ms()) // 2
        if abs(drift) > 250:
            # What was told just now bears the wrong time: the next turn tells it again, and listens.
            self._shift(drift)
            return
        self._listen(pairs(found), now)
        traffic.alone = False
        await self._seats.keep()
        await self._claim()

    def _shift(self, drift: int) -> None:
        """Move to the shared clock; what was noted by the old one moves along."""
        self._traffic.ahead_ms += drift
        for each in self._traffic.targets.values():
            circuit = each.circuit
            if circuit.changed_ms:
                each.circuit = replace(
                    circuit, until_ms=circuit.until_ms + drift, changed_ms=circuit.changed_ms + drift
                )
            each.used_ms += drift
            each.measured_ms = {kind: at + drift for kind, at in each.measured_ms.items()}

    def _news(self, now_ms: int) -> bytes:
        told = [
            Told(
                each.key,
                each.calls,
                each.tokens,
                each.circuit.state.value,
                each.circuit.until_ms,
                each.circuit.opened,
                each.circuit.changed_ms,
                each.circuit.reason,
            )
            for each in self._traffic.targets.values()
            if each.calls or each.circuit.changed_ms
        ]
        gate = self._traffic.gate.news(self._traffic.ahead_ms)
        return _encode(News(now_ms, told[:_MOST_TOLD], gate, self._traffic.begun()))

    def _listen(self, found: Mapping[bytes, bytes], now_ms: int) -> None:
        traffic = self._traffic
        loads: dict[str, tuple[int, int]] = {}
        gates: dict[str, GateNews | None] = {}
        for worker, data in found.items():
            if worker == self._worker:
                continue
            try:
                news = _decode(data)
            except msgspec.MsgspecError:
                continue  # another version's
            if now_ms - news.at_ms > _QUIET_MS:
                continue
            gates[worker.decode()] = news.gate
            traffic.elsewhere_begun(news.homes)
            for told in news.targets:
                calls, tokens = loads.get(told.key, (0, 0))
                loads[told.key] = calls + told.calls, tokens + told.tokens
                if told.changed_ms:
                    traffic.told(
                        told.key,
                        Circuit(State(told.state), told.until_ms, told.opened, told.changed_ms, told.reason),
                    )
        traffic.workers = len(gates) + 1
        own = self._worker.decode()
        traffic.rank = sum(each < own for each in gates)
        traffic.gate.listen(own, gates, traffic.ahead_ms)
        for key, target in traffic.targets.items():
            target.elsewhere = loads.get(key, (0, 0))

    async def _claim(self) -> None:
        """Get leave for the probes that are due, where no other worker has it; keep what we have until they have told."""
        traffic = self._traffic
        for key in list(self._leaves):
            target, name = traffic.targets.get(key), self._probe + key.encode()
            owner, _ = await self._redis.ask(command(b"GET", name), command(b"PEXPIRE", name, _LEAVE_MS))
            ours = owner == self._worker
            if target is not None and ours and (target.probe or _under_way(target, traffic.now_ms())):
                continue
            self._leaves.discard(key)
            if target is not None:
                target.probe = False
            if ours:
                await self._redis.ask(command(b"DEL", name))
        for target in traffic.due_probes():
            name = self._probe + target.key.encode()
            (granted,) = await self._redis.ask(command(b"SET", name, self._worker, b"NX", b"PX", _LEAVE_MS))
            if granted:
                target.probe = True
                self._leaves.add(target.key)


def _under_way(target: Target, now_ms: int) -> bool:
    """Whether a probe is being made that may still tell something."""
    return target.circuit.state is State.HALF_OPEN and not due(target.circuit, now_ms)
