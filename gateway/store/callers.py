"""Who is behind any credential: a key of this gateway, one of its own short-lived tokens, or a token of an issuer.

Of a token only its verified claims are remembered, by a digest of the whole token and for a minute at most; whom they
stand for is read from the configuration as it is. Whatever is wrong with a credential, the answer is one and the same.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from gateway.errors import Conflict, Unauthenticated
from gateway.security.guesses import Guesses
from gateway.security.keys import PREFIX, fingerprint
from gateway.security.networks import network
from gateway.security.sessions import ISSUER as OWN
from gateway.security.sessions import Session, Sessions
from gateway.security.tokens import TokenVerifier, looks_like_token, peek, prepared
from gateway.store.catalog import FollowedCatalog
from gateway.store.keys import StoredKeys
from policies.catalog import Snapshot
from policies.principal import Caller
from policies.tokens import Identity, Issuer, caller_of

REMEMBERED_SECONDS = 60.0
_NEGATIVE_SECONDS = 5.0
_REMEMBERED_AT_MOST = 20_000
_CREATED_AT_ONCE = 2
Arrive = Callable[[Issuer, Identity], Awaitable[None]]
"""Creates the principal of a subject that is used for the first time; raises Conflict where one like it exists."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Verified:
    """The verified claims of one token, and whom they stand for under one snapshot."""

    said: tuple[Issuer, Identity] | Session
    until: float
    snapshot: Snapshot | None = None
    caller: Caller | None = None


