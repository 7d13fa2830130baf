"""Stored answers on fakes: to whom they are given, what is never stored, and what the books say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from engines.errors import ConnectFailed, Refused
from gateway.errors import BadRequest, Forbidden, GatewayError, NotStored, Unavailable
from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.completion import complete, stream
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.ports import Stored
from gateway.pipeline.turns import Begun
from gateway.spool.records import Attempt, Settlement
from policies.caching import CacheRules, CacheScope, wish_of
from policies.catalog import Endpoint, EntityKind
from policies.permissions import Level
from tests.pipeline.fakes import ENDPOINT, FIRST, PRICE, SECOND, SNAPSHOT, Outlet, World, frames, plain_answer

HIT_COSTS = 77
RULES = CacheRules(enabled=True)
ONE = replace(FIRST, price=replace(PRICE, per_cache_hit=HIT_COSTS))
STORES = replace(ENDPOINT, entities=(ONE, SECOND), cache=RULES, version=3)
SAID = "hello"


class Answers:
    """Stored answers in memory."""

    def __init__(self) -> None:
        self.held: dict[bytes, tuple[Stored, int]] = {}
        self.asked = 0

    async def find(self, question: bytes) -> Stored | None:
        self.asked += 1
        found = self.held.get(question)
        return None if found is None else found[0]

    def keep(self, question: bytes, answer: Stored, seconds: int) -> None:
        self.held[question] = answer, seconds


class Storing(World):
    """A world whose endpoint stores its answers; ann and bob may both query it."""

    def __init__(self, endpoint: Endpoint = STORES, **more: Any) -> None:
        super().__init__()
        self.answers = Answers()
        self.now = 1_700_000_000_000
        self.line = replace(self.line, answers=self.answers, wall_ms=lambda: self.now)
        grants = {"n1": {"u1": Level.CAN_QUERY, "u2": Level.CAN_QUERY}}
        self.catalog.snapshot = replace(
            SNAPSHOT, **{"grants": grants, "endpoints": {"chat": endpoint}, **more}
        )
        for each in self.engines.transports.values():
            each.pieces = frames(3)

    def becomes(self, **changes: Any) -> None:
        """The endpoint is changed."""
        snapshot = self.catalog.snapshot
        endpoint = replace(snapshot.endpoints["chat"], **changes)
        self.catalog.snapshot = replace(snapshot, endpoints={"chat": endpoint})

    @property
    def calls(self) -> int:
        """How often anybody upstream was called."""
        return len(self.engines.called)

    async def ask(self, cache_control: str = "", *, key: str = "ann-key", **body: Any) -> Exchange:
        """A plain call; its exchange."""
        exchange = self.exchange(key=key, **{"temperature": 0, **body})
        exchange.wish = wish_of(cache_control)
        await authenticate(self.line, exchange)
        self.body = await complete(self.line, exchange)
        return exchange

    async def flow(self, cache_control: str = "", **body: Any) -> Exchange:
        """A streamed call; its exchange."""
        exchange = self.exchange(**{"temperature": 0, "stream": True, **body})
        exchange.wish = wish_of(cache_control)
        await authenticate(self.line, exchange)
        outlet = Outlet()
        await stream(self.line, exchange, outlet)
        self.frames = b"".join(outlet.frames)
        return exchange

    def last(self) -> Settlement:
        return self.spool.of(Settlement)[-1]


def said(frames: bytes) -> str:
    """What a stream's deltas say."""
    events = [msgspec.json.decode(each[6:]) for each in frames.split(b"\n\n")[:-2]]
    return "".join(each["choices"][0]["delta"].get("content") or "" for each in events if each["choices"])


