"""Attempts that fail and tell what they used: in their rows, in the request's, in the counters, to the token and the nano-dollar."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.transport import OpenResponse, Response
from gateway.errors import GatewayError
from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.completion import complete, stream
from gateway.pipeline.kept import Begun, end_begun
from gateway.spool.books import AttemptRow, Place, Posting
from gateway.spool.joining import Entry, settled
from gateway.spool.orphans import interrupted
from gateway.spool.records import Attempt, Intent, Settlement
from policies.calling import EndpointRules
from policies.catalog import Price
from policies.doubts import Doubt
from policies.usage import Usage, cost_nano_usd
from tests.pipeline.fakes import (
    ENDPOINT,
    FIRST,
    SNAPSHOT,
    Body,
    Outlet,
    Transport,
    World,
    frames,
    plain_answer,
)

PROMPT, ANSWERED = 3, 2


@dataclass(frozen=True)
class Fault:
    """How one upstream fails, and the tokens that it generated and told of; None: it told nothing."""

    kind: str
    completion: int | None = None

    @property
    def told(self) -> tuple[int, int]:
        return (0, 0) if self.completion is None else (PROMPT, self.completion)

    @property
    def body(self) -> bytes:
        error: dict[str, Any] = {"error": {"message": "secret"}}
        if self.completion is not None:
            error["usage"] = {"prompt_tokens": PROMPT, "completion_tokens": self.completion}
        return msgspec.json.encode(error)


class Refusing(Body):
    """The head of an answer that is a refusal."""

    def __init__(self, fault: Fault) -> None:
        super().__init__([])
        self.status, self._body = 503, fault.body

    async def rest(self) -> bytes:
        return self._body


class Failing(Transport):
    """An upstream that fails every call."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self.fault = fault

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        return Response(200 if self.fault.kind == "garbled" else 503, {}, self.fault.body)

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> OpenResponse:
        if self.fault.kind == "refused":
            return Refusing(self.fault)
        role, *_ = frames(1, running=False)
        failed = b"data: " + self.fault.body + b"\n\n"
        return Body([role, failed] if self.fault.kind == "apart" else [role + failed])


FAULTS = st.builds(Fault, st.sampled_from(["refused", "garbled", "apart"]), st.none() | st.integers(0, 500))


def world_of(faults: list[Fault], *, answers: bool) -> World:
    """A world in which one upstream after another fails, each with a price of its own, before one answers."""
    world = World()
    entities = [
        replace(
            FIRST, id=f"f{at}", name=f"n{at}", base_url=f"b{at}",
            price=Price(f"p{at}", input=(at + 1) * 300_000_001, output=(at + 1) * 700_000_003, per_request=at * 11,
                        per_gpu_second=10**9),
        )
        for at in range(len(faults) + answers)
    ]  # fmt: skip
    world.engines.transports = {f"f{at}": Failing(fault) for at, fault in enumerate(faults)}
    if answers:
        sound = world.engines.transports[entities[-1].id] = Transport()
        sound.answer = plain_answer("hello", PROMPT, ANSWERED)
        sound.pieces = frames(ANSWERED, prompt=PROMPT)
    endpoint = replace(
        ENDPOINT, entities=tuple(entities), fallbacks=tuple(each.name for each in entities[1:]),
        rules=EndpointRules(retries=0),
    )  # fmt: skip
    world.catalog.snapshot = replace(SNAPSHOT, endpoints={"chat": endpoint})
    return world


def entry_of(world: World) -> Entry:
    """What the spool says of the request, its settlement left out."""
    (begun,) = world.spool.of(Intent)
    entry = Entry(begun, Place(1, 0))
    for each in world.spool.of(Attempt):
        entry.take(each)
    return entry


async def carried(world: World, *, streamed: bool, max_tokens: int = 50) -> GatewayError | None:
    exchange = world.exchange(stream=streamed, max_tokens=max_tokens)
    await authenticate(world.line, exchange)
    try:
        await (stream(world.line, exchange, Outlet()) if streamed else complete(world.line, exchange))
    except GatewayError as exc:
        return exc
    return None


def tokens(row: AttemptRow | Posting) -> tuple[int, int]:
    if isinstance(row, Posting):
        return row.prompt_tokens, row.completion_tokens
    return row.fresh_input + row.cache_read + row.cache_write, row.output + row.reasoning


