"""Which calls are kept, how much of them, and that nobody else pays for it: the line on fakes."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engines.errors import ConnectFailed
from gateway.errors import GatewayError
from gateway.ids import RequestIds
from gateway.payloads.keeping import (
    ANSWER_CUT,
    FRAMES_TO_TEXT,
    NOT_REDACTED,
    REQUEST_CUT,
    Keeping,
    Kept,
    Untouched,
)
from gateway.pipeline.authenticate import authenticate
from gateway.pipeline.completion import complete, stream
from gateway.pipeline.kept import Outcome, complete_kept
from gateway.spool.records import Settlement
from policies.payloads import PayloadRules, payload_rules
from tests.pipeline.fakes import ENDPOINT, SNAPSHOT, Outlet, World, frames

ALL = PayloadRules(enabled=True)


def world(rules: PayloadRules | None = ALL, most: int = 1 << 20) -> tuple[World, Keeping, list[str]]:
    told: list[str] = []
    keeping = Keeping(told.append, wall_ms=lambda: 5, monotonic_ns=lambda: 9_000_000, most_bytes=most)
    made = World()
    made.catalog.snapshot = replace(SNAPSHOT, endpoints={"chat": replace(ENDPOINT, payloads=rules)})
    made.line = replace(made.line, payloads=keeping)
    return made, keeping, told


async def call(made: World, *, received: bytes = b'{"asked": 1}', **body: Any) -> Any:
    exchange = made.exchange(**body)
    exchange.received = received
    await authenticate(made.line, exchange)
    if not body.get("stream"):
        return await complete(made.line, exchange)
    outlet = Outlet()
    await stream(made.line, exchange, outlet)
    return b"".join(outlet.frames)


async def test_a_plain_call_is_kept_as_it_was_asked_and_answered() -> None:
    made, keeping, _ = world()
    body = await call(made)
    (kept,) = keeping.waiting
    request, answer, *sizes, codes = kept.texts(Untouched())
    assert (request, answer.encode(), codes) == ('{"asked": 1}', body, [])
    assert sizes == [len(request), len(body)]
    assert (kept.principal_name, kept.endpoint_name, kept.http_status) == ("ann", "chat", 200)
    assert keeping.held == kept.size


async def test_a_stream_is_kept_as_its_client_got_it() -> None:
    made, keeping, _ = world()
    made.engines.transports["e1"].pieces = frames(2)
    got = await call(made, stream=True)
    (kept,) = keeping.waiting
    assert kept.answer == got
    (choice,) = msgspec.json.decode(kept.texts(Untouched())[1])["choices"]
    assert choice["message"]["content"] == "".join(re.findall(r'"content":"([^"]+)"', got.decode()))
    assert choice["finish_reason"] == "stop"


async def test_a_call_that_fails_after_admission_is_kept_with_its_status() -> None:
    made, keeping, _ = world()
    for each in made.engines.transports.values():
        each.answer = ConnectFailed("no")
    with pytest.raises(GatewayError) as failed:
        await call(made)
    (kept,) = keeping.waiting
    assert (kept.http_status, kept.answer) == (failed.value.status, b"")


async def test_a_call_that_outlives_its_process_is_kept_too() -> None:
    made, keeping, _ = world()
    exchange = made.exchange()
    exchange.received = b"asked in SQL"
    await authenticate(made.line, exchange)

    async def keep(outcome: Outcome, settlement: Settlement) -> bool:
        return True

    body = await complete_kept(made.line, exchange, keep)
    (kept,) = keeping.waiting
    assert (kept.request, kept.answer) == (b"asked in SQL", body)


@pytest.mark.parametrize("rules", [None, PayloadRules(enabled=True, sampling_fraction=0)])
async def test_nothing_is_held_of_calls_that_are_not_kept(rules: PayloadRules | None) -> None:
    made, keeping, told = world(rules)
    made.engines.transports["e1"].pieces = frames(1)
    await call(made)
    await call(made, stream=True)
    assert (len(keeping.waiting), keeping.held, told) == (0, 0, [])


async def test_what_finds_no_room_is_dropped_and_counted_and_the_call_goes_its_way() -> None:
    made, keeping, told = world(most=20)
    await call(made)
    assert keeping.held <= 20
    assert await call(made)
    assert (len(keeping.waiting), told) == (1, ["dropped"])
    assert keeping.waiting[0].answer_cut, "the first one's answer found no room"
    keeping.stored(keeping.waiting.popleft(), "stored")
    assert (keeping.held, told) == (0, ["dropped", "stored"])


async def test_a_stream_far_beyond_its_size_is_let_go_of_on_the_way() -> None:
    made, keeping, _ = world(PayloadRules(enabled=True, max_bytes=100))
    made.engines.transports["e1"].pieces = frames(50)
    whole = await call(made, stream=True)
    (kept,) = keeping.waiting
    assert len(kept.answer) <= 100 * FRAMES_TO_TEXT < len(whole)
    assert ANSWER_CUT in kept.texts(Untouched())[4]


def kept(request: bytes = b"", answer: bytes = b"", most: int = 10) -> Kept:
    return Kept(b"\0" * 16, 0, "n1", "chat", "u1", "ann", "openai.chat", None, None, None, 200, 1, 1.0, False, most, request, answer, False)  # fmt: skip


@example("", "\0", 1)
@given(st.text(), st.text(), st.integers(0, 40))
def test_texts_are_cut_at_whole_characters_and_flagged(request: str, answer: str, most: int) -> None:
    asked, told, asked_bytes, told_bytes, codes = kept(request.encode(), answer.encode(), most).texts(
        Untouched()
    )
    for whole, text, size, code in (
        (request, asked, asked_bytes, REQUEST_CUT),
        (answer, told, told_bytes, ANSWER_CUT),
    ):
        assert size == len(whole.encode())
        # What cannot be stored is longer in its other form.
        storable = whole.replace("\0", "\ufffd")
        assert (code in codes) == (len(storable.encode()) > most)
        assert storable.startswith(text)
        assert "\0" not in text


def test_redaction_sees_all_of_a_text_before_it_is_cut_and_one_that_fails_leaves_nothing() -> None:
    class Fails:
        def redact(self, text: str, *, endpoint_id: str, answer: bool) -> str:
            if answer:
                raise ValueError("cannot read this")
            assert (text, endpoint_id) == ("a card 4111 1111", "n1")
            return text.replace("4111 1111", "<card>")

    assert kept(b"a card 4111 1111", b"secret", 100).texts(Fails()) == (
        "a card <card>",
        "",
        16,
        6,
        [NOT_REDACTED],
    )


@given(st.floats(0, 1))
def test_the_same_id_is_chosen_everywhere_and_by_every_larger_fraction(fraction: float) -> None:
    ids = RequestIds()
    fewer, more = PayloadRules(True, fraction), PayloadRules(True, (1 + fraction) / 2)
    for _ in range(20):
        made = ids.make()
        assert fewer.chosen(made) == fewer.chosen(bytes(made))
        assert more.chosen(made) or not fewer.chosen(made)


def test_a_fraction_chooses_about_so_many() -> None:
    spread = [(7 << 76 | 2 << 62 | at * (1 << 62) // 1000).to_bytes(16, "big") for at in range(1000)]
    assert sum(PayloadRules(True, 0.25).chosen(each) for each in spread) == 250
    assert all(PayloadRules(True, 1.0).chosen(each) for each in spread)
    assert not any(PayloadRules(True, 0.0).chosen(each) for each in spread)


def test_an_endpoint_keeps_nothing_unless_it_is_told_to() -> None:
    assert payload_rules({}) is None
    assert payload_rules({"sampling_fraction": 0.5}) is None
    assert payload_rules({"enabled": True, "max_bytes": 5}) == PayloadRules(True, 1.0, 5)