async def test_an_answer_is_given_again_calls_nothing_and_costs_the_price_of_its_own() -> None:
    world = Storing()
    first = await world.ask()
    body = world.body
    again = await world.ask()
    assert (first.cache, again.cache) == ("miss", "hit")
    assert world.body == body
    assert world.calls == 1
    end = world.last()
    assert (end.status, end.http_status, end.cache_hit, end.finish_reason) == ("ok", 200, True, "stop")
    assert end.last is not None
    assert (end.last.outcome, end.last.entity_name, end.last.cost_nano_usd) == ("cached", "first", HIT_COSTS)
    assert end.last.attempt == 1
    assert end.last.fresh_input + end.last.output == 0
    assert end.last.usage_source == "none"
    assert world.reservations.settlements == [(3, 2, 3500), (0, 0, HIT_COSTS)]
    assert not world.spool.of(Attempt)


@pytest.mark.parametrize("rules", [RULES, None])
async def test_who_wants_a_stored_answer_or_none_has_nothing_called_and_is_charged_no_token(
    rules: CacheRules | None,
) -> None:
    world = Storing(replace(STORES, cache=rules))
    for ask in (world.ask, world.flow):
        with pytest.raises(NotStored):
            await ask("only-if-cached")
        assert (world.last().status, world.last().error_code) == ("error", "not_stored")
    assert world.calls == 0
    assert world.reservations.settlements == [(0, 0, 0)] * 2
    await world.ask()
    if rules is not None:
        assert (await world.ask("only-if-cached")).cache == "hit"
        assert (await world.flow("only-if-cached")).cache == "hit"
        with pytest.raises(NotStored):
            await world.ask("only-if-cached, no-cache")
    assert world.calls == 1


async def test_two_callers_and_one_prompt_never_share_an_answer_unless_the_endpoint_says_so() -> None:
    for scope, cross in (
        (CacheScope.PRINCIPAL, "miss"),
        (CacheScope.GROUP, "miss"),
        (CacheScope.ENDPOINT, "hit"),
    ):
        world = Storing(replace(STORES, cache=replace(RULES, scope=scope)))
        await world.ask()
        bobs = await world.ask(key="bob-key")
        assert bobs.cache == cross, scope
        assert (await world.ask(key="bob-key")).cache == "hit"
        assert (await world.ask()).cache == "hit"


async def test_of_one_charged_group_all_share_and_of_another_nobody() -> None:
    world = Storing(replace(STORES, cache=replace(RULES, scope=CacheScope.GROUP)))
    reserve = world.reservations.reserve
    charged = {"u1": "g1", "u2": "g1"}

    def charging(snapshot: Any, caller: Any, *rest: Any, **asked: Any) -> Any:
        future = reserve(snapshot, caller, *rest, **asked)
        future.result().group_id = charged[caller.principal.id]
        return future

    world.reservations.reserve = charging  # type: ignore[method-assign]
    await world.ask()
    assert (await world.ask(key="bob-key")).cache == "hit"
    charged["u2"] = "g2"
    assert (await world.ask(key="bob-key")).cache == "miss"


async def test_who_may_not_ask_or_has_no_room_gets_no_stored_answer_either() -> None:
    world = Storing(replace(STORES, cache=replace(RULES, scope=CacheScope.ENDPOINT)))
    await world.ask()
    asked = world.answers.asked
    world.catalog.snapshot = replace(world.catalog.snapshot, grants={"n1": {"u1": Level.CAN_QUERY}})
    with pytest.raises(Forbidden):
        await world.ask(key="bob-key")
    world.reservations.refuse = Unavailable("no room", retry_after_seconds=1)
    with pytest.raises(Unavailable):
        await world.ask()
    assert world.answers.asked == asked


async def test_a_plain_answer_is_streamed_to_who_asks_for_a_stream() -> None:
    world = Storing()
    await world.ask(max_tokens=9)
    told = await world.flow(max_tokens=9, stream_options={"include_usage": True})
    assert told.cache == "hit"
    assert said(world.frames) == SAID
    assert world.frames.endswith(b"data: [DONE]\n\n")
    assert world.frames.count(b"[DONE]") == world.frames.count(b'"finish_reason":"stop"') == 1
    assert b'"prompt_tokens":3,"completion_tokens":2' in world.frames
    assert world.calls == 1
    await world.flow(max_tokens=9)
    assert b'"usage"' not in world.frames


