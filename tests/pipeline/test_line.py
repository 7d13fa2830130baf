"""The line on fakes: the order of its steps, each refusal, fallback, disconnects, and settling exactly once."""

from __future__ import annotations

import asyncio
import itertools
import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from engines.chat_stream import DONE
from engines.errors import ConnectFailed, Garbled, Refused, TimedOut
from gateway.errors import (
    BadRequest,
    BudgetExhausted,
    Forbidden,
    GatewayError,
    LimitDetail,
    NotFound,
    OutOfService,
    Unauthenticated,
    Unavailable,
    UpstreamFailed,
    UpstreamTimeout,
)
from gateway.pipeline.audit import audit
from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.completion import complete, stream
from gateway.pipeline.exchange import Exchange
from gateway.spool.records import Attempt, Charge, Intent, Progress, Settlement
from policies.catalog import EntityKind, Price
from policies.usage import Usage, cost_nano_usd
from tests.pipeline.fakes import ENDPOINT, FIRST, SECOND, SNAPSHOT, Outlet, World, frames, plain_answer


async def walk(world: World, exchange: Exchange) -> bytes:
    await authenticate(world.line, exchange)
    return await complete(world.line, exchange)


async def flow(world: World, exchange: Exchange) -> list[bytes]:
    await authenticate(world.line, exchange)
    outlet = Outlet()
    await stream(world.line, exchange, outlet)
    return outlet.frames


def settlement(world: World) -> Settlement:
    (found,) = world.spool.of(Settlement)
    assert world.observer.running == 0
    return found


async def test_a_plain_call_is_one_intent_and_one_settlement_with_the_upstreams_counts() -> None:
    world = World()
    body = await walk(world, world.exchange(max_tokens=10))
    assert msgspec.json.decode(body)["choices"][0]["message"]["content"] == "hello"
    (intent,) = world.spool.of(Intent)
    assert (intent.endpoint_name, intent.principal_id, intent.key_id, intent.snapshot_version) == (
        "chat",
        "u1",
        "k1",
        7,
    )
    end = settlement(world)
    assert (end.status, end.http_status, end.finish_reason) == ("ok", 200, "stop")
    assert end.last is not None
    assert (end.last.fresh_input, end.last.output, end.last.usage_source) == (3, 2, "reported")
    assert end.last.cost_nano_usd == 3 * 500 + 2 * 1000
    assert world.reservations.settlements == [(3, 2, 3500)]


async def test_the_local_engines_time_is_part_of_the_cost_and_can_be_computed_again_from_the_row() -> None:
    world = World()
    price = Price("g", input=500_000_000, per_gpu_second=2_000_000_000)
    timed = replace(FIRST, kind=EntityKind.LOCAL, price=price)
    world.catalog.snapshot = replace(
        SNAPSHOT, endpoints={"chat": replace(ENDPOINT, entities=(timed,), fallbacks=())}
    )
    await walk(world, world.exchange(max_tokens=10))
    (intent,) = world.spool.of(Intent)
    assert intent.prices[0].per_gpu_second == 2_000_000_000
    last = settlement(world).last
    assert last is not None
    assert last.duration_us > 0
    usage = Usage(fresh_input=last.fresh_input, output=last.output)
    assert last.cost_nano_usd == cost_nano_usd(usage, price, last.duration_us)
    assert last.cost_nano_usd == 3 * 500 + 2_000 * last.duration_us
    assert world.reservations.settlements == [(3, 2, last.cost_nano_usd)]


async def test_an_attempt_that_failed_costs_no_engine_time() -> None:
    world = World()
    timed = replace(FIRST, kind=EntityKind.LOCAL, price=Price("g", per_gpu_second=2_000_000_000))
    world.catalog.snapshot = replace(
        SNAPSHOT, endpoints={"chat": replace(ENDPOINT, entities=(timed,), fallbacks=())}
    )
    world.engines.transports["e1"].answer = TimedOut("first byte")
    with pytest.raises(UpstreamTimeout):
        await walk(world, world.exchange(max_tokens=10))
    assert world.reservations.settlements == [(0, 0, 0)]


