"""Which failures of a command are said in one sentence; any other is a fault of ours and shows where it happened."""

from __future__ import annotations

import sys
from typing import Any

# A class that no module was imported for cannot have been raised: nothing is imported here only to be compared.
_SAID = (
    ("gateway.cli.adapters", "CannotAdapt"),
    ("gateway.cli.engine_plan", "CannotPlan"),
    ("gateway.cli.reach", "CannotReach"),
    ("gateway.errors", "GatewayError"),
    ("gateway.reports.catalogue", "UnknownReport"),
    ("gateway.reports.parquet", "NoParquet"),
    ("gateway.reports.period", "BadPeriod"),
    ("gateway.security.secrets", "SecretError"),
    ("gateway.settings", "SettingsError"),
    ("gateway.store.migrate", "SchemaError"),
    ("gateway.spool.books", "Away"),
    ("gateway.spool.books", "Refused"),
    ("gateway.spool.drainer", "AnotherDrainer"),
)


def sentence(error: BaseException) -> str | None:
    """What to say of it, or None."""
    if any(isinstance(error, each) for each in _known()):
        return str(error)
    asyncpg: Any = sys.modules.get("asyncpg")
    if isinstance(error, OSError) or (asyncpg is not None and isinstance(error, asyncpg.PostgresError)):
        return f"{type(error).__name__}: {error}"
    return None


def _known() -> list[type[BaseException]]:
    found: list[type[BaseException]] = []
    for module, name in _SAID:
        loaded = sys.modules.get(module)
        if loaded is not None:
            found.append(getattr(loaded, name))
    return found