class Callers:
    """The port `Keys` over keys and tokens."""

    def __init__(
        self,
        keys: StoredKeys,
        verifier: TokenVerifier,
        sessions: Sessions,
        catalog: FollowedCatalog,
        arrive: Arrive,
        *,
        clock: Callable[[], float],
        guesses: Guesses | None = None,
    ) -> None:
        self._keys = keys
        self._verifier = verifier
        self._sessions = sessions
        self._catalog = catalog
        self._add = arrive
        self._clock = clock
        self._guesses = guesses or Guesses(time.monotonic)
        self._verified: dict[bytes, _Verified] = {}
        self._strangers: dict[tuple[str, str], float] = {}
        self._arriving: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(_CREATED_AT_ONCE)
        catalog.subscribe(self._changed)

    def known(self, credential: str) -> Caller | None:
        """The caller, when the credential was verified and nothing has changed since."""
        if credential.startswith(PREFIX):
            return self._keys.known(credential)
        if not self._verified:
            return None
        found = self._verified.get(fingerprint(credential))
        if found is None or self._clock() >= found.until:
            return None
        if isinstance(found.said, Session):
            return self._of_session(found.said, self._keys.known_by_id(found.said.key_id))
        if found.snapshot is not self._catalog.latest:
            self._renew(found, found.said)
        return found.caller

    async def verify(self, credential: str, snapshot: Snapshot, address: str | None = None) -> Caller:
        """The caller; raises Unauthenticated, or Unavailable where that cannot be found out now.

        With an address, TooManyFailures where too many from there failed.
        """
        if address is None:
            return await self._verify(credential, snapshot)
        place, token = network(address), looks_like_token(credential)
        self._guesses.require_patience(place, token=token)
        try:
            return await self._verify(credential, snapshot)
        except Unauthenticated:
            self._guesses.failed(place, token=token)
            raise

    async def _verify(self, credential: str, snapshot: Snapshot) -> Caller:
        if not looks_like_token(credential):
            return await self._keys.verify(credential, snapshot)
        peeked = peek(credential)
        if peeked is None or (peeked.issuer != OWN and peeked.issuer not in snapshot.issuers):
            raise Unauthenticated
        await prepared()
        if peeked.issuer == OWN:
            session = self._sessions.read(credential, peeked)
            caller = self._of_session(session, await self._keys.verify_by_id(session.key_id, snapshot))
            if caller is None:
                raise Unauthenticated
            self._remember(credential, _Verified(session, self._until(session.expires_at)))
            return caller
        issuer, identity = await self._verifier.verify(credential, peeked, snapshot.issuers)
        found = _Verified((issuer, identity), self._until(identity.expires_at))
        await self._settle(issuer, identity)
        self._renew(found, (issuer, identity))
        if found.caller is None:
            raise Unauthenticated
        self._remember(credential, found)
        return found.caller

    def _until(self, expires_at: int) -> float:
        return min(self._clock() + REMEMBERED_SECONDS, expires_at)

    def _remember(self, credential: str, found: _Verified) -> None:
        if len(self._verified) >= _REMEMBERED_AT_MOST:
            self._verified.pop(next(iter(self._verified)))
        self._verified[fingerprint(credential)] = found

    def _of_session(self, session: Session, caller: Caller | None) -> Caller | None:
        """The key's caller, unless the token was ended apart from its key."""
        if caller is None or caller.principal.id != session.principal_id:
            return None
        if session.issued_at < caller.principal.tokens_not_before:
            return None
        return replace(caller, expires_at=session.expires_at, issued_at=session.issued_at)

    def _renew(self, found: _Verified, said: tuple[Issuer, Identity]) -> None:
        """Read again whom the claims stand for; an issuer that was changed has to verify again."""
        snapshot = self._catalog.latest
        issuer, identity = said
        caller = None
        if snapshot is not None and snapshot.issuers.get(issuer.issuer) == issuer:
            caller = caller_of(snapshot, issuer, identity)
        found.snapshot = snapshot
        found.caller = caller if isinstance(caller, Caller) else None

    async def _settle(self, issuer: Issuer, identity: Identity) -> None:
        """See to it that the subject is somebody: created if the issuer is set so, else as new as the database."""
        subject = (issuer.issuer, identity.subject)
        if caller_of(self._catalog.snapshot, issuer, identity) is not None:
            return
        if self._strangers.get(subject, 0.0) > self._clock():
            return
        if issuer.creates:
            await self._arrive(subject, issuer, identity)
        else:
            # Its principal may be newer than our snapshot.
            await self._catalog.refresh()
        if caller_of(self._catalog.snapshot, issuer, identity) is None:
            self._stranger(subject)

    async def _arrive(self, subject: tuple[str, str], issuer: Issuer, identity: Identity) -> None:
        task = self._arriving.get(subject)
        if task is None:
            task = asyncio.create_task(self._create(issuer, identity), name="first use of a subject")
            self._arriving[subject] = task
            task.add_done_callback(lambda done: self._arrived(subject, done))
        await asyncio.shield(task)

    def _arrived(self, subject: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._arriving.pop(subject, None)
        if not task.cancelled():
            # All who waited may have left: what it failed with is then nobody's to hear.
            task.exception()

    async def _create(self, issuer: Issuer, identity: Identity) -> None:
        """Create the subject's principal, once however many workers are asked at the same time."""
        async with self._turns:
            try:
                await self._add(issuer, identity)
            except Conflict:
                # Only what is unique can stand in the way: the subject, made meanwhile, or a name.
                log.info("A principal of the issuer %s was not created: one like it exists.", issuer.name)
        await self._catalog.refresh()

    def _stranger(self, subject: tuple[str, str]) -> None:
        if len(self._strangers) >= _REMEMBERED_AT_MOST:
            self._strangers.clear()
        self._strangers[subject] = self._clock() + _NEGATIVE_SECONDS

    def _changed(self, touched: frozenset[str]) -> None:
        kinds = {each.partition(":")[0] for each in touched}
        if kinds & {"*", "issuer"}:
            self._verified.clear()
        if kinds & {"*", "issuer", "user", "service_principal"}:
            self._strangers.clear()
        if not touched and self._catalog.latest is not None:
            self._verifier.keep_only(self._catalog.latest.issuers)
