"""Which answers an endpoint may give again, to whom, and what a caller's `cache-control` says of it.

Opt-in for each endpoint. An answer is the same only for the same question, asked of the same version of the endpoint, by
somebody in the same scope; what was sampled, cut short or refused by a filter is never given twice unless told to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any

DAY_SECONDS = 86_400
LONGEST_SECONDS = 7 * DAY_SECONDS
LARGEST_KB = 1024
_LONGEST_AGE = 1 << 31


HIT, MISS, BYPASS = "hit", "miss", "bypass"
"""What came of asking for a stored answer: it was given, there was none, or none was asked for."""


class CacheScope(StrEnum):
    """Whose calls may be answered by one stored answer."""

    PRINCIPAL = "principal"
    """The same principal's."""
    GROUP = "group"
    """Those that charge the same group; of whom no group is charged, the same principal's."""
    ENDPOINT = "endpoint"
    """Everybody's who may query the endpoint."""


@dataclass(frozen=True, slots=True)
class CacheRules:
    """How one endpoint's answers are stored."""

    enabled: bool = False
    ttl_seconds: int = 3600
    scope: CacheScope = CacheScope.PRINCIPAL
    max_kb: int = 64
    """Larger answers are not stored."""
    sampled: bool = False
    """Also answers that another draw would have made different: calls whose `temperature` is not 0."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a caller asks of the cache."""

    read: bool = True
    store: bool = True
    max_age_seconds: int | None = None
    only: bool = False
    """A stored answer or none: nothing is called."""


ANYTHING = Wish()


def cache_rules(settings: Mapping[str, Any]) -> CacheRules | None:
    """An endpoint's rules from its stored settings; None where no answer is stored. Raises ValueError for an unknown scope."""
    if not settings.get("enabled"):
        return None
    known = {each.name: settings[each.name] for each in fields(CacheRules) if each.name in settings}
    if "scope" in known:
        known["scope"] = CacheScope(known["scope"])
    return CacheRules(**known)


def wish_of(cache_control: str) -> Wish:
    """What a request's `cache-control` asks for; what it has beside no-cache, no-store, max-age and only-if-cached says nothing here."""
    read = store = True
    only = False
    age: int | None = None
    for each in cache_control.lower().split(","):
        name, _, value = each.strip().partition("=")
        if name == "no-store":
            read = store = False
        elif name == "no-cache":
            read = False
        elif name == "only-if-cached":
            only = True
        elif name == "max-age":
            value = value.strip('"')
            # An age that is none is taken for the strictest.
            given = min(int(value), _LONGEST_AGE) if value.isdecimal() and len(value) < 12 else 0
            age = given if age is None else min(age, given)
    return Wish(read and age != 0, store, age, only)


def storable(
    rules: CacheRules, *, generates: bool, temperature: object, choices: int, far_pictures: bool
) -> bool:
    """Whether the answer to such a request is the same each time it is asked."""
    if choices != 1 or far_pictures:
        return False
    return rules.sampled or not generates or (type(temperature) in (int, float) and temperature == 0)


def whole(finish_reason: str | None, *, bounded: bool, fits_default: bool) -> bool:
    """Whether an answer is all there is to say, for a plain call and for a stream alike.

    `bounded`: the caller said how long it may be. Where it did not, a plain call is bounded by the endpoint's default and a
    stream is not: an answer is the same for both only if it ended by itself and within that.
    """
    if finish_reason in ("stop", "tool_calls"):
        return bounded or fits_default
    return finish_reason == "length" and bounded


def scope_key(rules: CacheRules, principal_id: str, group_id: str | None) -> str:
    """Who shares an answer with this caller."""
    if rules.scope is CacheScope.ENDPOINT:
        return "endpoint"
    if rules.scope is CacheScope.GROUP and group_id is not None:
        return f"group {group_id}"
    return f"principal {principal_id}"
