"""Where the gateway may connect because an administrator said so: https to public addresses; anything else only to
hosts that the deployment's settings list.

What is checked is what is connected to: a name is resolved once, and the connection goes to the address that passed.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)
_TARGET = re.compile(r"[!-\[\]^_a-~]*", re.ASCII)
"""Printable ASCII without a backslash, a space or a brace."""
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
"""A last label that makes the whole host a number to some readers, in whatever base."""
_INSIDE = tuple(
    ipaddress.ip_network(each)
    # Called public by the registries, or by this language's copy of them: a cloud's own servant at the machine (Azure's),
    # site-local addresses, relays of 6to4, and documentation.
    for each in ("168.63.129.16/32", "fec0::/10", "192.88.99.0/24", "3fff::/20")
)
Resolve = Callable[[str, int], Awaitable[list[str]]]


class AddressRefused(ValueError):
    """An address that nothing may be sent to; the text says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """An address, taken apart by the one reader that also the connection uses."""

    host: str
    port: int
    target: str
    """Path and query."""
    tls: bool
    listed: bool
    """Whether the settings list the host, which may then be private and plain."""

    @property
    def origin(self) -> str:
        """Scheme, host and port: what a credential is for."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """For the `host` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"


def read_address(url: str, listed: Collection[str], *, setting: str = "WEIGHBRIDGE_WEBHOOK_HOSTS") -> Address:
    """Take an address apart; raises AddressRefused. `listed` are the hosts, of `setting`, that may be private or plain."""
    if _TARGET.fullmatch(url) is None:
        raise AddressRefused("the address takes printable ASCII without spaces or backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise AddressRefused(f"the address cannot be read: {error}") from error
    host = (parts.hostname or "").lower()
    if parts.scheme not in ("https", "http") or not host:
        raise AddressRefused("the address is https://host/path")
    if "@" in parts.netloc or "#" in url:
        raise AddressRefused("the address takes no user name and no fragment")
    if port == 0:
        raise AddressRefused("there is no port 0")
    literal = _literal(host)
    if literal is None and (
        _HOST.fullmatch(host) is None
        or ".." in host
        or "[" in parts.netloc
        or _NUMBER.fullmatch(host.rpartition(".")[2])
    ):
        raise AddressRefused(f"{host!r} is no host name")
    is_listed = host in listed
    if parts.scheme == "http" and not is_listed:
        raise AddressRefused(f"plain http goes only to hosts in {setting}, and {host!r} is not one")
    if literal is not None and not is_listed:
        refuse_private(str(literal))
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    tls = parts.scheme == "https"
    return Address(host, port or (443 if tls else 80), target, tls, is_listed)


async def resolved(address: Address, resolve: Resolve | None = None) -> str:
    """The one address to connect to; raises AddressRefused where any that the name leads to is not public."""
    found = await (resolve or _resolve)(address.host, address.port)
    if not found:
        raise AddressRefused(f"{address.host!r} leads nowhere")
    if not address.listed:
        for each in found:
            refuse_private(each)
    return found[0]


def refuse_private(text: str) -> None:
    """Raise AddressRefused unless the IP address is one of the public internet."""
    found = ipaddress.ip_address(text)
    if isinstance(found, ipaddress.IPv6Address):
        # An IPv4 address in other clothes is judged by what it is.
        # Teredo's and those of NAT64 are reserved as a whole.
        inner = found.ipv4_mapped or found.sixtofour
        if inner is not None:
            refuse_private(str(inner))
    if any(found in each for each in _INSIDE):
        raise AddressRefused(f"{text} is not an address of the public internet")
    if not found.is_global or found.is_multicast or found.is_reserved or found.is_unspecified:
        raise AddressRefused(f"{text} is not an address of the public internet")


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


async def _resolve(host: str, port: int) -> list[str]:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(each[4][0]) for each in found]
