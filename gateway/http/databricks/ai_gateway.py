"""The features of an endpoint in Databricks' words: rate limits, fallbacks, guardrails, what is kept of its calls.

Rate limits are the deployment's own limits. What is left out of a change is off, rate limits apart, which then stay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from litestar import put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from gateway.http.admin.access import Admin
from gateway.http.databricks.rate_limits import (
    AiGatewayRateLimit,
    limits_wanted,
    managed,
    set_limits_of,
    shown_limits,
)
from gateway.store.endpoints import update_endpoint
from gateway.store.tables.catalog import endpoints
from policies.administration import Permission
from policies.catalog import Endpoint, Snapshot

Short = Annotated[str, Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Feature(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One feature; what is not known here is refused."""


class Enabled(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """On or off."""

    enabled: bool = False


class UsageTracking(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Usage is always tracked; asking for it changes nothing."""

    enabled: Literal[True] = True


class InferenceTable(Feature, frozen=True):
    """Whether prompts and answers are kept. The names are shown again; the rows are in `payloads.calls`."""

    enabled: bool = False
    catalog_name: Short | None = None
    schema_name: Short | None = None
    table_name_prefix: Short | None = None


class Pii(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens to personal data."""

    behavior: Literal["NONE", "BLOCK", "MASK"] = "NONE"


class Guardrail(Feature, frozen=True):
    """Guardrails of one direction."""

    pii: Pii | None = None
    safety: bool | None = None
    invalid_keywords: Annotated[list[Short], Meta(max_length=1000)] | None = None
    valid_topics: Annotated[list[Short], Meta(max_length=100)] | None = None


class Guardrails(Feature, frozen=True):
    """Guardrails of both directions."""

    input: Guardrail | None = None
    output: Guardrail | None = None


class AiGateway(Feature, frozen=True):
    """The features to set."""

    usage_tracking_config: UsageTracking | None = None
    inference_table_config: InferenceTable | None = None
    guardrails: Guardrails | None = None
    fallback_config: Enabled | None = None
    rate_limits: Annotated[list[AiGatewayRateLimit], Meta(max_length=200)] | None = None
    """Left out: they stay. One that is not in the list is taken away."""


@put(
    "/serving-endpoints/{name:str}/ai-gateway",
    opt={"permission": Permission.SERVING_MANAGE},
    tags=["Databricks"],
    summary="Set an endpoint's AI gateway (Databricks)",
)
async def set_ai_gateway(
    admin: NamedDependency[Admin], name: FromPath[str], data: JSONBody[AiGateway]
) -> dict[str, Any]:
    """Holds on every worker within a second; fallbacks follow the order of the served entities."""
    endpoint = managed(admin, name)
    async with admin.change() as change:
        before = await change.current(endpoints, endpoint.id, "endpoint")
        settings = with_features(before["settings"], data)
        if settings != before["settings"]:
            await update_endpoint(change, before, {"settings": settings}, None)
        if data.rate_limits is not None:
            await set_limits_of(
                admin, change, endpoint.id, await limits_wanted(change, endpoint.id, data.rate_limits)
            )
    return ai_gateway(admin.snapshot, admin.snapshot.endpoints.get(name, endpoint))


def with_features(settings: Mapping[str, Any], features: AiGateway) -> dict[str, Any]:
    """An endpoint's settings with these features; how it is called otherwise stays."""
    kept = {
        name: value for name, value in settings.items() if name not in ("ai_gateway", "rules", "payloads")
    }
    stored: dict[str, Any] = {}
    if features.guardrails is not None:
        stored["guardrails"] = msgspec.to_builtins(features.guardrails)
    # How many are kept and how much of each is no part of this change: it stays, also while nothing is kept.
    payloads = {name: value for name, value in settings.get("payloads", {}).items() if name != "enabled"}
    table = features.inference_table_config
    if table is not None:
        names = {name: value for name, value in msgspec.to_builtins(table).items() if name != "enabled"}
        stored["inference_table_config"] = names
        if table.enabled:
            payloads["enabled"] = True
    if payloads:
        kept["payloads"] = payloads
    rules = dict(settings.get("rules", {}))
    if features.fallback_config is not None:
        rules["fallback"] = features.fallback_config.enabled
    elif rules.get("fallback") is not None:
        rules["fallback"] = False
    return {**kept, **({"ai_gateway": stored} if stored else {}), **({"rules": rules} if rules else {})}


def ai_gateway(snapshot: Snapshot, endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint's features as they hold."""
    features = dict(endpoint.features)
    names = features.pop("inference_table_config", None)
    if names is not None or endpoint.payloads is not None:
        features["inference_table_config"] = {**(names or {}), "enabled": endpoint.payloads is not None}
    return {
        "usage_tracking_config": {"enabled": True},
        **features,
        "fallback_config": {"enabled": bool(endpoint.fallbacks)},
        "rate_limits": shown_limits(snapshot, endpoint),
    }
