"""Every test of this folder runs against our own client and against aiohttp's: they must agree."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from engines.aiohttp_client import AiohttpTransport
from engines.http1.transport import Http1Transport
from engines.transport import Timeouts, Transport

Make = Callable[..., Transport]
FAST = Timeouts(connect=1.0, first_byte=0.4, between=0.4, total=5.0)


@pytest.fixture(params=["http1", "aiohttp"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes transports with short time limits and closes them."""
    kind = {"http1": Http1Transport, "aiohttp": AiohttpTransport}[request.param]
    made: list[Transport] = []

    def build(url: str, **more: Any) -> Transport:
        transport = kind(url, **{"timeouts": FAST, **more})
        made.append(transport)
        return transport

    yield build
    for each in made:
        await each.aclose()
