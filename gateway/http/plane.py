"""The data plane's HTTP: one raw ASGI handler for every route that reaches a model.

Reads head and body within their caps, lets the line answer, and writes what it yields. A client that leaves cancels
the request, whatever it is waiting for. Whatever happens the answer carries our `x-request-id`.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import time
from asyncio import CancelledError
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.errors import (
    BadRequest,
    GatewayError,
    MethodNotAllowed,
    TooLarge,
    Unauthenticated,
    UnsupportedMedia,
)
from gateway.http.answering import answer_whole, apart, lines_of
from gateway.http.connection import BODY, CONNECTION, TASK, Connection
from gateway.http.credentials import MAX_CREDENTIAL, read_credential
from gateway.http.errors import Dialect, error_frame, rendered
from gateway.http.gate import Gate, Overloaded
from gateway.http.large import LARGE, LargeBodies
from gateway.http.origin import Origins
from gateway.http.outlet import outlet
from gateway.http.strict_json import decode_object
from gateway.ids import RequestIds
from gateway.pipeline.audit import audit
from gateway.pipeline.authenticate import authenticate, recognised
from gateway.pipeline.completion import complete, stream
from gateway.pipeline.exchange import Exchange, ModelRequest
from gateway.pipeline.line import Line
from gateway.pipeline.ports import Outlet
from gateway.pipeline.revocation import REVOKED
from policies.caching import ANYTHING, HIT, Wish, wish_of

if TYPE_CHECKING:
    from litestar.types import Receive, Scope, Send

MAX_BODY = 4 << 20
_EVENTS = (
    b"content-type: text/event-stream; charset=utf-8\r\ncache-control: no-store\r\nx-accel-buffering: no\r\n"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Api:
    """One kind of call: its name in the ledger, its dialect, and how its body becomes a ModelRequest."""

    name: str
    dialect: Dialect
    read: Callable[[dict[str, Any], str | None], ModelRequest]
    """(body, endpoint named by the path) -> request; raises BadRequest."""
    carry: Callable[[Line, Exchange], Awaitable[bytes]] = complete
    """Takes a plain call along the line, from its admission to its settlement."""
    pour: Callable[[Line, Exchange, Outlet], Awaitable[None]] = stream
    """The same for a stream."""
    before: Callable[[Line, Exchange, dict[str, Any]], Awaitable[dict[str, Any]]] | None = None
    """Completes a body from what was kept, for a caller that is known; raises GatewayError."""


class DataPlane:
    """Everything that the handlers share; `closing` makes every answer its connection's last."""

    def __init__(self, line: Line, origins: Origins | None = None, gate: Gate | None = None) -> None:
        self.line = line
        self._gate = gate
        self._large = LargeBodies()
        self.origins = origins or Origins()
        self.closing = False
        self.running: set[asyncio.Task[Any]] = set()
        self.exchanges: dict[asyncio.Task[Any], Exchange] = {}
        """Calls whose caller is known, for those who may cut them."""
        self._ids = RequestIds()

    def new_id(self) -> tuple[bytes, str]:
        """A request id and its text."""
        return self._ids.pair()

    async def handle(
        self, scope: Scope, receive: Receive, send: Send, api: Api, endpoint: str | None = None
    ) -> None:
        """Answer one call."""
        request_id, id_text = self._ids.pair()
        began_ns = self.line.monotonic_ns()
        connection = scope.get(CONNECTION)
        task = scope.get(TASK) or asyncio.current_task()
        assert task is not None
        exchange: Exchange | None = None
        self.running.add(task)
        if isinstance(connection, Connection):
            connection.on_left = task.cancel
        try:
            gate = self._gate
            if gate is not None and (gate.guarded or len(self.running) > gate.crowd):
                await gate.enter(scope["headers"], self.exchanges, len(self.running) - 1)  # type: ignore[arg-type]
            if scope.get("method") != "POST":
                raise MethodNotAllowed("This path takes POST.")
            if self.closing and isinstance(connection, Connection):
                # It came before the connection could be closed: it is answered, and is the last one here.
                connection.shutdown()
            try:
                head = _head(scope)
            except TooLarge:
                await _rest(receive)
                raise
            exchange = Exchange(request_id, id_text, api.name, head.credential, began_ns)
            # Nobody unknown gets a body read.
            if not recognised(self.line, exchange):
                await authenticate(self.line, exchange, self.origins.of(scope))
            self.exchanges[task] = exchange
            try:
                body: bytes = scope[BODY] if BODY in scope else await _body(receive, self._large)
            except TooLarge:
                await _rest(receive)
                raise
            exchange.received = body
            large = len(body) > LARGE
            told = await self._large.read(decode_object, body) if large else decode_object(body)
            if api.before is not None:
                told = await api.before(self.line, exchange, told)
            request = await self._large.read(api.read, told, endpoint) if large else api.read(told, endpoint)
            exchange.request = request
            if head.anthropic and api.dialect is Dialect.ANTHROPIC:
                request.shared_headers = head.anthropic
            exchange.group = head.group
            exchange.batch = head.batch
            exchange.sticky = head.sticky
            exchange.wish = head.wish
            if head.timeout_ms:
                exchange.deadline_ns = began_ns + head.timeout_ms * 1_000_000
            if head.idempotency is not None:
                exchange.idempotency = (head.idempotency, hashlib.sha256(body).hexdigest())
            if request.stream:
                await self._stream(exchange, scope, send, api)
            else:
                answer = await api.carry(self.line, exchange)
                lines = b"content-type: application/json\r\ncontent-length: %d\r\n%b" % (
                    len(answer),
                    _told(exchange, api),
                )
                if not answer_whole(scope, lines, answer):
                    await send({"type": "http.response.start", "status": 200, "headers": apart(lines)})
                    await send({"type": "http.response.body", "body": answer, "more_body": False})
        except Overloaded as exc:
            # Whoever is turned away must cost little: there may be many of them.
            _, headers, answer = rendered(exc, api.dialect, id_text)
            if not answer_whole(scope, lines_of(headers), answer, b"503 Service Unavailable"):
                await _refuse(send, exc, api.dialect, id_text)
        except GatewayError as exc:
            audit(self.line, exchange, exc, self.origins.of(scope))
            await _refuse(send, exc, api.dialect, id_text)
        except CancelledError:
            if exchange is not None and exchange.stopped_by == REVOKED:
                task.uncancel()
                await _refuse(send, Unauthenticated(_REVOKED), api.dialect, id_text)
            # The client is gone and there is nobody to tell; any other cancellation is the server's own.
            elif not (isinstance(connection, Connection) and connection.lost):
                raise
        except _Unheard:
            if isinstance(connection, Connection):
                connection.on_left = None
                connection.transport.abort()
        except Exception:
            log.exception("request %s failed", id_text)
            await _refuse(send, GatewayError(_FAILED), api.dialect, id_text)
        finally:
            self.running.discard(task)
            self.exchanges.pop(task, None)
            if isinstance(connection, Connection):
                connection.on_left = None
                if TASK in scope:
                    connection.leave(send)

    async def _stream(self, exchange: Exchange, scope: Scope, send: Send, api: Api) -> None:
        way = outlet(scope, send, lambda: _EVENTS + _told(exchange, api))
        try:
            await api.pour(self.line, exchange, way)
        except CancelledError:
            if not way.begun or exchange.stopped_by != REVOKED:
                raise
            try:
                # A client that does not read must not keep a call open that was cut.
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    way.write(_broken(exchange, Unauthenticated(_REVOKED), api))
                    await way.end()
            except TimeoutError:
                raise _Unheard from None
        except Exception as exc:
            if not way.begun:
                raise
            if isinstance(exc, GatewayError):
                told = exc
            else:
                log.exception("request %s failed", exchange.id_text)
                told = GatewayError(_FAILED)
            way.write(_broken(exchange, told, api))
            await way.end()
        else:
            await way.end()

    async def drain(self, seconds: float) -> None:
        """Wait for running requests; what is left after `seconds` is cut and settled."""
        self.closing = True
        ends_at = time.monotonic() + seconds
        # A set may be joined by a request that was on its way, so it is looked at until it is empty.
        while self.running and (left := ends_at - time.monotonic()) > 0:
            await asyncio.wait(set(self.running), timeout=left)
        for task in list(self.running):
            task.cancel()
        if self.running:
            await asyncio.wait(set(self.running), timeout=2.0)


