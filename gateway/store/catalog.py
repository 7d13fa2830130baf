"""Follow the configuration: one immutable snapshot, built off the event loop and swapped whole.

The change number is read every 500 ms on one connection, which NOTIFY only hurries. With PostgreSQL away the last
snapshot holds for 15 minutes, counted from when it was last confirmed; after that every request is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import asyncpg

from engines.beats import until_beat
from gateway.errors import Unavailable
from gateway.store.database import connect
from gateway.store.snapshot import Built, ConfigurationRows, build
from policies.catalog import Snapshot

POLL_SECONDS = 0.5
UNCONFIRMED_SECONDS = 900.0
CHANNEL = "weighbridge_configuration"
"""PostgreSQL notifies here when the configuration changes."""
_STATEMENT_SECONDS = 5.0
_NEWEST = "SELECT max(number) FROM gateway.configuration_change"
_SINCE = "SELECT number, touched FROM gateway.configuration_change WHERE number > $1 ORDER BY number"
_LAST = "SELECT number, touched FROM gateway.configuration_change ORDER BY number DESC LIMIT 1"
_SECRETS = "SELECT * FROM gateway.provider_secrets ORDER BY provider_id, version DESC"
_EVERYTHING: frozenset[str] = frozenset({"*"})
IN_SNAPSHOT = (
    "principals",
    "groups",
    "memberships",
    "roles",
    "endpoints",
    "served_entities",
    "grants",
    "prices",
    "limits",
    "budgets",
    "issuers",
    "providers",
    "throughput_pools",
    "throughput_provisions",
)
"""The tables that a snapshot is made of."""

log = logging.getLogger(__name__)
Listener = Callable[[frozenset[str]], None]


class FollowedCatalog:
    """The port `Catalog`: `start` loads the first snapshot if it can and follows from then on."""

    def __init__(
        self,
        url: str,
        *,
        poll_seconds: float = POLL_SECONDS,
        unconfirmed_seconds: float = UNCONFIRMED_SECONDS,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url = url
        self._poll_seconds = poll_seconds
        self._unconfirmed_seconds = unconfirmed_seconds
        self._monotonic = monotonic
        self.latest: Snapshot | None = None
        """The present snapshot however old it is; for those who only look."""
        self._stale_at: datetime | None = None
        self._seen = -1
        self._good_until = 0.0
        self._listeners: list[Listener] = []
        self._hurry = asyncio.Event()
        self._polled = asyncio.Event()
        self._rounds = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def snapshot(self) -> Snapshot:
        """The present snapshot; raises Unavailable while there is none or it was not confirmed for 15 minutes."""
        if self.latest is None or self._monotonic() > self._good_until:
            raise Unavailable(
                "The gateway cannot confirm its configuration: PostgreSQL is away. Try again in a moment.",
                retry_after_seconds=5,
            )
        return self.latest

    @property
    def confirmed_seconds_ago(self) -> float | None:
        """How long ago the snapshot was last known to be the newest; None before the first."""
        if self.latest is None:
            return None
        return max(0.0, self._monotonic() - (self._good_until - self._unconfirmed_seconds))

    def subscribe(self, listener: Listener) -> None:
        """Call `listener` with `<kind>:<id>` of what changed (`*`: anything) before the next snapshot is built."""
        self._listeners.append(listener)

    async def start(self, *, first_seconds: float = 10.0) -> None:
        """Begin to follow; returns with the first snapshot, or without one after `first_seconds`."""
        self._task = asyncio.create_task(self._follow(), name="catalog")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(first_seconds):
                while self.latest is None:
                    await self._next_round()

    async def stop(self) -> None:
        """Stop following; the last snapshot stays."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def refresh(self, *, seconds: float = 2.0) -> bool:
        """Look now rather than at the next turn; True when that worked within `seconds`."""
        # A round under way may have looked just before: only one that begins from now on counts.
        wanted = self._rounds + 1
        self._hurry.set()
        try:
            async with asyncio.timeout(seconds):
                while self._rounds < wanted + 1:
                    self._hurry.set()
                    await self._next_round()
        except TimeoutError:
            return False
        return True

    async def _next_round(self) -> None:
        self._polled.clear()
        await self._polled.wait()

    async def _follow(self) -> None:
        complained = False
        while True:
            connection = None
            try:
                connection = await connect(
                    self._url,
                    application_name="weighbridge-catalog",
                    # The client's own limit stands behind the server's, which a frozen server would not keep.
                    statement_seconds=_STATEMENT_SECONDS + 2,
                )
                if complained:
                    log.warning("The configuration is followed again.")
                    complained = False
                await self._poll_for_ever(connection)
            except Exception as error:
                # Whatever went wrong, the last snapshot holds and the next try may succeed; the clock runs out in 15 min.
                if not complained:
                    log.warning(
                        "The configuration cannot be followed (%s); the last one holds.", type(error).__name__
                    )
                    complained = True
            finally:
                if connection is not None:
                    connection.terminate()
            await asyncio.sleep(self._poll_seconds)

    async def _poll_for_ever(self, connection: asyncpg.Connection) -> None:
        for name, encoder, decoder in (("uuid", str, str), ("jsonb", json.dumps, json.loads)):
            await connection.set_type_codec(name, schema="pg_catalog", encoder=encoder, decoder=decoder)
        await connection.add_listener(CHANNEL, self._hurried)
        while True:
            self._hurry.clear()
            began = self._monotonic()
            # A frozen server must not freeze us: with no answer in time the connection is given up.
            async with asyncio.timeout(2 * _STATEMENT_SECONDS):
                newest: int = await connection.fetchval(_NEWEST) or 0
                now = datetime.now(UTC)
                if newest != self._seen or (self._stale_at is not None and now >= self._stale_at):
                    await self._load(connection, newest, now)
            self._good_until = began + self._unconfirmed_seconds
            self._rounds += 1
            self._polled.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(until_beat(self._poll_seconds)):
                    await self._hurry.wait()

    def _hurried(self, *_: object) -> None:
        self._hurry.set()

    async def _load(self, connection: asyncpg.Connection, newest: int, now: datetime) -> None:
        if newest < self._seen:
            # Another database, or this one restored from a backup: nothing that we know holds there.
            self._seen = -1
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await connection.execute(f"SET LOCAL statement_timeout = {int(_STATEMENT_SECONDS * 1000)}")
            changes: list[Any] = (
                await connection.fetch(_SINCE, self._seen)
                if self._seen >= 0
                else await connection.fetch(_LAST)
            )
            # Keys are forgotten first: what was revoked must not live on while a large snapshot is built.
            self._tell(_EVERYTHING if self._seen < 0 else (each for row in changes for each in row[1]))
            version = max((row[0] for row in changes), default=max(0, self._seen))
            loaded = ConfigurationRows(
                version=version,
                provider_secrets=await connection.fetch(_SECRETS),
                **{name: await connection.fetch(_current(name)) for name in IN_SNAPSHOT},
            )
        built: Built = await asyncio.to_thread(build, loaded, now)
        self.latest, self._stale_at, self._seen = built.snapshot, built.stale_at, version
        self._tell(())

    def _tell(self, touched: Iterable[str]) -> None:
        told = frozenset(touched)
        for listener in self._listeners:
            listener(told)


def _current(table: str) -> str:
    """The present versions of what is in a table, in order of id."""
    return f"SELECT * FROM gateway.{table} WHERE to_change IS NULL ORDER BY id"  # noqa: S608 - a fixed name
