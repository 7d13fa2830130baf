"""Rate limits of an endpoint in Databricks' shapes, read and set by those who may manage it.

They are the limits of /admin/v1, nothing apart. What an administrator has set on the endpoint stays as it is, whoever
manages the endpoint; what was set here may be changed here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from litestar import put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct
from sqlalchemy import func

from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.http.admin.access import Admin
from gateway.store.changes import Change
from gateway.store.endpoint_limits import Rule, set_limits
from gateway.store.tables.identity import groups, principals
from policies.administration import Permission, may_administer
from policies.catalog import Endpoint, Snapshot
from policies.decision import Deny
from policies.limits import LARGEST, Limit, Metric, ScopeKind
from policies.permissions import Level, may
from policies.windows import Rolling

LIMIT = {"permission": Permission.SERVING_LIMIT}
MINUTE = Rolling(60_000)
_KEYS: dict[ScopeKind, str] = {
    ScopeKind.ENDPOINT: "endpoint",
    ScopeKind.USER: "user",
    ScopeKind.USER_DEFAULT: "user",
    ScopeKind.GROUP: "user_group",
    ScopeKind.GROUP_DEFAULT: "user_group",
    ScopeKind.SERVICE_PRINCIPAL: "service_principal",
}
_METRICS = {Metric.REQUESTS: "calls", Metric.TOTAL_TOKENS: "tokens"}
_PLAIN = frozenset({ScopeKind.ENDPOINT, ScopeKind.USER_DEFAULT})
"""What the older shape can say, of requests only."""
Amount = Annotated[int, Meta(ge=0, le=LARGEST, examples=[100])]
PrincipalName = Annotated[str, Meta(min_length=1, max_length=128, pattern=r"^[^\x00]+$")]


class RateLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calls a minute of everybody together (`endpoint`) or of each user."""

    calls: Amount
    key: Literal["user", "endpoint"] = "endpoint"
    renewal_period: Literal["minute"]


class RateLimits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rate limits to set; one that is not in the list is taken away."""

    rate_limits: Annotated[list[RateLimit], Meta(max_length=20)] = []


class AiGatewayRateLimit(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Calls or tokens a minute, or both; without a principal, of each user or group by itself."""

    calls: Amount | None = None
    tokens: Amount | None = None
    key: Literal["endpoint", "user", "user_group", "service_principal"] = "endpoint"
    principal: PrincipalName | None = None
    """Name of the user, the group or the service principal."""
    renewal_period: Literal["minute"]


@put(
    "/serving-endpoints/{name:str}/rate-limits",
    opt=LIMIT,
    tags=["Databricks"],
    summary="Set an endpoint's rate limits (Databricks, MLflow)",
)
async def set_rate_limits(
    admin: NamedDependency[Admin], name: FromPath[str], data: JSONBody[RateLimits]
) -> dict[str, Any]:
    """Holds on every worker within a second. Limits that this older shape cannot say stay as they are."""
    endpoint = managed(admin, name)
    wanted = plain_limits(endpoint.id, data.rate_limits)

    def sayable(rule: Rule) -> bool:
        return rule.scope in _PLAIN and rule.metric is Metric.REQUESTS

    async with admin.change() as change:
        await set_limits_of(admin, change, endpoint.id, wanted, sayable)
    plain = [
        each for each in shown_limits(admin.snapshot, endpoint) if "calls" in each and "principal" not in each
    ]
    kept = [each for each in plain if each["key"] in ("endpoint", "user")]
    return {
        "rate_limits": [{name: each[name] for name in ("calls", "key", "renewal_period")} for each in kept]
    }


def plain_limits(endpoint_id: str, wanted: Sequence[RateLimit]) -> list[Rule]:
    """Limits in the older shape as rules."""
    return [
        Rule(ScopeKind.ENDPOINT, endpoint_id, Metric.REQUESTS, each.calls)
        if each.key == "endpoint"
        else Rule(ScopeKind.USER_DEFAULT, None, Metric.REQUESTS, each.calls)
        for each in wanted
    ]


async def limits_wanted(change: Change, endpoint_id: str, wanted: Sequence[AiGatewayRateLimit]) -> list[Rule]:
    """Limits of an AI gateway as rules; raises BadRequest or NotFound for those that make no sense."""
    return [rule for each in wanted for rule in await _rules(change, endpoint_id, each)]


