"""Who is behind an API key: found on first use, remembered by a digest of the whole key, forgotten when it changes.

With PostgreSQL away a key that is known keeps working and an unknown one is answered 503, never 401. Whatever is
wrong with a key, the answer is one and the same.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gateway.errors import Unauthenticated, Unavailable
from gateway.security import keys
from gateway.security.keys import Peppers
from gateway.store.catalog import FollowedCatalog
from gateway.store.database import Connections, reached
from gateway.store.key_uses import KeyUses
from policies.catalog import Snapshot
from policies.principal import Caller

LOOKUPS_AT_ONCE = 16
NEGATIVE_SECONDS = 5.0
_WAITING_AT_MOST = 512
_REMEMBERED_AT_MOST = 131_072
"""Half a kilobyte each. With 20,000 of 100,000 keys in use remembered, four calls in five looked theirs up: 3.4 times the cost."""
_REFUSED_AT_MOST = 20_000
_LOOKUP_SECONDS = 3.0
_NEVER = float("inf")
_ROW = """
    SELECT id::text, principal_id::text, endpoints::text[], planes, priority, counts_as::text, expires_at, revoked_at,
           digest, pepper_version
      FROM gateway.api_keys WHERE to_change IS NULL
"""
_BY_ID_PART = f"{_ROW} AND id_part = $1"
_BY_ID = f"{_ROW} AND id = $1::uuid"


@dataclass(slots=True)
class _Known:
    """A verified key, and the caller it stands for under one snapshot."""

    key_id: str
    principal_id: str
    endpoints: frozenset[str] | None
    planes: frozenset[str]
    batch: bool
    counts_as: str | None
    expires_at: float
    snapshot: Snapshot | None
    caller: Caller | None


class StoredKeys:
    """The port `Keys` over PostgreSQL."""

    def __init__(
        self,
        connections: Connections,
        peppers: Peppers,
        catalog: FollowedCatalog,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connections = connections
        self._peppers = peppers
        self._catalog = catalog
        self._clock = clock
        self._known: dict[bytes, _Known] = {}
        self._refused: dict[bytes, float] = {}
        self._under_way: dict[bytes, asyncio.Task[_Known | None]] = {}
        self._turns = asyncio.Semaphore(LOOKUPS_AT_ONCE)
        self._changes = 0
        self.uses = KeyUses(connections, clock)
        self._note = self.uses.fresh.add
        catalog.subscribe(self._changed)

    def known(self, credential: str) -> Caller | None:
        """The caller, when the credential was verified and nothing has changed since."""
        try:
            fingerprint = hashlib.sha256(credential.encode()).digest()
        except UnicodeEncodeError:
            return None
        # As `_standing`, which a call saved: this runs for every request.
        found = self._known.get(fingerprint)
        if found is None or self._clock() >= found.expires_at:
            return None
        self._note(found.key_id)
        return found.caller if found.snapshot is self._catalog.latest else self._renew(found)

    def _standing(self, fingerprint: bytes) -> Caller | None:
        found = self._known.get(fingerprint)
        if found is None or self._clock() >= found.expires_at:
            return None
        self._note(found.key_id)
        if found.snapshot is self._catalog.latest:
            return found.caller
        return self._renew(found)

    async def verify(self, credential: str, snapshot: Snapshot) -> Caller:
        """The caller; raises Unauthenticated, or Unavailable when PostgreSQL is away and the credential is unknown."""
        id_part = keys.parse(credential)
        if id_part is None:
            raise Unauthenticated
        caller = self.known(credential)
        if caller is not None:
            return caller

        def find() -> Coroutine[Any, Any, _Known | None]:
            return self._find(
                lambda: self._look_up(id_part), lambda row: self._judge(credential, row), fingerprint
            )

        fingerprint = keys.fingerprint(credential)
        return await self._found(fingerprint, find, snapshot)

    def known_by_id(self, key_id: str) -> Caller | None:
        """The caller behind a key that another credential names, when it was looked up and nothing has changed."""
        return self._standing(_name(key_id))

    async def verify_by_id(self, key_id: str, snapshot: Snapshot) -> Caller:
        """The caller behind a key that a verified credential names; raises as `verify` does."""
        name = _name(key_id)
        caller = self._standing(name)
        if caller is not None:
            return caller
        return await self._found(
            name, lambda: self._find(lambda: self._look_up_id(key_id), self._judge_row, name), snapshot
        )

    async def _found(
        self, fingerprint: bytes, find: Callable[[], Coroutine[Any, Any, _Known | None]], snapshot: Snapshot
    ) -> Caller:
        if self._refused.get(fingerprint, 0.0) > self._clock():
            raise Unauthenticated
        task = self._under_way.get(fingerprint)
        if task is None:
            if len(self._under_way) >= _WAITING_AT_MOST:
                raise Unavailable("Too many unknown keys are being looked up; try again in a moment.")
            # A task of its own: callers that wait for the same key come and go, the look-up is done once.
            task = asyncio.create_task(find(), name="key look-up")
            self._under_way[fingerprint] = task
            task.add_done_callback(lambda done: self._ended(fingerprint, done))
        found = await asyncio.shield(task)
        caller = None if found is None else await self._caller(found, snapshot)
        if found is None or caller is None or self._clock() >= found.expires_at:
            self._refuse(fingerprint)
            raise Unauthenticated
        self._note(found.key_id)
        return caller

    def _ended(self, fingerprint: bytes, task: asyncio.Task[_Known | None]) -> None:
        self._under_way.pop(fingerprint, None)
        if not task.cancelled():
            # All who waited may have left: what it failed with is then nobody's to hear.
            task.exception()

    def start(self) -> None:
        """Begin to write behind when keys were last used."""
        self.uses.start()

    async def stop(self) -> None:
        """Write what is left of that, then stop."""
        await self.uses.stop()

    def _changed(self, touched: frozenset[str]) -> None:
        self._changes += 1
        if "*" in touched:
            self._known.clear()
            self._refused.clear()
        changed: set[str] = set()
        for each in touched:
            kind, _, object_id = each.partition(":")
            if kind == "api_key":
                changed.add(object_id)
            if kind in ("api_key", "user", "service_principal"):
                self._refused.clear()
        if changed:
            # Looked through, some 2 ms a change for every 20,000: an index would take a fifth of each key's room.
            for digest in [digest for digest, known in self._known.items() if known.key_id in changed]:
                del self._known[digest]

    def _renew(self, found: _Known) -> Caller | None:
        """The caller under the present snapshot: groups, roles and whether it is active may have changed."""
        snapshot = self._catalog.latest
        found.caller = caller = None if snapshot is None else _caller_of(found, snapshot)
        if caller is not None:
            found.principal_id = caller.principal.id  # the same text: one of it is enough
        found.snapshot = snapshot
        return found.caller

    async def _caller(self, found: _Known, snapshot: Snapshot) -> Caller | None:
        if found.principal_id not in (self._catalog.latest or snapshot).principals:
            # Key and principal may be newer than our snapshot.
            await self._catalog.refresh()
        return found.caller if found.snapshot is self._catalog.latest else self._renew(found)

    async def _find(
        self,
        look_up: Callable[[], Awaitable[Any]],
        judge: Callable[[Any], _Known | None],
        fingerprint: bytes,
    ) -> _Known | None:
        while True:
            seen = self._changes
            # The wait for a turn counts too: a frozen database must not hold callers longer than one that is gone.
            with reached():
                async with asyncio.timeout(_LOOKUP_SECONDS), self._turns:
                    row = await look_up()
            found = judge(row)
            # What was read may be outdated by a change that was announced meanwhile: read again.
            if seen == self._changes:
                break
        if found is not None:
            if len(self._known) >= _REMEMBERED_AT_MOST:
                del self._known[next(iter(self._known))]
            self._known[fingerprint] = found
            self._renew(found)
        return found

    def _refuse(self, fingerprint: bytes) -> None:
        if len(self._refused) >= _REFUSED_AT_MOST:
            for each in list(self._refused)[: _REFUSED_AT_MOST // 2]:
                del self._refused[each]
        self._refused[fingerprint] = self._clock() + NEGATIVE_SECONDS

    async def _look_up(self, id_part: str) -> Any:
        return await self._row(_BY_ID_PART, id_part)

    async def _look_up_id(self, key_id: str) -> Any:
        return await self._row(_BY_ID, key_id)

    async def _row(self, query: str, sought: str) -> Any:
        async with self._connections.begun() as connection:
            return await connection.fetchrow(query, sought)

    def _judge(self, credential: str, row: Any) -> _Known | None:
        if row is None:
            keys.matches(credential, None, None, self._peppers)
            return None
        if not keys.matches(credential, row["digest"], row["pepper_version"], self._peppers):
            return None
        return self._judge_row(row)

    def _judge_row(self, row: Any) -> _Known | None:
        if row is None:
            return None
        ends = min(_timestamp(row["expires_at"]), _timestamp(row["revoked_at"]))
        if self._clock() >= ends:
            return None
        return _Known(
            key_id=row["id"],
            principal_id=row["principal_id"],
            endpoints=None if row["endpoints"] is None else _one(frozenset(row["endpoints"])),
            planes=_one(frozenset(row["planes"])),
            batch=row["priority"] == "batch",
            counts_as=row["counts_as"],
            expires_at=ends,
            snapshot=None,
            caller=None,
        )


@functools.lru_cache(maxsize=1024)
def _one(names: frozenset[str]) -> frozenset[str]:
    """The first made of equal sets: keys by the thousand have the same."""
    return names


def _name(key_id: str) -> bytes:
    """What a key is remembered by that was named by its id; no digest is as long."""
    return b"id:" + key_id.encode()


def _caller_of(found: _Known, snapshot: Snapshot) -> Caller | None:
    principal = snapshot.principals.get(found.principal_id)
    if principal is None or not principal.active:
        return None
    return Caller(
        principal=principal,
        key_id=found.key_id,
        endpoints=found.endpoints,
        planes=found.planes,
        expires_at=None if found.expires_at == _NEVER else int(found.expires_at),
        batch=found.batch,
        counts_as=found.counts_as,
    )


def _timestamp(value: datetime | None) -> float:
    return _NEVER if value is None else value.timestamp()
