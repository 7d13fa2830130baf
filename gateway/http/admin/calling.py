"""How endpoints and entities are called, as the API and files take it: what is left out has the policy's default."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from policies.caching import LARGEST_KB, LONGEST_SECONDS, CacheRules
from policies.calling import EndpointRules, EntityRules
from policies.payloads import PayloadRules

_ENTITY = EntityRules()
_ENDPOINT = EndpointRules()
_CACHE = CacheRules()
_PAYLOADS = PayloadRules()
Milliseconds = Annotated[int, Meta(ge=0, le=86_400_000)]
Address = Annotated[str, Meta(max_length=512, pattern=r"^https?://[!-~]+$")]


class EntityCalling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How one served entity is called. Times in milliseconds; 0: the deployment's own limit, or none."""

    connect_ms: Milliseconds = _ENTITY.connect_ms
    first_token_ms: Milliseconds = _ENTITY.first_token_ms
    between_ms: Milliseconds = _ENTITY.between_ms
    total_ms: Milliseconds = _ENTITY.total_ms
    concurrency: Annotated[
        int,
        Meta(ge=0, le=100_000, description="Calls that may run at once, over all workers; 0: any number."),
    ] = _ENTITY.concurrency
    queue: Annotated[
        int, Meta(ge=0, le=100_000, description="Calls that may wait for a place; more are refused at once.")
    ] = _ENTITY.queue
    queue_ms: Milliseconds = _ENTITY.queue_ms
    principal_percent: Annotated[
        int, Meta(ge=1, le=100, description="How much of places and queue one principal may have.")
    ] = _ENTITY.principal_percent
    failures: Annotated[int, Meta(ge=1, le=1000, description="Failures in a row that open the circuit.")] = (
        _ENTITY.failures
    )
    open_ms: Annotated[
        int, Meta(ge=100, le=60_000, description="How long it stays open before one call may try.")
    ] = _ENTITY.open_ms
    fallback_weight: Annotated[
        int, Meta(ge=1, le=1000, description="Its share among fallbacks of the same position.")
    ] = _ENTITY.fallback_weight
    replicas: Annotated[
        tuple[Address, ...], Meta(max_length=64, description="Further addresses of the same model.")
    ] = ()
    affinity: Annotated[
        bool, Meta(description="Whether replicas of the local engine get the conversations they have seen.")
    ] = _ENTITY.affinity
    drain: Annotated[
        bool,
        Meta(
            description="Whether a stream whose client has left is read to its end, as the provider bills all of it."
        ),
    ] = _ENTITY.drain


class EndpointCalling(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How calls of one endpoint are carried out."""

    sticky: Annotated[
        Literal["header", "user", "conversation"],
        Meta(description="What keeps a caller on its side of the split, beside x-weighbridge-sticky."),
    ] = "user"
    timeout_ms: Annotated[
        int,
        Meta(ge=0, le=86_400_000, description="How long a call may take in all; callers may ask for less."),
    ] = _ENDPOINT.timeout_ms
    retries: Annotated[
        int, Meta(ge=0, le=10, description="Further tries at what failed before its first byte.")
    ] = _ENDPOINT.retries
    fallback: bool | None = _ENDPOINT.fallback
    """Whether other entities take over: null: those with a place in the order; true: all; false: none."""
    keep_responses_hours: Annotated[
        int,
        Meta(
            ge=0,
            le=87_600,
            description="How long responses are kept, sealed, for `previous_response_id`; 0: none is.",
        ),
    ] = _ENDPOINT.keep_responses_hours


class EndpointPayloads(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whether calls are kept with what was asked and answered, and how many of them."""

    enabled: bool = _PAYLOADS.enabled
    sampling_fraction: Annotated[
        float, Meta(ge=0, le=1, description="How many of the calls are kept, chosen by their ids.")
    ] = _PAYLOADS.sampling_fraction
    max_bytes: Annotated[
        int, Meta(ge=0, le=4 << 20, description="What is kept of a request and of an answer, each.")
    ] = _PAYLOADS.max_bytes
    keep_days: Annotated[
        Annotated[int, Meta(ge=1, le=3650)] | None,
        Meta(
            description="How long, where that is shorter than the deployment keeps kept calls; null: as long."
        ),
    ] = None


class EndpointCache(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Whether answers are stored and given again to the same question, and to whom."""

    enabled: bool = _CACHE.enabled
    ttl_seconds: Annotated[
        int, Meta(ge=1, le=LONGEST_SECONDS, description="How long an answer is stored.")
    ] = _CACHE.ttl_seconds
    scope: Annotated[
        Literal["principal", "group", "endpoint"],
        Meta(
            description="Whose calls an answer serves: its principal's, its charged group's, or everybody's."
        ),
    ] = "principal"
    max_kb: Annotated[int, Meta(ge=1, le=LARGEST_KB, description="Larger answers are not stored.")] = (
        _CACHE.max_kb
    )
    sampled: Annotated[bool, Meta(description="Also answers to calls whose temperature is not 0.")] = (
        _CACHE.sampled
    )


def stored(calling: EntityCalling | EndpointCalling | EndpointPayloads | EndpointCache) -> Mapping[str, Any]:
    """The rules as they are kept: without defaults, so that a better default reaches those who chose nothing."""
    return listed(msgspec.to_builtins(calling))


def listed(rules: dict[str, Any]) -> dict[str, Any]:
    """The rules with a list where JSON has no other sequence, so that what is kept and what is asked compare."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in rules.items()}


def shown_entity(settings: Mapping[str, Any]) -> EntityCalling:
    """An entity's rules from its stored settings."""
    return msgspec.convert(settings.get("rules", {}), EntityCalling)


def shown_payloads(settings: Mapping[str, Any]) -> EndpointPayloads:
    """What is kept of an endpoint's calls, from its stored settings."""
    return msgspec.convert(settings.get("payloads", {}), EndpointPayloads)


def shown_cache(settings: Mapping[str, Any]) -> EndpointCache:
    """How an endpoint's answers are stored, from its stored settings."""
    return msgspec.convert(settings.get("cache", {}), EndpointCache)


def shown_endpoint(settings: Mapping[str, Any]) -> EndpointCalling:
    """An endpoint's rules from its stored settings."""
    return msgspec.convert(settings.get("rules", {}), EndpointCalling)
