"""Redis off the hot path: commands on a connection of their own, made when it is first needed and after each failure.

One batch at a time; a batch that is cut short takes its connection with it, so that no answer is ever another's.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any, Self

import hiredis

from gateway.counters.address import RedisAddress
from gateway.counters.connection import RedisAway
from gateway.counters.lua import command

_READ = 1 << 16


class Commands:
    """Sends batches of commands; what is wrong with any of them, or with Redis, is RedisAway."""

    def __init__(self, redis_url: str, *, seconds: float = 5.0) -> None:
        """`seconds` bound each batch, connecting included. Raises ValueError for an address that is none."""
        self._address = RedisAddress.parse(redis_url)
        self._seconds = seconds
        self._turn = asyncio.Lock()
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._replies = hiredis.Reader()

    async def ask(self, *commands: bytes) -> list[Any]:
        """The replies to these commands, in order; raises RedisAway. Nothing is sent twice."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._seconds):
                    reader, writer = await self._connected()
                    return await self._exchange(reader, writer, commands)
            except (OSError, TimeoutError, EOFError, ssl.SSLError, hiredis.HiredisError) as error:
                self._drop()
                raise RedisAway(str(error) or type(error).__name__) from error
            except BaseException:
                self._drop()
                raise

    async def close(self) -> None:
        """Disconnect; asking again connects again."""
        self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is not None and self._writer is not None and not self._writer.is_closing():
            return self._reader, self._writer
        where = self._address
        if where.path is not None:
            reader, writer = await asyncio.open_unix_connection(where.path)
        else:
            tls = ssl.create_default_context() if where.tls else None
            reader, writer = await asyncio.open_connection(where.host or "127.0.0.1", where.port, ssl=tls)
        self._reader, self._writer, self._replies = reader, writer, hiredis.Reader()
        greetings: list[bytes] = []
        if where.password is not None:
            login = (where.username.encode(),) if where.username else ()
            greetings.append(command(b"AUTH", *login, where.password.encode()))
        if where.database:
            greetings.append(command(b"SELECT", b"%d" % where.database))
        await self._exchange(reader, writer, greetings)
        return reader, writer

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, commands: Sequence[bytes]
    ) -> list[Any]:
        writer.write(b"".join(commands))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._replies.gets()
            if reply is not False:
                replies.append(reply)
                continue
            data = await reader.read(_READ)
            if not data:
                raise EOFError("Redis closed the connection")
            self._replies.feed(data)
        for each in replies:
            if isinstance(each, hiredis.ReplyError):
                raise RedisAway(str(each))
        return replies

    def _drop(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None


def pairs(reply: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash as HGETALL replies it, names and values in turn."""
    return dict(zip(reply[::2], reply[1::2], strict=True))
