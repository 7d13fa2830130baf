"""Which call comes next: entity after entity, address after address, with places and pauses between them.

All of it happens before the first byte and within the caller's deadline. Every entity that is passed over leaves an
attempt on record that says why; every lease that is taken ends, however the call does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from engines.adapter import Adapter, StreamReader
from engines.errors import ConnectFailed, EngineError, Refused, TimedOut, Unsupported
from gateway.errors import OutOfService, Unavailable
from gateway.pipeline.attempts import begin_attempt, failed_attempt, passed_over
from gateway.pipeline.deadlines import left_ms, within
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line
from gateway.pipeline.seating import seat_of_all
from gateway.routing.passes import Ask, Pass
from gateway.routing.places import Full
from gateway.routing.traffic import Lease
from policies.calling import PLAIN_ENTITY
from policies.catalog import EntityKind, ServedEntity
from policies.conversation import prefix
from policies.retries import pause_ms
from policies.routing import Route
from policies.throughput import Throughput

T = TypeVar("T")
_EMBEDDING = "llm/v1/embeddings"
"""Whose model is served beside the engine, and generates nothing."""
_STANDING = (401, 402, 403, 404)
"""What an upstream that is asked again at once says again."""


class Tries:
    """The tries of one request."""

    __slots__ = (
        "_address",
        "_at",
        "_exchange",
        "_full",
        "_hopeless",
        "_left",
        "_line",
        "_managed",
        "_over",
        "_pause",
        "_retrying",
        "_route",
        "_tried",
        "failure",
        "timed",
    )

    def __init__(self, line: Line, exchange: Exchange, route: Route) -> None:
        self._line = line
        self._exchange = exchange
        self._route = route
        self._address = ""
        """What was called last."""
        self._at = 0
        self._left = exchange.endpoint.rules.retries
        self._pause = 0
        self._over = False
        self._retrying = False
        self._hopeless: set[str] = set()
        """Entities that would say the same again, or take as long."""
        self._tried: dict[str, set[str]] = {}
        self._full: Full | None = None
        self._managed = len(exchange.endpoint.entities) > 1
        self.failure: EngineError | None = None
        self.timed = False
        """Whether the present try may have a time limit that is not the transport's: then it is to be `bounded`."""
        for entity, reason in route.excluded:
            passed_over(line, exchange, entity, reason)

    async def next(self) -> Adapter | None:
        """What to call now, None when nothing is left; raises Unavailable where every place and queue is full."""
        line, exchange, order = self._line, self._exchange, self._route.order
        if self._pause:
            pause, self._pause = self._pause, 0
            await asyncio.sleep(pause / 1000)
        while not self._over and self._at < len(order):
            entity = order[self._at]
            if exchange.local_only and entity.kind is not EntityKind.LOCAL:
                raise OutOfService(
                    "A request that must stay here was about to leave; the gateway stopped it."
                )
            addresses = line.engines.addresses(entity)
            if not addresses:
                passed_over(line, exchange, entity, "it went away meanwhile")
                self._at += 1
                continue
            address = addresses[0]
            throughput = exchange.snapshot.throughput
            if throughput is not None and (
                entity.kind is not EntityKind.LOCAL or exchange.endpoint.task == _EMBEDDING
            ):
                throughput = None
            if (
                self._managed
                or len(addresses) > 1
                or entity.rules is not PLAIN_ENTITY
                or throughput is not None
            ):
                try:
                    exchange.lease = await self._lease(entity, addresses, throughput)
                except Full as full:
                    self._full = full
                    passed_over(line, exchange, entity, full.reason)
                    self._at += 1
                    continue
                address = exchange.lease.target.address
            # A retry is no call that pays for another one.
            if line.traffic.budgets and not self._retrying:
                budget = line.traffic.budgets.get(entity.id)
                if budget is not None:
                    budget.called()
            self._address = address
            self._tried.setdefault(entity.id, set()).add(address)
            self.timed = bool(exchange.deadline_ns) or entity.rules is not PLAIN_ENTITY
            begin_attempt(line, exchange, entity)
            try:
                return line.engines.adapter(entity, address)
            except EngineError as exc:
                # An address that the deployment does not connect to, say: a try that failed, and would fail again.
                self._hopeless.add(entity.id)
                self.failed(exc)
        if self.failure is None and self._full is not None:
            raise Unavailable(
                f"Endpoint {exchange.endpoint.name!r} has more calls than it can take ({self._full.reason}).",
                retry_after_seconds=self._full.retry_after_seconds,
                code="overloaded",
            )
        return None

    def bounded(self, work: Awaitable[T], *, first_token: bool = False) -> Awaitable[T]:
        """The work's result; raises TimedOut when the entity's time for it, or PastDeadline when the caller's, is over."""
        exchange = self._exchange
        assert exchange.entity is not None
        rules = exchange.entity.rules
        most = (rules.first_token_ms or rules.total_ms) if first_token else rules.total_ms
        if not most and not exchange.deadline_ns:
            return work
        left = left_ms(self._line, exchange)
        if left is not None and (not most or left <= most):
            return within(self._line, exchange, work)
        return self._in_time(work, most, first_token=first_token)

    async def _in_time(self, work: Awaitable[T], most: int, *, first_token: bool) -> T:
        try:
            async with asyncio.timeout(most / 1000):
                return await work
        except TimeoutError:
            raise TimedOut("first token" if first_token else "total") from None

    def answered(self) -> None:
        """The first byte is there."""
        exchange = self._exchange
        exchange.first_byte_ns = self._line.monotonic_ns()
        if exchange.lease is not None:
            exchange.lease.answered((exchange.first_byte_ns - exchange.dispatched_ns) // 1000)
            if exchange.lease.had is not None and exchange.request.stream:
                exchange.lease.had.answered((exchange.first_byte_ns - exchange.received_ns) / 1e6)

    def failed(self, exc: EngineError, reader: StreamReader | None = None) -> None:
        """The present try failed before its first byte: put it on record, with what was told, and see what comes next."""
        line, exchange = self._line, self._exchange
        entity = exchange.entity
        assert entity is not None
        rest = retry_after_ms(exc)
        exchange.dispatched = False
        usage = failed_attempt(line, exchange, entity, exc, reader)
        lease, exchange.lease = exchange.lease, None
        if lease is not None:
            fault = exc.code if exc.retryable and exc.blamed else None
            lease.end(fault, rest_ms=rest, tokens=usage.total_tokens)
        self.failure = exc
        if isinstance(exc, ConnectFailed):
            line.engines.unreachable(entity, self._address)
        if not exc.retryable:
            self._over = True
            return
        exchange.why = "fallback"
        if isinstance(exc, (TimedOut, Unsupported)) or (isinstance(exc, Refused) and exc.status in _STANDING):
            self._hopeless.add(entity.id)
        elif len(self._tried[entity.id]) < len(line.engines.addresses(entity)):
            # Another replica is as good as this one, and is asked at once.
            return
        self._at += 1
        if self._retrying or self._at >= len(self._route.order):
            self._again(rest)

    def _again(self, rest: int) -> None:
        """All were tried: choose one to try again, if there is a retry left and time for it."""
        line, exchange, order = self._line, self._exchange, self._route.order
        for offset in range(len(order)):
            at = (self._at + offset) % len(order)
            if order[at].id in self._tried and order[at].id not in self._hopeless:
                break
        else:
            self._over = True
            return
        retry = exchange.endpoint.rules.retries - self._left + 1
        pause = pause_ms(retry, line.draw(), rest, left_ms(line, exchange))
        if self._left <= 0 or pause is None or not line.traffic.budget(order[at]).take():
            self._over = True
            return
        self._left -= 1
        self._pause, self._at, self._retrying = pause, at, True
        self._tried[order[at].id].clear()
        exchange.why = "retry"

    async def _lease(
        self, entity: ServedEntity, addresses: tuple[str, ...], throughput: Throughput | None
    ) -> Lease:
        """A place at the entity, waited for if need be, and the address that takes the call; raises Full."""
        line, exchange, traffic = self._line, self._exchange, self._line.traffic
        who = exchange.caller.principal.id
        found = traffic.places(entity)
        places = seat = None
        if found is not None:
            places, share = found
            came = line.monotonic_ns()
            waiting = places.enter(who, share, batch=exchange.batch or exchange.endpoint.batch)
            if waiting is not None:
                left = left_ms(line, exchange)
                patience = entity.rules.queue_ms if left is None else min(left, entity.rules.queue_ms)
                try:
                    async with asyncio.timeout(patience / 1000):
                        await waiting.turn
                except TimeoutError:
                    places.give_up(waiting)
                    raise places.too_slow() from None
                except BaseException:
                    places.give_up(waiting)
                    raise
                finally:
                    exchange.queue_ns += line.monotonic_ns() - came
            if traffic.few_places(entity):
                seat = await seat_of_all(line, exchange, entity, places, came)
        reservation = exchange.reservation
        assert reservation is not None
        tokens = exchange.request.text_bytes // 4 + reservation.granted_output
        had = None
        if throughput is not None:
            began, placed = line.monotonic_ns(), line.traffic.clock_ms()
            try:
                had = await self._pass(throughput, tokens, len(addresses))
            except BaseException:
                if seat is not None:
                    traffic.seats.give_back(seat)
                if places is not None:
                    places.leave(who, (line.traffic.clock_ms() - placed) / 1000)
                raise
            finally:
                exchange.queue_ns += line.monotonic_ns() - began
        begins = None
        if entity.kind is EntityKind.LOCAL and len(addresses) > 1 and entity.rules.affinity:
            # The engine keeps prefixes apart by this too.
            begins = prefix(exchange.request.body, (reservation.group_id or who).encode())
        target = traffic.choose(
            entity,
            addresses,
            tried=self._tried.get(entity.id, ()),
            prefix=begins,
            tokens=tokens,
            stream=exchange.request.stream,
        )
        return Lease(
            traffic,
            target,
            entity.rules,
            tokens=tokens,
            stream=exchange.request.stream,
            places=places,
            who=who,
            had=had,
            seat=seat,
        )

    async def _pass(self, throughput: Throughput, tokens: int, replicas: int) -> Pass:
        """A slot of the engine, where throughput is provisioned; raises Full."""
        line, exchange = self._line, self._exchange
        caller, endpoint = exchange.caller, exchange.endpoint
        left, most = left_ms(line, exchange), throughput.pool.queue_ms
        ask = Ask(
            throughput,
            throughput.of(endpoint.id, caller.principal.groups),
            caller.principal.id,
            tokens,
            exchange.batch or caller.batch or endpoint.batch,
            replicas,
        )
        return await line.traffic.gate.enter(ask, most if left is None else min(left, most))


def retry_after_ms(exc: EngineError) -> int:
    """How long the upstream asked to be left alone."""
    return (exc.retry_after_ms or 0) if isinstance(exc, Refused) else 0
