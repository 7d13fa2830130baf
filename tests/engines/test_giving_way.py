"""The engine on a CPU gives way: a covered call's prompt has a step to itself, and no call is lost or kept waiting for nothing."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engines.local.server import COMING_SECONDS, LENT_PROMPT_TOKENS, give_way

SEATS = 6
TOKENS = 2_048


@dataclass(slots=True, order=True)
class Call:
    """A request as vLLM's scheduler knows it."""

    priority: int
    arrival: int
    num_prompt_tokens: int = field(compare=False)
    answer: int = field(compare=False, default=4)
    num_computed_tokens: int = field(compare=False, default=0)

    @property
    def left(self) -> int:
        return self.num_prompt_tokens + self.answer - self.num_computed_tokens

    @property
    def reading(self) -> bool:
        return self.num_computed_tokens < self.num_prompt_tokens


class Queue:
    """vLLM's queue by priority."""

    def __init__(self) -> None:
        self.heap: list[Call] = []

    def __bool__(self) -> bool:
        return bool(self.heap)

    def __iter__(self) -> Iterator[Call]:
        return iter(sorted(self.heap))

    def peek_request(self) -> Call:
        return self.heap[0]


class Engine:
    """What a step of vLLM's own scheduler does: a token to each that answers, then prompts, then who waits, by priority."""

    def __init__(self, memory: int = 1 << 30) -> None:
        self.running: list[Call] = []
        self.waiting = Queue()
        self.max_num_active_reqs = SEATS
        self.max_num_scheduled_tokens = TOKENS
        self.memory = memory
        self.step: dict[int, tuple[Call, int]] = {}

    def schedule(self, throttle_prefills: bool = False) -> Any:
        assert not throttle_prefills
        self.step, budget = {}, self.max_num_scheduled_tokens
        for each in self.running:
            taken = min(budget, each.num_prompt_tokens - each.num_computed_tokens if each.reading else 1)
            budget -= self._take(each, taken)
        while self.waiting and budget and len(self.running) < self.max_num_active_reqs:
            if self.waiting.peek_request().num_prompt_tokens > self.memory:
                break
            each = heapq.heappop(self.waiting.heap)
            self.running.append(each)
            budget -= self._take(each, min(budget, each.num_prompt_tokens))
        assert len(self.running) <= SEATS
        return SimpleNamespace(total_num_scheduled_tokens=sum(taken for _, taken in self.step.values()))

    def _take(self, each: Call, taken: int) -> int:
        if taken:
            self.step[id(each)] = each, taken
        return taken

    def ran(self) -> list[tuple[Call, int, bool]]:
        """Carry the step out: who was in it, with how many tokens, and whether these were of its prompt."""
        found = [(each, taken, each.reading) for each, taken in self.step.values()]
        for each, taken, _ in found:
            each.num_computed_tokens += taken
        self.running = [each for each in self.running if each.left]
        return found


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def engine_of(clock: Clock, memory: int = 1 << 30) -> Engine:
    class GivingWay(Engine):
        pass

    give_way(GivingWay, clock)
    return GivingWay(memory)


def comes(engine: Engine, priority: int, prompt: int, answer: int = 4, arrival: int = 0) -> Call:
    call = Call(priority, arrival, prompt, answer)
    heapq.heappush(engine.waiting.heap, call)
    return call


def test_a_covered_prompt_has_the_next_step_to_itself_and_those_that_paused_go_on_where_they_were() -> None:
    engine = engine_of(Clock())
    lent = [comes(engine, 1, 50, arrival=number) for number in range(3)]
    waits = [comes(engine, 2, 50, arrival=9)]
    engine.schedule()
    engine.ran()
    waits.append(comes(engine, 1, 50, arrival=10))
    covered = comes(engine, 0, 400)
    engine.schedule()
    assert [each for each, _, _ in engine.ran()] == [covered]
    assert all(each.num_computed_tokens == 50 for each in lent)
    # Its answer goes beside the others again.
    engine.schedule()
    assert {id(each) for each, _, _ in engine.ran()} == {id(each) for each in (*lent, *waits, covered)}


def test_where_there_is_no_seat_or_no_memory_for_it_nobody_waits_for_a_covered_prompt() -> None:
    full = engine_of(Clock())
    for number in range(SEATS):
        comes(full, 1, 10, 100, number)
    full.schedule()
    full.ran()
    comes(full, 0, 400)
    full.schedule()
    assert len(full.ran()) == SEATS
    short = engine_of(Clock(), memory=100)
    comes(short, 1, 10, 100)
    short.schedule()
    short.ran()
    comes(short, 0, 400)
    steps = [(short.schedule(), short.ran())[1] for _ in range(4)]
    assert sum(len(each) for each in steps) == 2, "every other step"


def test_while_covered_calls_come_the_others_prompts_are_read_in_small_pieces_and_otherwise_whole() -> None:
    clock = Clock()
    engine = engine_of(clock)

    def lent_prompts() -> int:
        for number in range(4):
            comes(engine, 1, 100, 1, number)
        engine.schedule()
        largest = sum(taken for _, taken, reading in engine.ran() if reading)
        while engine.running or engine.waiting:
            engine.schedule()
            engine.ran()
        return largest

    assert lent_prompts() == 400
    comes(engine, 0, 400)
    engine.schedule()
    engine.ran()
    assert lent_prompts() == LENT_PROMPT_TOKENS
    clock.now += COMING_SECONDS
    assert lent_prompts() == 400


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.integers(1, 600), st.integers(1, 5), st.integers(0, 3)), max_size=30
    )
)
def test_whatever_comes_every_call_ends_and_none_with_a_lent_seat_is_in_a_covered_prompts_step(
    calls: list[tuple[int, int, int, int]],
) -> None:
    clock = Clock()
    engine = engine_of(clock)
    made = list[Call]()
    for arrival, (priority, prompt, answer, steps) in enumerate([*calls, (1, 1, 1, 3_000)]):
        made.append(comes(engine, priority, prompt, answer, arrival))
        for _ in range(steps):
            seat = len(engine.running) < SEATS
            lent = {id(each) for each in engine.running if each.priority}
            engine.schedule()
            assert (engine.max_num_active_reqs, engine.max_num_scheduled_tokens) == (SEATS, TOKENS)
            step = engine.ran()
            if seat and any(each.priority == 0 and reading for each, _, reading in step):
                assert not any(id(each) in lent for each, _, _ in step)
            clock.now += 0.01
            if not (engine.running or engine.waiting):
                break
    assert all(not each.left for each in made)
