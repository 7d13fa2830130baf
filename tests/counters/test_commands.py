"""Commands off the hot path: in order, never another's answer, and connected anew after whatever went wrong."""

from __future__ import annotations

import asyncio

import pytest

from gateway.counters.commands import Commands, pairs
from gateway.counters.connection import RedisAway
from gateway.counters.lua import command


async def test_a_batch_is_answered_in_order_and_the_connection_is_kept(redis_url: str) -> None:
    async with Commands(redis_url) as redis:
        (first,) = await redis.ask(command(b"CLIENT", b"ID"))
        replies = await redis.ask(
            command(b"HSET", b"test:commands", b"a", b"1", b"b", b"2"),
            command(b"HGETALL", b"test:commands"),
            command(b"UNLINK", b"test:commands"),
        )
        assert (replies[0], pairs(replies[1]), replies[2]) == (2, {b"a": b"1", b"b": b"2"}, 1)
        assert await redis.ask(command(b"CLIENT", b"ID")) == [first]


async def test_an_error_of_one_command_is_told_and_the_next_batch_is_answered_rightly(redis_url: str) -> None:
    async with Commands(redis_url) as redis:
        with pytest.raises(RedisAway, match="unknown command"):
            await redis.ask(command(b"PING"), command(b"NONSENSE"), command(b"ECHO", b"x"))
        assert await redis.ask(command(b"ECHO", b"y")) == [b"y"]


async def test_a_batch_that_was_cut_short_leaves_no_answer_to_the_next(redis_url: str) -> None:
    async with Commands(redis_url) as redis:
        waiting = asyncio.create_task(redis.ask(command(b"BLPOP", b"test:nothing", b"5")))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert await redis.ask(command(b"ECHO", b"mine")) == [b"mine"]


async def test_batches_of_many_at_once_do_not_mix(redis_url: str) -> None:
    async with Commands(redis_url) as redis:
        asked = [redis.ask(*(command(b"ECHO", b"%d.%d" % (who, n)) for n in range(20))) for who in range(20)]
        assert await asyncio.gather(*asked) == [[b"%d.%d" % (who, n) for n in range(20)] for who in range(20)]


@pytest.mark.parametrize("said", [b"", b"nonsense\r\n", b"$5\r\nab", b"*1\r\n"])
async def test_a_server_that_is_silent_or_speaks_nonsense_is_away_and_asked_anew(said: bytes) -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.read(1000)
        writer.write(said if connections == 1 else b"+PONG\r\n")
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with Commands(f"redis://127.0.0.1:{port}", seconds=0.3) as redis:
        with pytest.raises(RedisAway):
            await redis.ask(command(b"PING"))
        assert await redis.ask(command(b"PING")) == [b"PONG"]
    server.close()


async def test_nobody_listening_is_said_so() -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    async with Commands(f"redis://127.0.0.1:{port}") as redis:
        with pytest.raises(RedisAway):
            await redis.ask(command(b"PING"))
