"""Past calls decided again: as they were, and under policies whose effect can be told beforehand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.budgets import Budget, dearest
from policies.catalog import Endpoint, EntityKind, Price, ServedEntity, Snapshot
from policies.draws import Indexes, draws_of
from policies.levels import Levels
from policies.limits import Draw, Limit, Metric, ScopeKind, charged_group
from policies.permissions import Level
from policies.principal import Caller, Principal, PrincipalKind
from policies.replaying import Past, Replay, Use, Verdict
from policies.weighing import Ask, Granted, weigh
from policies.windows import HOUR, MINUTE, Calendar, Unit

NOON = 1_800_000_000_000
PRICE = Price("p", input=1_000_000, output=2_000_000)
MODEL = ServedEntity("m", "m", EntityKind.LOCAL, "vllm", "m", PRICE)
CHAT = Endpoint("e", "chat", "llm/v1/chat", (MODEL,))
ANN = Principal("ann", PrincipalKind.USER, "ann", ("g1", "g2"))
BOB = Principal("bob", PrincipalKind.USER, "bob")


def policy(
    *limits: Limit, budgets: tuple[Budget, ...] = (), grants: tuple[str, ...] = ("ann", "bob")
) -> Snapshot:
    return Snapshot(
        1, {"ann": ANN, "bob": BOB}, {}, {"chat": CHAT}, {"e": dict.fromkeys(grants, Level.CAN_QUERY)},
        limits=limits, budgets=budgets,
    )  # fmt: skip


def limit(
    metric: Metric,
    amount: int,
    window: Any = MINUTE,
    scope: ScopeKind = ScopeKind.USER_DEFAULT,
    subject: str | None = None,
) -> Limit:
    return Limit(
        f"{metric}-{scope}-{subject}",
        scope,
        metric,
        None if metric is Metric.CONCURRENT_REQUESTS else window,
        amount,
        subject,
    )


def past(
    seconds: float,
    who: str = "ann",
    *,
    prompt: int = 10,
    output: int = 20,
    used: int | None = None,
    lasts: float = 0.5,
    **more: Any,
) -> Past:
    at = NOON + round(seconds * 1000)
    use = Use(at + round(lasts * 1000), prompt, output if used is None else used, 50)
    given: dict[str, Any] = {
        "id": f"{who}{at}", "at_ms": at, "principal_id": who, "principal_name": who, "endpoint_id": "e", "endpoint_name": "chat",
        "key": None, "ask": Ask(prompt, output, output), "group": None, "groups": None, "share_percent": 100, "seen": (),
        "normal": True, "was": Verdict(True, output=output), "charged": frozenset(), "use": use,
    }  # fmt: skip
    return Past(**{**given, **more})


def under(snapshot: Snapshot, *calls: Past, before: int = 0) -> list[bool]:
    replay = Replay(as_it_was=False)
    for each in calls[:before]:
        replay.count(each, snapshot)
    return [
        bool(now and now.admitted) for now in (replay.decide(each, snapshot).now for each in calls[before:])
    ]


def test_three_requests_a_minute_refuse_the_fourth_until_the_first_has_left() -> None:
    calls = [past(each) for each in (0, 10, 20, 30, 59, 60.5, 62, 71.5)]
    assert under(policy(limit(Metric.REQUESTS, 3)), *calls) == [
        True,
        True,
        True,
        False,
        False,
        False,
        True,
        True,
    ]


def test_what_was_reserved_counts_until_the_call_ends_and_what_was_used_from_then_on() -> None:
    calls = [
        past(0, output=80, used=5, lasts=10),
        past(5, output=20),
        past(11, output=20, used=20),
        past(12, output=50),
    ]
    # 90 are reserved until second 10, then 15: of 100 a call of 30 fits at 11 and one of 60 does no more at 12.
    assert under(policy(limit(Metric.TOTAL_TOKENS, 100)), *calls) == [True, False, True, False]


def test_one_call_at_a_time() -> None:
    calls = [past(0, lasts=5), past(3), past(5, lasts=1), past(5.5, "bob"), past(5.9)]
    assert under(policy(limit(Metric.CONCURRENT_REQUESTS, 1)), *calls) == [True, False, True, True, False]


def test_a_budget_is_spent_by_what_calls_cost_and_says_that_no_minute_helps() -> None:
    month = Calendar(Unit.MONTH)
    budget = Budget("b", ScopeKind.DEPLOYMENT, month, 160)
    replay = Replay(as_it_was=False)
    # 50 are reserved for each (10 x 1 + 20 x 2) and 50 spent: a fourth would make 200.
    found = [replay.decide(past(each), policy(budgets=(budget,))) for each in range(4)]
    assert [each.now.admitted for each in found if each.now] == [True, True, True, False]
    now = found[3].now
    assert now is not None
    assert (now.code, now.limit_id, now.throttled) == ("insufficient_quota", "b", False)
    assert found[3].draw is not None


def test_use_before_the_period_counts_though_it_was_more_than_the_policy_allows() -> None:
    calls = [past(each) for each in range(5)] + [past(10), past(70)]
    assert under(policy(limit(Metric.REQUESTS, 3)), *calls, before=5) == [False, True]


def test_of_two_groups_the_second_pays_when_the_first_is_full() -> None:
    snapshot = policy(
        limit(Metric.REQUESTS, 1, scope=ScopeKind.GROUP, subject="g1"),
        limit(Metric.REQUESTS, 2, scope=ScopeKind.GROUP, subject="g2"),
    )
    replay = Replay(as_it_was=False)
    found = [replay.decide(past(each), snapshot).now for each in range(4)]
    assert [each and (each.admitted, each.group_id) for each in found] == [
        (True, "g1"), (True, "g2"), (True, "g2"), (False, None),
    ]  # fmt: skip


def test_a_grant_that_is_taken_away_refuses_and_frees_what_others_share() -> None:
    shared = limit(Metric.REQUESTS, 2, scope=ScopeKind.ENDPOINT)
    calls = [past(0), past(1), past(2, "bob"), past(3, "bob")]
    assert under(policy(shared), *calls) == [True, True, False, False]
    assert under(policy(shared, grants=("bob",)), *calls) == [False, False, True, True]


def test_a_call_that_was_refused_is_admitted_by_a_wider_limit_and_counts_for_what_it_reserved() -> None:
    refused = past(1, was=Verdict(False, "rate_limit_exceeded", "l"), use=None, id="", output=60)
    assert under(policy(limit(Metric.TOTAL_TOKENS, 100)), past(0, used=10), refused, past(2, output=15)) == [
        True,
        True,
        False,
    ]
    one = policy(limit(Metric.CONCURRENT_REQUESTS, 1))
    assert under(one, refused, past(1.5)) == [True, True], "it is taken to have ended at once"


def test_who_is_no_longer_there_is_said_to_be_unknown() -> None:
    replay = Replay(as_it_was=False)
    assert replay.decide(past(0, "eve"), policy()).now is None
    assert replay.decide(replace(past(0), endpoint_id="gone"), policy()).now is None


def test_a_key_that_is_confined_elsewhere_and_groups_that_a_token_claimed_decide_as_they_did() -> None:
    from policies.replaying import Key

    replay = Replay(as_it_was=False)
    confined = replace(past(0), key=Key("k", frozenset({"other"}), None))
    assert replay.decide(confined, policy()).now == Verdict(False, "permission_denied")
    claimed = replace(past(0, "bob"), groups=("g1",))
    assert (replay.decide(claimed, policy(grants=("g1",))).now or Verdict(False)).admitted


LIMITS = (
    limit(Metric.REQUESTS, 4),
    limit(Metric.TOTAL_TOKENS, 300, HOUR),
    limit(Metric.OUTPUT_TOKENS, 90, scope=ScopeKind.GROUP, subject="g1"),
    limit(Metric.OUTPUT_TOKENS, 60, scope=ScopeKind.GROUP, subject="g2"),
    limit(Metric.CONCURRENT_REQUESTS, 2, scope=ScopeKind.ENDPOINT),
)
PRESENT = policy(*LIMITS, budgets=(Budget("b", ScopeKind.USER_DEFAULT, Calendar(Unit.DAY), 2_000),))
ASKS = st.tuples(
    st.sampled_from(["ann", "bob"]),
    st.integers(1, 40_000),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 60_000),
)


def recorded(asks: list[tuple[str, int, int, int, int]]) -> list[Past]:
    """What a gateway would have had on record of these, decided on counters that nobody else sees."""
    levels, coming, found, now = Levels(), list[tuple[int, Draw, int, int, int]](), list[Past](), NOON
    for who, after, prompt, output, lasts in asks:
        now += after
        for each in sorted(coming, key=lambda one: one[0]):
            at, draw, position, amount, actual = each
            if at <= now:
                levels.correct(draw, at, position, actual - amount)
                coming.remove(each)
        ask = Ask(prompt, output, output // 2)
        caller = Caller(ANN if who == "ann" else BOB)
        draws = draws_of(Indexes.of(PRESENT), caller, CHAT)
        seen = [levels.used(each, now) for each in draws]
        decided = weigh(draws, levels, now, ask, dearest(CHAT))
        call = past((now - NOON) / 1000, who, prompt=prompt, output=output)
        if not isinstance(decided, Granted):
            draw = draws[decided.index]
            told = tuple(
                min(value, draw.capacity) if index == decided.index else -1
                for index, value in enumerate(seen[: decided.index + 1])
            )
            code = "insufficient_quota"
            if draw.metric is not Metric.MONEY and (
                0 < decided.wait_ms <= 60_000 or (draw.window == MINUTE and decided.wait_ms > 0)
            ):
                code = "rate_limit_exceeded"
            found.append(replace(call, ask=ask, seen=told, use=None, was=Verdict(False, code, draw.limit_id)))
            continue
        used = Use(now + lasts, prompt, decided.output // 3, decided.output * 2)
        charged = {draws[index]: amount for index, amount in decided.charges}
        for draw, amount in charged.items():
            actual = {
                Metric.REQUESTS: 1, Metric.CONCURRENT_REQUESTS: 0, Metric.INPUT_TOKENS: prompt, Metric.MONEY: used.cost_nano_usd,
                Metric.OUTPUT_TOKENS: used.completion_tokens, Metric.TOTAL_TOKENS: prompt + used.completion_tokens,
            }[draw.metric]  # fmt: skip
            coming.append((used.ended_ms, draw, levels.charge(draw, now, amount), amount, actual))
        told = tuple(value if draw in charged else -1 for draw, value in zip(draws, seen, strict=True))
        was = Verdict(True, group_id=charged_group(charged), output=decided.output)
        found.append(
            replace(
                call,
                ask=ask,
                seen=told,
                use=used,
                was=was,
                charged=frozenset((each.limit_id, each.subject) for each in charged),
            )
        )
    return found


@settings(max_examples=40)
@given(st.lists(ASKS, max_size=60))
def test_as_it_was_every_decision_comes_out_again_and_no_counter_has_to_be_put_right(asks: Any) -> None:
    replay = Replay(as_it_was=True)
    for each in recorded(asks):
        blanked = replace(each, was=Verdict(False), charged=frozenset())
        assert replay.decide(blanked, PRESENT).now == each.was
    assert replay.corrected == 0


@settings(max_examples=40)
@given(st.lists(ASKS, max_size=60), st.integers(0, 40))
def test_what_the_counters_showed_stands_in_for_calls_that_are_not_on_record(asks: Any, missing: int) -> None:
    calls = recorded(asks)
    # The callers without groups have no alternatives, so all that decided is on record.
    replay = Replay(as_it_was=True)
    for each in calls[min(missing, len(calls)) :]:
        found = replay.decide(each, PRESENT)
        if each.principal_id == "bob" and each.was.admitted:
            assert found.now == each.was


@settings(max_examples=40)
@given(st.lists(ASKS, max_size=60))
def test_the_same_policy_proposed_decides_as_the_present_one_did(asks: Any) -> None:
    replay = Replay(as_it_was=False)
    assert all(replay.decide(each, PRESENT).now == each.was for each in recorded(asks))


@pytest.mark.parametrize("amount", [0, 1, 3])
def test_a_limit_that_nobody_could_have_met_refuses_all_but_so_many(amount: int) -> None:
    calls = [past(each / 10) for each in range(10)]
    assert sum(under(policy(limit(Metric.REQUESTS, amount, HOUR)), *calls)) == amount
