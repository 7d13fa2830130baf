"""The shape of a file: its sections, and every field that an object may have there.

A field that is left out has its default; names stand for ids throughout.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from gateway.http.admin.budgets import ModeName as BudgetMode
from gateway.http.admin.budgets import Period, Thresholds, Zone
from gateway.http.admin.budgets import Scope as BudgetScope
from gateway.http.admin.calling import EndpointCache, EndpointCalling, EndpointPayloads, EntityCalling
from gateway.http.admin.endpoint_shapes import (
    Aliases,
    DefaultTokens,
    EndpointName,
    Estimate,
    Level,
    Options,
    Tags,
    Task,
)
from gateway.http.admin.issuers import Address, Age, Audience, Claim, KeySet, Leeway, Planes
from gateway.http.admin.limits import Amount, LimitName, MetricName, ModeName, Scope, WindowText
from gateway.http.admin.principals import Email, Issuer, Subject
from gateway.http.admin.providers import BaseUrl
from gateway.http.admin.providers import Kind as Provider
from gateway.http.admin.throughput import Queue, Rate, Several, Target, Units, Wait
from gateway.http.admin.versions import FreeText, Moment, Name
from gateway.http.admin.webhooks import EventName, Url
from policies.limits import LARGEST
from policies.principal import Role
from policies.tokens import MAX_AGE_SECONDS, MAX_LEEWAY_SECONDS

Dollars = (
    Annotated[str, Meta(max_length=20, pattern=r"^[0-9]{1,7}(\.[0-9]{1,9})?$")]
    | Annotated[int, Meta(ge=0, le=LARGEST // 10**9)]
)
Names = Annotated[list[Name], Meta(max_length=10_000)]


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
    """A group with all of its direct members, its managers, and the roles that all its members hold."""

    name: Name
    description: FreeText = ""
    local_only: bool = False
    users: Names = []
    service_principals: Names = []
    groups: Names = []
    manager_users: Names = []
    manager_service_principals: Names = []
    manager_groups: Names = []
    roles: Annotated[list[Role], Meta(max_length=10)] = []


class CredentialSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a credential is, never itself: one of a variable of the workers and a file in the credentials' folder."""

    environment: Annotated[str, Meta(max_length=96)] | None = None
    file: Annotated[str, Meta(max_length=128)] | None = None


class ProviderSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A provider; one whose credential is stored in the deployment is made on /admin/v1/providers."""

    name: Name
    provider: Provider
    base_url: BaseUrl | None = None
    """Left out: where everybody finds it, for providers with one address."""
    credential: CredentialSpec | None = None


class EntitySpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model that answers for an endpoint."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
    kind: Literal["local", "external"] = "local"
    provider: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
    model: Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
    base_url: Annotated[str, Meta(max_length=512, pattern=r"^https?://[!-~]+$")] | None = None
    traffic_percent: Annotated[int, Meta(ge=0, le=100)] = 100
    fallback_position: Annotated[int, Meta(ge=1, le=100)] | None = None
    account: Name | None = None
    """The provider, by its name, whose credential pays; None: none does."""
    calling: EntityCalling = EntityCalling()
    options: Options = {}


class EndpointSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An endpoint with what answers for it."""

    name: EndpointName
    aliases: Aliases = []
    task: Task = "llm/v1/chat"
    description: FreeText = ""
    tags: Tags = {}
    estimate_milli: Estimate = 500
    default_max_tokens: DefaultTokens = 1024
    local_only: bool = False
    calling: EndpointCalling = EndpointCalling()
    payloads: EndpointPayloads = EndpointPayloads()
    cache: EndpointCache = EndpointCache()
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
    """What a served entity costs, in dollars per 1,000,000 tokens, per request, per GPU-second and per cache hit."""

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
    per_cache_hit: Dollars = "0.00"
    note: FreeText = ""


class ThroughputPoolSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the local engine can do; there is one."""

    name: Name
    replicas: Several = 1
    tokens_per_second: Rate
    slots: Several
    unit_tokens_per_second: Rate = 1
    queue: Queue = 256
    queue_ms: Wait = 10_000


class ThroughputProvisionSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Throughput that is kept for an endpoint or a group, which is named as `subject`."""

    name: Name
    scope: Literal["endpoint", "group"]
    subject: Name
    units: Units
    first_token_ms: Target | None = None


class WebhookSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who is told of events; its secret is no part of the file."""

    name: Name
    url: Url
    events: Annotated[list[EventName], Meta(min_length=1, max_length=10)] = field(
        default_factory=lambda: ["budget.threshold"]
    )
    enabled: bool = True


class Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A whole file."""

    version: Literal[1] = 1
    issuers: Annotated[list[IssuerSpec], Meta(max_length=1000)] = []
    users: Annotated[list[PrincipalSpec], Meta(max_length=10_000)] = []
    service_principals: Annotated[list[PrincipalSpec], Meta(max_length=10_000)] = []
    groups: Annotated[list[GroupSpec], Meta(max_length=10_000)] = []
    providers: Annotated[list[ProviderSpec], Meta(max_length=1000)] = []
    endpoints: Annotated[list[EndpointSpec], Meta(max_length=1000)] = []
    grants: Annotated[list[GrantSpec], Meta(max_length=10_000)] = []
    limits: Annotated[list[LimitSpec], Meta(max_length=10_000)] = []
    budgets: Annotated[list[BudgetSpec], Meta(max_length=10_000)] = []
    prices: Annotated[list[PriceSpec], Meta(max_length=10_000)] = []
    throughput_pools: Annotated[list[ThroughputPoolSpec], Meta(max_length=1)] = []
    throughput_provisions: Annotated[list[ThroughputProvisionSpec], Meta(max_length=10_000)] = []
    webhooks: Annotated[list[WebhookSpec], Meta(max_length=1000)] = []


STRUCTS: dict[str, type[Struct]] = {
    "issuer": IssuerSpec,
    "user": PrincipalSpec,
    "service_principal": PrincipalSpec,
    "group": GroupSpec,
    "provider": ProviderSpec,
    "endpoint": EndpointSpec,
    "grant": GrantSpec,
    "limit": LimitSpec,
    "budget": BudgetSpec,
    "price": PriceSpec,
    "throughput_pool": ThroughputPoolSpec,
    "throughput_provision": ThroughputProvisionSpec,
    "webhook": WebhookSpec,
}

__all__ = ["STRUCTS", "Document", "EntitySpec"]
