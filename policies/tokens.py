"""Tokens of other issuers: what is configured of an issuer, what its verified claims say, and whom they stand for.

Pure: signatures are verified before, elsewhere. Whatever is not exactly as configured is Deny; its reason is for the
log, a caller is told none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from policies.decision import Deny
from policies.principal import Caller, Principal, PrincipalKind, Role

if TYPE_CHECKING:
    from policies.catalog import Snapshot

MAX_AGE_SECONDS = 3600
MAX_LEEWAY_SECONDS = 30
MAX_SUBJECT = 255
_MAX_AUDIENCES = 32
_LATEST = 1 << 53
_RULE = "tokens"


class Family(StrEnum):
    """Kinds of signatures; an issuer has one, so a key of one kind is never used as a key of another."""

    RS = "RS"
    ES = "ES"
    EDDSA = "EdDSA"
    HS = "HS"


ALGORITHMS: Mapping[Family, frozenset[str]] = {
    Family.RS: frozenset({"RS256", "RS384", "RS512"}),
    Family.ES: frozenset({"ES256", "ES384", "ES512"}),
    Family.EDDSA: frozenset({"EdDSA"}),
    Family.HS: frozenset({"HS256", "HS384", "HS512"}),
}


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are taken, how they are verified, and how claims become a principal."""

    id: str
    name: str
    issuer: str
    """Exactly the `iss` of its tokens."""
    audience: str
    """The one value that `aud` must hold."""
    family: Family
    jwks_uri: str | None = None
    public_keys: str | None = None
    """A JWK set that was configured here, as JSON."""
    sealed_secret: bytes | None = field(default=None, repr=False)
    """The shared secret of an HS issuer, sealed."""
    principal_claim: str = "sub"
    """The claim that says who it is, for good."""
    name_claim: str = "sub"
    """The claim that names a principal created on first use."""
    groups_claim: str | None = None
    kind: PrincipalKind = PrincipalKind.USER
    creates: bool = False
    """Whether a principal is created on the first use of a subject."""
    replaces_groups: bool = False
    """Whether the claimed groups stand in for membership in the database, rather than add to it."""
    max_age_seconds: int = MAX_AGE_SECONDS
    leeway_seconds: int = MAX_LEEWAY_SECONDS
    planes: frozenset[str] = frozenset({"data", "control"})


@dataclass(frozen=True, slots=True)
class Identity:
    """What the verified claims of one token say."""

    subject: str
    name: str
    groups: tuple[str, ...]
    """Names, as claimed; those that are no group's count for nothing."""
    issued_at: int
    expires_at: int


def read_claims(issuer: Issuer, claims: Mapping[str, Any], now: float) -> Identity | Deny:
    """What verified claims say at `now`, or why the token is not taken."""
    if claims.get("iss") != issuer.issuer:
        return _deny("iss is not the issuer's")
    if not _names(claims.get("aud"), issuer.audience):
        return _deny("aud is not the audience")
    if not _is_text(claims.get("sub")):
        return _deny("sub is missing or no plain text")
    issued, expires = _moment(claims.get("iat")), _moment(claims.get("exp"))
    if issued is None or expires is None:
        return _deny("iat or exp is missing or no time")
    if now >= expires + issuer.leeway_seconds:
        return _deny("exp is past")
    if issued > now + issuer.leeway_seconds:
        return _deny("iat is in the future")
    if now > issued + issuer.max_age_seconds + issuer.leeway_seconds:
        return _deny("it is older than this issuer's tokens may be")
    if "nbf" in claims:
        begins = _moment(claims["nbf"])
        if begins is None or begins > now + issuer.leeway_seconds:
            return _deny("nbf is in the future or no time")
    subject = _claim(claims, issuer.principal_claim)
    if not _is_text(subject):
        return _deny(f"the claim {issuer.principal_claim!r} is missing or no plain text")
    name = _claim(claims, issuer.name_claim)
    listed = None if issuer.groups_claim is None else _claim(claims, issuer.groups_claim)
    if isinstance(listed, str):
        listed = [listed]
    return Identity(
        subject=subject,
        name=name[:MAX_SUBJECT] if isinstance(name, str) and name.isprintable() and name else subject,
        groups=tuple(each for each in listed if isinstance(each, str)) if isinstance(listed, list) else (),
        issued_at=issued,
        expires_at=expires,
    )


