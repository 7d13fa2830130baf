"""The port `Transport` on aiohttp: the fallback for an upstream that our own client cannot talk to.

Slower (0.1 ms a call) and imported only when it is asked for; the tests hold both to the same outcomes.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http import HttpProcessingError

from engines.errors import ConnectFailed, EngineError, Garbled, TimedOut
from engines.transport import MAX_ANSWER, OpenResponse, Resolve, Response, Timeouts


class _AiohttpOpen:
    """A body that is arriving; one lazily re-armed timer watches for silence, not one a read."""

    def __init__(self, response: aiohttp.ClientResponse, silence: float) -> None:
        self._response = response
        self._content = response.content
        self._silence = silence
        self._loop = asyncio.get_running_loop()
        self._heard = self._loop.time()
        self._reading = False
        self._stalled = False
        self._timer = self._loop.call_later(silence, self._watch)
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self) -> bytes:
        # A reader that was away for a while has not waited for the upstream.
        self._heard = self._loop.time()
        self._reading = True
        try:
            data = await self._content.readany()
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            self._timer.cancel()
            raise TimedOut("silence") if self._stalled else _translated(exc) from exc
        self._heard = self._loop.time()
        self._reading = False
        if not data:
            self._timer.cancel()
            if self._stalled:
                raise TimedOut("silence")
        return data

    async def pump(self, take: Callable[[bytes], bool]) -> bool:
        while data := await self.read():
            if not take(data):
                return False
        return True

    async def rest(self) -> bytes:
        data = b""
        while len(data) < 1 << 16 and (piece := await self.read()):
            data += piece
        return data

    def let_go(self) -> None:
        self.close()

    def close(self) -> None:
        self._timer.cancel()
        if not self._content.at_eof():
            self._response.close()

    def _watch(self) -> None:
        left = self._silence if not self._reading else self._heard + self._silence - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._watch)
        else:
            self._stalled = True
            self._content.set_exception(TimeoutError("silence"))
            self._response.close()


class _Resolver(AbstractResolver):
    """Gives aiohttp the one address that was looked at. It is not asked about addresses that are no names."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolve(host, port)
        version = socket.AF_INET6 if ":" in found else socket.AF_INET
        flags = socket.AI_NUMERICHOST
        return [ResolveResult(hostname=host, host=found, port=port, family=version, proto=0, flags=flags)]

    async def close(self) -> None:
        pass


class AiohttpTransport:
    """aiohttp behind the port: keep-alive pool, unix sockets (`unix:/path`), TLS through the standard library."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        self._url = url
        self._resolve = resolve
        self._timeouts = timeouts or Timeouts()
        self._headers = {"content-type": "application/json", "accept-encoding": "identity", **(headers or {})}
        self._session: aiohttp.ClientSession | None = None
        self._base = "http://engine" if url.startswith("unix:") else url.rstrip("/")

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector: aiohttp.BaseConnector
            if self._url.startswith("unix:"):
                connector = aiohttp.UnixConnector(path=self._url.removeprefix("unix:"), limit=0)
            else:
                tls = ssl.create_default_context() if self._url.startswith("https:") else True
                resolver = None if self._resolve is None else _Resolver(self._resolve)
                connector = aiohttp.TCPConnector(
                    limit=0, use_dns_cache=resolver is None, ttl_dns_cache=30, ssl=tls, resolver=resolver
                )
            limits = self._timeouts
            self._session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                auto_decompress=False,
                trust_env=False,
                timeout=aiohttp.ClientTimeout(
                    total=limits.total, sock_connect=limits.connect, sock_read=limits.first_byte
                ),
                skip_auto_headers=("User-Agent",),
                read_bufsize=1 << 18,
            )
        return self._session

    async def _send(self, path: str, body: bytes, headers: Mapping[str, str]) -> aiohttp.ClientResponse:
        session = self._connected()
        try:
            return await session.post(self._base + path, data=body, headers=headers, allow_redirects=False)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise _translated(exc) from exc

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Response:
        response = await self._send(path, body, headers)
        try:
            data = await _whole(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise _translated(exc) from exc
        finally:
            if not response.content.at_eof():
                response.close()
        return Response(response.status, response.headers, data)

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> OpenResponse:
        return _AiohttpOpen(await self._send(path, body, headers), self._timeouts.between)

    async def get(self, path: str) -> Response:
        try:
            async with self._connected().get(
                self._base + path, allow_redirects=False, timeout=aiohttp.ClientTimeout(total=2.0)
            ) as response:
                return Response(response.status, response.headers, await _whole(response))
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise _translated(exc) from exc

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    length = response.content_length
    if length is not None and length <= MAX_ANSWER:
        return await response.read()
    parts: list[bytes] = []
    size = 0
    while piece := await response.content.readany():
        size += len(piece)
        if size > MAX_ANSWER:
            raise Garbled(f"the answer is over {MAX_ANSWER} bytes")
        parts.append(piece)
    return b"".join(parts)


def _translated(exc: BaseException) -> EngineError:
    if isinstance(exc, (TimeoutError, asyncio.TimeoutError, aiohttp.ServerTimeoutError)):
        return TimedOut(type(exc).__name__)
    if isinstance(exc, (aiohttp.ClientPayloadError, HttpProcessingError)):
        return Garbled(type(exc).__name__)
    if isinstance(exc, aiohttp.ClientResponseError):
        return Garbled(type(exc).__name__)
    return ConnectFailed(type(exc).__name__)