class _Head(msgspec.Struct, frozen=True, gc=False):
    """What the headers say of a call."""

    credential: str
    group: str | None
    """To charge."""
    batch: bool
    idempotency: str | None
    sticky: str | None
    timeout_ms: int
    wish: Wish
    """Of stored answers."""
    anthropic: dict[str, str]
    """The version of Anthropic's API that its clients speak, and what they ask for beyond it."""


def _head(scope: Scope) -> _Head:
    """Raises for a body that is not plain JSON or too large, and for headers that make no sense."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]  # type: ignore[assignment]
    named = dict(headers)
    if len(named) == len(headers) and _RARE.isdisjoint(named):
        # Nearly all: a key, a small body of JSON, and what nobody reads. Half of what it takes to look at each field.
        told, length = named.get(b"authorization", b""), named.get(b"content-length", b"0")
        if (
            told[:7] == b"Bearer "
            and named.get(b"content-type") == b"application/json"
            and len(told) <= 7 + MAX_CREDENTIAL
            and _SECRET.fullmatch(told, 7)
            and len(length) < len(str(MAX_BODY))
            and length.isdigit()
        ):
            return _Head(told[7:].decode("ascii"), None, False, None, None, 0, ANYTHING, _NO_ANTHROPIC)
    group = idempotency = sticky = None
    anthropic: dict[str, str] = {}
    batch = False
    timeout_ms = 0
    wish = ANYTHING
    media = b""
    for name, value in headers:
        if name not in _READ:
            continue
        if name == b"content-type":
            media = value
        elif name == b"content-length":
            if not value.isdigit() or len(value) > 9 or int(value) > MAX_BODY:
                raise TooLarge(_TOO_LARGE)
        elif name == b"content-encoding":
            if value.strip().lower() not in (b"", b"identity"):
                raise UnsupportedMedia("Compressed bodies are not accepted; send plain JSON.")
        elif name == b"idempotency-key":
            idempotency = _short(value, "Idempotency-Key")
        elif name == b"x-weighbridge-group":
            group = _short(value, "x-weighbridge-group")
        elif name == b"x-weighbridge-priority":
            if value not in (b"batch", b"interactive"):
                raise BadRequest(
                    "The header x-weighbridge-priority takes batch or interactive.",
                    param="x-weighbridge-priority",
                )
            batch = value == b"batch"
        elif name == b"x-weighbridge-sticky":
            sticky = _short(value, "x-weighbridge-sticky")
        elif name == b"x-weighbridge-timeout":
            timeout_ms = _seconds(value)
        elif name == b"cache-control":
            wish = wish_of(value.decode("latin-1"))
        elif name == b"anthropic-beta":
            _anthropic(anthropic, "anthropic-beta", value)
        elif name == b"anthropic-version":
            _anthropic(anthropic, "anthropic-version", value)
    if media and media.partition(b";")[0].strip().lower() != b"application/json":
        raise UnsupportedMedia("The body must be JSON: send 'Content-Type: application/json'.")
    return _Head(read_credential(headers), group, batch, idempotency, sticky, timeout_ms, wish, anthropic)


_READ = frozenset(
    {
        b"content-type", b"content-length", b"content-encoding", b"idempotency-key", b"x-weighbridge-group",
        b"x-weighbridge-priority", b"x-weighbridge-sticky", b"x-weighbridge-timeout", b"cache-control",
        b"anthropic-beta", b"anthropic-version",
    }
)  # fmt: skip
"""Those that are looked at: clients send a dozen others, none of which is compared with each of these."""
_RARE = (_READ - {b"content-type", b"content-length"}) | {b"x-api-key", b"api-key"}
_SECRET = re.compile(rb"[!-~]+")
_NO_ANTHROPIC: dict[str, str] = {}


def _seconds(value: bytes) -> int:
    """A time limit in milliseconds."""
    if _TIMEOUT.fullmatch(value) is None or not 0.001 <= float(value) <= _LONGEST_TIMEOUT:
        raise BadRequest(
            f"The header x-weighbridge-timeout takes seconds, such as 30 or 2.5, up to {_LONGEST_TIMEOUT}.",
            param="x-weighbridge-timeout",
        )
    return int(float(value) * 1000)


def _anthropic(found: dict[str, str], name: str, value: bytes) -> None:
    """Note a header of Anthropic's clients, joined where it comes several times; raises BadRequest."""
    if not 0 < len(value) <= 1024 or _NAMES.fullmatch(value) is None:
        raise BadRequest(
            f"The header {name} takes names of letters, digits and hyphens, separated by commas.", param=name
        )
    told = value.decode("ascii")
    found[name] = f"{found[name]},{told}" if name in found else told


