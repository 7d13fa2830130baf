"""Where an upstream is, read once from its URL: TCP, TLS over TCP, or a unix socket.

What would change the request's head (spaces, control characters, credentials) is refused here, never sent.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

_PLAIN = re.compile(r"[\x21-\x7e]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """One upstream."""

    host: str
    port: int
    tls: bool
    unix: str | None
    authority: str
    """What the Host header says."""
    prefix: str
    """Path before every call's own."""

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `http://host:port/base`, `https://...` or `unix:/path`; raises ValueError."""
        if url.startswith("unix:"):
            return cls("", 0, tls=False, unix=url.removeprefix("unix:"), authority="engine", prefix="")
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an upstream's address is http://host:port, https://host or unix:/path")
        if parts.username is not None or parts.query or parts.fragment or not _PLAIN.fullmatch(url):
            raise ValueError(
                "an upstream's address has no credentials, query, fragment, space or control character"
            )
        tls = parts.scheme == "https"
        usual = 443 if tls else 80
        port = parts.port or usual
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        return cls(
            parts.hostname,
            port,
            tls=tls,
            unix=None,
            authority=host if port == usual else f"{host}:{port}",
            prefix=parts.path.rstrip("/"),
        )
