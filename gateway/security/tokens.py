"""Verify tokens of issuers: which issuer is read by a peek, everything else only after the signature holds.

Algorithms are the issuer's, never the token's. `jku`, `x5u`, `x5c` and `jwk` in a token are not looked at, `crit` is
refused, `kid` is a dictionary key and nothing more. Every refusal is the same Unauthenticated.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import importlib
import json
import logging
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from gateway.errors import Unauthenticated
from gateway.security.jwks import (
    KID,
    Fetch,
    JwksError,
    KeySet,
    PublishedKeys,
    VerifyingKey,
    pick,
)
from gateway.security.sealing import SealError, Sealing
from policies.decision import Deny
from policies.tokens import ALGORITHMS, Family, Identity, Issuer, read_claims

MAX_TOKEN = 8192
LEAST_SECRET = 32
TYPES = frozenset({"jwt", "at+jwt"})
_SHAPE = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)", re.ASCII)
_REQUIRED = ["exp", "iat", "iss", "aud", "sub"]

_VERIFYING = "gateway.security.key_sets"

log = logging.getLogger(__name__)


async def prepared() -> None:
    """Import what verifying takes, before the first token and beside the event loop: 12 MB that few workers need."""
    if _VERIFYING not in sys.modules:
        await asyncio.to_thread(importlib.import_module, _VERIFYING)


@dataclass(frozen=True, slots=True)
class Peeked:
    """What a token says before anything of it is believed."""

    header: Mapping[str, Any]
    issuer: str


def looks_like_token(credential: str) -> bool:
    """Whether it is worth reading as a token; `ey` is how the encoding of `{"` begins."""
    return credential.startswith("ey") and credential.count(".") == 2


def peek(text: str) -> Peeked | None:
    """Header and `iss` of a token, to find the issuer by; None where it is no token at all."""
    match = _SHAPE.fullmatch(text) if len(text) <= MAX_TOKEN else None
    if match is None:
        return None
    header, claims = _object(match[1]), _object(match[2])
    issuer = None if claims is None else claims.get("iss")
    return Peeked(header, issuer) if header is not None and isinstance(issuer, str) else None


def shared_secret_problem(secret: str) -> str | None:
    """What is wrong with a shared secret; None where nothing is."""
    encoded = secret.encode("utf-8", "surrogateescape")
    if len(encoded) < LEAST_SECRET or len(set(encoded)) < 12:
        return f"it takes at least {LEAST_SECRET} random bytes"
    if "-----BEGIN" in secret or "ssh-" in secret:
        return "it is a key of another kind, not a shared secret"
    return None


class TokenVerifier:
    """Verifies tokens against the issuers of a snapshot; holds their keys between requests."""

    def __init__(
        self,
        sealing: Sealing,
        *,
        fetch: Fetch,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._sealing = sealing
        self._fetch = fetch
        self._clock = clock
        self._monotonic = monotonic
        self._published: dict[str, tuple[tuple[str | None, Family], PublishedKeys]] = {}
        self._fixed: dict[str, tuple[object, KeySet]] = {}

    async def verify(
        self, text: str, peeked: Peeked, issuers: Mapping[str, Issuer]
    ) -> tuple[Issuer, Identity]:
        """The issuer and what the verified token says; raises Unauthenticated, or Unavailable without its keys."""
        issuer = issuers.get(peeked.issuer)
        if issuer is None:
            _refuse("its issuer is not configured")
        algorithm = checked_algorithm(peeked.header, ALGORITHMS[issuer.family], TYPES)
        key = await self._key(issuer, peeked.header.get("kid"))
        if key is None or algorithm not in key.algorithms:
            _refuse(f"no key of {issuer.name} verifies it")
        claims = verified_claims(text, key.key, algorithm, issuer.issuer, issuer.audience)
        identity = read_claims(issuer, claims, self._clock())
        if isinstance(identity, Deny):
            _refuse(f"{identity.reason} (issuer {issuer.name})")
        return issuer, identity

    def keep_only(self, issuers: Mapping[str, Issuer]) -> None:
        """Forget keys of issuers that are gone."""
        ids = {each.id for each in issuers.values()}
        for held in (self._published, self._fixed):
            for gone in held.keys() - ids:
                del held[gone]

    async def close(self) -> None:
        """Give up fetches that are under way."""
        for _, each in self._published.values():
            await each.close()

    async def _key(self, issuer: Issuer, kid: str | None) -> VerifyingKey | None:
        if issuer.jwks_uri is None:
            return pick(self._fixed_keys(issuer), kid)
        source = (issuer.jwks_uri, issuer.family)
        held = self._published.get(issuer.id)
        # Whatever else of an issuer is changed, its keys stay, and so does the pause between two fetches.
        if held is None or held[0] != source:
            held = (
                source,
                PublishedKeys(
                    issuer.jwks_uri,
                    issuer.family,
                    fetch=self._fetch,
                    monotonic=self._monotonic,
                    name=issuer.name,
                ),
            )
            self._published[issuer.id] = held
        return await held[1].find(kid)

    def _fixed_keys(self, issuer: Issuer) -> KeySet:
        source = (issuer.public_keys, issuer.sealed_secret, issuer.family)
        held = self._fixed.get(issuer.id)
        if held is None or held[0] != source:
            held = source, self._read_fixed(issuer)
            self._fixed[issuer.id] = held
        return held[1]

    def _read_fixed(self, issuer: Issuer) -> KeySet:
        from gateway.security.key_sets import read_key_set

        try:
            if issuer.sealed_secret is not None:
                secret = self._sealing.open(issuer.sealed_secret, issuer.id)
                if issuer.family is not Family.HS or len(secret) < LEAST_SECRET:
                    return {}
                return {"": VerifyingKey(ALGORITHMS[Family.HS], secret)}
            return read_key_set(issuer.public_keys or "", issuer.family)
        except (SealError, JwksError) as error:
            log.warning("The keys of the issuer %s cannot be used: %s.", issuer.name, error)
            return {}


def checked_algorithm(header: Mapping[str, Any], allowed: frozenset[str], types: frozenset[str]) -> str:
    """The header's algorithm, after everything in the header was found as it must be."""
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str) or algorithm not in allowed:
        _refuse("its algorithm is not the issuer's")
    if "crit" in header or "b64" in header:
        _refuse("it asks for extensions")
    if kid is not None and (not isinstance(kid, str) or KID.fullmatch(kid) is None):
        _refuse("its kid is malformed")
    kind = header.get("typ")
    if kind is not None and (
        not isinstance(kind, str) or kind.lower().removeprefix("application/") not in types
    ):
        _refuse("its typ is another")
    return algorithm


def verified_claims(text: str, key: Any, algorithm: str, issuer: str, audience: str) -> Mapping[str, Any]:
    """The claims under a signature that holds; when they hold is policies' to decide, by our clock."""
    import jwt

    try:
        return jwt.decode(
            text,
            key,
            algorithms=[algorithm],
            audience=audience,
            issuer=issuer,
            options={
                "require": _REQUIRED,
                "verify_exp": False,
                "verify_iat": False,
                "verify_nbf": False,
                "verify_jti": False,
                "enforce_minimum_key_length": True,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        _refuse(type(error).__name__)


def _refuse(reason: str) -> NoReturn:
    log.debug("A token was refused: %s.", reason)
    raise Unauthenticated


def _object(segment: str) -> dict[str, Any] | None:
    try:
        decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        found = json.loads(decoded, object_pairs_hook=_once)
    except (ValueError, binascii.Error, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice")
    return found
