"""Public keys of issuers: fetched from one fixed address, and kept while that address is away.

At most one fetch in 30 s, whatever clients ask for; a key is no longer used 5 minutes after it left the published set,
unless the set cannot be fetched: then the last good one holds, for a day.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.errors import Unavailable
from policies.tokens import Family

KID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
MAX_DOCUMENT = 1 << 20
FETCH_SECONDS = 5.0
REFRESH_SECONDS = 30.0
"""Least time between two fetches of one set."""
# With the 60 s for which a verified token is remembered these stay below the 5 minutes.
_AGEING_SECONDS = 170.0
_STALE_SECONDS = 220.0
_LAST_GOOD_SECONDS = 86_400.0
_WAITING_AT_MOST = 256

log = logging.getLogger(__name__)
Fetch = Callable[[str], Awaitable[bytes]]


class JwksError(Exception):
    """A set cannot be fetched or read; the text says why."""


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One public key, and the algorithms that it verifies."""

    algorithms: frozenset[str]
    key: Any


KeySet = Mapping[str, VerifyingKey]
"""By `kid`; empty text for a key that has none."""


def pick(keys: KeySet, kid: str | None) -> VerifyingKey | None:
    """The key that a token names; without a name, or among keys without names, only where there is no choice."""
    if kid is not None and kid in keys:
        return keys[kid]
    only = next(iter(keys.items())) if len(keys) == 1 else None
    return only[1] if only is not None and (kid is None or only[0] == "") else None


async def fetch(address: str) -> bytes:
    """One document over HTTP: no redirect, no proxy, no cookie, no decompression, within its size and time."""
    # Only deployments with an issuer need it: 8 MB of every worker.
    import aiohttp

    session = aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS),
        auto_decompress=False,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        async with session, session.get(address, allow_redirects=False, headers=headers) as answer:
            if answer.status != 200:
                raise JwksError(f"it answered {answer.status}")
            if answer.headers.get("content-encoding", "identity").lower() != "identity":
                raise JwksError("it answered compressed")
            body = bytearray()
            async for part in answer.content.iter_chunked(1 << 16):
                body += part
                if len(body) > MAX_DOCUMENT:
                    raise JwksError(f"it is over {MAX_DOCUMENT >> 20} MiB")
            return bytes(body)
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        raise JwksError(f"it cannot be fetched ({type(error).__name__})") from error


class PublishedKeys:
    """The keys that an issuer publishes."""

    def __init__(
        self, address: str, family: Family, *, fetch: Fetch, monotonic: Callable[[], float], name: str
    ) -> None:
        self._address = address
        self._family = family
        self._fetch = fetch
        self._monotonic = monotonic
        self._name = name
        self._keys: KeySet | None = None
        self._fetched_at = 0.0
        self._tried_at = -REFRESH_SECONDS
        self._under_way: asyncio.Task[None] | None = None
        self._waiting = 0

    async def find(self, kid: str | None) -> VerifyingKey | None:
        """The key of this name; raises Unavailable while no set could be had at all."""
        age = self._monotonic() - self._fetched_at
        if self._keys is None or age > _STALE_SECONDS:
            await self._refreshed()
        elif age > _AGEING_SECONDS:
            self._refresh()
        if self._keys is None or self._monotonic() - self._fetched_at > _LAST_GOOD_SECONDS:
            raise Unavailable("Tokens of this issuer cannot be verified now: its keys are out of reach.")
        found = pick(self._keys, kid)
        if found is None and await self._refreshed():
            found = pick(self._keys, kid)
        return found

    async def close(self) -> None:
        """Give up a fetch that is under way."""
        if self._under_way is not None:
            self._under_way.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._under_way

    async def _refreshed(self) -> bool:
        """Wait for a fetch; False where none was due, or too many wait for it already."""
        task = self._refresh()
        if task is None or self._waiting >= _WAITING_AT_MOST:
            return False
        self._waiting += 1
        try:
            await asyncio.shield(task)
        finally:
            self._waiting -= 1
        return True

    def _refresh(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one where the last began long enough ago."""
        if self._under_way is None and self._monotonic() - self._tried_at >= REFRESH_SECONDS:
            self._tried_at = self._monotonic()
            self._under_way = asyncio.create_task(self._load(), name="issuer keys")
        return self._under_way

    async def _load(self) -> None:
        began = self._monotonic()
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                document = await self._fetch(self._address)
            from gateway.security.key_sets import read_key_set

            self._keys = read_key_set(document, self._family)
            self._fetched_at = began
        except (JwksError, TimeoutError) as error:
            log.warning(
                "The keys of the issuer %s were not renewed: %s; the last good set holds.", self._name, error
            )
        finally:
            self._under_way = None
