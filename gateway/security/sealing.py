"""Secrets that must be read again are kept sealed: AES-256-GCM under a key of their own, derived from the master key.

What was sealed for one object opens for no other; a version of the master key that is gone takes its secrets with it.
The cipher's library is imported with the first secret: 8 MB for which many workers have no use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gateway.security.derivation import derived

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_SALT = 16
_NONCE = 12
_HEAD = 2


class SealError(Exception):
    """What was sealed cannot be opened here."""


def provider_subject(provider_id: str, base_url: str) -> str:
    """What a provider's credential is sealed for: this provider at this address, so that it opens for no other."""
    return f"provider {provider_id} at {base_url}"


@dataclass(frozen=True, slots=True)
class Sealing:
    """Seals and opens under the keys of one purpose, by version of the master key."""

    by_version: Mapping[int, bytes] = field(repr=False)

    def seal(self, secret: bytes, subject: str) -> bytes:
        """The secret as it may be stored, for the one object that `subject` names."""
        version = max(self.by_version)
        salt, nonce = os.urandom(_SALT), os.urandom(_NONCE)
        closed = self._cipher(version, salt).encrypt(nonce, secret, subject.encode())
        return version.to_bytes(_HEAD, "big") + salt + nonce + closed

    def open(self, sealed: bytes, subject: str) -> bytes:
        """The secret; raises SealError for another object's, a changed one, or one of a version that is gone."""
        version = int.from_bytes(sealed[:_HEAD], "big")
        if version not in self.by_version or len(sealed) <= _HEAD + _SALT + _NONCE:
            raise SealError(
                f"it was sealed under version {version} of the master key, which the file does not hold"
            )
        from cryptography.exceptions import InvalidTag

        salt, rest = sealed[_HEAD : _HEAD + _SALT], sealed[_HEAD + _SALT :]
        try:
            return self._cipher(version, salt).decrypt(rest[:_NONCE], rest[_NONCE:], subject.encode())
        except InvalidTag as error:
            raise SealError("it was changed, or sealed for something else") from error

    def _cipher(self, version: int, salt: bytes) -> AESGCM:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(derived(self.by_version[version], salt, b"weighbridge sealed secret"))