async def test_the_upstream_gets_its_own_model_name_and_a_bound_on_the_answer() -> None:
    world = World()
    await walk(world, world.exchange(temperature=0, metadata={"team": "x"}, user="end"))
    (sent,) = world.engines.transports["e1"].sent
    assert sent == {
        "model": "model-one",
        "messages": [{"role": "user", "content": "hi"}],
        "temperature": 0,
        "max_tokens": 100,
    }
    (intent,) = world.spool.of(Intent)
    assert (intent.tags, intent.end_user) == ({"team": "x"}, "end")


async def test_a_stream_is_settled_before_its_last_frame_is_handed_over() -> None:
    world = World()
    world.engines.transports["e1"].pieces = frames(3, running=False)
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)

    def watch(frame: bytes) -> None:
        assert [each.status for each in world.spool.of(Settlement)] == (["ok"] if frame == DONE else [])

    outlet = Outlet(watch)
    await stream(world.line, exchange, outlet)
    assert outlet.frames[-1] == DONE
    assert b"usage" not in b"".join(outlet.frames)
    assert settlement(world).status == "ok"
    assert world.reservations.settlements == [(3, 3, 4500)]


async def test_usage_is_shown_to_those_who_asked_for_it() -> None:
    world = World()
    world.engines.transports["e1"].pieces = frames(2)
    seen = b"".join(await flow(world, world.exchange(stream=True, stream_options={"include_usage": True})))
    assert seen.count(b'"usage"') == 1
    assert b'"choices":[],"usage":{"prompt_tokens":3' in seen


@pytest.mark.parametrize(
    ("key", "body", "error"),
    [
        ("nobody", {}, Unauthenticated),
        ("bob-key", {}, Forbidden),
        ("ann-key", {"model": "other"}, NotFound),
    ],
)
async def test_who_may_not_pass_reserves_nothing(
    key: str, body: dict[str, Any], error: type[GatewayError]
) -> None:
    world = World()
    with pytest.raises(error):
        await walk(world, world.exchange(key=key, **body))
    assert not world.reservations.holds
    assert not world.spool.records
    assert not world.engines.transports["e1"].sent


async def test_a_refusal_by_a_budget_leaves_no_row_and_reaches_no_upstream() -> None:
    world = World()
    detail = LimitDetail("b1", "money", "user 'ann'", 10, 0, 5, "month", 0)
    world.reservations.refuse = BudgetExhausted("Budget spent.", detail, headers=[])
    with pytest.raises(BudgetExhausted):
        await walk(world, world.exchange())
    assert not world.spool.records
    assert not world.engines.transports["e1"].sent


async def test_a_full_spool_turns_new_work_away_before_anything_is_reserved() -> None:
    world = World()
    world.spool.open = False
    with pytest.raises(Unavailable):
        await walk(world, world.exchange())
    assert not world.reservations.holds


async def test_an_intent_that_cannot_be_written_gives_the_reservation_back() -> None:
    world = World()
    world.spool.fault = Unavailable("The spool is full.")
    with pytest.raises(Unavailable):
        await walk(world, world.exchange())
    assert world.reservations.settlements == [(0, 0, 0)]
    assert world.observer.running == 0