def _short(value: bytes, name: str) -> str:
    if not 0 < len(value) <= 255 or not value.isascii():
        raise BadRequest(f"The header {name} takes 1 to 255 ASCII characters.", param=name)
    return value.decode("ascii")


def _broken(exchange: Exchange, error: GatewayError, api: Api) -> bytes:
    """The last event of an answer that cannot go on."""
    reader = exchange.reader
    own = b"" if reader is None else reader.failed(error.code, error.message)
    return own or error_frame(error, api.dialect, exchange.id_text)


def _told(exchange: Exchange, api: Api) -> bytes:
    """What the head of an admitted answer says, as lines."""
    reservation, id_text = exchange.reservation, exchange.id_text.encode()
    lines = b"x-request-id: %b\r\n" % id_text
    if api.dialect is Dialect.ANTHROPIC:
        lines += b"request-id: %b\r\n" % id_text
    if reservation is not None:
        lines += reservation.fields
    if exchange.cache is not None:
        lines += b"x-weighbridge-cache: %b\r\n" % exchange.cache.encode()
        if exchange.cache == HIT:
            lines += b"age: %d\r\n" % exchange.cache_age
    if api.dialect is Dialect.DATABRICKS and exchange.entity is not None:
        # What an administrator has called it: it is looked at whether it is a line.
        lines += lines_of([(b"served-model-name", exchange.entity.name.encode("latin-1", "replace"))])
    return lines


