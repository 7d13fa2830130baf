"""What may be stored, for whom, and what a caller's `cache-control` asks: as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.caching import CacheRules, CacheScope, Wish, cache_rules, scope_key, storable, whole, wish_of


@pytest.mark.parametrize(
    ("said", "wish"),
    [
        ("", Wish()),
        ("no-cache", Wish(read=False)),
        ("no-store", Wish(read=False, store=False)),
        ("No-Store, max-age=5", Wish(False, False, 5)),
        ("max-age=60", Wish(max_age_seconds=60)),
        ("max-age=0", Wish(read=False, max_age_seconds=0)),
        ("max-age=60, max-age=5", Wish(max_age_seconds=5)),
        ("max-age=5, max-age=60", Wish(max_age_seconds=5)),
        ('max-age="7"', Wish(max_age_seconds=7)),
        ("max-age=soon", Wish(read=False, max_age_seconds=0)),
        ("max-age=-1", Wish(read=False, max_age_seconds=0)),
        ("max-age=99999999999999999999", Wish(read=False, max_age_seconds=0)),
        ("no-transform, only-if-cached, stale=1", Wish(only=True)),
        ("only-if-cached, no-cache", Wish(read=False, only=True)),
    ],
)
def test_cache_control_is_read_as_http_means_it(said: str, wish: Wish) -> None:
    assert wish_of(said) == wish


@given(st.text(max_size=60))
def test_no_cache_control_is_too_odd(said: str) -> None:
    wish_of(said)


@pytest.mark.parametrize(
    ("generates", "temperature", "choices", "far", "sampled", "may"),
    [
        (True, 0, 1, False, False, True),
        (True, 0.0, 1, False, False, True),
        (True, None, 1, False, False, False),
        (True, 0.7, 1, False, False, False),
        (True, False, 1, False, False, False),
        (True, 0.7, 1, False, True, True),
        (True, None, 1, False, True, True),
        (False, None, 1, False, False, True),
        (True, 0, 2, False, True, False),
        (True, 0, 1, True, True, False),
    ],
)
def test_only_what_is_the_same_each_time_is_stored(
    generates: bool, temperature: object, choices: int, far: bool, sampled: bool, may: bool
) -> None:
    rules = CacheRules(enabled=True, sampled=sampled)
    assert (
        storable(rules, generates=generates, temperature=temperature, choices=choices, far_pictures=far)
        is may
    )


@pytest.mark.parametrize(
    ("finish_reason", "bounded", "fits", "is_whole"),
    [
        ("stop", True, False, True),
        ("stop", False, True, True),
        ("stop", False, False, False),
        ("tool_calls", False, True, True),
        ("length", True, False, True),
        ("length", False, True, False),
        ("content_filter", True, True, False),
        (None, True, True, False),
    ],
)
def test_only_what_is_all_there_is_to_say_is_stored(
    finish_reason: str | None, bounded: bool, fits: bool, is_whole: bool
) -> None:
    assert whole(finish_reason, bounded=bounded, fits_default=fits) is is_whole


def test_each_scope_keeps_apart_whom_it_says() -> None:
    def keys(scope: CacheScope) -> list[str]:
        rules = CacheRules(enabled=True, scope=scope)
        return [
            scope_key(rules, who, group) for who, group in (("a", "g"), ("b", "g"), ("a", None), ("b", None))
        ]

    principal, group, endpoint = keys(CacheScope.PRINCIPAL), keys(CacheScope.GROUP), keys(CacheScope.ENDPOINT)
    assert principal[0] == principal[2] != principal[1] == principal[3]
    assert group[0] == group[1]
    assert len({group[0], group[2], group[3]}) == 3
    assert len(set(endpoint)) == 1


def test_nobody_is_mistaken_for_a_group_of_the_same_id() -> None:
    rules = CacheRules(enabled=True, scope=CacheScope.GROUP)
    assert scope_key(rules, "x", None) != scope_key(rules, "y", "x")


def test_an_endpoint_stores_nothing_unless_it_is_told_to() -> None:
    assert cache_rules({}) is None
    assert cache_rules({"ttl_seconds": 5}) is None
    assert cache_rules({"enabled": True, "scope": "group"}) == CacheRules(True, scope=CacheScope.GROUP)
    with pytest.raises(ValueError, match="everywhere"):
        cache_rules({"enabled": True, "scope": "everywhere"})