async def test_a_stream_is_stored_and_answers_a_plain_call_with_the_upstreams_count() -> None:
    world = Storing()
    streamed = await world.flow(max_tokens=9)
    assert (streamed.cache, said(world.frames)) == ("miss", " w1 w2 w3")
    plain = await world.ask(max_tokens=9)
    assert plain.cache == "hit"
    read = msgspec.json.decode(world.body)
    assert read["choices"][0]["message"]["content"] == " w1 w2 w3"
    assert (read["usage"]["prompt_tokens"], read["usage"]["completion_tokens"]) == (3, 3)
    assert world.calls == 1


@pytest.mark.parametrize("streamed", [False, True], ids=["plain", "stream"])
async def test_errors_and_cut_streams_are_never_stored(streamed: bool) -> None:
    world = Storing(replace(STORES, entities=(ONE,), fallbacks=()))
    for fault in (Refused(400, b"{}"), ConnectFailed("x")):
        world.engines.transports["e1"].answer = fault
        with pytest.raises(GatewayError):
            await (world.flow() if streamed else world.ask())
    if streamed:
        world.engines.transports["e1"].answer = plain_answer(SAID, 3, 2)
        world.engines.transports["e1"].pieces = [*frames(3, done=False)[:3], ConnectFailed("x")]
        with pytest.raises(GatewayError):
            await world.flow()
        world.engines.transports["e1"].pieces = frames(3)
        world.reservations.room = 2
        await world.flow()
        assert world.last().status == "cut"
    assert not world.answers.held


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"temperature": 0.7}, "another draw would answer otherwise"),
        ({"temperature": None}, "the model's own temperature is not 0"),
        ({"n": 2}, "several choices"),
        ({"stream": True, "logprobs": True}, "only one form can say it"),
    ],
)
async def test_what_may_differ_each_time_is_neither_stored_nor_looked_for(
    changes: dict[str, Any], why: str
) -> None:
    world = Storing()
    for _ in range(2):
        exchange = await (world.flow(**changes) if changes.get("stream") else world.ask(**changes))
        assert exchange.cache == "bypass", why
    assert world.calls == 2
    assert not world.answers.held
    assert not world.answers.asked


async def test_a_turn_of_a_kept_conversation_is_called_for_each_time() -> None:
    world = Storing()
    for _ in range(2):
        exchange = world.exchange(temperature=0)
        exchange.turn = Begun(None, [], kept=True)
        await authenticate(world.line, exchange)
        await complete(world.line, exchange)
        assert exchange.cache == "bypass"
    assert not world.answers.held


async def test_sampled_answers_are_stored_where_the_endpoint_says_so() -> None:
    world = Storing(replace(STORES, cache=replace(RULES, sampled=True)))
    await world.ask(temperature=0.7)
    assert (await world.ask(temperature=0.7)).cache == "hit"
    assert (await world.ask(temperature=0.8)).cache == "miss"


async def test_an_answer_without_a_bound_is_stored_only_if_a_plain_call_and_a_stream_would_get_the_same() -> (
    None
):
    world = Storing()
    world.engines.transports["e1"].answer = plain_answer(SAID, 3, 100).replace(b'"stop"', b'"length"')
    await world.ask()
    assert not world.answers.held
    world.engines.transports["e1"].pieces = frames(101)
    await world.flow()
    assert not world.answers.held, "a plain call would have been cut at the endpoint's default"
    await world.ask(max_tokens=100)
    assert len(world.answers.held) == 1


async def test_an_answer_that_is_too_long_is_not_stored() -> None:
    world = Storing(replace(STORES, cache=replace(RULES, max_kb=1)))
    world.engines.transports["e1"].answer = plain_answer("x" * 1025, 3, 2)
    await world.ask()
    world.engines.transports["e1"].pieces = frames(600)
    await world.flow(max_tokens=700)
    assert not world.answers.held