async def _body(receive: Receive, large: LargeBodies) -> bytes:
    """The whole body; raises TooLarge before reading on."""
    message = await receive()
    body: bytes = message.get("body", b"")  # type: ignore[assignment]
    if not message.get("more_body"):
        if len(body) > MAX_BODY:
            raise TooLarge(_TOO_LARGE)
        return body
    parts = [body]
    size = len(body)
    while message.get("more_body"):
        if size > LARGE:
            await large.turn()
        message = await receive()
        if message["type"] == "http.disconnect":
            raise CancelledError
        body = message.get("body", b"")  # type: ignore[assignment]
        size += len(body)
        if size > MAX_BODY:
            raise TooLarge(_TOO_LARGE)
        parts.append(body)
    return b"".join(parts)


async def _rest(receive: Receive) -> None:
    """Let a client send what it is sending and drop it: one that is cut off while it writes never reads the refusal."""
    dropped = 0
    clock = asyncio.get_running_loop().time
    latest = clock() + 10 * _GOODBYE_SECONDS
    try:
        async with asyncio.timeout(_GOODBYE_SECONDS) as patience:
            while dropped < _MOST_DROPPED:
                message = await receive()
                dropped += len(message.get("body", b""))  # type: ignore[arg-type]
                if not message.get("more_body"):
                    return
                patience.reschedule(min(clock() + _GOODBYE_SECONDS, latest))
    except TimeoutError:
        return


_FAILED = "The gateway failed; the request id finds the cause in its log."
_REVOKED = "The credential of this call was revoked while it ran; what was answered so far is charged."
_GOODBYE_SECONDS = 1.0
_MOST_DROPPED = 32 << 20
_TIMEOUT = re.compile(rb"[0-9]{1,5}(\.[0-9]{1,3})?")
_LONGEST_TIMEOUT = 86_400
_NAMES = re.compile(rb"[A-Za-z0-9._-]+(?:[ \t]*,[ \t]*[A-Za-z0-9._-]+)*")
_TOO_LARGE = f"The body is over {MAX_BODY >> 20} MiB; send less."


class _Unheard(Exception):
    """The client does not read what it should be told: its connection is to be closed."""


async def _refuse(send: Send, error: GatewayError, dialect: Dialect, id_text: str) -> None:
    status, headers, body = rendered(error, dialect, id_text)
    if isinstance(error, TooLarge):
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