def caller_of(snapshot: Snapshot, issuer: Issuer, identity: Identity) -> Caller | Deny | None:
    """Whom the token stands for under this snapshot; None where the subject is nobody's yet."""
    principal_id = snapshot.identities.get((issuer.issuer, identity.subject))
    principal = None if principal_id is None else snapshot.principals.get(principal_id)
    if principal is None:
        return None
    if not principal.active:
        return _deny("the principal is not active")
    if identity.issued_at < principal.tokens_not_before:
        return _deny("it was issued before the principal's tokens_not_before")
    return Caller(
        principal=_with_groups(snapshot, issuer, identity, principal),
        planes=issuer.planes,
        expires_at=identity.expires_at,
        issuer=issuer.issuer,
        issued_at=identity.issued_at,
    )


def stands(snapshot: Snapshot, caller: Caller) -> bool:
    """Whether a caller that was let in would still be, as far as its principal and issuer go."""
    principal = snapshot.principals.get(caller.principal.id)
    if principal is None or not principal.active:
        return False
    if caller.issued_at is not None and caller.issued_at < principal.tokens_not_before:
        return False
    return caller.issuer is None or caller.issuer in snapshot.issuers


def address_problem(address: str, *, loopback: bool) -> str | None:
    """What is wrong with an address to fetch keys from; None where nothing is."""
    if not address.isascii() or not address.isprintable() or any(each in address for each in '\\ "<>^`{|}'):
        return "it takes plain ASCII without spaces or backslashes"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is no URL"
    if not host or parts.username is not None or parts.password is not None or "#" in address:
        return "it takes a host, and neither a user name nor a fragment"
    if parts.scheme == "https":
        return None
    if parts.scheme == "http" and loopback and _is_loopback(host):
        return None
    return "it takes https; http only for the loopback and with allow_loopback_http"


def _with_groups(snapshot: Snapshot, issuer: Issuer, identity: Identity, principal: Principal) -> Principal:
    if issuer.groups_claim is None:
        return principal
    claimed = _nested(
        snapshot,
        (
            snapshot.group_ids[name]
            for each in identity.groups
            if (name := each.lower()) in snapshot.group_ids
        ),
    )
    roles: set[Role] = set(principal.own_roles if issuer.replaces_groups else principal.roles)
    for group in claimed:
        roles |= snapshot.groups[group].roles
    groups = claimed if issuer.replaces_groups else claimed.union(principal.groups)
    return replace(principal, groups=tuple(sorted(groups)), roles=frozenset(roles))


def _nested(snapshot: Snapshot, direct: Iterable[str]) -> set[str]:
    found: set[str] = set()
    ahead = list(direct)
    while ahead:
        group = ahead.pop()
        if group not in found and group in snapshot.groups:
            found.add(group)
            ahead.extend(snapshot.groups[group].parents)
    return found


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a path of names with dots between (`realm_access.roles`)."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _names(audiences: Any, audience: str) -> bool:
    if isinstance(audiences, list):
        return (
            len(audiences) <= _MAX_AUDIENCES
            and all(isinstance(each, str) for each in audiences)
            and audience in audiences
        )
    return isinstance(audiences, str) and audiences == audience


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_SUBJECT and value.isprintable()


def _moment(value: Any) -> int | None:
    # bool is an int to Python, and NaN is no time.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LATEST:
        return None
    return int(value)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _deny(reason: str) -> Deny:
    return Deny("invalid_token", reason, _RULE)
