"""Who says that a call is batch work: its header, its key, or its endpoint's tag."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gateway.errors import BadRequest
from gateway.http.plane import _head
from gateway.pipeline.admit import admit
from gateway.pipeline.authenticate import authenticate
from gateway.spool.records import Intent
from policies.catalog import BATCH
from tests.pipeline.fakes import World


@pytest.mark.parametrize(
    ("header", "keyed", "tagged", "share"),
    [
        (False, False, False, 100),
        (True, False, False, 80),
        (False, True, False, 80),
        (False, False, True, 80),
        (True, True, True, 80),
    ],
)
async def test_a_call_is_batch_by_its_header_its_key_or_its_endpoint_and_its_row_says_so(
    header: bool, keyed: bool, tagged: bool, share: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    seen: list[Any] = []
    reserve = world.reservations.reserve
    monkeypatch.setattr(
        world.reservations, "reserve", lambda s, c, e, **asked: seen.append(c) or reserve(s, c, e, **asked)
    )
    exchange = world.exchange(max_tokens=5)
    exchange.batch = header
    await authenticate(world.line, exchange)
    exchange.caller = replace(exchange.caller, batch=keyed)
    endpoint = exchange.snapshot.endpoints["chat"]
    exchange.endpoint = replace(endpoint, tags=(BATCH,)) if tagged else endpoint
    await admit(world.line, exchange)
    assert [each.share_percent for each in seen] == [share]
    assert exchange.caller.share_percent == 100
    (begun,) = world.spool.of(Intent)
    assert begun.batch is (share == 80)


def test_the_header_takes_two_words_and_no_other() -> None:
    def head(value: bytes) -> bool:
        headers = [(b"authorization", b"Bearer x"), (b"x-weighbridge-priority", value)]
        return _head({"headers": headers}).batch  # type: ignore[typeddict-item,arg-type]

    assert head(b"batch")
    assert not head(b"interactive")
    for value in (b"Batch", b"high", b""):
        with pytest.raises(BadRequest):
            head(value)
