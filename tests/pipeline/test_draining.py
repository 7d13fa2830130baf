"""When a stream is read on for nobody, and when it is cut like any other."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from engines.chat_stream import ChatStream
from engines.errors import ConnectFailed
from gateway.pipeline.draining import MOST, Drains
from policies.calling import EntityRules
from tests.pipeline.fakes import FIRST, frames


@pytest.mark.parametrize(
    ("drain", "stopped_by", "running", "read_on"),
    [
        (True, "client", 0, True),
        (True, "client", MOST - 1, True),
        (True, "client", MOST, False),
        (False, "client", 0, False),
        (True, "revoked", 0, False),
        (True, "shutdown", 0, False),
        (True, "limit", 0, False),
    ],
)
def test_only_what_is_billed_whole_and_only_so_many_at_once(
    drain: bool, stopped_by: str, running: int, read_on: bool
) -> None:
    drains = Drains()
    drains.running = running
    exchange: Any = SimpleNamespace(
        entity=replace(FIRST, rules=EntityRules(drain=drain)), stopped_by=stopped_by
    )
    assert drains.room_for(exchange) is read_on


def test_without_an_entity_there_is_nothing_to_read() -> None:
    exchange: Any = SimpleNamespace(entity=None, stopped_by="client")
    assert not Drains().room_for(exchange)


class Opened:
    """An upstream that sends its pieces, and then breaks off or ends."""

    def __init__(self, pieces: list[bytes], fault: Exception | None) -> None:
        self._pieces = pieces
        self._fault = fault

    async def read(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._fault is not None:
            raise self._fault
        return b""


@pytest.mark.parametrize("end", ["whole", "closed", "reset", "refused more"])
async def test_however_reading_on_ends_what_came_is_counted_and_its_seat_is_free_again(end: str) -> None:
    pieces = frames(5)
    reader = ChatStream(show_usage=False, show_running=False, limit=3 if end == "refused more" else 100)
    opened: Any = Opened(
        pieces if end in ("whole", "refused more") else pieces[:4],
        ConnectFailed("x") if end == "reset" else None,
    )
    read: list[int] = []

    async def extend() -> bool:
        return False

    drains = Drains()
    meter: Any = SimpleNamespace(
        read=lambda: read.append(reader.running), broke=lambda _: read.append(reader.running), extend=extend
    )
    await drains.drain(opened, reader, meter)
    assert drains.running == 0
    assert reader.done is (end == "whole")
    assert read[-1] == reader.running == {"whole": 5, "refused more": 3}.get(end, reader.running) > 0
