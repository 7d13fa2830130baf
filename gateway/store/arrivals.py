"""The principal of a subject whose token is used for the first time, where its issuer is set so.

Created once however many workers are asked at the same time, and a claimed name never makes anyone another.
"""

from __future__ import annotations

from sqlalchemy import func

from gateway.errors import Conflict
from gateway.store.changes import Actor, Change, Configuration
from gateway.store.principals import create_principal
from gateway.store.tables.identity import issuers, principals
from policies.tokens import Identity, Issuer

_LONGEST_NAME = 128


async def arrive(configuration: Configuration, issuer: Issuer, identity: Identity) -> None:
    """Create it, unless it is there or the issuer creates nobody any more; raises Conflict where one like it exists."""
    actor = Actor(None, f"issuer {issuer.name}")
    async with configuration.change(actor, "first use of its subject") as change:
        configured = await change.rows(
            issuers, issuers.c.id == issuer.id, issuers.c.enabled, issuers.c.create_principals
        )
        mine = (principals.c.issuer == issuer.issuer, principals.c.subject == identity.subject)
        if not configured or await change.rows(principals, *mine):
            return
        await create_principal(
            change,
            issuer.kind.value,
            {
                "name": await _free_name(change, identity.name, issuer.name),
                "issuer": issuer.issuer,
                "subject": identity.subject,
            },
        )


async def _free_name(change: Change, claimed: str, issuer: str) -> str:
    """The claimed name; where somebody has it, one that says whose: a claim never makes anyone another."""
    for number in range(100):
        suffix = "" if number == 0 else f" ({issuer[:40]}{'' if number == 1 else f' {number}'})"
        name = claimed[: _LONGEST_NAME - len(suffix)] + suffix
        if not await change.rows(principals, func.lower(principals.c.name) == func.lower(name)):
            return name
    raise Conflict("There are a hundred principals of that name.")