async def test_a_caller_that_leaves_while_it_waits_for_room_abandons_the_reservation() -> None:
    world = World()
    world.reservations.pending = True
    task = asyncio.create_task(walk(world, world.exchange()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert world.reservations.abandoned == 1
    assert not world.spool.records


async def test_a_caller_that_leaves_a_plain_call_is_settled_once_as_cut_and_not_charged() -> None:
    world = World()
    world.engines.transports["e1"].answer = None
    task = asyncio.create_task(walk(world, world.exchange()))
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end = settlement(world)
    assert (end.status, end.stopped_by) == ("cut", "client")
    assert world.reservations.settlements == [(0, 0, 0)]


@pytest.mark.parametrize("reads", [True, False], ids=["while it reads", "while it is waited for"])
async def test_a_caller_that_leaves_mid_stream_pays_for_the_last_count_and_the_upstream_is_closed(
    reads: bool,
) -> None:
    world = World()
    transport = world.engines.transports["e1"]
    transport.pieces = [*frames(5, done=False), None]
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)
    outlet = Outlet(room=1_000_000 if reads else 5)
    outlet.reads = reads
    task = asyncio.create_task(stream(world.line, exchange, outlet))
    for _ in range(50):
        await asyncio.sleep(0)
    assert outlet.waits == (0 if reads else 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    end = settlement(world)
    assert (end.status, end.stopped_by) == ("cut", "client")
    assert world.reservations.settlements == [(3, 5, 6500)]
    assert transport.opened[0].closed


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_failure_before_the_first_byte_falls_back_and_both_attempts_are_on_record(
    streamed: bool,
) -> None:
    world = World()
    world.engines.transports["e1"].answer = ConnectFailed("refused")
    world.engines.transports["e2"].pieces = frames(2)
    exchange = world.exchange(stream=streamed)
    if streamed:
        assert (await flow(world, exchange))[-1] == DONE
    else:
        await walk(world, exchange)
    (failed,) = world.spool.of(Attempt)
    assert (failed.attempt, failed.entity_id, failed.outcome, failed.error_code) == (
        1,
        "e1",
        "error",
        "upstream_unreachable",
    )
    assert world.engines.doubted == ["one"]
    end = settlement(world)
    assert end.last is not None
    assert (end.status, end.last.attempt, end.last.entity_id) == ("ok", 2, "e2")
    assert world.engines.transports["e2"].sent[0]["cache_salt"] == "salt-u1"


async def test_a_stream_that_begins_with_garbage_falls_back_before_the_client_sees_a_byte() -> None:
    world = World()
    world.engines.transports["e1"].pieces = [b"data: {nonsense}\n\n"]
    world.engines.transports["e2"].pieces = frames(1)
    assert (await flow(world, world.exchange(stream=True)))[-1] == DONE
    assert [each.entity_id for each in world.spool.of(Attempt)] == ["e1"]


@pytest.mark.parametrize(
    ("fault", "error", "tried"),
    [
        (ConnectFailed("x"), UpstreamFailed, 3),
        (TimedOut("x"), UpstreamTimeout, 2),
        (Garbled("x"), UpstreamFailed, 3),
        (Refused(503, b"secret words"), UpstreamFailed, 3),
        (Refused(400, b"secret words"), BadRequest, 1),
        (Refused(400, b"This model's maximum context length is 4096 tokens."), BadRequest, 1),
    ],
)
async def test_an_upstreams_failure_is_told_in_our_words_and_settled(
    fault: Any, error: type[GatewayError], tried: int
) -> None:
    world = World()
    for transport in world.engines.transports.values():
        transport.answer = fault
    with pytest.raises(error) as caught:
        await walk(world, world.exchange())
    assert "secret" not in str(caught.value)
    assert len(world.spool.of(Attempt)) == tried
    assert settlement(world).status == "error"
    assert world.reservations.settlements == [(0, 0, 0)]


@pytest.mark.parametrize("fault", [ConnectFailed("reset"), TimedOut("silence"), b"", b"data: {bad}\n\n"])
async def test_a_failure_mid_stream_is_an_error_after_what_was_delivered_and_is_charged_for_that(
    fault: Any,
) -> None:
    world = World()
    world.engines.transports["e1"].pieces = [*frames(4, done=False), fault]
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)
    outlet = Outlet()
    with pytest.raises((UpstreamFailed, UpstreamTimeout)):
        await stream(world.line, exchange, outlet)
    assert b" w4" in b"".join(outlet.frames)
    assert DONE not in outlet.frames
    assert settlement(world).status == "error"
    assert world.reservations.settlements == [(3, 4, 5500)]
    assert not world.engines.transports["e2"].sent


async def test_a_stream_tops_up_at_half_use_and_records_the_new_grant() -> None:
    world = World()
    world.engines.transports["e1"].pieces = frames(600)
    seen = await flow(world, world.exchange(stream=True))
    assert seen[-1] == DONE
    assert world.reservations.top_ups[:2] == [256, 256]
    granted = [each.granted_output_tokens for each in world.spool.of(Progress) if each.granted_output_tokens]
    assert granted[:2] == [512, 768]
    assert world.reservations.settlements[0][1] == 600


async def test_each_charge_of_a_top_up_is_written_down_once() -> None:
    world = World()
    world.engines.transports["e1"].pieces = frames(600)
    grant = world.reservations.top_up

    def top_up(reservation: Any, output_tokens: int) -> asyncio.Future[int]:
        number = len(reservation.charges) + 1
        reservation.charges.append(
            Charge("l1", "u1", "output_tokens", "key", "r", number, output_tokens, 0, 60_000)
        )
        return grant(reservation, output_tokens)

    world.reservations.top_up = top_up  # type: ignore[method-assign]
    await flow(world, world.exchange(stream=True))
    assert len(world.reservations.top_ups) > 2
    written = [charge.position for each in world.spool.of(Progress) for charge in each.charges]
    assert written == list(range(1, len(world.reservations.top_ups) + 1))


async def test_a_client_that_takes_no_more_is_waited_for_and_gets_every_frame_once_in_order() -> None:
    world = World()
    transport = world.engines.transports["e1"]
    transport.pieces = frames(300)
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)
    outlet = Outlet(room=3)
    await stream(world.line, exchange, outlet)
    words = re.findall(rb" w(\d+)", b"".join(outlet.frames))
    assert [int(word) for word in words] == list(range(1, 301))
    assert outlet.frames.count(DONE) == 1
    assert outlet.waits >= 100
    assert transport.opened[0].let_gone


