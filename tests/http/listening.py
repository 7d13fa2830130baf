"""A port on which uvicorn serves an application through our connections, as a worker does, and a call as bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from gateway.http.connection import Connection


@asynccontextmanager
async def listening(app: Any) -> AsyncGenerator[int]:
    """The port."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        proxy_headers=False,
        lifespan="off",
        log_config=None,
        server_header=False,
        date_header=False,
        port=0,
    )
    server = uvicorn.Server(config)
    server.config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await server.shutdown()


async def exchanged(port: int, sent: bytes) -> bytes:
    """All that comes back until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    try:
        return await asyncio.wait_for(reader.read(), 5)
    finally:
        writer.close()
