"""One POST to a webhook: to the address that was checked, no redirect followed, nothing of the answer believed but its status."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping

from gateway.security.addresses import Address, Resolve, resolved

SECONDS = 10.0
_LONGEST_LINE = 4096


class PostFailed(Exception):
    """The receiver did not take it; the text says why, and holds nothing that the receiver sent."""


async def post(
    address: Address,
    body: bytes,
    headers: Mapping[str, str],
    *,
    resolve: Resolve | None = None,
    seconds: float = SECONDS,
) -> int:
    """Send; gives the status where it is 2xx, raises PostFailed or AddressRefused otherwise."""
    try:
        async with asyncio.timeout(seconds):
            return await _post(address, body, headers, resolve)
    except TimeoutError as error:
        raise PostFailed(f"no answer within {seconds:g} s") from error
    except ssl.SSLError as error:
        raise PostFailed(f"TLS failed: {error.reason}") from error
    except OSError as error:
        raise PostFailed(f"it cannot be reached: {error.strerror or type(error).__name__}") from error


async def _post(address: Address, body: bytes, headers: Mapping[str, str], resolve: Resolve | None) -> int:
    where = await resolved(address, resolve)
    context = ssl.create_default_context() if address.tls else None
    reader, writer = await asyncio.open_connection(
        where,
        address.port,
        ssl=context,
        server_hostname=address.host if context else None,
        limit=_LONGEST_LINE,
    )
    try:
        told = {
            "host": address.authority,
            "user-agent": "weighbridge-webhook",
            "content-type": "application/json",
            "content-length": str(len(body)),
            "connection": "close",
            **headers,
        }
        lines = [f"POST {address.target} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items())]
        writer.write("\r\n".join(lines).encode("ascii") + b"\r\n\r\n" + body)
        await writer.drain()
        try:
            first = await reader.readline()
        except ValueError as error:
            raise PostFailed("its answer is no HTTP") from error
        version, _, rest = first.partition(b" ")
        status = rest[:3]
        if not version.startswith(b"HTTP/1.") or not status.isdigit():
            raise PostFailed("its answer is no HTTP")
        if not 200 <= int(status) < 300:
            raise PostFailed(f"it answered {int(status)}")
        return int(status)
    finally:
        # Nothing more of it matters, and a receiver that does not let go must not hold the sender.
        writer.transport.abort()
