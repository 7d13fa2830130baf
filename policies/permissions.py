"""May a principal do a thing to an endpoint: the one function that list, call and explain all ask.

Default deny: without a grant that reaches the level, the answer is Deny.
"""

from __future__ import annotations

from enum import IntEnum

from policies.catalog import Endpoint, Snapshot
from policies.decision import Allow, Decision, Deny
from policies.principal import Caller, Role


class Level(IntEnum):
    """Databricks' permission levels on an endpoint; each contains the ones below it."""

    CAN_VIEW = 1
    CAN_QUERY = 2
    CAN_MANAGE = 3


def granted(snapshot: Snapshot, caller: Caller, endpoint: Endpoint) -> tuple[Level | None, str]:
    """The highest level the caller's principal and groups hold on the endpoint, and the rule that gives it."""
    principal = caller.principal
    if Role.ADMIN in principal.roles:
        return Level.CAN_MANAGE, "role admin"
    grants = snapshot.grants.get(endpoint.id)
    if not grants:
        return None, "default deny"
    best, by = grants.get(principal.id), None
    for group in principal.groups:
        level = grants.get(group)
        if level is not None and (best is None or level > best):
            best, by = level, group
    if best is None:
        return None, "default deny"
    return best, "grant to the principal" if by is None else f"grant to group {by}"


def may(snapshot: Snapshot, caller: Caller, level: Level, endpoint: Endpoint) -> Decision:
    """Whether the caller holds at least `level` on the endpoint, its key's confinement included."""
    if caller.endpoints is not None and endpoint.id not in caller.endpoints:
        return Deny(
            "permission_denied",
            f"This API key is confined to other endpoints than {endpoint.name!r}; use a key whose scope names it.",
            "scope of the API key",
        )
    held, rule = granted(snapshot, caller, endpoint)
    if held is not None and held >= level:
        return Allow(rule)
    return Deny(
        "permission_denied",
        f"{caller.principal.name!r} lacks {level.name} on endpoint {endpoint.name!r}"
        f" (holds {held.name if held is not None else 'no permission'});"
        " ask an administrator or a holder of CAN_MANAGE for it.",
        rule,
    )
