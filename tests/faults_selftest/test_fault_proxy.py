"""The proxy over a trivial echo: each toxic does its harm, and nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.faults.http11 import send_reset
from tests.faults.proxy import FaultProxy

pytestmark = [pytest.mark.timeout(20), pytest.mark.alone]


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


@pytest.fixture
async def proxy() -> AsyncIterator[FaultProxy]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with FaultProxy(upstream=("127.0.0.1", port), seed=1) as running:
        yield running
    server.close()


async def connect(proxy: FaultProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes = b"ping") -> float:
    """The seconds one echo takes."""
    began = time.perf_counter()
    writer.write(data)
    async with asyncio.timeout(5):
        assert await reader.readexactly(len(data)) == data
    return time.perf_counter() - began


async def test_without_toxics_bytes_pass_both_ways(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    await ping(reader, writer, b"x" * 1_000_000)
    assert proxy.bytes_up == proxy.bytes_down == 1_000_000
    writer.write_eof()
    assert await reader.read() == b"", "an end passes, too"


async def test_latency_delays_each_direction_and_heals(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    proxy.latency(0.05, jitter=0.01)
    assert await ping(reader, writer) >= 0.08
    proxy.heal()
    assert await ping(reader, writer) < 0.04


async def test_latency_does_not_lower_the_rate(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    proxy.latency(0.05, direction="down")
    began = time.perf_counter()
    for _ in range(20):
        writer.write(b"x")
        await asyncio.sleep(0.002)
    assert len(await reader.readexactly(20)) == 20
    assert time.perf_counter() - began < 0.5, "blocks are late together, not one after the other"


async def test_the_slicer_writes_single_bytes(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    proxy.slicer(1, gap=0.002, direction="down")
    writer.write(b"abcdef")
    pieces = [await reader.read(100) for _ in range(6)]
    assert pieces == [b"a", b"b", b"c", b"d", b"e", b"f"]


async def test_a_frozen_link_holds_its_bytes_and_its_sockets(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    await ping(reader, writer)
    proxy.freeze()
    writer.write(b"held")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.05)
    late_reader, late_writer = await connect(proxy)
    proxy.thaw()
    assert await reader.readexactly(4) == b"held"
    await ping(late_reader, late_writer)


async def test_a_reset_is_an_rst_on_open_connections(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    await ping(reader, writer)
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert await ping(*await connect(proxy)) < 1


async def test_a_reset_after_n_bytes_lets_exactly_n_through(proxy: FaultProxy) -> None:
    proxy.reset_after(3, direction="up")
    reader, writer = await connect(proxy)
    writer.write(b"abcdef")
    with pytest.raises(ConnectionResetError):
        await reader.readexactly(6)
    assert proxy.bytes_up == 3


async def test_limit_data_closes_after_n_bytes(proxy: FaultProxy) -> None:
    proxy.limit_data(3)
    reader, writer = await connect(proxy)
    writer.write(b"abcdef")
    assert await reader.read() == b"abc"


async def test_bandwidth_is_kept(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    proxy.bandwidth(10_000, direction="down")
    assert await ping(reader, writer, b"x" * 1000) >= 0.075, "the last piece is not waited for"
    proxy.heal()
    assert await ping(reader, writer, b"x" * 1000) < 0.05


async def test_refused_connections_are_accepted_again(proxy: FaultProxy) -> None:
    reader, _ = await connect(proxy)
    await proxy.refuse()
    with pytest.raises(ConnectionError):
        await reader.readexactly(1)
    with pytest.raises(ConnectionRefusedError):
        await connect(proxy)
    port = proxy.port
    await proxy.accept()
    assert proxy.port == port
    await ping(*await connect(proxy))


async def test_a_slow_close_passes_the_end_on_late(proxy: FaultProxy) -> None:
    reader, writer = await connect(proxy)
    await ping(reader, writer)
    proxy.slow_close(0.05, direction="down")
    began = time.perf_counter()
    writer.write_eof()
    assert await reader.read() == b""
    assert time.perf_counter() - began >= 0.045, "timers round to milliseconds"


async def test_an_upstream_that_is_away_resets_the_client(proxy: FaultProxy) -> None:
    proxy.upstream = ("127.0.0.1", 1)
    reader, _ = await connect(proxy)
    with pytest.raises(ConnectionResetError):
        await reader.read()


async def test_unix_sockets_work_on_both_sides(tmp_path: Path) -> None:
    behind, before = tmp_path / "behind", tmp_path / "before"
    server = await asyncio.start_unix_server(_echo, behind)
    async with FaultProxy(upstream=behind, listen=before) as proxy:
        reader, writer = await asyncio.open_unix_connection(before)
        await ping(reader, writer)
        proxy.reset()
        assert await reader.read() == b"", "a unix socket has no RST"
        assert proxy.accepted == 1
    server.close()


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_client_that_goes_is_gone_upstream(proxy: FaultProxy, how: str) -> None:
    reader, writer = await connect(proxy)
    await ping(reader, writer)
    assert proxy.open_links == 1
    if how == "close":
        writer.close()
    else:
        send_reset(writer.transport)
    async with asyncio.timeout(2):
        while proxy.open_links:
            await asyncio.sleep(0.005)
