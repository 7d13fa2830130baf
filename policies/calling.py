"""How endpoints and their entities are to be called: time limits, places, replicas, retries, stickiness.

All of it is configuration; what is not set holds as the default says, and the defaults change nothing for an endpoint
of one entity at one address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any


class Sticky(StrEnum):
    """What keeps a caller on the side of the split that it was given, beside the header that always does."""

    HEADER = "header"
    """Nothing else."""
    USER = "user"
    """The request's `user`."""
    CONVERSATION = "conversation"
    """The request's `user`, else how its conversation begins."""


@dataclass(frozen=True, slots=True)
class EntityRules:
    """How one served entity is called. Times are milliseconds; 0 is the deployment's own limit, or none."""

    connect_ms: int = 0
    first_token_ms: int = 0
    between_ms: int = 0
    total_ms: int = 0
    concurrency: int = 0
    """Calls that may run at once over all workers; 0: as many as come."""
    queue: int = 0
    """Calls that may wait for a place over all workers; more are refused at once."""
    queue_ms: int = 10_000
    """How long a call may wait."""
    principal_percent: int = 80
    """How much of the places, and of the queue, one principal may have."""
    failures: int = 5
    """Failures in a row that open the circuit."""
    open_ms: int = 5_000
    """How long it stays open before one call may try; doubled with each that fails, up to a minute."""
    fallback_weight: int = 1
    """Its share among fallbacks of the same position."""
    replicas: tuple[str, ...] = ()
    """Further addresses of the same model."""
    affinity: bool = True
    """Whether replicas of the local engine get the conversations that they have seen."""
    drain: bool = False
    """Whether a stream is read to its end though its client has left: for providers that bill it all the same."""

    @property
    def timed(self) -> tuple[int, int, int, int]:
        """The time limits: connect, first token, between tokens, total."""
        return self.connect_ms, self.first_token_ms, self.between_ms, self.total_ms


@dataclass(frozen=True, slots=True)
class EndpointRules:
    """How calls of one endpoint are carried out."""

    sticky: Sticky = Sticky.USER
    timeout_ms: int = 0
    """How long a call may take in all unless its caller says less; 0: no limit of its own."""
    retries: int = 1
    """Further tries at an entity that failed before its first byte; other entities are tried beside."""
    fallback: bool | None = None
    """Whether other entities take over: None: those with a place in the order; True: all; False: none."""
    keep_responses_hours: int = 0
    """How long responses are kept for those that follow them; 0: none is."""


PLAIN_ENTITY = EntityRules()
PLAIN_ENDPOINT = EndpointRules()


def entity_rules(settings: Mapping[str, Any]) -> EntityRules:
    """An entity's rules from its stored settings; what belongs to others is left alone."""
    known = {each.name: settings[each.name] for each in fields(EntityRules) if each.name in settings}
    if "replicas" in known:
        known["replicas"] = tuple(known["replicas"])
    return EntityRules(**known) if known else PLAIN_ENTITY


def endpoint_rules(settings: Mapping[str, Any]) -> EndpointRules:
    """An endpoint's rules from its stored settings; raises ValueError for a stickiness that is unknown."""
    known = {each.name: settings[each.name] for each in fields(EndpointRules) if each.name in settings}
    if "sticky" in known:
        known["sticky"] = Sticky(known["sticky"])
    return EndpointRules(**known) if known else PLAIN_ENDPOINT
