"""Where a request came from: the socket's word, or that of proxies that the operator trusts.

A header is believed only when the socket belongs to a trusted proxy, and of the header only what trusted ones wrote.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from litestar.types import Scope


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Origins:
    """Reads the client's address."""

    def __init__(self, trusted: Iterable[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def of(self, scope: Scope) -> str | None:
        """The client's address; None where the connection has none, as on a local socket."""
        client = scope.get("client")
        peer: str | None = client[0] if client else None
        if not self._trusted or peer is None or not self._is_trusted(peer):
            return peer
        named: list[str] = []
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                named += [each.strip() for each in value.decode("latin-1").split(",")]
        # Each proxy adds whom it heard from at the end: the first from there that is no proxy of ours is the client.
        for each in reversed(named):
            if not self._is_address(each):
                return peer
            if not self._is_trusted(each):
                return each
            peer = each
        return peer

    def _is_trusted(self, address: str) -> bool:
        try:
            known = ipaddress.ip_address(address)
        except ValueError:
            return False
        if known.version == 6 and known.ipv4_mapped is not None:
            known = known.ipv4_mapped
        return any(known.version == each.version and known in each for each in self._trusted)

    @staticmethod
    def _is_address(text: str) -> bool:
        try:
            ipaddress.ip_address(text)
        except ValueError:
            return False
        return True
