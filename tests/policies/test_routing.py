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


def test_a_key_stays_on_its_side_and_keys_spread_as_the_split_says() -> None:
    assert sticky_draw("n", "ann") == sticky_draw("n", "ann") != sticky_draw("m", "ann")
    sides = Counter(names(SPLIT, sticky_draw("n", f"user-{number}"))[0] for number in range(4000))
    assert 0.66 < sides["a"] / 4000 < 0.74


def test_a_changed_split_moves_only_the_keys_that_it_must() -> None:
    wider = Endpoint("n", "chat", "llm/v1/chat", (A, B), split=(("a", 80), ("b", 20)))
    draws = [sticky_draw("n", f"user-{number}") for number in range(4000)]
    moved = [draw for draw in draws if names(SPLIT, draw)[0] != names(wider, draw)[0]]
    assert all(names(SPLIT, draw)[0] == "b" and names(wider, draw)[0] == "a" for draw in moved)
    assert len(moved) < 4000 * 0.13


def test_fallbacks_of_one_position_share_by_weight_and_come_before_the_next_position() -> None:
    light, heavy, last = entity("light"), entity("heavy", weight=3), entity("last")
    endpoint = Endpoint(
        "n", "chat", "llm/v1/chat", (A, light, heavy, last), split=(("a", 100),),
        fallbacks=("light", "heavy", "last"), ranks=(("light", "heavy"), ("last",)),
    )  # fmt: skip
    seen = Counter(tuple(names(endpoint, number / 1000)) for number in range(1000))
    assert set(seen) == {("a", "light", "heavy", "last"), ("a", "heavy", "light", "last")}
    assert 0.7 < seen["a", "heavy", "light", "last"] / 1000 < 0.8
