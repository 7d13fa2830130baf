"""A real ledger, fed as workers feed it, and a receiver of webhooks that remembers all that it was sent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from gateway.spool.drainer import Drainer
from gateway.spool.writer import SpoolWriter
from gateway.store import database
from gateway.store.changes import Actor, Configuration
from gateway.store.ledger import PostgresBooks
from policies.budgets import Budget
from policies.limits import ScopeKind
from policies.windows import Calendar, Unit
from tests.spool.making import attempt, intent, now_ms, settlement
from tests.store_ledger.books_check import drain

CHAIN_KEY = b"c" * 32
Spending = Callable[..., Awaitable[None]]


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = database.engine(database_url, size=4)
    yield made
    await made.dispose()


@pytest.fixture
def configuration(engine: AsyncEngine) -> Configuration:
    return Configuration(engine, CHAIN_KEY)


@pytest.fixture
def root() -> Actor:
    return Actor(None, "tests")


@pytest.fixture
async def spend(database_url: str, tmp_path: Path) -> AsyncIterator[Spending]:
    """Puts a settled request into the ledger: `await spend("u_1", 500, at_ms=...)`."""
    books = PostgresBooks(database_url, host="here")
    drainer = Drainer(tmp_path, books)
    spool = SpoolWriter(tmp_path)

    async def put(principal: str, nano_usd: int, at_ms: int | None = None, **more: Any) -> None:
        more.setdefault("charges", [])
        begun = intent(principal_id=principal, admitted_at_ms=at_ms or now_ms(), **more)
        spool.append(begun)
        spool.append(settlement(begun, attempt(begun, cost_nano_usd=nano_usd)))
        await drain(drainer)

    yield put
    drainer.close()
    spool.close()
    await books.close()


def budget_of(nano_usd: int = 1000, scope: ScopeKind = ScopeKind.USER_DEFAULT, **more: Any) -> Budget:
    """A budget with an id of its own."""
    more.setdefault("period", Calendar(Unit.MONTH))
    more.setdefault("thresholds", (50, 100))
    return Budget(str(uuid.uuid4()), scope, nano_usd=nano_usd, **more)


@dataclass
class Receiver:
    """Answers each POST with the next of `statuses`, 200 when there are none left."""

    port: int = 0
    statuses: list[str] = field(default_factory=list[str])
    got: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list[Any])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?x=1"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in head[1:] if line)
        body = await reader.readexactly(int(headers["content-length"]))
        self.got.append((head[0], headers, body))
        status = self.statuses.pop(0) if self.statuses else "200 OK"
        writer.write(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    await server.wait_closed()