async def test_cache_control_is_honoured() -> None:
    world = Storing()
    await world.ask("no-store")
    assert not world.answers.held
    await world.ask()
    assert (await world.ask("no-store")).cache == "bypass"
    assert world.calls == 3
    fresh = world.engines.transports["e1"].answer = plain_answer("newer", 3, 2)
    assert (await world.ask("no-cache")).cache == "bypass"
    assert (await world.ask()).cache == "hit"
    assert world.body == fresh, "the newer answer took the place of the older"
    world.now += 30_000
    young = await world.ask("max-age=30")
    assert (young.cache, young.cache_age) == ("hit", 30)
    assert (await world.ask("max-age=29")).cache == "miss"
    assert (await world.ask("max-age=29")).cache == "hit", "and is stored anew"
    assert (await world.ask("max-age=0")).cache == "bypass"


async def test_an_answer_is_of_one_version_of_the_endpoint_and_of_the_entity_that_would_be_called() -> None:
    world = Storing()
    await world.ask()
    world.becomes(version=4)
    assert (await world.ask()).cache == "miss"
    world.becomes(entities=(replace(ONE, model="model-two"), SECOND))
    assert (await world.ask()).cache == "miss"
    world.becomes(entities=(replace(ONE, base_url="https://elsewhere.example.com"), SECOND))
    assert (await world.ask()).cache == "miss"
    world.becomes(entities=(replace(ONE, options=(("region", "eu-central-1"),)), SECOND))
    assert (await world.ask()).cache == "miss"
    world.becomes(split=(("second", 100),))
    assert (await world.ask()).cache == "miss", "the split's other side has answers of its own"


async def test_every_part_of_the_question_counts() -> None:
    world = Storing()
    await world.ask()
    for changes in (
        {"max_tokens": 5},
        {"top_p": 0.5},
        {"seed": 1},
        {"messages": [{"role": "user", "content": "HI"}]},
        {"tools": [{"type": "function", "function": {"name": "look"}}]},
        {"tool_choice": "none"},
        {"response_format": {"type": "json_object"}},
        {"stop": "END"},
        {"reasoning_effort": "low"},
    ):
        assert (await world.ask(**changes)).cache == "miss", changes
    assert (await world.ask(user="someone", metadata={"a": "b"})).cache == "hit", "what never goes upstream"


async def test_what_a_fallback_answered_is_not_given_for_the_entity_that_is_back() -> None:
    world = Storing()
    world.engines.transports["e1"].answer = Refused(503, b"")
    world.engines.transports["e2"].answer = plain_answer("from the other", 3, 2)
    await world.ask()
    world.engines.transports["e1"].answer = plain_answer(SAID, 3, 2)
    assert (await world.ask()).cache == "miss"
    assert SAID.encode() in world.body


async def test_what_the_guard_refuses_is_refused_though_it_was_answered_before() -> None:
    world = Storing()
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    asked = {"messages": [{"role": "user", "content": picture}]}
    await world.ask(**asked)
    world.becomes(entities=(ONE, replace(SECOND, kind=EntityKind.LOCAL)))
    with pytest.raises(BadRequest):
        await world.ask(**asked)


async def test_an_endpoint_that_stores_nothing_asks_nothing() -> None:
    world = Storing(replace(STORES, cache=None))
    for _ in range(2):
        assert (await world.ask()).cache is None
        assert (await world.flow()).cache is None
    assert world.answers.asked == 0
    assert world.calls == 4


@pytest.mark.parametrize(
    "other", [{"path": "/v1/completions"}, {"shared_headers": {"anthropic-beta": "x"}}, {"max_tokens": 7}]
)
async def test_what_is_sent_elsewhere_or_with_other_headers_is_another_question(
    other: dict[str, Any],
) -> None:
    world = Storing()

    async def asked(**changes: Any) -> str | None:
        exchange = world.exchange(temperature=0)
        exchange.request = msgspec.structs.replace(exchange.request, **changes)
        await authenticate(world.line, exchange)
        await complete(world.line, exchange)
        return exchange.cache

    assert [await asked(), await asked(**other), await asked(), await asked(**other)] == [
        "miss", "miss", "hit", "hit",
    ]  # fmt: skip
