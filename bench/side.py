"""One deployment with all that is needed to call it and to hold its books against what was called."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from bench.books import Books, Oracle, Unbalanced
from bench.cells import Cell
from bench.deployment import Deployment
from bench.loader import Loader


@dataclass(slots=True)
class Side:
    """Where several are compared, each is one side."""

    deployment: Deployment
    loader: Loader
    books: Books
    oracle: Oracle

    @classmethod
    async def open(cls, stack: AsyncExitStack, deployment: Deployment, *cores: int) -> Side:
        """Start it, with a load generator on these cores; it ends with the stack."""
        await stack.enter_async_context(deployment)
        loader = await Loader.start(deployment.keys_file, *cores)
        stack.push_async_callback(loader.stop)
        books = await Books.open(deployment.database_url, deployment.redis_url)
        stack.push_async_callback(books.close)
        return cls(deployment, loader, books, Oracle(deployment.upstream_port))

    async def touch_every_key(self, cell: Cell, **more: Any) -> None:
        """Call once with each key, and book it."""
        self.oracle.forget()
        await self.answered(await self.loader.touch_every_key(cell, self.deployment.port, **more))

    async def answered(self, done: dict[str, Any]) -> int:
        """How many calls were, once all of them are booked; raises Unbalanced."""
        if done["failed"] or not done["calls"]:
            raise Unbalanced(f"{done['failed']} calls failed: {done['quotes']}")
        await self.book(done["calls"])
        return int(done["calls"])

    async def book(self, calls: int) -> None:
        """So many calls were answered since the oracle forgot; raises Unbalanced."""
        await self.books.drained(calls)
        self.books.note(calls, self.oracle.counted())
