"""The port `Transport` on our own client: a call's bytes are put together here and nowhere else.

A header that could break the head apart is refused before anything is sent. Never retries.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop, get_running_loop
from collections.abc import Awaitable, Mapping

from engines.errors import TimedOut
from engines.http1.address import Address
from engines.http1.answer import Answer
from engines.http1.outflow import PIECE
from engines.http1.pool import Pool
from engines.transport import MAX_ANSWER, OpenResponse, Resolve, Response, Timeouts

_PROBE_SECONDS = 2.0


class Http1Transport:
    """One upstream address over plain or encrypted HTTP/1.1: keep-alive pool, unix sockets (`unix:/path`)."""

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        resolve: Resolve | None = None,
    ) -> None:
        """With `resolve` the address that a name leads to is looked at before anything connects to it."""
        self._address = Address.parse(url)
        self._timeouts = timeouts or Timeouts()
        self._resolve = resolve
        given = {"accept": "*/*", "accept-encoding": "identity", **(headers or {})}
        self._fixed = f"host: {self._address.authority}\r\n".encode() + _lines(given)
        self._heads: dict[str, bytes] = {}
        self._pool: Pool | None = None
        self._loop: AbstractEventLoop | None = None

    def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Awaitable[Response]:
        """Send and read the whole answer; raises EngineError."""
        return self._whole(*self._payload(path, body, headers))

    async def open(self, path: str, body: bytes, headers: Mapping[str, str]) -> OpenResponse:
        """Send and return as soon as the head of the answer is there; raises EngineError."""
        pool = self._connected()
        connection = pool.idle() or await pool.connect()
        answer = connection.send(*self._payload(path, body, headers), whole=False)
        try:
            await answer.wait()
        except BaseException:
            answer.close()
            raise
        if not answer.status:
            raise _failure(answer)
        return answer

    async def get(self, path: str) -> Response:
        """Fetch a small page (health, metrics); raises EngineError."""
        payload = b"GET %b HTTP/1.1\r\n%b\r\n" % (self._target(path), self._fixed)
        loop = get_running_loop()
        return await self._whole(payload, b"", until=loop.time() + _PROBE_SECONDS)

    async def aclose(self) -> None:
        """Close all connections."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    async def _whole(self, payload: bytes, rest: bytes, *, until: float | None = None) -> Response:
        pool = self._pool or self._connected()
        connection = pool.idle() or await pool.connect()
        answer = connection.send(payload, rest, whole=True)
        timer = None
        if until is not None:
            timer = get_running_loop().call_at(until, answer.close)
        try:
            await answer.wait()
        except BaseException:
            answer.close()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if answer.error is not None:
            late = until is not None and get_running_loop().time() >= until
            raise TimedOut("total") if late else answer.error
        return Response(answer.status, answer.headers, answer.take())

    def _connected(self) -> Pool:
        if self._pool is None:
            limits = self._timeouts
            self._pool = Pool(
                self._address,
                connect=limits.connect,
                limits=(limits.first_byte, limits.between, limits.total),
                max_answer=MAX_ANSWER,
                resolve=self._resolve,
            )
        return self._pool

    def _payload(self, path: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, bytes]:
        """(head and body, nothing), or (head, a large body), which is not copied for it."""
        head = self._heads.get(path)
        if head is None:
            head = b"POST %b HTTP/1.1\r\n%bcontent-type: application/json\r\n" % (
                self._target(path),
                self._fixed,
            )
            self._heads[path] = head
        size = len(body)
        if size > PIECE:
            return b"%b%bcontent-length: %d\r\n\r\n" % (head, _lines(headers), size), body
        return b"%b%bcontent-length: %d\r\n\r\n%b" % (head, _lines(headers), size, body), b""

    def _target(self, path: str) -> bytes:
        target = self._address.prefix + path
        if not target.isascii() or not target.isprintable() or " " in target:
            raise ValueError("a path takes printable ASCII without spaces")
        return target.encode()


def _failure(answer: Answer) -> Exception:
    return answer.error if answer.error is not None else TimedOut("first byte")


def _lines(headers: Mapping[str, str]) -> bytes:
    """Header fields as they are sent; raises ValueError for one that would end its line."""
    text = ""
    for name, value in headers.items():
        text += f"{name}: {value}\r\n"
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError("a header field takes one line")
    return text.encode("latin-1")
