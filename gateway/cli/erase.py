"""`weighbridge audit erase`: forget what entries are about, as the schema's owner; the chain still holds."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Sequence

from gateway.cli.reach import CannotReach, owner_url
from gateway.security.secrets import Purpose, load_master_key
from gateway.settings import Settings
from gateway.store import database
from gateway.store.erasure import erase_entries, erase_refusals


def run(settings: Settings, entries: Sequence[int], principal: str | None, reason: str) -> tuple[int, int]:
    """How many entries and refusals were erased, in one transaction."""
    if not entries and principal is None:
        raise CannotReach("Say what to erase: numbers of entries, or --refusals-of a principal's id.")
    return asyncio.run(_run(settings, entries, principal, reason))


async def _run(
    settings: Settings, entries: Sequence[int], principal: str | None, reason: str
) -> tuple[int, int]:
    key = load_master_key(settings.secret_file).derive(Purpose.AUDIT_CHAIN)
    actor = f"{getpass.getuser()} (owner)"
    engine = database.engine(owner_url(settings), application_name="weighbridge-erase", size=0)
    try:
        async with engine.begin() as connection:
            erased = refusals = 0
            if entries:
                erased = await erase_entries(connection, entries, key=key, actor=actor, reason=reason)
            if principal is not None:
                refusals = await erase_refusals(connection, principal, key=key, actor=actor, reason=reason)
            return erased, refusals
    finally:
        await engine.dispose()
