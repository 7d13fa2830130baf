"""Which limits bind whom: Databricks' precedence."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.budgets import Budget, BudgetIndex, budget_draws, dearest
from policies.catalog import Endpoint, EntityKind, Price, ServedEntity, Snapshot
from policies.estimate import allowance, prompt_estimate
from policies.limits import Draw, Limit, LimitIndex, Metric, Mode, ScopeKind, applicable
from policies.principal import Caller, Group, Principal, PrincipalKind
from policies.windows import HOUR, MINUTE, Calendar, Unit, Window

ALICE = Caller(Principal("alice", PrincipalKind.USER, "Alice", ("g1", "g2")), key_id="k1")
CHAT = Endpoint("ep1", "chat", "llm/v1/chat", ())
SNAPSHOT = Snapshot(1, groups={"g1": Group("g1", "research"), "g2": Group("g2", "support")})


def limit(
    name: str,
    scope: ScopeKind,
    subject: str | None = None,
    metric: Metric = Metric.REQUESTS,
    window: Window = MINUTE,
    endpoint: str | None = None,
) -> Limit:
    return Limit(name, scope, metric, window, 10, subject, endpoint)


def bind(
    *limits: Limit, caller: Caller = ALICE, endpoint: Endpoint = CHAT, group: str | None = None
) -> list[Draw]:
    return applicable(LimitIndex.of(limits), SNAPSHOT, caller, endpoint, group)


def ids(draws: list[Draw]) -> list[str]:
    return [draw.limit_id for draw in draws]


CAP = limit("cap", ScopeKind.ENDPOINT, endpoint="ep1")
DEFAULT = limit("default", ScopeKind.USER_DEFAULT)
OWN = limit("own", ScopeKind.USER, "alice")
RESEARCH = limit("research", ScopeKind.GROUP, "g1")
EACH_GROUP = limit("each-group", ScopeKind.GROUP_DEFAULT)
KEY = limit("key", ScopeKind.KEY, "k1")
EACH_KEY = limit("each-key", ScopeKind.KEY)


@pytest.mark.parametrize(
    ("limits", "bound"),
    [
        ([CAP], ["cap"]),
        ([CAP, DEFAULT], ["cap", "default"]),
        ([CAP, DEFAULT, OWN], ["cap", "own"]),
        ([CAP, DEFAULT, OWN, RESEARCH, EACH_GROUP], ["cap", "own"]),
        ([CAP, DEFAULT, RESEARCH], ["cap", "research"]),
        ([DEFAULT, EACH_GROUP], ["default", "each-group", "each-group"]),
        ([RESEARCH, EACH_GROUP], ["research", "each-group"]),
        ([OWN, KEY, EACH_KEY], ["own", "key", "each-key"]),
        ([limit("other", ScopeKind.USER, "bob"), limit("g9", ScopeKind.GROUP, "g9")], []),
        ([limit("elsewhere", ScopeKind.ENDPOINT, endpoint="ep2")], []),
        (
            [limit("by-subject", ScopeKind.ENDPOINT, "ep1"), limit("not-mine", ScopeKind.ENDPOINT, "ep2")],
            ["by-subject"],
        ),
    ],
)
def test_precedence(limits: list[Limit], bound: list[str]) -> None:
    assert ids(bind(*limits)) == bound


@pytest.mark.parametrize(
    "different",
    [
        replace(DEFAULT, metric=Metric.TOTAL_TOKENS),
        replace(DEFAULT, window=HOUR),
        replace(DEFAULT, endpoint_id="ep1"),
    ],
)
def test_a_custom_limit_puts_aside_the_default_of_its_own_metric_window_and_span_only(
    different: Limit,
) -> None:
    assert ids(bind(OWN, different)) == ["own", "default"]


def test_a_service_principals_own_limit_beats_the_user_default() -> None:
    job = Caller(Principal("job", PrincipalKind.SERVICE_PRINCIPAL, "nightly"))
    own = limit("sp", ScopeKind.SERVICE_PRINCIPAL, "job")
    assert ids(bind(DEFAULT, own, caller=job)) == ["sp"]
    assert ids(bind(DEFAULT, caller=job)) == ["default"]
    assert bind(DEFAULT, caller=job)[0].owner == "service principal 'nightly'"


def test_groups_are_alternatives_by_metric_in_order_of_id_and_everything_else_must_have_room() -> None:
    tokens = limit("tokens", ScopeKind.GROUP, "g2", Metric.TOTAL_TOKENS)
    draws = bind(CAP, RESEARCH, EACH_GROUP, tokens)
    found = [(draw.limit_id, draw.group_id, draw.alternatives) for draw in draws]
    assert found == [("cap", None, 0), ("research", "g1", 1), ("each-group", "g2", 1), ("tokens", "g2", 4)]
    assert draws[1].owner == "group 'research'"


def test_a_named_group_comes_first() -> None:
    assert [draw.group_id for draw in bind(EACH_GROUP, group="g2")] == ["g2", "g1"]
    assert [draw.group_id for draw in bind(EACH_GROUP, group="g7")] == ["g1", "g2"]


def test_each_one_of_a_default_has_a_counter_of_its_own_and_a_group_shares_one() -> None:
    bob = Caller(Principal("bob", PrincipalKind.USER, "Bob", ("g1",)))
    assert [draw.subject for draw in bind(DEFAULT) + bind(DEFAULT, caller=bob)] == ["alice", "bob"]
    assert [draw.subject for draw in bind(RESEARCH) + bind(RESEARCH, caller=bob)] == ["g1", "g1"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"amount": -1},
        {"amount": 2**53},
        {"metric": Metric.MONEY},
        {"scope": ScopeKind.DEPLOYMENT},
        {"window": None},
        {"metric": Metric.CONCURRENT_REQUESTS},
        {"scope": ScopeKind.USER, "subject_id": None},
    ],
)
def test_a_limit_that_cannot_be_kept_cannot_be_made(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="limit default"):
        replace(DEFAULT, **wrong)  # pyright: ignore[reportArgumentType] - wrong on purpose


def entity(number: int, **prices: int) -> ServedEntity:
    return ServedEntity(
        f"e{number}", f"m{number}", EntityKind.EXTERNAL, "openai", "m", Price(f"p{number}", **prices)
    )


def test_money_is_reserved_at_the_dearest_class_over_all_entities() -> None:
    split = replace(
        CHAT,
        entities=(
            entity(1, input=3_000_000, output=15_000_000, per_request=0),
            entity(
                2,
                input=1_000_000,
                cache_write=4_000_001,
                output=2_000_000,
                reasoning=20_500_001,
                per_request=7,
            ),
        ),
    )
    rates = dearest(split)
    assert (rates.input_per_million, rates.output_per_token, rates.per_request) == (4_000_001, 21, 7)
    assert rates.fixed(100) == 401 + 7
    assert not rates.free
    assert dearest(CHAT).free
    assert dearest(replace(CHAT, entities=(entity(1),))).free


def budget(name: str, scope: ScopeKind, subject: str | None = None, unit: Unit = Unit.MONTH) -> Budget:
    return Budget(name, scope, Calendar(unit), 10**9, subject)


def test_budgets_bind_all_of_but_groups_pay_one_for_all() -> None:
    budgets = [
        budget("all", ScopeKind.DEPLOYMENT),
        budget("endpoint", ScopeKind.ENDPOINT, "ep1"),
        budget("user", ScopeKind.USER_DEFAULT),
        budget("alice-daily", ScopeKind.USER, "alice", Unit.DAY),
        budget("key", ScopeKind.KEY),
        budget("group", ScopeKind.GROUP_DEFAULT),
        budget("research", ScopeKind.GROUP, "g1"),
    ]
    draws = budget_draws(BudgetIndex.of(budgets), SNAPSHOT, ALICE, CHAT)
    assert ids(draws) == ["endpoint", "all", "alice-daily", "user", "key", "research", "group"]
    assert [draw.group_id for draw in draws if draw.alternatives] == ["g1", "g2"]
    own = budget("alice", ScopeKind.USER, "alice")
    assert "user" not in ids(budget_draws(BudgetIndex.of([*budgets, own]), SNAPSHOT, ALICE, CHAT))


def test_a_budget_is_never_open_and_its_thresholds_ascend() -> None:
    with pytest.raises(ValueError, match="never open"):
        replace(budget("b", ScopeKind.DEPLOYMENT), mode=Mode.OPEN)
    for wrong in ((90, 50), (0,), (101,)):
        with pytest.raises(ValueError, match="thresholds"):
            replace(budget("b", ScopeKind.DEPLOYMENT), thresholds=wrong)


@pytest.mark.parametrize(
    ("text_bytes", "messages", "milli", "tokens"), [(0, 1, 500, 8), (1, 1, 500, 9), (1000, 3, 250, 274)]
)
def test_an_estimate_is_rounded_up_and_counts_messages(
    text_bytes: int, messages: int, milli: int, tokens: int
) -> None:
    assert prompt_estimate(text_bytes, messages, milli) == tokens


@pytest.mark.parametrize(
    ("stream", "max_tokens", "n", "asked"),
    [
        (True, None, 1, (256, 32)),
        (True, 1000, 1, (256, 32)),
        (True, 20, 1, (20, 20)),
        (True, 100, 3, (300, 96)),
        (False, None, 1, (1024, 1024)),
        (False, 4000, 2, (8000, 8000)),
    ],
)
def test_a_stream_asks_for_a_slice_and_a_plain_call_for_all_that_it_may_produce(
    stream: bool, max_tokens: int | None, n: int, asked: tuple[int, int]
) -> None:
    assert allowance(stream=stream, max_tokens=max_tokens, default_max_tokens=1024, n=n) == asked
