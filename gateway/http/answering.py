"""Answers written to their connection past ASGI, where uvicorn serves it: a whole one, or the beginning of a stream.

A field of a head is one line whatever its value holds, and nobody overtakes: where another answer is under way, or the client
reads slowly, ASGI does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.connection import CONNECTION, Connection

if TYPE_CHECKING:
    from litestar.types import Scope
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

Headers = list[tuple[bytes, bytes]]


def cycle_of(scope: Scope) -> RequestResponseCycle | None:
    """uvicorn's own state of this request, None where a later one has come or another server runs the application.

    Through it an answer is written past ASGI: uvicorn takes every header through two regular expressions, 7 us an
    answer where this takes 1.6, and every piece of a stream through a coroutine.
    """
    connection = scope.get(CONNECTION)
    cycle = connection.cycle if isinstance(connection, Connection) else None
    return cycle if cycle is not None and cycle.scope is scope else None  # type: ignore[comparison-overlap]


def answer_whole(scope: Scope, headers: Headers, body: bytes, status: bytes = b"200 OK") -> bool:
    """Write a whole answer in one piece; False where ASGI must do it: another server, or a client that reads slowly."""
    cycle = cycle_of(scope)
    if cycle is None or cycle.response_started or cycle.flow.write_paused:
        return False
    if cycle.disconnected:
        return True
    head = _head(cycle, headers, status)
    cycle.response_started = True
    cycle.transport.write(b"%b\r\n%b" % (head, body))
    _completed(cycle)
    return True


def begin_chunked(cycle: RequestResponseCycle, headers: Headers, first: bytes) -> None:
    """Write the head of a 200 whose body comes in chunks, and the first of them; ASGI may carry on from there."""
    head = _head(cycle, headers)
    cycle.response_started = cycle.chunked_encoding = True
    cycle.transport.write(b"%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (head, len(first), first))


def begin_unframed(cycle: RequestResponseCycle, headers: Headers, first: bytes) -> None:
    """Write the head of a 200 whose body ends with its connection, as HTTP/1.0 has it, and the first of it."""
    head = _head(cycle, headers)
    cycle.response_started, cycle.chunked_encoding = True, False
    cycle.transport.write(b"%b\r\n%b" % (head, first))


def end_unframed(cycle: RequestResponseCycle) -> None:
    """End such a body: what is still unsent goes out before the connection closes."""
    if not cycle.response_complete and not cycle.disconnected:
        _completed(cycle)


def end_chunked(cycle: RequestResponseCycle) -> bool:
    """Write the end of a body that comes in chunks; False where ASGI must do it: a client that is gone, or reads slowly."""
    if not cycle.chunked_encoding or cycle.response_complete or cycle.disconnected or cycle.flow.write_paused:
        return False
    cycle.transport.write(b"0\r\n\r\n")
    _completed(cycle)
    return True


def _completed(cycle: RequestResponseCycle) -> None:
    cycle.response_complete = True
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()


def _head(cycle: RequestResponseCycle, headers: Headers, status: bytes = b"200 OK") -> bytes:
    if not cycle.keep_alive:
        headers = [*headers, (b"connection", b"close")]
    head = b"".join([b"%b: %b\r\n" % header for header in headers])
    if head.count(b"\n") != len(headers) or head.count(b"\r") != len(headers) or b"\0" in head:
        raise ValueError("a header field takes one line")
    cycle.waiting_for_100_continue = False
    return b"HTTP/1.1 %b\r\n%b" % (status, head)