def shown_limits(snapshot: Snapshot, endpoint: Endpoint) -> list[dict[str, Any]]:
    """The limits that hold on the endpoint, as far as Databricks has words for them."""
    found: dict[tuple[ScopeKind, str | None], dict[str, Any]] = {}
    for limit in snapshot.limits:
        if limit.window != MINUTE or limit.metric not in _METRICS or not _is_on(limit, endpoint):
            continue
        entry = found.setdefault((limit.scope, limit.subject_id), {"key": _KEYS[limit.scope]})
        entry[_METRICS[limit.metric]] = limit.amount
        named = None if limit.scope is ScopeKind.ENDPOINT else limit.subject_id
        if named is not None:
            entry["principal"] = _name(snapshot, named)
        entry["renewal_period"] = "minute"
    return list(found.values())


def _is_on(limit: Limit, endpoint: Endpoint) -> bool:
    if limit.scope is ScopeKind.ENDPOINT:
        return limit.subject_id == endpoint.id
    return limit.scope in _KEYS and limit.endpoint_id == endpoint.id


def _name(snapshot: Snapshot, subject: str) -> str:
    found = snapshot.principals.get(subject) or snapshot.groups.get(subject)
    return subject if found is None else found.name


def managed(admin: Admin, name: str) -> Endpoint:
    """The endpoint of that name; raises Forbidden for a caller that does not manage it, or NotFound."""
    endpoint = admin.snapshot.endpoints.get(name)
    if endpoint is None:
        raise NotFound(f"There is no endpoint {name!r}.")
    match may(admin.snapshot, admin.caller, Level.CAN_MANAGE, endpoint):
        case Deny(code=code, reason=reason):
            raise Forbidden(reason, code=code)
        case _:
            return endpoint


async def set_limits_of(
    admin: Admin,
    change: Change,
    endpoint_id: str,
    wanted: Sequence[Rule],
    sayable: Callable[[Rule], bool] = lambda _: True,
) -> None:
    """Make these the endpoint's limits, as far as the caller may say."""
    named = [rule.place for rule in wanted]
    if len(set(named)) != len(named):
        raise BadRequest("A limit is in the list twice.", param="rate_limits")
    everything = bool(may_administer(admin.caller, Permission.LIMITS_WRITE))
    await set_limits(change, endpoint_id, wanted, sayable, everything=everything)


@dataclass(frozen=True, slots=True)
class _Subject:
    scope: ScopeKind
    id: str | None


async def _rules(change: Change, endpoint_id: str, wanted: AiGatewayRateLimit) -> list[Rule]:
    if wanted.calls is None and wanted.tokens is None:
        raise BadRequest("A rate limit takes calls, tokens, or both.", param="rate_limits")
    subject = await _subject(change, endpoint_id, wanted.key, wanted.principal)
    amounts = ((Metric.REQUESTS, wanted.calls), (Metric.TOTAL_TOKENS, wanted.tokens))
    return [
        Rule(subject.scope, subject.id, metric, amount) for metric, amount in amounts if amount is not None
    ]


async def _subject(change: Change, endpoint_id: str, key: str, principal: str | None) -> _Subject:
    if key == "endpoint":
        if principal is not None:
            raise BadRequest("A limit of the endpoint names no principal.", param="rate_limits")
        return _Subject(ScopeKind.ENDPOINT, endpoint_id)
    if principal is None:
        if key == "service_principal":
            raise BadRequest("A limit of a service principal names it.", param="rate_limits")
        return _Subject(ScopeKind.USER_DEFAULT if key == "user" else ScopeKind.GROUP_DEFAULT, None)
    if key == "user_group":
        found = await change.rows(groups, func.lower(groups.c.name) == principal.lower())
        scope = ScopeKind.GROUP
    else:
        scope = ScopeKind(key)
        found = await change.rows(
            principals, func.lower(principals.c.name) == principal.lower(), principals.c.kind == key
        )
    if not found:
        raise NotFound(f"There is no {key.replace('_', ' ')} {principal!r}.")
    return _Subject(scope, found[0]["id"])


RATE_LIMIT_ROUTES = (set_rate_limits,)
