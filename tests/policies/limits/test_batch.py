"""Batch work gives way where a limit is shared, and nowhere else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.catalog import BATCH, Endpoint, Snapshot
from policies.limits import Limit, LimitIndex, Metric, Mode, ScopeKind, applicable
from policies.principal import Caller, Principal, PrincipalKind
from policies.windows import MINUTE

ALICE = Caller(Principal("alice", PrincipalKind.USER, "Alice", ("g1",)), key_id="k1")
CHAT = Endpoint("ep1", "chat", "llm/v1/chat", ())


def limit(name: str, scope: ScopeKind, subject: str | None, metric: Metric = Metric.REQUESTS) -> Limit:
    window = None if metric is Metric.CONCURRENT_REQUESTS else MINUTE
    return Limit(name, scope, metric, window, 11, subject, None, Mode.SHARE)


@pytest.mark.parametrize(
    ("rule", "capacity"),
    [
        (limit("cap", ScopeKind.ENDPOINT, None), 8),
        (limit("group", ScopeKind.GROUP, "g1"), 8),
        (limit("groups", ScopeKind.GROUP_DEFAULT, None), 8),
        (limit("at once", ScopeKind.ENDPOINT, None, Metric.CONCURRENT_REQUESTS), 8),
        (limit("own", ScopeKind.USER, "alice"), 11),
        (limit("default", ScopeKind.USER_DEFAULT, None), 11),
        (limit("key", ScopeKind.KEY, "k1"), 11),
    ],
)
def test_batch_sees_its_share_of_shared_limits_rounded_down(rule: Limit, capacity: int) -> None:
    index, snapshot = LimitIndex.of([rule]), Snapshot(1)
    (draw,) = applicable(index, snapshot, replace(ALICE, share_percent=80), CHAT)
    assert draw.capacity == capacity
    (draw,) = applicable(index, snapshot, ALICE, CHAT)
    assert draw.capacity == 11


def test_an_endpoint_is_for_batch_work_by_its_tag() -> None:
    assert replace(CHAT, tags=(BATCH,)).batch
    assert not CHAT.batch
