"""The gate of a worker: who begins at once, who waits in line, who goes first, and who is turned away."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any, cast

from gateway.http.gate import Gate, Overloaded
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.ports import Keys
from policies.overload import AT_ONCE, EACH_TURN, LINE, TOLD_EACH_TURN


class Known:
    """Everybody whose credential is a name."""

    def known(self, credential: str) -> object | None:
        return SimpleNamespace(principal=SimpleNamespace(id=credential)) if credential.isalpha() else None


class Crowd:
    """Calls at a gate; `flood` has many under way, and nobody else has any."""

    def __init__(self) -> None:
        self.told = Counter[str]()
        self.gate = Gate(
            cast("Keys", Known()), late_ms=100, most_calls=4096, refused=lambda code: self.told.update([code])
        )
        flood = SimpleNamespace(caller=SimpleNamespace(principal=SimpleNamespace(id="flood")))
        self.running = cast("dict[Any, Exchange]", dict.fromkeys(range(AT_ONCE), flood))
        self.began: list[str] = []
        self.order: list[int] = []
        """Which of all calls began, one after the other."""
        self.refused: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    def call(self, who: str, times: int = 1) -> None:
        for _ in range(times):
            self.tasks.append(asyncio.create_task(self._call(who, len(self.tasks))))

    def turned_away(self, who: str) -> bool:
        """At its connection."""
        return self.gate.turns_away(self._head(who), self.running, AT_ONCE)

    def _head(self, who: str) -> list[tuple[bytes, bytes]]:
        return [(b"authorization", b"Bearer " + who.encode())] if who else []

    async def _call(self, who: str, number: int) -> None:
        try:
            await self.gate.enter(self._head(who), self.running, AT_ONCE)
        except Overloaded:
            self.refused.append(who)
        else:
            self.began.append(who)
            self.order.append(number)

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def end(self) -> None:
        await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_a_line_is_begun_a_few_a_turn_and_is_gone_in_the_end() -> None:
    crowd = Crowd()
    crowd.call("flood", 3 * EACH_TURN)
    await crowd.turns(1)
    assert len(crowd.began) == EACH_TURN
    assert crowd.gate.guarded
    await crowd.end()
    assert crowd.order == list(range(3 * EACH_TURN))
    await crowd.turns(2)
    crowd.gate.note(crowd.gate._looked_at + 1, 0.0, 0)  # pyright: ignore[reportPrivateUsage]
    assert not crowd.gate.guarded


async def test_somebody_with_little_under_way_goes_past_a_flood_and_it_goes_on_all_the_same() -> None:
    crowd = Crowd()
    crowd.call("flood", LINE)
    crowd.call("light")
    await crowd.turns(1)
    assert crowd.began == ["flood"] * EACH_TURN + ["light"]
    # Many who have little wait among themselves, and one in so many is of the others.
    crowd.call("light", LINE // 4)
    await crowd.turns(2)
    before = Counter(crowd.began)
    while crowd.gate._light:  # pyright: ignore[reportPrivateUsage]
        await crowd.turns(1)
    more = Counter(crowd.began) - before
    assert 0 < more["flood"] < LINE - 2 * EACH_TURN
    await crowd.end()
    assert crowd.refused == []
    await crowd.end()
    assert crowd.refused == []
    assert Counter(crowd.began) == {"flood": LINE, "light": 1 + LINE // 4}


async def test_a_turn_has_so_many_fewer_as_went_past_the_line_and_no_more_go_past_than_a_turn_has() -> None:
    crowd = Crowd()
    crowd.call("flood", LINE)
    crowd.call("light", EACH_TURN + 2)
    await crowd.turns(1)
    assert Counter(crowd.began) == {"flood": EACH_TURN, "light": EACH_TURN}
    crowd = Crowd()
    crowd.call("flood", LINE)
    crowd.call("light", EACH_TURN - 1)
    await crowd.turns(3)
    assert Counter(crowd.began) == {"flood": EACH_TURN + 1, "light": EACH_TURN - 1}
    for task in crowd.tasks:
        task.cancel()
    await crowd.end()


async def test_who_has_much_under_way_is_looked_at_anew_after_a_moment() -> None:
    crowd = Crowd()
    gate, head = crowd.gate, [(b"authorization", b"Bearer flood")]
    others = [SimpleNamespace(caller=SimpleNamespace(principal=SimpleNamespace(id="other")))]
    light = gate._is_light  # pyright: ignore[reportPrivateUsage]
    assert not light(head, crowd.running.values())
    assert not light(head, cast("list[Exchange]", others))
    gate._weighed_at -= 1.0  # pyright: ignore[reportPrivateUsage]
    assert light(head, cast("list[Exchange]", others))


async def test_a_loop_that_stays_late_turns_people_away_and_one_that_is_in_time_again_nobody() -> None:
    crowd = Crowd()
    now = time.monotonic()
    for number in range(3):
        assert not crowd.turned_away("light")
        crowd.gate.note(now + 0.15 * number, 0.15, AT_ONCE)
    assert crowd.gate.guarded
    assert crowd.turned_away("flood") and not crowd.turned_away("light")
    crowd.gate.note(now + 0.5, 0.3, AT_ONCE)
    assert crowd.turned_away("light")
    crowd.gate.note(now + 0.6, 0.0, AT_ONCE)
    assert not crowd.turned_away("flood")


async def test_what_a_line_does_not_hold_is_turned_away_the_flood_first_and_told_when_to_come_back() -> None:
    crowd = Crowd()
    crowd.call("flood", EACH_TURN + LINE + 5)
    crowd.call("light")
    for unknown in ("", "0000"):
        crowd.call(unknown)
    await crowd.turns(1)
    assert crowd.refused == ["flood"] * 5 + ["", "0000"], "who is not known is turned away with the flood"
    assert crowd.turned_away("flood")
    # A quarter more for those who have little; then nobody.
    let_in = 0
    while not crowd.turned_away("light"):
        let_in += 1
    assert let_in == LINE // 4
    assert crowd.told == {"overloaded": 7}
    await crowd.end()
    assert not crowd.turned_away("flood")


async def test_a_turn_tells_so_many_that_they_are_turned_away_and_the_next_ones_tell_the_rest() -> None:
    crowd = Crowd()
    told: list[int] = []
    waiting = [
        number
        for number in range(2 * TOLD_EACH_TURN + 1)
        if crowd.gate.waits(lambda n=number: told.append(n))
    ]
    assert len(waiting) == TOLD_EACH_TURN + 1
    assert told == []
    await crowd.turns(1)
    assert told == waiting[:TOLD_EACH_TURN]
    await crowd.turns(1)
    assert told == waiting
    assert not crowd.gate.waits(lambda: None)


async def test_those_who_are_turned_away_together_are_not_told_to_come_back_together() -> None:
    crowd = Crowd()
    told = [Overloaded(crowd.gate.turned_away()).retry_after_seconds for _ in range(9)]
    assert sorted(told) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len(set(told[:3])) == 3


async def test_who_leaves_while_in_line_takes_nobodys_turn() -> None:
    crowd = Crowd()
    crowd.call("flood", 3 * EACH_TURN)
    await crowd.turns(1)
    assert len(crowd.began) == EACH_TURN
    for task in crowd.tasks[EACH_TURN : 2 * EACH_TURN]:
        task.cancel()
    # A turn lets those behind them go, and the next one is theirs: those who left cost none.
    await crowd.turns(2)
    assert len(crowd.began) == 2 * EACH_TURN
    await crowd.end()
    assert len(crowd.began) == 2 * EACH_TURN
    assert Overloaded(1).code == "overloaded"
