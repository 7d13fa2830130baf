"""What may stand in a file, and each of its objects as policies compare them.

A declared object is declared whole: what is left out has its default, never "as it happens to be".
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct, field

from gateway.http.admin.budgets import ModeName as BudgetMode
from gateway.http.admin.budgets import Period, Thresholds, Zone
from gateway.http.admin.budgets import Scope as BudgetScope
from gateway.http.admin.calling import EndpointCalling, EntityCalling, listed
from gateway.http.admin.endpoints import DefaultTokens, EndpointName, Estimate, Level, Options, Tags, Task
from gateway.http.admin.issuers import Address, Age, Audience, Claim, KeySet, Leeway, Planes
from gateway.http.admin.limits import Amount, LimitName, MetricName, ModeName, Scope, WindowText
from gateway.http.admin.principals import Email, Issuer, Subject
from gateway.http.admin.versions import FreeText, Moment, Name
from policies.declaration import CannotPlan, Declared, Problem
from policies.declared_kinds import GRANTEES, KINDS, WORDED_WINDOWS
from policies.limits import LARGEST
from policies.money import nano_of, usd_of
from policies.principal import Role
from policies.tokens import MAX_AGE_SECONDS, MAX_LEEWAY_SECONDS
from policies.windows import Calendar, Unit, parse, text_of

KEY_PREFIX = "gk_live_"
Dollars = (
    Annotated[str, Meta(max_length=20, pattern=r"^[0-9]{1,7}(\.[0-9]{1,9})?$")]
    | Annotated[int, Meta(ge=0, le=LARGEST // 10**9)]
)
Names = Annotated[list[Name], Meta(max_length=10_000)]
_WORDS = {canonical: word for word, canonical in WORDED_WINDOWS.items()}
_AT = re.compile(r"^(?P<what>.*) - at `\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_SUBJECTS = frozenset({"user", "group", "service_principal"})
_NOBODYS = frozenset({"user_default", "group_default", "deployment"})


class IssuerSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An issuer whose keys are public; one with a shared secret is made on /admin/v1/issuers."""

    name: Name
    issuer: Address
    audience: Audience
    family: Literal["RS", "ES", "EdDSA"] = "RS"
    jwks_uri: Address | None = None
    allow_loopback_http: bool = False
    public_keys: KeySet | None = None
    principal_claim: Claim = "sub"
    name_claim: Claim = "sub"
    groups_claim: Claim | None = None
    kind: Literal["user", "service_principal"] = "user"
    create_principals: bool = False
    replace_groups: bool = False
    max_age_seconds: Age = MAX_AGE_SECONDS
    leeway_seconds: Leeway = MAX_LEEWAY_SECONDS
    planes: Planes = field(default_factory=lambda: ["control", "data"])
    enabled: bool = True


class PrincipalSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user or a service principal."""

    name: Name
    display_name: FreeText = ""
    email: Email | None = None
    active: bool = True
    issuer: Issuer | None = None
    subject: Subject | None = None
    roles: Annotated[list[Role], Meta(max_length=10)] = []


class GroupSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A group with all of its direct members."""

    name: Name
    description: FreeText = ""
    local_only: bool = False
    users: Names = []
    service_principals: Names = []
    groups: Names = []


class EntitySpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that answers for an endpoint."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
    kind: Literal["local", "external"] = "local"
    provider: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    model: Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
    base_url: Annotated[str, Meta(max_length=512, pattern=r"^https?://[!-~]+$")] | None = None
    traffic_percent: Annotated[int, Meta(ge=0, le=100)] = 100
    fallback_position: Annotated[int, Meta(ge=1, le=100)] | None = None
    calling: EntityCalling = EntityCalling()
    options: Options = {}


class EndpointSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint with what answers for it."""

    name: EndpointName
    task: Task = "llm/v1/chat"
    description: FreeText = ""
    tags: Tags = {}
    estimate_milli: Estimate = 500
    default_max_tokens: DefaultTokens = 1024
    local_only: bool = False
    calling: EndpointCalling = EndpointCalling()
    served_entities: Annotated[list[EntitySpec], Meta(min_length=1, max_length=32)]


class GrantSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A permission on an endpoint of exactly one of a user, a service principal and a group."""

    endpoint: EndpointName
    level: Level
    user: Name | None = None
    service_principal: Name | None = None
    group: Name | None = None


class LimitSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rate limit; `subject` is the name of the user, group, ... of the scope."""

    scope: Scope
    subject: Name | None = None
    endpoint: EndpointName | None = None
    metric: MetricName
    window: WindowText | None = None
    amount: Amount
    mode: ModeName = "share"
    name: LimitName = ""
    enabled: bool = True


class BudgetSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A budget in dollars."""

    scope: BudgetScope
    subject: Name | None = None
    endpoint: EndpointName | None = None
    period: Period
    time_zone: Zone = "UTC"
    usd: Dollars
    thresholds_percent: Thresholds = []
    mode: BudgetMode = "share"
    name: LimitName = ""
    enabled: bool = True


class PriceSpec(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"begins": "from", "ends": "until"}
):
    """What a served entity costs, in dollars per 1,000,000 tokens, per request and per GPU-second."""

    endpoint: EndpointName
    entity: Name
    begins: Moment | None = None
    """Left out: the price that holds now."""
    ends: Moment | None = None
    input: Dollars
    cache_read: Dollars
    cache_write: Dollars
    output: Dollars
    reasoning: Dollars
    per_request: Dollars = "0.00"
    per_gpu_second: Dollars = "0.00"
    note: FreeText = ""


class Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole file."""

    version: Literal[1] = 1
    issuers: Annotated[list[IssuerSpec], Meta(max_length=1000)] = []
    users: Annotated[list[PrincipalSpec], Meta(max_length=10_000)] = []
    service_principals: Annotated[list[PrincipalSpec], Meta(max_length=10_000)] = []
    groups: Annotated[list[GroupSpec], Meta(max_length=10_000)] = []
    endpoints: Annotated[list[EndpointSpec], Meta(max_length=1000)] = []
    grants: Annotated[list[GrantSpec], Meta(max_length=10_000)] = []
    limits: Annotated[list[LimitSpec], Meta(max_length=10_000)] = []
    budgets: Annotated[list[BudgetSpec], Meta(max_length=10_000)] = []
    prices: Annotated[list[PriceSpec], Meta(max_length=10_000)] = []


STRUCTS: dict[str, type[Struct]] = {
    "issuer": IssuerSpec,
    "user": PrincipalSpec,
    "service_principal": PrincipalSpec,
    "group": GroupSpec,
    "endpoint": EndpointSpec,
    "grant": GrantSpec,
    "limit": LimitSpec,
    "budget": BudgetSpec,
    "price": PriceSpec,
}


def read(document: Any) -> list[Declared]:
    """Every object of the document, in the file's order; raises CannotPlan."""
    try:
        found = msgspec.convert(document, Document)
    except msgspec.ValidationError as error:
        where = _AT.match(str(error))
        problem = (
            Problem("the file", str(error))
            if where is None
            else Problem(where["path"] or "the file", where["what"])
        )
        raise CannotPlan([problem]) from error
    problems: list[Problem] = []
    declared: list[Declared] = []
    for kind in KINDS:
        for index, each in enumerate(getattr(found, kind.section)):
            path = f"{kind.section}[{index}]"
            spec = msgspec.to_builtins(each)
            before = len(problems)
            problems += [Problem(f"{path}.{name}", message) for name, message in settle(kind.name, spec)]
            if len(problems) == before:
                declared.append(Declared(kind.name, spec, path))
    if problems:
        raise CannotPlan(problems)
    return declared


def settle(kind: str, spec: dict[str, Any]) -> list[tuple[str, str]]:
    """Write every value in the one way in which it is compared; answers fields that make no sense, and why."""
    match kind:
        case "user" | "service_principal":
            spec["roles"] = sorted(set(spec["roles"]))
        case "issuer":
            if (spec["jwks_uri"] is None) == (spec["public_keys"] is None):
                return [("jwks_uri", "an issuer takes exactly one of jwks_uri and public_keys")]
            spec["planes"] = sorted(set(spec["planes"]))
        case "endpoint":
            spec["served_entities"] = sorted(spec["served_entities"], key=lambda each: each["name"])
            for each in spec["served_entities"]:
                each["calling"] = listed(each["calling"])
        case "grant" if sum(spec[each] is not None for each in GRANTEES) != 1:
            return [("level", "a grant names exactly one of user, service_principal and group")]
        case "limit":
            return _span(spec) + _window(spec)
        case "budget":
            return _span(spec) + _zone(spec) + _dollars(spec, "usd")
        case "price":
            named = ("input", "cache_read", "cache_write", "output", "reasoning", "per_request")
            return _dollars(spec, *named, "per_gpu_second") + _moments(spec)
        case _:
            pass
    return []


def worded(window: str) -> str:
    """A window's text as files have it."""
    return _WORDS.get(window, window)


def moment(value: datetime) -> str:
    """A moment as files have it."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _span(spec: dict[str, Any]) -> list[tuple[str, str]]:
    scope, subject = spec["scope"], spec["subject"]
    if subject is None and scope in _SUBJECTS:
        return [("subject", f"scope {scope} needs the name of one")]
    if subject is not None and scope in _NOBODYS:
        return [("subject", f"scope {scope} takes none")]
    if scope == "key" and subject is not None:
        spec["subject"] = subject.removeprefix(KEY_PREFIX)
    return []


def _window(spec: dict[str, Any]) -> list[tuple[str, str]]:
    window: str | None = spec["window"]
    if (window is None) != (spec["metric"] == "concurrent_requests"):
        return [("window", "every metric but concurrent_requests takes one")]
    if window is not None:
        try:
            spec["window"] = worded(text_of(parse(WORDED_WINDOWS.get(window, window))))
        except ValueError as error:
            return [("window", f"{error}; or one of the words second, minute, hour and day")]
    return []


def _zone(spec: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        Calendar(Unit(spec["period"]), spec["time_zone"])
    except ValueError as error:
        return [("time_zone", str(error))]
    return []


def _dollars(spec: dict[str, Any], *names: str) -> list[tuple[str, str]]:
    problems: list[tuple[str, str]] = []
    for name in names:
        try:
            nano_usd = nano_of(str(spec[name]))
        except ValueError as error:
            problems.append((name, str(error)))
            continue
        if nano_usd > LARGEST:
            problems.append((name, f"it takes up to {usd_of(LARGEST)}"))
        spec[name] = usd_of(nano_usd)
    return problems


def _moments(spec: dict[str, Any]) -> list[tuple[str, str]]:
    read_moments: list[datetime | None] = []
    for name in ("from", "until"):
        try:
            read_moments.append(None if spec[name] is None else datetime.fromisoformat(spec[name]))
            spec[name] = None if spec[name] is None else moment(datetime.fromisoformat(spec[name]))
        except (ValueError, OverflowError):
            return [(name, "the calendar does not reach that far")]
    begins, ends = read_moments
    if begins is not None and ends is not None and ends <= begins:
        return [("until", "it must be after `from`")]
    return []


__all__ = ["STRUCTS", "Document", "moment", "read", "settle", "worded"]
