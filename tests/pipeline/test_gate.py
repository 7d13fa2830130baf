"""The way to an engine whose throughput is provisioned: who goes, who waits, what is taken back, and what workers share."""

from __future__ import annotations

import asyncio

import pytest

from gateway.routing.gate import Gate
from gateway.routing.passes import Ask, Pass
from gateway.routing.places import Full
from policies.throughput import BURST_MS, LONGEST_WINDOW_MS, WINDOW_MS, Lane, Pool, Provision, Throughput

POOL = Pool("p", "local", replicas=1, tokens_per_second=1_000, slots=4, queue=8)
KEPT = Provision("v", "kept", "g1", rate=500)
TIMED = Provision("v", "kept", "g1", rate=500, first_token_ms=100)
BURST = 500 * BURST_MS // 1000


class Clock:
    def __init__(self) -> None:
        self.ms = 10_000

    def __call__(self) -> int:
        return self.ms


def ask(
    *groups: str, provision: Provision = KEPT, who: str = "u", tokens: int = 100, batch: bool = False
) -> Ask:
    return _ask(Throughput.made(POOL, [provision]), groups, who, tokens, batch)


_MADE: dict[Provision, Throughput] = {}


def _ask(fresh: Throughput, groups: tuple[str, ...], who: str, tokens: int, batch: bool) -> Ask:
    # A snapshot's is one object for all of its calls.
    throughput = _MADE.setdefault(fresh.provisions[0], fresh)
    return Ask(throughput, throughput.of("e1", groups), who, tokens, batch, 1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def gate_of(clock: Clock) -> Gate:
    gate = Gate(clock)
    gate.listen("me", {}, 0)
    return gate


async def enter(gate: Gate, wanted: Ask) -> Pass:
    return await gate.enter(wanted, 60_000)


async def waiting(gate: Gate, wanted: Ask) -> asyncio.Task[Pass]:
    """A call that waits."""
    before = gate.waiting
    task = asyncio.create_task(enter(gate, wanted))
    while gate.waiting == before:
        assert not task.done()
        await asyncio.sleep(0)
    return task


async def test_without_the_holder_others_have_every_slot_and_wait_for_more(clock: Clock) -> None:
    gate = gate_of(clock)
    had = [await enter(gate, ask()) for _ in range(POOL.slots)]
    assert [each.lane for each in had] == [Lane.LENT] * POOL.slots
    more = await waiting(gate, ask())
    had[0].end(50)
    assert (await more).lane is Lane.LENT
    assert gate.lent == POOL.slots


async def test_a_covered_call_goes_at_once_however_many_have_and_wait_for_slots(clock: Clock) -> None:
    gate = gate_of(clock)
    lent = [await enter(gate, ask()) for _ in range(POOL.slots)]
    others = [await waiting(gate, ask()) for _ in range(3)]
    own = await enter(gate, ask("g1"))
    assert own.lane is Lane.COVERED
    assert own.priority < lent[0].priority
    # What was lent is not lent again while the covered call runs.
    lent[0].end(50)
    await asyncio.sleep(0)
    assert not any(each.done() for each in others)
    own.end(100)
    assert (await others[0]).lane is Lane.LENT
    for each in (*lent[1:], others[0].result()):
        each.end(50)
    for each in others[1:]:
        (await each).end(50)
    assert (gate.covered, gate.lent, gate.waiting) == (0, 0, 0)


async def test_beyond_its_rate_a_holder_waits_with_the_others_and_goes_once_it_is_covered_again(
    clock: Clock,
) -> None:
    gate = gate_of(clock)
    lent = [await enter(gate, ask()) for _ in range(POOL.slots)]
    first = await enter(gate, ask("g1", tokens=BURST + 20))
    assert first.lane is Lane.COVERED, "a call may be larger than what is left"
    second = await waiting(gate, ask("g1"))
    clock.ms += 50  # 25 tokens
    # The timer was set for when the debt of 20 tokens is paid.
    assert (await asyncio.wait_for(second, 30)).lane is Lane.AWAITED
    assert gate.lent == POOL.slots
    for each in (*lent, first, second.result()):
        each.end(0)
    assert (gate.covered, gate.lent, gate.waiting) == (0, 0, 0)


async def test_a_call_that_took_less_than_was_thought_gives_the_rest_back(clock: Clock) -> None:
    gate = gate_of(clock)
    for _ in range(POOL.slots):
        await enter(gate, ask())
    first = await enter(gate, ask("g1", tokens=BURST + 1_000))
    second = await waiting(gate, ask("g1"))
    first.end(10)
    assert (await asyncio.wait_for(second, 30)).lane is Lane.AWAITED


async def test_nobody_waits_beyond_patience_or_the_queue_and_nothing_leaks(clock: Clock) -> None:
    gate = gate_of(clock)
    lent = [await enter(gate, ask()) for _ in range(POOL.slots)]
    with pytest.raises(Full, match="in time"):
        await gate.enter(ask(), 1)
    left = await waiting(gate, ask())
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    assert gate.waiting == 0
    queue = [await waiting(gate, ask(who=f"u{number}")) for number in range(POOL.queue)]
    with pytest.raises(Full, match="full"):
        await enter(gate, ask())
    for each in queue:
        each.cancel()
    await asyncio.gather(*queue, return_exceptions=True)
    for each in lent:
        each.end(0)
        each.end(0)
    assert (gate.covered, gate.lent, gate.waiting) == (0, 0, 0)


async def test_batch_work_waits_behind_and_is_told_apart(clock: Clock) -> None:
    gate = gate_of(clock)
    lent = [await enter(gate, ask()) for _ in range(POOL.slots)]
    batch = await waiting(gate, ask(batch=True, who="b"))
    soon = await waiting(gate, ask(who="a"))
    lent[0].end(0)
    first = await soon
    assert not batch.done()
    lent[1].end(0)
    assert (await batch).priority > first.priority


async def test_a_target_that_is_missed_ends_lending_and_a_window_later_all_is_lent_again(
    clock: Clock,
) -> None:
    gate = gate_of(clock)
    lent = [await enter(gate, ask(provision=TIMED)) for _ in range(POOL.slots)]
    for _ in range(8):
        own = await enter(gate, ask("g1", provision=TIMED, tokens=10))
        own.answered(101)
        own.end(10)
    gate.tick()
    own = await enter(gate, ask("g1", provision=TIMED, tokens=10))
    for each in lent[:3]:
        each.end(0)
    # Half of the engine is provisioned: two slots belong to nobody, whatever is missed.
    task = asyncio.create_task(enter(gate, ask(provision=TIMED)))
    assert (await task).lane is Lane.LENT
    others = [await waiting(gate, ask(provision=TIMED)) for _ in range(2)]
    own.end(10)
    gate.tick()
    await asyncio.sleep(0)
    assert not any(each.done() for each in others)
    clock.ms += WINDOW_MS
    gate.tick()
    for each in others:
        assert (await each).lane is Lane.LENT
    # The next covered call finds the limit as it was left: nothing has to be learnt anew.
    await enter(gate, ask("g1", provision=TIMED, tokens=10))
    await waiting(gate, ask(provision=TIMED))


def exchange(*gates: Gate) -> None:
    """Each tells all others, as over Redis."""
    news = {f"w{number}": each.news(0) for number, each in enumerate(gates)}
    for number, each in enumerate(gates):
        each.listen(f"w{number}", {name: told for name, told in news.items() if name != f"w{number}"}, 0)


async def test_workers_together_lend_no_more_than_there_is_and_give_it_where_it_is_wanted(
    clock: Clock,
) -> None:
    one, other = Gate(clock), Gate(clock)
    exchange(one, other)
    lent = [await enter(one, ask()) for _ in range(POOL.slots // 2)]
    more = [await waiting(one, ask()) for _ in range(POOL.slots // 2)]
    exchange(one, other)
    # Nobody wants anything elsewhere, so that all of it is here.
    lent += [await each for each in more]
    wanting = [await waiting(other, ask()) for _ in range(3)]
    exchange(one, other)
    for each in lent[:2]:
        each.end(0)
    exchange(one, other)
    exchange(one, other)
    await asyncio.sleep(0)
    assert one.lent + other.lent <= POOL.slots
    assert other.lent >= 1
    for each in lent[2:]:
        each.end(0)
    exchange(one, other)
    exchange(one, other)
    for each in wanting:
        (await each).end(0)


async def test_between_the_calls_of_a_holder_who_pauses_no_worker_lends_what_is_its(clock: Clock) -> None:
    one, other = Gate(clock), Gate(clock)
    exchange(one, other)
    for _ in range(3):
        own = await enter(one, ask("g1", provision=TIMED, tokens=10))
        own.answered(101)
        own.end(10)
        clock.ms += WINDOW_MS + WINDOW_MS // 2
        exchange(one, other)
    others = [asyncio.create_task(enter(other, ask(provision=TIMED))) for _ in range(POOL.slots)]
    for _ in range(3):
        await asyncio.sleep(0)
        exchange(one, other)
    assert (other.lent, other.waiting) == (2, 2), "half of the engine is provisioned"
    clock.ms += LONGEST_WINDOW_MS
    exchange(one, other)
    for each in others:
        (await each).end(0)


async def test_what_one_worker_charges_the_others_know(clock: Clock) -> None:
    one, other = Gate(clock), Gate(clock)
    for gate in (one, other):
        (await enter(gate, ask("g1", tokens=0))).end(0)
    exchange(one, other)
    exchange(one, other)
    held = await enter(one, ask("g1", tokens=2 * BURST))
    exchange(one, other)
    assert (await enter(other, ask("g1"))).lane is Lane.LENT
    held.end(0)
    exchange(one, other)
    assert (await enter(other, ask("g1"))).lane is Lane.COVERED


async def test_a_worker_that_hears_nobody_takes_an_even_part(clock: Clock) -> None:
    gate = Gate(clock)
    gate.alone(2)
    [await enter(gate, ask()) for _ in range(POOL.slots // 2)]
    await waiting(gate, ask())
    await enter(gate, ask("g1", tokens=BURST // 2 + 1))
    clock.ms += 1
    await waiting(gate, ask("g1"))