async def test_a_client_that_cannot_be_written_to_is_a_failure_of_ours_settled_once() -> None:
    world = World()
    world.engines.transports["e1"].pieces = frames(9)
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)

    def watch(frame: bytes) -> None:
        if b" w4" in frame:
            raise ValueError("a header field takes one line")

    with pytest.raises(ValueError, match="one line"):
        await stream(world.line, exchange, Outlet(watch))
    assert settlement(world).error_code == "internal_error"
    assert world.engines.transports["e1"].opened[0].closed


async def test_a_stream_with_max_tokens_within_its_grant_never_tops_up() -> None:
    world = World()
    world.engines.transports["e1"].pieces = frames(200)
    await flow(world, world.exchange(stream=True, max_tokens=200))
    assert world.reservations.top_ups == []


async def test_a_refused_top_up_ends_the_stream_at_what_was_granted_and_says_which_limit() -> None:
    world = World(room=300)
    transport = world.engines.transports["e1"]
    transport.pieces = frames(600)
    seen = await flow(world, world.exchange(stream=True, stream_options={"include_usage": True}))
    text = b"".join(seen)
    assert b" w300" in text
    assert b" w301" not in text
    assert seen[-1] == DONE
    last = msgspec.json.decode(text.split(b"\n\n")[-4].removeprefix(b"data: "))
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["weighbridge"] == {"stopped_by": "limit", "limit": "l1", "scope": "user 'ann'"}
    assert b'"completion_tokens":300' in text.split(b"\n\n")[-3]
    end = settlement(world)
    assert (end.status, end.finish_reason, end.stopped_by) == ("cut", "length", "limit")
    assert world.reservations.settlements == [(3, 300, 301_500)]
    assert world.reservations.top_ups == [256] * 2, "44 given, one refusal, and nothing asked after it"
    assert transport.opened[0].closed


async def test_a_killed_worker_leaves_checkpoints_no_more_than_64_tokens_apart() -> None:
    world = World()
    world.engines.transports["e1"].pieces = frames(250)
    await flow(world, world.exchange(stream=True))
    marks = [each.completion_tokens for each in world.spool.of(Progress)]
    assert marks[0] <= 1
    assert all(later - earlier <= 64 for earlier, later in itertools.pairwise(marks))
    assert 250 - marks[-1] < 64


async def test_an_upstream_without_usage_is_estimated_and_says_so() -> None:
    world = World()
    world.engines.transports["e1"].answer = plain_answer("some words of an answer", None, 0)
    await walk(world, world.exchange())
    end = settlement(world)
    assert end.last is not None
    assert end.last.usage_source == "estimated"
    assert end.last.output > 0


@pytest.mark.parametrize("usage", [(-1, 2), (3, -2), (10**12, 1)])
async def test_an_absurd_usage_is_not_believed(usage: tuple[int, int]) -> None:
    world = World()
    world.engines.transports["e1"].answer = plain_answer("words", *usage)
    await walk(world, world.exchange())
    end = settlement(world)
    assert end.last is not None
    assert end.last.usage_source == "estimated"
    assert 0 < end.last.fresh_input < 1000


