"""API keys: made, taken apart, and turned into the digest that is all the database holds of them.

A key is `gk_<environment>_<12 of id>_<43 of secret>_<6 of checksum>`, in base62 but for the underscores. The
checksum is public arithmetic: it keeps typing errors and random guesses away from the database, nothing else.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

PREFIX = "gk_"
ENVIRONMENT = "live"
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 12
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
_SHAPE = re.compile(
    rf"gk_([a-z0-9]{{2,12}})_([0-9A-Za-z]{{{_ID_LENGTH}}})_[0-9A-Za-z]{{{_SECRET_LENGTH}}}_[0-9A-Za-z]{{{_CHECKSUM_LENGTH}}}",
    re.ASCII,
)
_ABSENT = bytes(32)


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A new key: `text` is shown to its owner once and kept nowhere."""

    text: str
    id_part: str
    digest: bytes
    pepper_version: int

    def __repr__(self) -> str:
        return f"MintedKey(id_part={self.id_part!r})"


@dataclass(frozen=True, slots=True)
class Peppers:
    """The peppers by version; they are derived from the master key and never in the database."""

    by_version: Mapping[int, bytes]

    @property
    def newest(self) -> int:
        """The version that new keys are digested with."""
        return max(self.by_version)

    def __repr__(self) -> str:
        return f"Peppers(versions={sorted(self.by_version)})"


def mint(peppers: Peppers, *, environment: str = ENVIRONMENT) -> MintedKey:
    """Make a key of 256 random bits."""
    id_part = "".join(secrets.choice(_DIGITS) for _ in range(_ID_LENGTH))
    body = f"{PREFIX}{environment}_{id_part}_{_base62(secrets.randbits(256), _SECRET_LENGTH)}"
    text = f"{body}_{checksum(body)}"
    if parse(text) is None:
        raise ValueError(f"{environment!r} is no environment's name: it takes 2 to 12 of a-z and 0-9")
    version = peppers.newest
    return MintedKey(text, id_part, digest(text, peppers.by_version[version]), version)


def parse(text: str) -> str | None:
    """The id part of a well-formed key, or None; whether such a key exists is the database's to say."""
    match = _SHAPE.fullmatch(text)
    if match is None or checksum(text[: -_CHECKSUM_LENGTH - 1]) != text[-_CHECKSUM_LENGTH:]:
        return None
    return match[2]


def checksum(body: str) -> str:
    """Six base62 digits over everything before the last underscore."""
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def digest(text: str, pepper: bytes) -> bytes:
    """HMAC-SHA-256 over the whole key: without the pepper a stolen table tells nothing."""
    return hmac.digest(pepper, text.encode(), "sha256")


def matches(text: str, expected: bytes | None, pepper_version: int | None, peppers: Peppers) -> bool:
    """Whether the digest is this key's; the same work where there is no such key (both None)."""
    pepper = peppers.by_version.get(peppers.newest if pepper_version is None else pepper_version)
    # A pepper that the file no longer holds: the key cannot be verified, at the usual cost.
    usable = pepper is not None and expected is not None
    computed = digest(text, pepper if pepper is not None else _ABSENT)
    return hmac.compare_digest(computed, expected if expected is not None else _ABSENT) and usable


def fingerprint(credential: str) -> bytes:
    """What a cache is keyed with: a digest of the whole credential, so that no part of it can stand for it."""
    return hashlib.sha256(credential.encode("utf-8", "surrogateescape")).digest()


def _base62(number: int, width: int) -> str:
    digits: list[str] = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
