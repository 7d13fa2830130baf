"""Ask the running gateway one question over HTTP, as any load balancer would; never waits long."""

from __future__ import annotations

import asyncio

from gateway.settings import Settings

_LONGEST_BODY = 4096


async def answer_of(settings: Settings, path: str, *, seconds: float = 2.0) -> tuple[int, str]:
    """The status and the start of the body of GET `path`; status 0 when nothing answers."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # noqa: S104
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_connection(host, settings.port)
            try:
                request = (
                    f"GET {path} HTTP/1.1\r\nHost: localhost:{settings.port}\r\nConnection: close\r\n\r\n"
                )
                writer.write(request.encode())
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.read(_LONGEST_BODY)
                return int(head.split(None, 2)[1]), body.decode(errors="replace")
            finally:
                writer.close()
    except (
        OSError,
        TimeoutError,
        ValueError,
        IndexError,
        asyncio.IncompleteReadError,
        asyncio.LimitOverrunError,
    ):
        return 0, ""
