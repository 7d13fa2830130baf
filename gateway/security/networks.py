"""What an address counts under, wherever callers are counted by where they come from.

One customer is one count: an IPv4 address itself, of IPv6 the /64.
"""

from __future__ import annotations

import ipaddress

_LONGEST_NAME = 128


def network(address: str | None) -> str:
    """What an address counts under: an IPv4 address itself, of IPv6 the /64, which is one customer's."""
    if address is None:
        return "none"
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:_LONGEST_NAME]
    if known.version == 6:
        if known.ipv4_mapped is not None:
            return str(known.ipv4_mapped)
        return str(ipaddress.IPv6Network((known, 64), strict=False))
    return str(known)
