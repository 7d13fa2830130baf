"""A plan that is joined of parts is the plan compiled whole, whoever called what before."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from gateway.counters.frames import ASK
from gateway.counters.keys import Keys
from gateway.counters.link import Link
from gateway.counters.lua import Scripts
from gateway.counters.plan import Plan, compile_plan
from gateway.counters.plans import Plans
from gateway.counters.remembered import Kept, Remembered
from policies.budgets import Budget, dearest
from policies.catalog import Endpoint, Price, Snapshot
from policies.draws import Indexes, draws_of
from policies.limits import Limit, Metric, Mode, ScopeKind
from policies.principal import Caller, Principal, PrincipalKind
from policies.windows import MINUTE, Calendar, Rolling, Unit, Window
from tests.counters.conftest import caller_of, endpoint_of

_NOW_MS = 1_764_000_000_000
_DAY = Calendar(Unit.DAY)
_GROUPS = ("g1", "g2")
_CALLERS = (
    caller_of("ann", _GROUPS, "k1"),
    # As a token claims it.
    caller_of("ann", ("g1",), "k1"),
    caller_of("bob", ("g2",), "k2"),
    replace(caller_of("bob", ("g2",), "k3"), share_percent=80),
    caller_of("eve"),
)
_ENDPOINTS = (
    endpoint_of(Price("p", input=3_000_000, output=7_000_000), "one"),
    endpoint_of(Price("q", input=1_000_000, output=9_000_000), "two"),
    endpoint_of(name="free"),
)
_SUBJECTS: dict[ScopeKind, tuple[str | None, ...]] = {
    ScopeKind.ENDPOINT: (None, *(each.id for each in _ENDPOINTS)),
    ScopeKind.USER: ("u-ann", "u-bob"),
    ScopeKind.GROUP: _GROUPS,
    ScopeKind.KEY: (None, "k1", "k2"),
}
_Place = tuple[ScopeKind, str | None, str | None]


def _limit(place: _Place, metric: Metric, window: Window, amount: int, mode: Mode) -> Limit:
    scope, subject, endpoint_id = place
    within = None if metric is Metric.CONCURRENT_REQUESTS else window
    name = f"l-{place}-{metric}-{within}"
    return Limit(name, scope, metric, within, amount, subject, endpoint_id, mode)


def _budget(place: _Place, unit: Unit, amount: int) -> Budget:
    scope, subject, endpoint_id = place
    return Budget(f"b-{place}-{unit}", scope, Calendar(unit), amount, subject, endpoint_id)


def _places(scopes: list[ScopeKind]) -> st.SearchStrategy[_Place]:
    spans = st.sampled_from((None, None, _ENDPOINTS[0].id, _ENDPOINTS[2].id))
    return st.sampled_from(scopes).flatmap(
        lambda scope: st.tuples(st.just(scope), st.sampled_from(_SUBJECTS.get(scope, (None,))), spans)
    )


_SCOPES = [each for each in ScopeKind if each is not ScopeKind.SERVICE_PRINCIPAL]
_limits = st.builds(
    _limit,
    _places([each for each in _SCOPES if each is not ScopeKind.DEPLOYMENT]),
    st.sampled_from([each for each in Metric if each is not Metric.MONEY]),
    st.sampled_from((MINUTE, Rolling(2_000), _DAY)),
    st.integers(0, 9),
    st.sampled_from(list(Mode)),
)
_budgets = st.builds(_budget, _places(_SCOPES), st.sampled_from((Unit.DAY, Unit.MONTH)), st.integers(0, 9))
_visits = st.lists(
    st.tuples(st.sampled_from(_CALLERS), st.sampled_from(_ENDPOINTS), st.sampled_from((None, "g2"))),
    min_size=1,
    max_size=8,
)


def _plans(now: list[int]) -> Plans:
    link = SimpleNamespace(
        scripts=Scripts.load(), keys=Keys(), epoch="run.1", worker_id="w", now_ms=lambda: now[0]
    )
    return Plans(cast("Link", link))


def _bytes(plan: Plan) -> tuple[object, ...]:
    ask, positions = ASK.pack(0, 40, 4, 30, 2), list(range(len(plan.taps)))
    return (
        plan.call(b"memory", ask),
        plan.claiming_call(b"memory", ask, b"claim", b"digest"),
        plan.settle_call(b"memory", positions, (0, 1, 30, 2), 40, (31, 17, 5)),
    )


def _same(
    plans: Plans, snapshot: Snapshot, now_ms: int, caller: Caller, endpoint: Endpoint, group: Any
) -> None:
    found = plans.find(snapshot, caller, endpoint, group)
    draws = draws_of(Indexes.of(snapshot), caller, endpoint, group)
    whole = compile_plan(plans.standpoint, draws, dearest(endpoint), now_ms)
    assert [each.draw for each in found.taps] == draws
    assert found.rates == whole.rates
    assert _bytes(found) == _bytes(whole)
    assert found.identities == whole.identities
    assert structs.asdict(found.frame) == structs.asdict(whole.frame)


@settings(max_examples=60, deadline=None)
@given(
    limits=st.lists(_limits, max_size=12, unique_by=lambda limit: limit.id),
    budgets=st.lists(_budgets, max_size=8, unique_by=lambda budget: budget.id),
    visits=_visits,
    later=_visits,
)
def test_a_plan_joined_of_parts_is_the_plan_compiled_whole(
    limits: list[Limit], budgets: list[Budget], visits: list[Any], later: list[Any]
) -> None:
    now = [_NOW_MS]
    plans = _plans(now)
    snapshot = Snapshot(1, limits=tuple(limits), budgets=tuple(budgets))
    for each in visits:
        _same(plans, snapshot, now[0], *each)
    # A day later every period is another; then the epoch is, then the rules are.
    now[0] += 86_400_000
    for each in later:
        _same(plans, snapshot, now[0], *each)
    cast("Any", plans)._link.epoch = "run.2"
    fewer = Snapshot(2, limits=tuple(limits[1:]), budgets=tuple(budgets[1:]))
    for each in visits:
        _same(plans, snapshot, now[0], *each)
    for each in later:
        _same(plans, fewer, now[0], *each)


def test_callers_and_endpoints_are_compiled_once_each_not_once_a_pair() -> None:
    plans = _plans([_NOW_MS])
    limits = (
        Limit("each", ScopeKind.USER_DEFAULT, Metric.REQUESTS, MINUTE, 5),
        Limit("cap", ScopeKind.ENDPOINT, Metric.TOTAL_TOKENS, MINUTE, 5),
    )
    snapshot = Snapshot(1, limits=limits)
    endpoints = [endpoint_of(name=f"e{number}") for number in range(40)]
    for caller in _CALLERS:
        for endpoint in endpoints:
            plans.find(snapshot, caller, endpoint, None)
    assert (
        len(plans._endpoints) == 2 * 40
    )  # one for those who may fill all of a limit, one for those who may not
    assert len(plans._callers) == len(_CALLERS)
    assert not len(plans._pairs)


_NO_GROUPS = caller_of("eve", (), "k1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((_NO_GROUPS, _ENDPOINTS[0], None), (caller_of("eve", ("g1",), "k1"), _ENDPOINTS[0], None)),
        ((_NO_GROUPS, _ENDPOINTS[0], None), (caller_of("eve", (), "k2"), _ENDPOINTS[0], None)),
        ((_NO_GROUPS, _ENDPOINTS[0], None), (caller_of("ann", (), "k1"), _ENDPOINTS[0], None)),
        ((_NO_GROUPS, _ENDPOINTS[0], None), (replace(_NO_GROUPS, share_percent=50), _ENDPOINTS[0], None)),
        ((_NO_GROUPS, _ENDPOINTS[0], None), (_NO_GROUPS, _ENDPOINTS[1], None)),
        ((_NO_GROUPS, _ENDPOINTS[0], None), (_NO_GROUPS, _ENDPOINTS[2], None)),
        ((_CALLERS[0], _ENDPOINTS[0], None), (_CALLERS[0], _ENDPOINTS[0], "g2")),
    ],
    ids=["groups", "key", "person", "share", "price", "no price", "group named"],
)
@pytest.mark.parametrize("pairs", [False, True])
def test_plans_of_calls_that_differ_in_one_thing_are_not_taken_for_each_other(
    one: Any, other: Any, pairs: bool
) -> None:
    scopes = [each for each in ScopeKind if each is not ScopeKind.SERVICE_PRINCIPAL]
    spans = (None, _ENDPOINTS[0].id) if pairs else (None,)
    places = [
        (scope, subject, span)
        for scope in scopes
        for subject in _SUBJECTS.get(scope, (None,))
        for span in spans
    ]
    limits = [
        _limit(place, Metric.TOTAL_TOKENS, MINUTE, 9, Mode.SHARE)
        for place in places
        if place[0] is not ScopeKind.DEPLOYMENT
    ]
    budgets = [_budget(place, Unit.DAY, 9) for place in places]
    snapshot = Snapshot(1, limits=tuple(limits), budgets=tuple(budgets))
    plans = _plans([_NOW_MS])
    for each in (one, other, one, other):
        _same(plans, snapshot, _NOW_MS, *each)
    first, second = (plans.find(snapshot, *each) for each in (one, other))
    assert _bytes(first) != _bytes(second)


_USER, _ROBOT = caller_of("ann", ("g1",), "k1"), Principal("s-1", PrincipalKind.SERVICE_PRINCIPAL, "robot")


@pytest.mark.parametrize(
    ("place", "caller"),
    [
        ((ScopeKind.DEPLOYMENT, None, None), _USER),
        ((ScopeKind.ENDPOINT, "ep-one", None), _USER),
        ((ScopeKind.ENDPOINT, None, None), _USER),
        ((ScopeKind.USER, "u-ann", None), _USER),
        ((ScopeKind.USER_DEFAULT, None, None), _USER),
        ((ScopeKind.SERVICE_PRINCIPAL, "s-1", None), Caller(_ROBOT)),
        ((ScopeKind.GROUP, "g1", None), _USER),
        ((ScopeKind.GROUP_DEFAULT, None, None), _USER),
        ((ScopeKind.KEY, "k1", None), _USER),
        ((ScopeKind.KEY, None, None), _USER),
    ],
)
@pytest.mark.parametrize("span", [None, "ep-one"])
def test_every_kind_of_limit_and_budget_is_in_the_plan_of_those_it_binds(
    place: _Place, caller: Caller, span: str | None
) -> None:
    scope, subject, _ = place
    plans = _plans([_NOW_MS])
    budget = Budget("purse", scope, _DAY, 9, subject, span)
    limits = ()
    if scope is not ScopeKind.DEPLOYMENT:
        limits = (Limit("limit", scope, Metric.TOTAL_TOKENS, MINUTE, 9, subject, span),)
    snapshot = Snapshot(1, limits=limits, budgets=(budget,))
    found = plans.find(snapshot, caller, _ENDPOINTS[0], None)
    assert sorted(each.draw.limit_id for each in found.taps) == [*(each.id for each in limits), "purse"]
    assert len(found.frame.settled) == len(found.taps)
    elsewhere = plans.find(snapshot, caller, _ENDPOINTS[1], None)
    bound = span is None and subject != "ep-one"
    assert len(elsewhere.taps) == (len(found.taps) if bound else 0)


class _Number(Kept):
    def __init__(self, value: int) -> None:
        super().__init__()
        self.value = value


def test_a_full_memory_forgets_one_at_a_time_and_what_is_asked_for_last() -> None:
    memory: Remembered[int, _Number] = Remembered(100)
    memory.put(-1, _Number(-1))
    for number in range(1_000):
        memory.put(number, _Number(number))
        assert (found := memory.get(-1)) is not None
        assert found.value == -1
        assert len(memory) == min(100, number + 2)
    assert memory.get(999) is not None
    assert memory.get(0) is None