@given(faults=st.lists(FAULTS, min_size=1, max_size=4), answers=st.booleans(), streamed=st.booleans())
@settings(max_examples=60, deadline=None)
def test_whatever_fails_before_an_answer_attempts_add_up_to_what_was_told(
    faults: list[Fault], answers: bool, streamed: bool
) -> None:
    world = world_of(faults, answers=answers)
    refused = asyncio.run(carried(world, streamed=streamed))
    assert (refused is None) is answers
    (end,) = world.spool.of(Settlement)
    posting = settled(entry_of(world), end, bytes(16))
    oracle = [each.told for each in faults] + ([(PROMPT, ANSWERED)] if answers else [])
    assert [tokens(each) for each in posting.attempts] == oracle
    summed = sum(each[0] for each in oracle), sum(each[1] for each in oracle)
    assert tokens(posting) == summed
    assert posting.request.attempts == len(oracle)
    for at, (row, fault) in enumerate(zip(posting.attempts, faults, strict=False)):
        prompt, completion = fault.told
        price = replace(world.catalog.snapshot.endpoints["chat"].entities[at].price, per_gpu_second=0)
        costs = cost_nano_usd(Usage(prompt, output=completion), price) if prompt else 0
        assert (row.price_id, row.cost_nano_usd, row.borne) == (f"p{at}", costs, True)
        assert row.usage_source == ("none" if fault.completion is None else "reported")
    cost = sum(each.cost_nano_usd for each in posting.attempts)
    assert posting.request.cost_nano_usd == cost
    # What budgets are corrected by is what the ledger has.
    assert world.reservations.settlements == [(*summed, cost)]
    assert sum(world.observer.wasted) == sum(sum(each.told) for each in faults)
    if refused is not None:
        assert ("Nothing was charged" in str(refused)) is (not any(summed))
        assert "secret" not in str(refused)
    # A worker that is killed before the settlement leaves the same of what had failed by then.
    orphan = interrupted(entry_of(world), bytes(16))
    assert [tokens(each) for each in orphan.attempts] == [each.told for each in faults]
    assert orphan.request.cost_nano_usd == cost - (posting.attempts[-1].cost_nano_usd if answers else 0)


def test_a_call_that_is_not_begun_again_costs_what_its_tries_told_in_the_ledger_and_in_the_counters() -> None:
    world = world_of([Fault("refused", 40), Fault("refused")], answers=False)
    asyncio.run(carried(world, streamed=False))
    (begun,), attempts = world.spool.of(Intent), world.spool.of(Attempt)
    other = World()
    end_begun(other.line, Begun(begun, attempts), "cut", error_code="client_left", stopped_by="client")
    (end,) = other.spool.of(Settlement)
    posting = settled(entry_of(other), end, bytes(16))
    assert tokens(posting) == (PROMPT, 40)
    assert other.reservations.settlements == [(PROMPT, 40, posting.request.cost_nano_usd)]
    assert posting.request.cost_nano_usd == attempts[0].cost_nano_usd > 0


def test_what_cannot_be_true_of_what_was_sent_is_charged_as_told_and_marked() -> None:
    world = world_of([Fault("refused", 5)], answers=True)
    failing = world.engines.transports["f0"]
    told = {"error": {}, "usage": {"prompt_tokens": 1_000_000, "completion_tokens": 5}}
    body = msgspec.json.encode(told)
    failing.post = lambda *_: asyncio.sleep(0, Response(503, {}, body))  # type: ignore[method-assign]
    asyncio.run(carried(world, streamed=False))
    (failed,) = world.spool.of(Attempt)
    assert (failed.fresh_input, failed.output, failed.reason) == (1_000_000, 5, Doubt.INPUT.said)
    (end,) = world.spool.of(Settlement)
    assert end.last is not None and end.last.reason == "fallback"


@pytest.mark.parametrize(("told", "kept"), [(9, 9), (2, 2), (1, 2), (None, 2)])
def test_a_stream_that_fails_later_is_charged_by_what_it_tells_with_that_unless_more_had_come(
    told: int | None, kept: int
) -> None:
    world = world_of([], answers=True)
    world.engines.transports["f0"].pieces = [
        *frames(5, running=False)[:3],
        b"data: " + Fault("", told).body + b"\n\n",
    ]
    assert asyncio.run(carried(world, streamed=True)) is not None
    (end,) = world.spool.of(Settlement)
    assert end.last is not None
    assert (end.status, end.last.output) == ("error", kept)
    assert end.last.usage_source == ("reported" if told is not None and told >= 2 else "counted")
