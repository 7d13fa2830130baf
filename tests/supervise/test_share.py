"""Which cores a pinned worker keeps to, and how many connections it may open."""

from __future__ import annotations

import os
import resource
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.share import share_of, take_share


@given(cores=st.sets(st.integers(0, 255), min_size=1, max_size=64), workers=st.integers(1, 64))
def test_workers_share_all_cores_and_no_core_has_two_of_them(cores: set[int], workers: int) -> None:
    shares = [share_of(cores, index, workers) for index in range(workers)]
    assert frozenset[int]().union(*shares) == cores
    if workers <= len(cores):
        assert sum(len(each) for each in shares) == len(cores)
        assert all(shares)
    else:
        assert all(each == cores for each in shares)


def test_a_share_is_of_neighbours() -> None:
    assert [sorted(share_of(range(8), index, 3)) for index in range(3)] == [[0, 1], [2, 3, 4], [5, 6, 7]]


@pytest.mark.parametrize(
    ("pin", "workers", "kept"),
    [
        ("auto", 2, {2, 3}),
        ("auto", 3, {1}),
        # No core would be left for the drainer.
        ("auto", 4, None),
        ("yes", 4, {1}),
        ("no", 2, None),
    ],
)
def test_a_worker_is_pinned_where_a_core_is_left_and_opens_as_many_connections_as_the_system_allows(
    pin: str, workers: int, kept: set[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned: list[set[int]] = []
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, cores: pinned.append(set(cores)))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda which, both: limits.append((which, both)))
    settings: Any = SimpleNamespace(pin=pin, workers=workers)
    take_share(settings, 1)
    assert pinned == ([] if kept is None else [kept])
    assert limits == [(resource.RLIMIT_NOFILE, (4096, 4096))]
