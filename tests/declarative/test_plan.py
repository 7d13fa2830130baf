"""Planning alone: from values to steps or reasons, without a database."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.declarative.document import read
from gateway.declarative.export import document
from gateway.declarative.present import Found
from gateway.declarative.yaml_text import YamlProblem, dump, load
from policies.declaration import Action, CannotPlan, Declared, Plan, Present
from policies.declared_kinds import BY_NAME
from policies.planning import plan

FILE = "team.yaml"
PRICE = {"input": 1, "cache_read": 1, "cache_write": 1, "output": 1, "reasoning": 1}


def chat(**fields: Any) -> dict[str, Any]:
    return {"name": "chat", "served_entities": [{"name": "m", "provider": "vllm", "model": "m"}], **fields}


def there(content: dict[str, Any], managed_by: str | None = FILE) -> list[Present]:
    """The content as if it had been applied."""
    declared = read(content)
    made = plan(declared, [], file=FILE)
    return [Present(step.kind, step.spec, str(number), managed_by) for number, step in enumerate(made.steps)]


def actions(of: Plan) -> dict[str, str]:
    return {f"{step.kind} {step.label}": step.action.value for step in of.steps}


def reasons(content: dict[str, Any], present: list[Present] | None = None, **options: Any) -> list[str]:
    with pytest.raises(CannotPlan) as refused:
        plan(read(content), present or [], file=FILE, **options)
    return [f"{each.path}: {each.message}" for each in refused.value.problems]


TEAM = {
    "users": [{"name": "ada"}],
    "groups": [{"name": "all", "groups": ["makers"]}, {"name": "makers", "users": ["ada"]}],
    "endpoints": [chat()],
    "grants": [{"endpoint": "chat", "group": "all", "level": "CAN_QUERY"}],
    "limits": [{"scope": "group", "subject": "all", "metric": "requests", "window": "minute", "amount": 5}],
    "prices": [{"endpoint": "chat", "entity": "m", **PRICE}],
}  # fmt: skip


def test_what_others_refer_to_is_made_first() -> None:
    made = plan(read(TEAM), [], file=FILE)
    assert [f"{step.kind} {step.label}" for step in made.steps] == [
        "user ada", "group makers", "group all", "endpoint chat", "grant group all on chat",
        "limit group all: requests per minute", "price chat/m",
    ]  # fmt: skip
    assert {step.action for step in made.steps} == {Action.CREATE}
    assert made.differs


@given(order=st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_a_file_does_not_matter(order: Random) -> None:
    """Whatever names something may stand before it: sections, objects and the lists in them."""
    content = {
        **TEAM,
        "users": [{"name": "ada"}, {"name": "bob"}],
        "service_principals": [{"name": "nightly"}],
        "groups": [
            {"name": "all", "groups": ["makers", "robots"]},
            {"name": "makers", "users": ["ada", "bob"], "manager_groups": ["all"]},
            {"name": "robots", "service_principals": ["nightly"]},
        ],
        "endpoints": [chat(), {**chat(), "name": "other", "aliases": ["b", "a"]}],
        "limits": [
            *TEAM["limits"],
            {"scope": "endpoint", "subject": "other", "metric": "requests", "window": "day", "amount": 5},
            {"scope": "key", "subject": "gk_live_abc", "metric": "requests", "window": "day", "amount": 5},
        ],
    }  # fmt: skip
    shuffled: dict[str, Any] = {}
    for section in order.sample(sorted(content), len(content)):
        objects = order.sample(content[section], len(content[section]))
        shuffled[section] = [
            {
                name: order.sample(value, len(value)) if isinstance(value, list) else value
                for name, value in each.items()
            }
            for each in objects
        ]
    assert plan(read(shuffled), [], file=FILE, keys=["abc"]) == plan(
        read(content), [], file=FILE, keys=["abc"]
    )


def test_what_is_as_declared_is_left_alone_and_what_is_nobodys_is_taken_over() -> None:
    assert not plan(read(TEAM), there(TEAM), file=FILE).differs
    adopted = plan(read(TEAM), there(TEAM, None), file=FILE)
    assert set(actions(adopted).values()) == {"adopt"}
    assert not adopted.differs


def test_pruning_goes_backwards_and_only_through_what_the_file_had() -> None:
    others = there({"groups": [{"name": "theirs"}]}, "other.yaml") + there(
        {"groups": [{"name": "free"}]}, None
    )
    kept = plan([], there(TEAM) + others, file=FILE)
    assert set(actions(kept).values()) == {"leave"}
    assert not kept.differs
    pruned = plan([], there(TEAM) + others, file=FILE, prune=True)
    assert [f"{step.action} {step.kind}" for step in pruned.steps] == [
        "release price", "delete limit", "delete grant", "delete endpoint", "delete group", "delete group", "delete user",
    ]  # fmt: skip


def test_names_mean_the_same_whatever_their_case() -> None:
    shouted = {**TEAM, "grants": [{"endpoint": "CHAT", "group": "All", "level": "CAN_QUERY"}]}
    assert not plan(read(shouted), there(TEAM), file=FILE).differs


def test_drift_is_told_from_an_edit_of_the_file() -> None:
    edited = {**TEAM, "users": [{"name": "ada", "display_name": "Ada"}]}
    made = plan(read(edited), there(TEAM), file=FILE, applied=read(TEAM))
    assert [(step.label, step.drift) for step in made.steps if step.action is Action.UPDATE] == [("ada", ())]
    drifted = [
        Present(
            each.kind,
            {**each.spec, "amount": 9} if each.kind == "limit" else each.spec,
            each.id,
            each.managed_by,
        )
        for each in there(TEAM)
        if each.kind != "grant"
    ]  # fmt: skip
    made = plan(read(TEAM), drifted, file=FILE, applied=read(TEAM))
    limit = next(step for step in made.steps if step.kind == "limit")
    assert [(each.field, each.before, each.after) for each in limit.drift] == [("amount", 5, 9)]
    assert next(step for step in made.steps if step.kind == "grant").drifted_away


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"groups": [{"name": "g", "users": ["ada", "nobody"]}]}, "groups[0].users[1]: there is no user 'nobody'"),
        ({"users": [{"name": "a"}, {"name": "A"}]}, "users[1]: the user 'A' is declared at users[0] already"),
        ({"service_principals": [{"name": "ada"}]}, "service_principals[0].name: 'ada' is a user already"),
        ({"grants": [{"endpoint": "x", "user": "ada", "level": "CAN_VIEW"}]}, "grants[0].endpoint: there is no endpoint 'x'"),
        ({"endpoints": [chat(task="llm/v1/embeddings")]}, "endpoints[0].task: it stays as it was made"),
        ({"prices": [{"endpoint": "chat", "entity": "z", **PRICE}]}, "prices[0].entity: endpoint 'chat' has no served entity 'z'"),
        ({"groups": [{"name": "makers", "groups": ["all"]}]}, "groups[0].groups: that would put the group 'makers' inside itself"),
        ({"limits": [{"scope": "key", "subject": "nokey", "metric": "requests", "window": "day", "amount": 1}]},
         "limits[0].subject: there is no key 'nokey'"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_its_place(content: dict[str, Any], reason: str) -> None:
    assert any(each.startswith(reason) for each in reasons(content, there(TEAM)))


def test_another_files_object_is_refused_with_that_files_name() -> None:
    with pytest.raises(CannotPlan) as refused:
        plan(read({"users": [{"name": "ada"}]}), there(TEAM, "other.yaml"), file=FILE)
    assert [each.file for each in refused.value.problems] == ["other.yaml"]


def test_what_is_still_named_cannot_be_pruned() -> None:
    content = {"groups": [{"name": "makers", "users": ["ada"]}]}
    assert reasons(content, there(TEAM), prune=True) == [
        "groups[0].users[0]: it names the user 'ada', which --prune would delete"
    ]


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"grups": []}, "the file"),
        ({"users": [{"name": "a", "rols": []}]}, "users[0]"),
        ({"users": [{"name": "a", "roles": ["king"]}]}, "users[0].roles[0]"),
        ({"groups": [{"name": "a", "roles": ["group_manager"]}]}, "groups[0].roles[0]"),
        ({"endpoints": [{"name": "c", "served_entities": [{"name": "m"}]}]}, "endpoints[0].served_entities[0]"),
        ({"limits": [{"scope": "user", "metric": "requests", "window": "day", "amount": 1}]}, "limits[0].subject"),
        ({"limits": [{"scope": "user_default", "metric": "requests", "window": "fortnight", "amount": 1}]}, "limits[0].window"),
        ({"limits": [{"scope": "user_default", "metric": "requests", "amount": 1}]}, "limits[0].window"),
        ({"budgets": [{"scope": "deployment", "period": "day", "usd": "9999999"}]}, "budgets[0].usd"),
        ({"budgets": [{"scope": "deployment", "period": "day", "usd": 1, "time_zone": "Mars"}]}, "budgets[0].time_zone"),
        ({"grants": [{"endpoint": "chat", "level": "CAN_VIEW"}]}, "grants[0].level"),
        ({"issuers": [{"name": "i", "issuer": "https://a.example", "audience": "a"}]}, "issuers[0].jwks_uri"),
        ({"prices": [{"endpoint": "c", "entity": "m", **PRICE, "from": "0001-01-01T00:00:00+23:59"}]}, "prices[0].from"),
    ],
)  # fmt: skip
def test_a_document_that_makes_no_sense_is_refused_with_its_place(content: Any, path: str) -> None:
    with pytest.raises(CannotPlan) as refused:
        read(content)
    assert refused.value.problems[0].path == path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: the key 'a' is there twice"),
        ("x:\n  y: {a: 1, a: 1}\n", "line 2: the key 'a' is there twice"),
        ("? [1, 2]\n: 3\n", "a key is a plain word"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: [1\n", "line 2"),
        ("- a\n", "begins with sections"),
        ("[" * 3000, ""),
    ],
)
def test_yaml_that_could_be_read_in_two_ways_is_refused(text: str, said: str) -> None:
    with pytest.raises(YamlProblem, match=None) as refused:
        load(text)
    assert said in str(refused.value)


def test_yaml_has_no_surprises() -> None:
    text = "a: 0.50\nb: no\nc: 2027-01-01T00:00:00Z\nd: 0123\ne: 12:30:00\nf: 1e3\ng: 7\nh: true\ni: ~\n"
    assert list(load(text).values()) == [
        "0.50", "no", "2027-01-01T00:00:00Z", "0123", "12:30:00", "1e3", 7, True, None,
    ]  # fmt: skip
    assert load("base: &b {x: 1, y: 2}\nover: {<<: *b, x: 3}\n")["over"] == {"x": 3, "y": 2}
    assert load("") == {}


names = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=12)
labels = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,8}", fullmatch=True)
dollars = st.decimals(0, 9_000_000, places=9, allow_nan=False).map(lambda each: f"{each:.9f}") | st.integers(
    0, 1000
)
free = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20)


def once(strategy: Any, **options: Any) -> Any:
    return st.lists(strategy, unique_by=lambda each: str(each).lower(), **options)


@st.composite
def contents(draw: Any) -> dict[str, Any]:
    people = draw(once(names, min_size=1, max_size=4))
    crowds = draw(once(names, max_size=4))
    doors = draw(once(labels, min_size=1, max_size=3))
    entities = [draw(once(labels, min_size=1, max_size=2)) for _ in doors]
    moments = st.datetimes().map(lambda each: each.isoformat() + "Z")
    prices = [
        {"endpoint": door, "entity": entity, "from": draw(moments), "note": draw(free),
         **{name: draw(dollars) for name in ("input", "cache_read", "cache_write", "output", "reasoning", "per_request", "per_cache_hit")}}
        for door, own in zip(doors, entities, strict=True) for entity in own if draw(st.booleans())
    ]  # fmt: skip
    return {
        "users": [
            {"name": name, "display_name": draw(free), "active": draw(st.booleans()),
             "roles": draw(st.lists(st.sampled_from(["admin", "auditor"]), max_size=2))}
            for name in people
        ],
        "groups": [
            {"name": name, "description": draw(free), "users": draw(st.lists(st.sampled_from(people), max_size=3)),
             "groups": crowds[:number][-1:] if draw(st.booleans()) else [],
             "manager_groups": draw(st.lists(st.sampled_from(crowds), max_size=2)),
             "manager_users": draw(st.lists(st.sampled_from(people), max_size=2)),
             "roles": draw(st.lists(st.sampled_from(["admin", "auditor"]), max_size=2))}
            for number, name in enumerate(crowds)
        ],
        "endpoints": [
            {"name": door, "aliases": draw(once(labels, max_size=2)), "tags": draw(st.dictionaries(names, free, max_size=2)),
             "cache": draw(st.sampled_from([{}, {"enabled": True}, {"enabled": True, "scope": "endpoint", "ttl_seconds": 5, "sampled": True}])),
             "served_entities": [
                 {"name": each, "provider": "vllm", "model": draw(names), "traffic_percent": draw(st.integers(0, 100)),
                  "fallback_position": draw(st.none() | st.integers(1, 9))} for each in own
             ]}
            for door, own in zip(doors, entities, strict=True)
        ],
        "grants": [{"endpoint": door, "user": people[0], "level": draw(st.sampled_from(["CAN_VIEW", "CAN_QUERY"]))} for door in doors],
        "limits": [
            {"scope": "user", "subject": people[0], "endpoint": draw(st.none() | st.sampled_from(doors)), "metric": "requests",
             "window": draw(st.sampled_from(["second", "day", "rolling:60000", "rolling:2500", "calendar:month:Asia/Tokyo"])),
             "amount": draw(st.integers(0, 2**53 - 1)), "name": draw(names), "enabled": draw(st.booleans())}
        ],
        "budgets": [{"scope": "deployment", "period": "week", "usd": draw(dollars), "thresholds_percent": [5, 50]}],
        "prices": prices,
        "throughput_pools": [{"name": draw(names), "tokens_per_second": draw(st.integers(1, 10**9)), "slots": draw(st.integers(1, 10**4))}],
        "throughput_provisions": [
            {"name": draw(names), "scope": "endpoint", "subject": door, "units": draw(st.integers(1, 10**9)),
             "first_token_ms": draw(st.none() | st.integers(1, 600_000))} for door in doors
        ],
        "webhooks": [
            {"name": name, "url": "https://hooks.example.com/", "events": ["budget.threshold"], "enabled": draw(st.booleans())}
            for name in draw(once(names, max_size=2))
        ],
    }  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(contents())
def test_whatever_is_there_its_export_differs_from_nothing(content: dict[str, Any]) -> None:
    present = there(content)
    exported = document(Found(tuple(present), {}, {}, ()), FILE)
    again = load(dump(exported))
    assert again == exported
    made = plan(read(again), present, file=FILE, prune=True)
    assert {step.action for step in made.steps} == {Action.UNCHANGED}
    keys = {BY_NAME[each.kind].key(each.spec) for each in present}
    assert len(made.steps) == len(keys)
    other = plan([Declared(each.kind, each.spec, "") for each in present], [], file="copy.yaml")
    assert {step.action for step in other.steps} == {Action.CREATE}


def test_how_things_are_called_is_declared_without_what_is_usual_and_compares_as_it_is_kept() -> None:
    calling = {"concurrency": 8, "queue": 4, "failures": 5, "replicas": ["https://two.example.com"]}
    model = {"name": "m", "kind": "external", "provider": "vllm", "model": "m", "calling": calling}
    content = {
        "groups": [{"name": "here", "local_only": True}],
        "endpoints": [
            chat(served_entities=[model], local_only=True, calling={"sticky": "conversation", "retries": 1})
        ],
    }
    group, found = read(content)
    assert group.spec["local_only"] is True
    assert found.spec["calling"] == {"sticky": "conversation"}
    (entity,) = found.spec["served_entities"]
    assert entity["calling"] == {"concurrency": 8, "queue": 4, "replicas": ["https://two.example.com"]}
    with pytest.raises(CannotPlan) as caught:
        read({"endpoints": [chat(calling={"stickiness": "user"})]})
    assert "stickiness" in str(caught.value)
