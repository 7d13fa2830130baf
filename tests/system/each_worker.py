"""A kept connection to each worker of a deployment, so that every one of them can be asked, and none by chance.

The kernel deals connections out to the workers' sockets; its own tables say who holds which.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.system.asking import Answer, Reading, request_bytes
from tests.system.deployment import Deployment, chat


class Kept:
    """One connection, one request after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @property
    def port(self) -> int:
        """Our end's."""
        return self._writer.get_extra_info("sockname")[1]

    async def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
    ) -> Answer:
        """One well-formed call."""
        self._writer.write(request_bytes(method, path, body, key=key, headers=headers))
        reading = Reading()
        async with asyncio.timeout(30):
            while not reading.whole:
                data = await self._reader.read(65536)
                assert data, "the worker closed the connection"
                reading.feed(data)
        return reading.answers[0]

    async def ended(self) -> None:
        """Wait until the worker ends it."""
        while await self._reader.read(65536):
            pass

    def close(self) -> None:
        """Let it go."""
        self._writer.close()


@asynccontextmanager
async def each_worker(gateway: Deployment) -> AsyncIterator[list[Kept]]:
    """A connection to each worker."""
    wanted = set(gateway.workers())
    held: dict[int, Kept] = {}
    deadline = time.monotonic() + 30
    try:
        while held.keys() != wanted:
            assert time.monotonic() < deadline, (held.keys(), wanted)
            made = Kept(*await asyncio.open_connection("127.0.0.1", gateway.port))
            assert (await made.ask("GET", "/healthz")).status == 200
            (holder,) = _holders(gateway, made.port) & wanted
            if holder in held:
                made.close()
            else:
                held[holder] = made
        yield list(held.values())
    finally:
        for each in held.values():
            each.close()


def _holders(gateway: Deployment, port: int) -> set[int]:
    """Workers that hold the other end of a connection from this port."""
    ours = (f":{gateway.port:04X}", f":{port:04X}")
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {f"socket:[{line[9]}]" for line in lines if (line[1][8:], line[2][8:]) == ours}
    found: set[int] = set()
    for pid in gateway.workers():
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if str(handle.readlink()) in inodes:
                    found.add(pid)
            except FileNotFoundError:
                continue
    return found


async def until_each(
    connections: list[Kept], holds: Callable[[Answer], bool], key: str, model: str, *, sticky: str = ""
) -> float:
    """Seconds from now until a call to this model at every worker is answered as it should be."""
    began = time.monotonic()
    headers = [("x-weighbridge-sticky", sticky)] if sticky else []

    async def until(connection: Kept) -> float:
        while True:
            answer = await connection.ask(
                "POST", "/v1/chat/completions", chat("[[tokens=1]]", model=model), key=key, headers=headers
            )
            if holds(answer):
                return time.monotonic() - began
            # A worker reads twice a second, and at once when it is told: a slow machine is given its time.
            assert time.monotonic() - began < 10, answer
            await asyncio.sleep(0.01)

    return max(await asyncio.gather(*(until(each) for each in connections)))


async def someone(connection: Kept, holds: Callable[[Answer], bool], key: str, model: str) -> str:
    """A key of the split whose call is answered as it should be."""
    deadline = time.monotonic() + 10
    for number in itertools.count():
        sticky = f"caller-{number}"
        body = chat("[[tokens=1]]", model=model)
        headers = [("x-weighbridge-sticky", sticky)]
        answer = await connection.ask("POST", "/v1/chat/completions", body, key=key, headers=headers)
        if holds(answer):
            return sticky
        assert time.monotonic() < deadline, answer
    raise AssertionError


def answered_by(model: str) -> Callable[[Answer], bool]:
    """That this model answered."""

    def holds(answer: Answer) -> bool:
        told: Any = answer.json() if answer.status == 200 else {}
        return told.get("model") == model

    return holds


def refused_with(status: int) -> Callable[[Answer], bool]:
    """That the call was refused."""
    return lambda answer: answer.status == status
