"""The way to the local engine where throughput is provisioned: who goes at once, who is lent a slot, who waits.

Each worker decides for itself, by what it counts and by what the others told it last (several times a second); a call
that waits goes as soon as its provision covers it or a slot is free, whichever comes first.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gateway.routing.allowances import Allowances
from gateway.routing.gate_news import SILENT, GateNews
from gateway.routing.passes import Ask, Pass
from gateway.routing.places import Places, Share, Waiting
from policies.throughput import (
    WINDOW_MS,
    Lane,
    Throughput,
    limit_after,
    limit_now,
    most_lent,
    parts,
    pause_after,
    unreserved,
)

_REPLICAS_MS = 5_000
"""How long replicas count as up after a call that could go to them."""


@dataclass(slots=True, eq=False)
class _Hoping:
    """A call that waits for a lent slot, and for the first of its provisions that covers it."""

    ask: Ask
    waiting: Waiting
    granted: Pass | None = None


class Gate:
    """One worker's part of the pool."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._lent = Places(lambda: clock_ms() / 1000)
        self._allowances = Allowances(clock_ms)
        self._hoping: dict[_Hoping, None] = {}
        self._timer: TimerHandle | None = None
        self._throughput: Throughput | None = None
        self._replicas, self._counted_ms = 1, -(1 << 40)
        self._covered = 0
        self._timed = 0
        """Of these, calls with a target."""
        self._used_ms = -(1 << 40)
        self._pause_ms = 0.0
        """Between two of them, usually."""
        self._late = self._timely = 0
        self._new_late = self._new_timely = 0
        """Of all workers, what the limit has not taken in yet."""
        self._limit: float | None = None
        self._others: dict[str, GateNews] = {}
        self._told_demand = 0
        self._name: str | None = None
        """Ours among the workers; None while they cannot be heard."""
        self._workers = 1
        self._ahead_ms = 0
        self._active_ms = -(1 << 40)

    @property
    def active(self) -> bool:
        """Whether calls pass here: then workers tell each other oftener."""
        return self._clock_ms() - self._active_ms < 10 * WINDOW_MS

    @property
    def covered(self) -> int:
        """Covered calls under way in this worker."""
        return self._covered

    @property
    def lent(self) -> int:
        """Calls that have a lent slot in this worker."""
        return self._lent.running

    @property
    def waiting(self) -> int:
        """Calls that wait in this worker."""
        return self._lent.waiting

    async def enter(self, ask: Ask, patience_ms: int) -> Pass:
        """A slot for the call; raises Full where there is none, and none to wait for, or none in time."""
        self._active_ms = self._clock_ms()
        self._follow(ask)
        covered = self._cover(ask, Lane.COVERED)
        if covered is not None:
            return covered
        waiting = self._lent.enter(ask.who, self._share(), batch=ask.batch)
        if waiting is None:
            return self._lend(ask)
        hoping = _Hoping(ask, waiting)
        if ask.provisions:
            self._hoping[hoping] = None
            self._arm()
        try:
            async with asyncio.timeout(patience_ms / 1000):
                await waiting.turn
        except BaseException as error:
            if hoping.granted is not None:
                hoping.granted.end(0)
            else:
                self._lent.give_up(waiting)
            if isinstance(error, TimeoutError):
                raise self._lent.too_slow() from None
            raise
        finally:
            self._hoping.pop(hoping, None)
        return hoping.granted or self._lend(ask)

    def left(self, had: Pass, ask: Ask, tokens: int, began_ms: int) -> None:
        """A call has ended; use `Pass.end`."""
        now = self._clock_ms()
        self._active_ms = now
        if had.lane is Lane.LENT:
            self._lent.leave(ask.who, (now - began_ms) / 1000)
            return
        assert had.provision is not None
        self._covered -= 1
        if had.provision.first_token_ms is not None:
            self._timed -= 1
            self._used_ms = now
        self._allowances.charge(had.provision, tokens - ask.tokens)
        self._lent.resize(self._share())
        self._arm()

    def measured(self, *, late: bool) -> None:
        """The first token of a covered call came, late or in time; while nothing is lent that tells nothing of lending."""
        if not (self._lent.running or any(each.demand for each in self._others.values())):
            return
        self._late += late
        self._timely += not late
        self._new_late += late
        self._new_timely += not late

    def follow(self, throughput: Throughput | None) -> None:
        """Go by this from now on; None leaves what is known to those calls that began with it."""
        if throughput is None or throughput is self._throughput:
            return
        self._throughput = throughput
        self._allowances.follow(throughput.provisions)

    # what workers tell each other

    def news(self, ahead_ms: int) -> GateNews | None:
        """What the others should know; None where nothing passes here."""
        if self._throughput is None:
            return None
        self._told_demand = self._lent.running + self._lent.waiting
        used = self._clock_ms() if self._timed else self._used_ms
        return GateNews(
            self._covered,
            self._told_demand,
            self._late,
            self._timely,
            used + ahead_ms,
            self._limit or 0.0,
            dict(self._allowances.charged),
            self._pause_ms,
        )

    def listen(self, name: str, found: Mapping[str, GateNews | None], ahead_ms: int) -> None:
        """Take in what the others told, and let in whom that allows; without others all is this worker's."""
        self._name, self._workers, self._ahead_ms = name, len(found) + 1, ahead_ms
        self._allowances.parts = 1
        known, self._others = self._others, {}
        for worker, told in found.items():
            # One that nothing passes through wants nothing yet.
            news = self._others[worker] = told or SILENT
            if news.used_ms > 0:
                self._used_ms = max(self._used_ms, news.used_ms - ahead_ms)
            before = known.get(worker)
            if before is None:
                # Of one that is new only what comes from now on: its totals may be of hours.
                continue
            self._new_late += news.late - before.late
            self._new_timely += news.timely - before.timely
            for provision, total in news.charged.items():
                self._allowances.spend(provision, total - before.charged.get(provision, 0.0))
        self.tick()

    def alone(self, workers: int) -> None:
        """Nobody can be heard: an even part of everything is this worker's."""
        self._others.clear()
        self._name, self._workers = None, max(1, workers)
        # What cannot be shared is divided.
        self._allowances.parts = self._workers
        self.tick()

    def tick(self) -> None:
        """Take in what was measured, and let in whom the limit allows now."""
        if self._throughput is None:
            return
        self._limit = limit_after(
            self._limit or self._first_limit, self._slots, self._new_late, self._new_timely
        )
        self._new_late = self._new_timely = 0
        self._lent.resize(self._share())
        self._arm()

    # private

    @property
    def _first_limit(self) -> float:
        """Before anything was measured here: as the others found out, else what is no provision's."""
        throughput = self._throughput
        assert throughput is not None
        spare = unreserved(self._slots, throughput.rate, throughput.pool.capacity)
        found = [each.limit for each in self._others.values() if each.limit > 0]
        return max(1.0, min(found, default=float(spare)))

    @property
    def _slots(self) -> int:
        assert self._throughput is not None
        return self._throughput.pool.slots * self._replicas

    def _follow(self, ask: Ask) -> None:
        """The configuration or the engine's replicas may be others than at the last call."""
        now = self._clock_ms()
        up = max(1, min(ask.replicas, ask.throughput.pool.replicas))
        if up >= self._replicas or now - self._counted_ms > _REPLICAS_MS:
            # Fewer may only mean that this call's adapter is not on all of them.
            self._replicas, self._counted_ms = up, now
        self.follow(ask.throughput)

    def _share(self) -> Share:
        """What of the slots and of the queue is this worker's now."""
        throughput = self._throughput
        assert throughput is not None
        pool, slots = throughput.pool, self._slots
        covered = self._covered + sum(each.covered for each in self._others.values())
        quiet = 0 if self._timed else self._clock_ms() - self._used_ms
        usual = max((each.pause_ms for each in self._others.values()), default=0.0)
        limit = limit_now(self._limit or self._first_limit, slots, quiet, max(usual, self._pause_ms))
        most = most_lent(slots, unreserved(slots, throughput.rate, pool.capacity), covered, limit)
        if self._name is None:
            own = max(min(most, 1), most // self._workers)
        elif self._others:
            # By what each told last, itself included, so that all come to the same parts.
            demands = {name: each.demand for name, each in self._others.items()}
            demands[self._name] = self._told_demand
            order = sorted(demands)
            turn = (self._clock_ms() + self._ahead_ms) // WINDOW_MS
            own = parts(most, [demands[name] for name in order], turn)[order.index(self._name)]
        else:
            own = most
        return Share(own, -(-pool.queue // self._workers), 100)

    def _cover(self, ask: Ask, lane: Lane) -> Pass | None:
        for provision in ask.provisions:
            if self._allowances.covers(provision):
                self._allowances.charge(provision, ask.tokens)
                self._covered += 1
                if provision.first_token_ms is not None:
                    if not self._timed:
                        self._pause_ms = pause_after(self._pause_ms, self._clock_ms() - self._used_ms)
                    self._timed += 1
                # Its slot is not lent again from now on.
                self._lent.resize(self._share())
                return Pass(self, ask, lane, provision, self._clock_ms())
        return None

    def _lend(self, ask: Ask) -> Pass:
        would = ask.provisions[0] if ask.provisions else None
        return Pass(self, ask, Lane.LENT, would, self._clock_ms())

    def _promote(self) -> None:
        """Let those go that their provisions cover by now, the one that waits longest first."""
        self._timer = None
        for hoping in list(self._hoping):
            if hoping.waiting.turn.done():
                del self._hoping[hoping]
                continue
            granted = self._cover(hoping.ask, Lane.AWAITED)
            if granted is not None:
                del self._hoping[hoping]
                self._lent.withdraw(hoping.waiting)
                hoping.granted = granted
                hoping.waiting.turn.set_result(None)
        self._arm()

    def _arm(self) -> None:
        """Wake up when the first provision that somebody waits for covers a call."""
        if not self._hoping:
            return
        if self._timer is not None:
            self._timer.cancel()
        due = min(
            self._allowances.covers_in_ms(each)
            for each in {one.id: one for hoping in self._hoping for one in hoping.ask.provisions}.values()
        )
        self._timer = asyncio.get_running_loop().call_later(due / 1000, self._promote)
