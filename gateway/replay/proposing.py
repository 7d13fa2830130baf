"""A proposed policy as workers would have it: the file is applied in a transaction that is rolled back.

What comes out is what applying it would give, refusals of what cannot be applied included, and nothing is changed.
"""

from __future__ import annotations

import asyncio

from gateway.declarative.apply import Declaration, applied
from gateway.security.sealing import Sealing
from gateway.store.changes import Actor, Configuration
from gateway.store.history import TABLES_IN_SNAPSHOT
from gateway.store.reading import rows
from gateway.store.snapshot import ConfigurationRows, build
from policies.catalog import Snapshot


class _Enough(Exception):
    """Rolls the transaction back."""


async def proposed(configuration: Configuration, sealing: Sealing, declaration: Declaration) -> Snapshot:
    """The present configuration with this file applied; raises what applying it would raise."""
    loaded: ConfigurationRows | None = None
    at = None
    try:
        async with configuration.change(
            Actor(None, "replay"), "a policy is tried", file=declaration.file
        ) as change:
            await applied(change, sealing, declaration, None)
            at = change.at
            loaded = ConfigurationRows(
                version=change.number,
                **{name: await rows(change.connection, table) for name, table in TABLES_IN_SNAPSHOT.items()},
            )
            raise _Enough
    except _Enough:
        pass
    assert loaded is not None
    assert at is not None
    return (await asyncio.to_thread(build, loaded, at)).snapshot
