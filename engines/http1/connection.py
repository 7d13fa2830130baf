"""One keep-alive connection to an upstream: sends a call, parses its answer, and says whether it may be used again.

Whatever is not HTTP/1.1, comes unasked or is over a cap ends the connection; an answer that has no head yet then
failed to connect, one that has is garbled.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import cast

import httptools

from engines.errors import ConnectFailed, EngineError, Garbled, TimedOut
from engines.http1.answer import READ_AHEAD, Answer
from engines.http1.fields import Fields
from engines.http1.outflow import Outflow
from engines.http1.turns import Turns

MAX_HEAD = 1 << 16
"""Bytes of a head, and of chunk framing and trailers between two pieces of a body."""
MAX_HEADERS = 128
LARGE_READ = 1 << 14
"""Bytes of an answer after which it waits for a turn: the event loop reads 32 times while there is more, of each that has more, and
64 KiB of small events take 2 ms to pass on."""
_ENDS = {14: b"content-length", 17: b"transfer-encoding"}
"""The fields that say where a body ends, by the length of their names; without any it ends with the connection."""


class Connection(asyncio.BufferedProtocol):
    """Carries one call at a time; `released` is told when it is free again or gone.

    It reads into the pool's one buffer, so that no more than that arrives at a time: the event loop's own is 250 KiB.
    """

    __slots__ = (
        "_answer",
        "_buffer",
        "_complete",
        "_fault",
        "_fields",
        "_framing",
        "_in_body",
        "_interim",
        "_loop",
        "_max_answer",
        "_outflow",
        "_parser",
        "_parts",
        "_released",
        "_resting",
        "_surplus",
        "_transport",
        "_turns",
        "_until_close",
        "_whole_parts",
        "closed",
        "get_buffer",
        "idle_since",
        "on_body",
    )

    def __init__(
        self,
        loop: AbstractEventLoop,
        buffer: memoryview,
        get_buffer: Callable[[int], memoryview],
        released: Callable[[Connection, bool], None],
        max_answer: int,
        turns: Turns,
    ) -> None:
        """`get_buffer` gives `buffer`, whatever it is asked for."""
        self._loop = loop
        self._buffer = buffer
        self._released = released
        self._max_answer = max_answer
        self._turns = turns
        self._resting = False
        """It reads on in one of the loop's next turns."""
        self._parts: list[bytes] = []
        """What the parser found of a body in the bytes that it was fed."""
        self._whole_parts = 0
        # Functions of C, where two of Python were called for every piece.
        self.get_buffer = get_buffer  # type: ignore[method-assign, assignment]
        self.on_body = self._parts.append
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._transport: asyncio.Transport
        self._outflow: Outflow | None = None
        """What is left of a large call that is being sent."""
        self._fields: list[tuple[bytes, bytes]] = []
        self._framing = 0
        self._fault = ""
        self._in_body = self._interim = self._complete = self._surplus = self._until_close = False
        self.closed = False
        self.idle_since = 0.0

    # what the pool does

    def send(self, payload: bytes, rest: bytes, *, whole: bool) -> Answer:
        """Send a call, `rest` in pieces; its answer fills from now on."""
        self._answer = answer = Answer(self._loop, self, whole=whole)
        self._framing = 0
        self._in_body = self._interim = self._complete = self._until_close = False
        self._transport.write(payload)
        if rest:
            self._outflow = Outflow(self._loop, self._transport, rest)
            self._outflow.pour()
        return answer

    def fileno(self) -> int:
        """The socket's descriptor."""
        return int(self._transport.get_extra_info("socket").fileno())

    def abort(self) -> None:
        """End it now; an upstream that is still generating learns it from this."""
        answer, self._answer = self._answer, None
        self._gone()
        self._transport.abort()
        if answer is not None and not answer.done and answer.error is None:
            answer.fail(ConnectFailed("aborted"))

    def expire(self, now: float, first_byte: float, between: float, total: float) -> None:
        """End it if its answer has passed a limit."""
        answer = self._answer
        if answer is not None:
            error: TimedOut | None = answer.overdue(now, first_byte, between, total)
            if error is not None:
                self._fail(error)

    def resume(self, answer: Answer) -> None:
        """The reader has caught up."""
        answer.paused = False
        if answer is self._answer and not (self.closed or self._resting):
            self._transport.resume_reading()

    # what the event loop does

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def pause_writing(self) -> None:
        if self._outflow is not None:
            self._outflow.hold_back()

    def resume_writing(self) -> None:
        if self._outflow is not None:
            self._outflow.let_go()

    def buffer_updated(self, nbytes: int) -> None:
        answer = self._answer
        if answer is None:
            # Nobody asked: an answer to nothing must never be taken for the next call's.
            self.abort()
            return
        answer.heard = self._loop.time()
        try:
            self._parser.feed_data(self._buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            # An answer that was whole before the nonsense began stands; the connection does not.
            self._surplus = True
            if not self._complete:
                self._fault = self._fault or "not HTTP/1.1"
        parts = self._parts
        if not parts:
            self._framing += nbytes
        else:
            self._framing = 0
            taker = answer.taker
            if taker is not None and len(parts) == 1 and not self._complete and not self._fault:
                # A piece of a stream, as nearly all that is read is: it needs nothing of what follows here.
                piece = parts.pop()
                answer.size += len(piece)
                try:
                    if not taker(piece):
                        answer.stop()
                except Exception as exc:
                    answer.stop(exc)
                return
            if self._surplus and self._complete:
                # What another answer said, unasked.
                del parts[self._whole_parts :]
            answer.add(parts)
            parts.clear()
            if answer.whole and answer.size > self._max_answer:
                self._fail(Garbled(f"the answer is over {self._max_answer} bytes"))
                return
        if self._complete:
            self._finish(answer)
        elif self._fault:
            self._fail(Garbled(self._fault))
        elif self._framing > MAX_HEAD:
            self._fail(Garbled(f"over {MAX_HEAD} bytes of head, trailers or chunk framing"))
        else:
            if not answer.whole and answer.status:
                if answer.waiter is not None:
                    answer.arrived()
                elif answer.parted_at and answer.overstays():
                    self.abort()
                if answer.held > READ_AHEAD and not answer.paused:
                    answer.paused = True
                    self._transport.pause_reading()
            if nbytes >= LARGE_READ and not (self.closed or self._resting):
                self._resting = True
                self._transport.pause_reading()
                self._turns.next(self._read_on)

    def _read_on(self) -> None:
        self._resting = False
        answer = self._answer
        if not (self.closed or self._transport.is_closing() or (answer is not None and answer.paused)):
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone()
        answer = self._answer
        if answer is None:
            return
        if self._until_close and exc is None:
            self._answer = None
            answer.finish()
        elif answer.status:
            self._fail(Garbled("the connection ended before the answer did"))
        else:
            self._fail(ConnectFailed(type(exc).__name__ if exc is not None else "closed without an answer"))

    # what the parser says

    def on_message_begin(self) -> None:
        if self._complete:
            self._surplus = True
        self._fields = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_body or self._complete:
            return  # trailers carry nothing that is needed; their size is bounded as framing
        if len(self._fields) >= MAX_HEADERS:
            self._fault = f"over {MAX_HEADERS} header fields"
            return
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        answer = self._answer
        if self._complete or answer is None:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            if status == 101:
                self._fault = "it changes the protocol"
            return
        self._until_close = status not in (204, 304)
        for name, _ in self._fields:
            # By its length first: few names come so far.
            if len(name) in _ENDS and name.lower() == _ENDS[len(name)]:
                self._until_close = False
                break
        self._in_body = True
        answer.status = status
        answer.headers = Fields(self._fields)

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        elif not self._complete and not self._fault:
            self._complete = True
            self._whole_parts = len(self._parts)
            if not self._parser.should_keep_alive():
                self._surplus = True

    # how a call ends

    def _finish(self, answer: Answer) -> None:
        self._answer = None
        if answer.paused:
            answer.paused = False
            if not self._resting:
                self._transport.resume_reading()
        transport = self._transport
        outflow, self._outflow = self._outflow, None
        unsent = outflow is not None and outflow.stop()
        reusable = not (
            unsent
            or self._surplus
            or self.closed
            or transport.is_closing()
            or transport.get_write_buffer_size()
        )
        answer.finish()
        if reusable:
            self._released(self, True)
        else:
            self._gone()
            transport.abort()

    def _fail(self, error: EngineError) -> None:
        answer, self._answer = self._answer, None
        self._gone()
        self._transport.abort()
        if answer is not None:
            answer.fail(error)

    def _gone(self) -> None:
        if not self.closed:
            self.closed = True
            if self._outflow is not None:
                self._outflow.stop()
            self._released(self, False)
