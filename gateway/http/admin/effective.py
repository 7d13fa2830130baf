"""What truly holds for somebody on an endpoint: the permission, every limit and budget, and what is left of each now.

The same functions answer here that decide a call. Everybody may ask for themselves, whatever is left of a budget.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from msgspec import Struct

from gateway.counters.levels import Level as Fill
from gateway.errors import Forbidden, NotFound
from gateway.http.admin.access import Admin
from gateway.store.api_keys import with_key
from gateway.store.reading import rows
from gateway.store.tables.identity import api_keys
from policies.administration import Permission, may_administer
from policies.budgets import dearest
from policies.catalog import Endpoint
from policies.decision import Deny
from policies.draws import Indexes, draws_of
from policies.limits import Draw, Metric, window_words
from policies.money import usd_of
from policies.permissions import Level, granted, may
from policies.principal import Caller
from policies.windows import text_of


class EffectivePermission(Struct, frozen=True, kw_only=True):
    """What the caller may do with the endpoint."""

    level: str | None
    """`CAN_VIEW`, `CAN_QUERY` or `CAN_MANAGE`; null for nothing."""
    rule: str
    """What gives it."""
    may_query: bool
    """The key's confinement included."""


class EffectiveRule(Struct, frozen=True, kw_only=True):
    """One limit or budget that a call takes from."""

    id: str
    name: str
    kind: str
    """`limit` or `budget`."""
    scope: str
    counted_for: str
    """Whose count it is, in words."""
    metric: str
    window: str | None
    """As the limit has it; null for concurrent requests."""
    amount: int
    amount_usd: str | None
    """Of budgets."""
    used: int | None
    """Used and reserved now; null while Redis is away."""
    left: int | None
    left_usd: str | None
    resets_at: datetime | None
    """When all of it is free again if nothing more is used; null where that is now, or not a matter of time."""
    mode: str
    any_of: str | None
    """Of the rules that name the same metric here, those of one group must have room; null: must have room itself."""


class Effective(Struct, frozen=True, kw_only=True):
    """What holds for a principal on an endpoint."""

    principal_id: str
    principal: str
    active: bool
    endpoint_id: str
    endpoint: str
    key_id: str | None
    permission: EffectivePermission
    rules: list[EffectiveRule]
    """In the order in which they are decided."""
    counters: str
    """`live`, or `away` while what is left is not known."""
    priced: bool
    """Whether calls can cost anything; where not, no budget binds."""
    snapshot_version: int


Reference = Annotated[str | None, QueryParameter(max_length=256, pattern=r"^[^\x00]*$")]


@get(
    "/effective",
    opt={"permission": Permission.SELF_READ},
    tags=["Limits"],
    summary="What holds for a principal on an endpoint",
)
async def effective(
    admin: NamedDependency[Admin],
    endpoint: Annotated[
        str, QueryParameter(max_length=256, pattern=r"^[^\x00]*$", description="Its name, alias or id.")
    ],
    principal: Reference = None,
    key: Annotated[
        str | None,
        QueryParameter(max_length=64, pattern=r"^[^\x00]*$", description="Id of an API key of it."),
    ] = None,
) -> Effective:
    """`principal` (its name or id) is left out for oneself; asking for others takes the permission to read limits."""
    snapshot = admin.snapshot
    caller = await _caller(admin, principal, key)
    found = _endpoint(admin, endpoint)
    draws = draws_of(Indexes.of(snapshot), caller, found)
    levels = None if admin.levels is None else await admin.levels.read(draws)
    held, rule = granted(snapshot, caller, found)
    who = caller.principal
    return Effective(
        principal_id=who.id,
        principal=who.name,
        active=who.active,
        endpoint_id=found.id,
        endpoint=found.name,
        key_id=caller.key_id,
        permission=EffectivePermission(
            level=None if held is None else held.name,
            rule=rule,
            may_query=who.active and not isinstance(may(snapshot, caller, Level.CAN_QUERY, found), Deny),
        ),
        rules=[_rule(draw, None if levels is None else levels[number]) for number, draw in enumerate(draws)],
        counters="away" if levels is None else "live",
        priced=not dearest(found).free,
        snapshot_version=snapshot.version,
    )


async def _caller(admin: Admin, named: str | None, key: str | None) -> Caller:
    own, people = admin.caller, admin.snapshot.principals
    who = own.principal
    if named is not None and named not in (who.id, who.name):
        match may_administer(own, Permission.LIMITS_READ):
            case Deny(code=code, reason=reason):
                raise Forbidden(reason, code=code)
            case _:
                pass
        found = people.get(named) or next((each for each in people.values() if each.name == named), None)
        if found is None:
            raise NotFound(f"There is no principal {named!r}.")
        who = found
    if key is None or key == own.key_id:
        return own if who is own.principal else Caller(who)
    async with admin.reading() as connection:
        keys = [
            row
            for row in await rows(connection, api_keys, api_keys.c.principal_id == who.id)
            if row["id"] == key
        ]
    if not keys:
        raise NotFound(f"{who.name!r} has no API key {key!r}.")
    return with_key(Caller(who), keys[0])


def _endpoint(admin: Admin, named: str) -> Endpoint:
    endpoints = admin.snapshot.endpoints
    found = endpoints.get(named) or next((each for each in endpoints.values() if each.id == named), None)
    if found is None:
        raise NotFound(f"There is no endpoint {named!r}.")
    return found


def _rule(draw: Draw, fill: Fill | None) -> EffectiveRule:
    money = draw.metric is Metric.MONEY
    left = None if fill is None else max(0, draw.capacity - fill.used)
    resets = None if fill is None else fill.resets_at_ms
    return EffectiveRule(
        id=draw.limit_id,
        name=draw.name,
        kind="budget" if money else "limit",
        scope=draw.scope.value,
        counted_for=draw.owner + window_words(draw.window),
        metric="nano_usd" if money else draw.metric.value,
        window=None if draw.window is None else text_of(draw.window),
        amount=draw.capacity,
        amount_usd=usd_of(draw.capacity) if money else None,
        used=None if fill is None else fill.used,
        left=left,
        left_usd=usd_of(left) if money and left is not None else None,
        resets_at=None if resets is None else datetime.fromtimestamp(resets / 1000, UTC),
        mode=draw.mode.value,
        any_of=draw.metric.value if draw.alternatives else None,
    )
