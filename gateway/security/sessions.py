"""The gateway's own short-lived tokens: what a browser holds in place of the key that it was given for.

A token names its key, so it can do what the key can and ends with it; it is signed with a key that is derived from the
master key for this alone, and its issuer is no address that anybody could configure.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from uuid import UUID

from gateway.errors import Unauthenticated
from gateway.security.tokens import Peeked, checked_algorithm, verified_claims

ISSUER = "urn:weighbridge:session"
AUDIENCE = "urn:weighbridge:console"
SECONDS = 900
_ALGORITHM = "HS256"
_TYPE = "weighbridge-session+jwt"
_TYPES = frozenset({_TYPE})


@dataclass(frozen=True, slots=True)
class Session:
    """A verified token of the gateway's own."""

    key_id: str
    principal_id: str
    issued_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Sessions:
    """Makes and reads them, with keys by version of the master key."""

    by_version: Mapping[int, bytes] = field(repr=False)
    clock: Callable[[], float]

    def issue(self, key_id: str, principal_id: str, *, at_most: int | None = None) -> tuple[str, int]:
        """A token and when it ends, in Unix seconds: never later than `at_most`."""
        import jwt

        now = int(self.clock())
        ends = now + SECONDS if at_most is None else min(now + SECONDS, at_most)
        version = max(self.by_version)
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": principal_id,
            "key": key_id,
            "iat": now,
            "exp": ends,
            "jti": secrets.token_urlsafe(12),
        }
        headers = {"typ": _TYPE, "kid": str(version)}
        return jwt.encode(claims, self.by_version[version], algorithm=_ALGORITHM, headers=headers), ends

    def read(self, text: str, peeked: Peeked) -> Session:
        """What the token says; raises Unauthenticated."""
        kid = peeked.header.get("kid")
        checked_algorithm(peeked.header, frozenset({_ALGORITHM}), _TYPES)
        version = int(kid) if isinstance(kid, str) and kid.isdecimal() and len(kid) <= 4 else 0
        key = self.by_version.get(version)
        if key is None or peeked.header.get("typ") != _TYPE:
            raise Unauthenticated
        claims = verified_claims(text, key, _ALGORITHM, ISSUER, AUDIENCE)
        try:
            session = Session(
                str(UUID(claims["key"])), str(UUID(claims["sub"])), int(claims["iat"]), int(claims["exp"])
            )
        except (KeyError, ValueError, TypeError, AttributeError):
            raise Unauthenticated from None
        now = self.clock()
        # Workers of one deployment may differ by a second or two.
        if now >= session.expires_at or session.issued_at > now + 5 or claims["aud"] != AUDIENCE:
            raise Unauthenticated
        return session
