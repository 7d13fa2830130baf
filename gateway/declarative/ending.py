"""Take away what a file no longer names: what can be deleted goes, what stays in the books is let go of.

An object that went with what it belonged to is no error: a plan is made of what was there before any of it was done.
"""

from __future__ import annotations

from gateway.declarative.present import TABLES
from gateway.store.budgets import delete_budget
from gateway.store.changes import Change
from gateway.store.endpoints import delete_endpoint, withdraw
from gateway.store.issuers import delete_issuer
from gateway.store.principals import delete_group, delete_principal
from gateway.store.providers import delete_provider
from gateway.store.rules import delete_limit
from gateway.store.tables.events import webhooks
from gateway.store.throughput import delete_pool, delete_provision
from policies.declaration import Step


async def delete(change: Change, step: Step) -> None:
    """Delete an object that the file no longer names."""
    assert step.id is not None
    table = TABLES[step.kind]
    found = await change.rows(table, table.c.id == step.id)
    if not found:
        # It went with what it belonged to.
        return
    match step.kind:
        case "issuer":
            await delete_issuer(change, found[0])
        case "user" | "service_principal":
            await delete_principal(change, found[0])
        case "group":
            await delete_group(change, found[0])
        case "provider":
            await delete_provider(change, found[0])
        case "endpoint":
            await delete_endpoint(change, found[0])
        case "grant":
            await withdraw(change, found[0])
        case "limit":
            await delete_limit(change, found[0])
        case "throughput_pool":
            await delete_pool(change, found[0])
        case "throughput_provision":
            await delete_provision(change, found[0])
        case "webhook":
            await change.remove(webhooks, "webhook", found[0])
        case _:
            await delete_budget(change, found[0])


async def release(change: Change, step: Step) -> None:
    """Let go of what stays in the books."""
    assert step.id is not None
    table = TABLES[step.kind]
    before = await change.current(table, step.id, step.kind)
    await change.revise(table, step.kind, before, action="release", managed_by=None)
