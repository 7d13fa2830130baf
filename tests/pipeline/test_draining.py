"""When a stream is read on for nobody, and when it is cut like any other."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.pipeline.draining import MOST, Drains
from policies.calling import EntityRules
from tests.pipeline.fakes import FIRST


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