@pytest.mark.parametrize(("gone", "error"), [(False, Unavailable), (True, OutOfService)])
async def test_with_no_engine_fit_the_request_has_its_row_and_costs_nothing(
    gone: bool, error: type[GatewayError]
) -> None:
    world = World()
    world.engines.reasons = {"e1": "starting", "e2": "starting"}
    world.engines.gone = gone
    with pytest.raises(error, match="starting"):
        await walk(world, world.exchange())
    end = settlement(world)
    assert (end.status, end.last) == ("error", None)
    assert world.reservations.settlements == [(0, 0, 0)]


async def test_an_unfit_first_choice_gives_way_without_an_attempt() -> None:
    world = World()
    world.engines.reasons = {FIRST.id: "circuit open"}
    await walk(world, world.exchange())
    assert not world.engines.transports["e1"].sent
    assert len(world.engines.transports["e2"].sent) == 1


async def test_several_choices_are_counted_together_while_they_run() -> None:
    world = World()

    def event(index: int, completion: int, word: str | None) -> bytes:
        delta = {"content": word} if word else {"role": "assistant", "content": ""}
        value = {
            "id": "x", "object": "chat.completion.chunk", "created": 1, "model": "m",
            "choices": [{"index": index, "delta": delta, "finish_reason": None}],
            "usage": {"prompt_tokens": 3, "total_tokens": 3 + completion, "completion_tokens": completion},
        }  # fmt: skip
        return b"data: " + msgspec.json.encode(value) + b"\n\n"

    pieces: list[Any] = [event(0, 0, None), event(1, 0, None)]
    for number in range(1, 11):
        pieces += [event(0, number, " a"), event(1, number, " b")]
    world.engines.transports["e1"].pieces = [*pieces, ConnectFailed("reset")]
    exchange = world.exchange(stream=True, n=2)
    await authenticate(world.line, exchange)
    with pytest.raises(UpstreamFailed):
        await stream(world.line, exchange, Outlet())
    assert world.reservations.settlements[0][:2] == (3, 20)


async def test_every_piece_is_noted_before_it_is_passed_on_and_the_note_ends_with_the_settlement() -> None:
    world = World()
    world.engines.transports["e1"].pieces = frames(9)
    exchange = world.exchange(stream=True)
    await authenticate(world.line, exchange)

    def watch(frame: bytes) -> None:
        if b" w" in frame:
            assert world.spool.seen[-1] == (1, int(frame.rpartition(b" w")[2].partition(b'"')[0]))

    await stream(world.line, exchange, Outlet(watch))
    assert world.spool.ended == [1]


async def test_a_field_that_would_reach_into_the_local_engine_is_refused_unsent_and_settled_at_nothing() -> (
    None
):
    world = World()
    local = replace(FIRST, kind=EntityKind.LOCAL)
    endpoint = replace(ENDPOINT, entities=(local, SECOND))
    world.catalog.snapshot = replace(SNAPSHOT, endpoints={"chat": endpoint})
    with pytest.raises(BadRequest) as caught:
        await walk(world, world.exchange(web_search_options={}))
    assert (caught.value.code, caught.value.param) == ("unsupported_field", "web_search_options")
    assert not world.engines.transports["e1"].sent
    assert world.reservations.settlements == [(0, 0, 0)]
    assert settlement(world).http_status == 400


async def test_a_field_nobody_here_knows_passes_to_a_provider() -> None:
    world = World()
    await walk(world, world.exchange(web_search_options={}))
    assert world.engines.transports["e1"].sent[0]["web_search_options"] == {}


async def test_a_refusal_has_one_record_and_an_admitted_request_has_its_row_instead() -> None:
    world = World()
    exchange = world.exchange(key="bob-key")
    with pytest.raises(Forbidden) as refused:
        await walk(world, exchange)
    audit(world.line, exchange, refused.value)
    audit(world.line, None, Unauthenticated())
    assert world.observer.refusals == [("u2", "chat", "permission_denied"), (None, None, "invalid_api_key")]
    world.engines.reasons = {"e1": "down", "e2": "down"}
    admitted = world.exchange()
    with pytest.raises(Unavailable) as failed:
        await walk(world, admitted)
    audit(world.line, admitted, failed.value)
    assert len(world.observer.refusals) == 2
