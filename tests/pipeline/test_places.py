"""Places of one entity: who is next, who gives way, and that no place is ever lost."""

from __future__ import annotations

import asyncio

import pytest

from gateway.routing.places import Full, Places, Share, Waiting
from policies.calling import EntityRules


def queued(places: Places, share: Share, who: str, *, batch: bool = False) -> Waiting:
    waiting = places.enter(who, share, batch=batch)
    assert waiting is not None
    return waiting


def test_workers_share_places_and_the_queue_and_lose_none_of_either_by_rounding() -> None:
    rules = EntityRules(concurrency=3, queue=5)
    assert [(each.places, each.queue) for each in (Share.of(rules, workers) for workers in (1, 2, 4, 8))] == [
        (3, 5), (2, 3), (1, 2), (1, 1),
    ]  # fmt: skip
    assert Share.of(EntityRules(concurrency=1), 2).queue == 0
    for places, workers in ((5, 2), (8, 3), (7, 7), (100, 64)):
        parts = [Share.of(EntityRules(concurrency=places), workers, rank).places for rank in range(workers)]
        assert sum(parts) == places, "every place is some worker's"
        assert max(parts) - min(parts) <= 1


async def test_principals_take_turns_however_many_calls_one_of_them_has() -> None:
    places, share = Places(lambda: 0.0), Share(1, 9, 100)
    assert places.enter("ann", share, batch=False) is None
    line = [queued(places, share, who) for who in ("ann", "ann", "ann", "bob", "cy")]
    order: list[str] = []
    holder = "ann"
    for _ in range(5):
        places.leave(holder, 1.0)
        (next_,) = [each for each in line if each.turn.done()]
        line.remove(next_)
        order.append(holder := next_.who)
    assert order == ["ann", "bob", "cy", "ann", "ann"]


async def test_the_youngest_batch_call_gives_its_place_in_the_queue_to_an_interactive_one() -> None:
    places, share = Places(lambda: 0.0), Share(1, 2, 100)
    assert places.enter("ann", share, batch=False) is None
    old, young = (queued(places, share, "bob", batch=True) for _ in range(2))
    with pytest.raises(Full):
        places.enter("cy", share, batch=True)
    interactive = queued(places, share, "cy")
    assert isinstance(young.turn.exception(), Full) and not old.turn.done()
    places.leave("ann", 1.0)
    assert interactive.turn.done() and not old.turn.done()


async def test_one_principal_never_has_all_places_nor_all_of_the_queue() -> None:
    places, share = Places(lambda: 0.0), Share(4, 4, 50)
    assert [places.enter("ann", share, batch=False) for _ in range(2)] == [None, None]
    for batch in (False, True):
        queued(places, share, "ann", batch=batch)
    for batch in (False, True):
        with pytest.raises(Full, match="as many calls waiting as it may"):
            places.enter("ann", share, batch=batch)
    assert places.enter("bob", share, batch=False) is None
    assert (places.running, places.waiting) == (3, 2)


@pytest.mark.parametrize("its_turn", [False, True])
async def test_who_gives_up_gives_its_place_to_the_next_though_its_turn_had_come(its_turn: bool) -> None:
    places, share = Places(lambda: 0.0), Share(1, 4, 100)
    assert places.enter("ann", share, batch=False) is None
    first, second = queued(places, share, "bob"), queued(places, share, "cy")
    if its_turn:
        places.leave("ann", 1.0)
    places.give_up(first)
    if not its_turn:
        places.leave("ann", 1.0)
    await asyncio.wait_for(second.turn, 5)
    assert (places.running, places.waiting) == (1, 0)
    places.leave("cy", 1.0)
    assert (places.running, places.waiting) == (0, 0)
