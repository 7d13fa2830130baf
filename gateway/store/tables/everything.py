"""All tables, so that a migration can be compared with them. Nothing else needs this module."""

from __future__ import annotations

from gateway.store.tables import (
    audit,
    catalog,
    closings,
    credits,
    engines,
    events,
    identity,
    ledger,
    made_once,
    payloads,
    providers,
    rules,
    sql_calls,
    sums,
    throughput,
    turns,
    versioned,
)
from gateway.store.tables.base import metadata

__all__ = [
    "audit",
    "catalog",
    "closings",
    "credits",
    "engines",
    "events",
    "identity",
    "ledger",
    "made_once",
    "metadata",
    "payloads",
    "providers",
    "rules",
    "sql_calls",
    "sums",
    "throughput",
    "turns",
    "versioned",
]
