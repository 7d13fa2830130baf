"""The trail of refusals: the first few of a kind one by one, the rest as counts, whatever callers do."""

from __future__ import annotations

import logging
from typing import cast

import pytest

from gateway.security.networks import network
from gateway.spool.records import Record, Refusal
from gateway.telemetry import Telemetry
from gateway.trail import OTHERS, RefusalTrail


class Counted:
    def __init__(self) -> None:
        self.codes: list[str] = []

    def refused(self, code: str) -> None:
        self.codes.append(code)


class Spool:
    def __init__(self) -> None:
        self.records: list[Refusal] = []
        self.open = True

    def append(self, record: Record) -> None:
        assert isinstance(record, Refusal)
        self.records.append(record)

    def admits(self) -> bool:
        return self.open


class Scene:
    def __init__(self) -> None:
        self.now, self.counted, self.spool = 120_000, Counted(), Spool()
        self.trail = RefusalTrail(cast("Telemetry", self.counted), self.spool, lambda: self.now)

    @property
    def records(self) -> list[Refusal]:
        return self.spool.records


def test_a_flood_is_ten_records_and_one_count_a_second(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="weighbridge.refusals")
    scene = Scene()
    for _ in range(250):
        scene.trail.refused("u1", "chat", "rate_limit_exceeded", limit_id="l1")
    scene.trail.refused("u2", "chat", "permission_denied")
    assert [(each.principal_id, each.count, each.span_ms) for each in scene.records] == [
        ("u1", 1, 0)
    ] * 10 + [("u2", 1, 0)]
    scene.now += 1000
    scene.trail.tick()
    last = scene.records[-1]
    assert (last.principal_id, last.code, last.limit_id, last.count) == (
        "u1",
        "rate_limit_exceeded",
        "l1",
        240,
    )
    assert (last.at_ms, last.span_ms) == (120_000, 1000)
    assert [each.number for each in scene.records] == list(range(1, 13))
    scene.trail.refused("u1", "chat", "rate_limit_exceeded", limit_id="l1")
    assert scene.records[-1].count == 1
    assert len(scene.counted.codes) == 252
    assert len(caplog.records) == 13


def test_each_rule_has_its_own_ten() -> None:
    scene = Scene()
    for _ in range(20):
        scene.trail.refused("u1", "chat", "rate_limit_exceeded", limit_id="l1")
        scene.trail.refused("u1", "chat", "rate_limit_exceeded", limit_id="l2")
        scene.trail.refused("u1", "/admin/v1/keys", "permission_denied", plane="control")
    assert len(scene.records) == 30


def test_callers_nobody_knows_are_counts_by_address_and_minute() -> None:
    scene = Scene()
    for _ in range(1000):
        scene.trail.refused(None, None, "invalid_api_key", address="192.0.2.7")
    scene.trail.refused(None, None, "invalid_api_key", address="2001:db8:1:2:3::4")
    scene.trail.refused(None, None, "invalid_api_key", address="2001:db8:1:2:9::9")
    scene.now += 59_000
    scene.trail.tick()
    assert scene.records == []
    scene.now += 1_000
    scene.trail.tick()
    assert [(each.address, each.count, each.span_ms, each.principal_id) for each in scene.records] == [
        ("192.0.2.7", 1000, 60_000, None),
        ("2001:db8:1:2::/64", 2, 60_000, None),
    ]


def test_more_kinds_than_can_be_told_apart_are_counted_together() -> None:
    scene = Scene()
    for number in range(5000):
        scene.trail.refused(f"u{number}", "chat", "permission_denied")
        scene.trail.refused(None, None, "invalid_api_key", address=f"10.0.{number // 250}.{number % 250}")
    assert len(scene.records) == 4096
    scene.now += 60_000
    scene.trail.tick()
    assert sum(each.count for each in scene.records) == 10_000
    others = [each for each in scene.records if OTHERS in (each.principal_id, each.address)]
    assert [each.count for each in others] == [904, 904]


def test_a_full_spool_gets_no_more_and_what_was_counted_comes_when_there_is_room() -> None:
    scene = Scene()
    scene.spool.open = False
    for _ in range(30):
        scene.trail.refused("u1", "chat", "temporarily_unavailable")
        scene.trail.refused(None, None, "invalid_api_key", address="192.0.2.7")
    scene.now += 60_000
    scene.trail.tick()
    assert scene.records == []
    scene.spool.open = True
    scene.trail.tick(last=True)
    assert sorted(each.count for each in scene.records) == [30, 30]


@pytest.mark.parametrize(
    ("address", "counted"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8::1", "2001:db8::/64"),
        (None, "none"),
        ("/run/socket", "/run/socket"),
    ],
)
def test_an_address_counts_under(address: str | None, counted: str) -> None:
    assert network(address) == counted
