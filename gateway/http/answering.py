"""Answers written to their connection past ASGI, where uvicorn serves it: a whole one, or the beginning of a stream.

Heads come as lines, each of which `lines_of` looked at or is of numbers and words of ours. Nobody overtakes: where another answer
is under way, or the client reads slowly, ASGI does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.http.connection import CONNECTION, HERE, Connection

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


def lines_of(headers: Headers) -> bytes:
    """Fields as the lines of a head; raises ValueError for one that is more than a line."""
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    if lines.count(b"\n") != len(headers) or lines.count(b"\r") != len(headers) or b"\0" in lines:
        raise ValueError("a header field takes one line")
    return lines


def apart(lines: bytes) -> Headers:
    """The fields of such lines, as ASGI has them."""
    fields = [each.partition(b": ") for each in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, _, value in fields]


def answer_whole(scope: Scope, lines: bytes, body: bytes, status: bytes = b"200 OK") -> bool:
    """Write a whole answer in one piece; False where ASGI must do it: another server, or a client that reads slowly."""
    connection = scope.get(CONNECTION)
    # As `cycle_of`, which a call saved: this writes nearly all answers.
    cycle = connection.cycle if isinstance(connection, Connection) else None
    if (
        cycle is None
        or cycle.scope is not scope  # type: ignore[comparison-overlap]
        or cycle.response_started
        or cycle.flow.write_paused
    ):
        return False
    if cycle.disconnected:
        return True
    cycle.response_started, cycle.waiting_for_100_continue = True, False
    end = b"\r\n" if cycle.keep_alive else _CLOSES
    cycle.transport.write(b"HTTP/1.1 %b\r\n%b%b%b" % (status, lines, end, body))
    _completed(cycle)
    return True


def begin_chunked(cycle: RequestResponseCycle, lines: bytes, first: bytes) -> None:
    """Write the head of a 200 whose body comes in chunks, and the first of them; ASGI may carry on from there."""
    cycle.chunked_encoding = True
    cycle.transport.write(
        b"%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (_head(cycle, lines), len(first), first)
    )


def answer_chunked(cycle: RequestResponseCycle, lines: bytes, body: bytes) -> bool:
    """Write a whole 200, its body as one chunk, in one piece; False where ASGI must end it: a client that is gone, or slow."""
    if cycle.response_started or cycle.disconnected or cycle.flow.write_paused:
        return False
    cycle.chunked_encoding = True
    cycle.transport.write(
        b"%btransfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (_head(cycle, lines), len(body), body)
    )
    _completed(cycle)
    return True


def begin_unframed(cycle: RequestResponseCycle, lines: bytes, first: bytes) -> None:
    """Write the head of a 200 whose body ends with its connection, as HTTP/1.0 has it, and the first of it."""
    cycle.chunked_encoding = False
    cycle.transport.write(b"%b\r\n%b" % (_head(cycle, lines), first))


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
    if cycle.message_event is not HERE:
        cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    # Else a connection and what is known of its last answer would keep each other.
    cycle.on_response = _heard


def _heard() -> None:
    """Whoever was to be told of the answer's end was told."""


def _head(cycle: RequestResponseCycle, lines: bytes) -> bytes:
    cycle.response_started, cycle.waiting_for_100_continue = True, False
    return b"HTTP/1.1 200 OK\r\n%b%b" % (lines, b"" if cycle.keep_alive else _CLOSE)


_CLOSE = b"connection: close\r\n"
_CLOSES = _CLOSE + b"\r\n"
