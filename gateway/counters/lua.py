"""The scripts, their digests, and the bytes of a call.

A script is called by its digest; where the server does not know it, the same call goes out with the text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha1
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Script:
    """One script: its text, and what calls begin with."""

    text: bytes
    by_digest: bytes
    """RESP of `EVALSHA <digest>`, without the array's length."""
    by_text: bytes
    """RESP of `EVAL <text>`, without the array's length."""

    @classmethod
    def named(cls, name: str) -> Script:
        """Read `<name>.lua` beside this module."""
        text = files("gateway.counters").joinpath(f"{name}.lua").read_bytes()
        digest = sha1(text, usedforsecurity=False).hexdigest().encode()
        return cls(text, bulk(b"EVALSHA") + bulk(digest), bulk(b"EVAL") + bulk(text))

    def call(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> bytes:
        """The bytes of one call."""
        parts = [b"*%d\r\n" % (3 + len(keys) + len(arguments)), self.by_digest, bulk(b"%d" % len(keys))]
        parts += [bulk(each) for each in keys]
        parts += [bulk(each) for each in arguments]
        return b"".join(parts)

    def spelled_out(self, call: bytes) -> bytes:
        """The same call with the text in place of the digest."""
        return call.replace(self.by_digest, self.by_text, 1)


@dataclass(frozen=True, slots=True)
class Scripts:
    """All scripts of the counters."""

    reserve: Script
    settle: Script
    beat: Script
    open: Script
    adopt: Script

    @classmethod
    def load(cls) -> Scripts:
        """Read them all."""
        return cls(*(Script.named(name) for name in ("reserve", "settle", "beat", "open", "adopt")))

    @property
    def all(self) -> tuple[Script, ...]:
        """Every script, to be loaded on each connect."""
        return self.reserve, self.settle, self.beat, self.open, self.adopt


def bulk(value: bytes) -> bytes:
    """A RESP bulk string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def command(*parts: bytes) -> bytes:
    """A RESP array of bulk strings."""
    return b"*%d\r\n" % len(parts) + b"".join(bulk(each) for each in parts)
