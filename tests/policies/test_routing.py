"""Where a request goes: the split keeps its shares and its word, fallbacks come in order, and what must stay stays."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from policies.calling import EntityRules
from policies.catalog import Endpoint, EntityKind, Price, ServedEntity
from policies.routing import RESIDENCY, route, sticky_draw

PRICE = Price("p")


def entity(name: str, *, local: bool = False, weight: int = 1) -> ServedEntity:
    kind = EntityKind.LOCAL if local else EntityKind.EXTERNAL
    return ServedEntity(
        f"id-{name}", name, kind, "vllm", name, PRICE, rules=EntityRules(fallback_weight=weight)
    )


A, B, C = entity("a"), entity("b"), entity("c", local=True)
SPLIT = Endpoint("n", "chat", "llm/v1/chat", (A, B, C), split=(("a", 70), ("b", 30)), fallbacks=("b", "c"))


def names(endpoint: Endpoint, draw: float, **more: object) -> list[str]:
    return [each.name for each in route(endpoint, draw, {}, **more).order]  # type: ignore[arg-type]


def test_the_split_chooses_and_the_fallbacks_follow_in_order() -> None:
    assert names(SPLIT, 0.0) == ["a", "b", "c"]
    assert names(SPLIT, 0.69) == ["a", "b", "c"]
    assert names(SPLIT, 0.71) == ["b", "c"]
    halves = Endpoint("n", "chat", "llm/v1/chat", (A, B), split=(("a", 50), ("b", 50)))
    assert (names(halves, 0.5), names(halves, 0.499999)) == (["b"], ["a"])
    assert names(SPLIT, 0.999999) == ["b", "c"]


def test_what_is_unfit_is_left_out_and_says_why() -> None:
    found = route(SPLIT, 0.0, {A.id: "its circuit is open"})
    assert [each.name for each in found.order] == ["b", "c"]
    assert found.excluded == ((A, "its circuit is open"),)


@given(st.floats(0, 1, exclude_max=True), st.sets(st.sampled_from("abc")))
def test_what_must_stay_here_never_gets_an_entity_that_is_elsewhere(draw: float, down: set[str]) -> None:
    unfit = {f"id-{each}": "down" for each in down}
    found = route(SPLIT, draw, unfit, local_only=True)
    assert all(each.kind is EntityKind.LOCAL for each in found.order)
    assert {each.name for each, reason in found.excluded if reason == RESIDENCY} <= {"a", "b"}


def side(endpoint: Endpoint, key: str) -> str:
    return route(endpoint, sticky_draw("n", key), {}, key=key).order[0].name


def splits(*percent: int) -> Endpoint:
    """An endpoint that is split so over a, b and c."""
    return Endpoint("n", "chat", "llm/v1/chat", (A, B, C), split=tuple(zip("abc", percent, strict=False)))


def test_a_key_stays_on_its_side_and_keys_spread_as_the_split_says() -> None:
    assert sticky_draw("n", "ann") == sticky_draw("n", "ann") != sticky_draw("m", "ann")
    sides = Counter(side(splits(50, 30, 20), f"user-{number}") for number in range(4000))
    assert 0.47 < sides["a"] / 4000 < 0.53
    assert 0.27 < sides["b"] / 4000 < 0.33
    turned = Endpoint("n", "chat", "llm/v1/chat", (C, A), split=(("c", 60), ("a", 40)))
    again = Endpoint("n", "chat", "llm/v1/chat", (A, C), split=(("a", 40), ("c", 60)))
    assert all(side(turned, str(each)) == side(again, str(each)) for each in range(200)), "in any order"


def test_of_two_sides_a_changed_split_moves_only_the_keys_that_it_must() -> None:
    keys = [f"user-{number}" for number in range(4000)]
    moved = [key for key in keys if side(splits(70, 30), key) != side(splits(80, 20), key)]
    assert all(side(splits(80, 20), key) == "a" for key in moved)
    assert len(moved) < 4000 * 0.13


SHARES = st.tuples(*[st.integers(0, 100)] * 3).filter(any)


@given(SHARES, SHARES, st.lists(st.text(max_size=8), max_size=20))
def test_a_key_moves_only_from_a_side_that_lost_or_to_one_that_gained(
    before: tuple[int, ...], after: tuple[int, ...], keys: list[str]
) -> None:
    was, now = dict(zip("abc", before, strict=True)), dict(zip("abc", after, strict=True))
    for key in keys:
        left, taken = side(splits(*before), key), side(splits(*after), key)
        assert left == taken or now[left] < was[left] or now[taken] > was[taken]


def test_fallbacks_of_one_position_share_by_weight_and_come_before_the_next_position() -> None:
    light, heavy, last = entity("light"), entity("heavy", weight=3), entity("last")
    endpoint = Endpoint(
        "n", "chat", "llm/v1/chat", (A, light, heavy, last), split=(("a", 100),),
        fallbacks=("light", "heavy", "last"), ranks=(("light", "heavy"), ("last",)),
    )  # fmt: skip
    seen = Counter(tuple(names(endpoint, number / 1000)) for number in range(1000))
    assert set(seen) == {("a", "light", "heavy", "last"), ("a", "heavy", "light", "last")}
    assert 0.7 < seen["a", "heavy", "light", "last"] / 1000 < 0.8
