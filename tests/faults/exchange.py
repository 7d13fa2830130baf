"""One request being answered by its script: the pace of the tokens, the fault, and what the oracle is told.

Tokens are counted when they are handed to the socket; a peer that reads slowly stops the pace, and a peer that goes
ends the generation at once, as vLLM's abort does (unless the script ignores the close and bills on).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

from tests.faults import journal as ends
from tests.faults.answers import dumps, encode, error_answer, full_usage
from tests.faults.http11 import LAST_CHUNK, STREAM_HEAD, http_chunk, plain_head, send_reset
from tests.faults.journal import Journal, OracleRecord
from tests.faults.plan import Plan, encode_event
from tests.faults.script import HEADERS, START, Script

_SLAB: Final = 256  # steps in one write, so that a peer that does not read stops the pace
_INTERRUPTING: Final = {"bad_utf8", "bad_json", "huge"}  # one bad event, then the rest


class Exchange:
    """Answers one request. `finished` is called once, when the connection may take the next one."""

    __slots__ = (
        "_due", "_finished", "_hit", "_id", "_journal", "_loop", "_paused", "_plan", "_sent", "_stalled",
        "_step", "_timer", "_transport", "gone", "record", "script",
    )  # fmt: skip

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        journal: Journal,
        record: OracleRecord,
        script: Script,
        plan: Plan,
        id_: tuple[bytes, bytes],
        finished: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._journal = journal
        self._plan = plan
        self._id = id_
        self._finished = finished
        self._timer: asyncio.TimerHandle | None = None
        self._paused = self._stalled = self.gone = False
        self._hit = script.fault == ""  # whether the fault is behind us
        self._step = self._sent = 0
        self._due = 0.0
        self.record = record
        self.script = script

    def start(self) -> None:
        """Begin: at once where the script has no pace."""
        script = self.script
        if script.fail:
            self._later(script.first, self._fail)
        elif script.fault == "endless_headers":
            self._write(b"HTTP/1.1 200 OK\r\n", 200)
            self._endless()
        elif not self._hit and script.at == START:
            self._later(script.first, self._break)
        elif self.record.stream:
            self._start_stream()
        else:
            self._later(script.first + script.delay * self._plan.per_choice, self._plain)

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        if seconds > 0:
            self._timer = self._loop.call_later(seconds, call)
        else:
            call()

    def _write(self, data: bytes, status: int = 0) -> None:
        if self.gone:
            return
        if status and not self.record.status:
            self.record.status = status
            self.record.first_byte_at = time.time()
        self._transport.write(data)

    def _end(self, ended: str, *, reusable: bool = True) -> None:
        if self.gone:
            self._journal.end(self.record, ends.PEER_CLOSED)
            return
        self._journal.end(self.record, ended)
        if reusable:
            self._finished()
        else:
            self._transport.close()

    # plain answers

    def _fail(self) -> None:
        script = self.script
        body = script.body.encode() if script.body else encode(self._error(script.fail))
        extra = f"retry-after: {script.retry_after}\r\n" if script.retry_after else ""
        self._write(plain_head(script.fail, len(body), extra) + body, script.fail)
        self._end(ends.REFUSED)

    def _plain(self) -> None:
        plan, script = self._plan, self.script
        body = plan.body.replace(*self._id)
        self._journal.emit(self.record, plan.tokens - self.record.emitted, peer_gone=self.gone)
        if self._hit or self.gone:
            self._write(plain_head(200, len(body)) + body, 200)
            self._end(ends.COMPLETE)
            return
        match script.fault:
            case "bad_json":
                body = body[: len(body) // 2]
            case "bad_utf8":
                body = body.replace(b'"content":"', b'"content":"\xff\xfe', 1)
            case "huge":
                body = body[:-1] + b',"padding":"' + b"x" * script.huge_bytes + b'"}'
            case "bad_chunk":
                head = STREAM_HEAD.replace(b"text/event-stream; charset=utf-8", b"application/json")
                self._write(head + b"zz\r\n" + body + b"\r\n", 200)
                self._end(ends.TRUNCATED, reusable=False)
                return
            case "stall" | "reset" | "close":
                sent = b"" if script.at == HEADERS else body[: len(body) // 2]
                self._write(plain_head(200, len(body)) + sent, 200)
                self._break()
                return
            case _:
                pass
        self._write(plain_head(200, len(body)) + body, 200)
        self._end(ends.COMPLETE)

    def _error(self, status: int) -> dict[str, Any]:
        """An error, with what was used by then where the script wants that told."""
        error, spent = error_answer(status), self.script.spent
        if spent < 0:
            return error
        self.record.told = True
        self._journal.emit(self.record, spent, peer_gone=self.gone)
        return {**error, "usage": full_usage(self.script, self.record.prompt_tokens, self.record.emitted)}

    # streams

    def _start_stream(self) -> None:
        script, plan = self.script, self._plan
        if (
            self._hit
            and not script.first
            and not script.delay
            and not script.gap
            and len(plan.steps) <= _SLAB
        ):
            self._journal.emit(self.record, plan.tokens)
            self._write(STREAM_HEAD + plan.burst.replace(*self._id) + LAST_CHUNK, 200)
            self._end(ends.COMPLETE)
            return
        self._write(STREAM_HEAD, 200)
        self._due = self._loop.time() + script.first
        self._later(script.first, self._tick)

    def _tick(self) -> None:
        """Send the steps that are due, at most a slab at once."""
        script, steps = self.script, self._plan.steps
        self._timer = None
        out: list[bytes] = []
        tokens = 0
        while True:
            step = steps[self._step]
            if not self._hit and step.place != "slice" and (self._sent >= script.at or step.place == "close"):
                self._flush_out(out, tokens)
                self._break()
                return
            if script.fault == "comments_only":
                out.append(http_chunk(b": keep-alive\n\n"))
            else:
                out.append(step.data.replace(*self._id))
                tokens += step.tokens
            self._sent += step.tokens
            self._step += 1
            if self._step == len(steps):
                self._flush_out([*out, LAST_CHUNK], tokens)
                self._end(ends.COMPLETE)
                return
            if self._wait():
                break
            if len(out) >= _SLAB:
                break
        self._flush_out(out, tokens)
        if not self._paused:
            self._next()

    def _wait(self) -> float:
        """Seconds before the next step. The closing step belongs to the last token: nothing waits there."""
        match self._plan.steps[self._step].place:
            case "token":
                return self.script.delay
            case "slice":
                return self.script.gap
            case "close":
                return 0.0

    def _flush_out(self, out: list[bytes], tokens: int) -> None:
        if tokens:
            self._journal.emit(self.record, tokens, peer_gone=self.gone)
        if out:
            self._write(b"".join(out))

    def _next(self) -> None:
        self._due += self._wait()
        self._timer = self._loop.call_at(max(self._due, self._loop.time()), self._tick)

    # faults

    def _break(self) -> None:
        """The fault itself. What goes on after it does so from the next step."""
        script = self.script
        fault, self._hit = script.fault, True
        match fault:
            case "stall":
                self._stalled = True
                if script.stall_for:
                    self._timer = self._loop.call_later(script.stall_for, self._resume_stalled)
            case "reset":
                self._journal.end(self.record, ends.RESET)
                send_reset(self._transport)
            case "close":
                self._journal.end(self.record, ends.CLOSED)
                self._transport.close()
            case "no_done":
                self._write(LAST_CHUNK)
                self._end(ends.TRUNCATED)
            case "error_event":
                error = encode_event(dumps(self._error(500)), script) + encode_event("[DONE]", script)
                self._write(error + LAST_CHUNK)
                self._end(ends.TRUNCATED)
            case "bad_chunk":
                self._write(b"zz\r\ndata: {}\n\n\r\n")
                self._end(ends.TRUNCATED, reusable=False)
            case _ if fault in _INTERRUPTING:
                self._write(encode_event(self._bad_event(), script))
                self._tick()
            case _:  # comments_only: the comments take the place of the tokens
                self._tick()

    def _bad_event(self) -> bytes:
        match self.script.fault:
            case "bad_utf8":
                return b'{"choices":[{"index":0,"delta":{"content":"\xff\xfe\xc3"}}]}'
            case "bad_json":
                return b'{"choices":[{"index":0,"delta":{"content":'
            case _:
                filler = b"x" * self.script.huge_bytes
                return b'{"choices":[{"index":0,"delta":{"content":"' + filler + b'"}}]}'

    def _resume_stalled(self) -> None:
        self._stalled = False
        if not self.record.stream:
            self.record.status = 0
            self._plain()
        elif not self.record.status:
            self._start_stream()
        else:
            self._due = self._loop.time()
            self._tick()

    def _endless(self) -> None:
        self._timer = None
        self._write(b"x-more: " + b"a" * 4000 + b"\r\n")
        if not self._paused:
            self._timer = self._loop.call_later(0.001, self._endless)

    # the connection speaks

    def pause(self) -> None:
        """The peer does not read: keep what is not sent."""
        self._paused = True

    def resume(self) -> None:
        """The peer reads again."""
        self._paused = False
        if self._timer is not None or self._stalled or self.record.ended != ends.OPEN:
            return
        if self.script.fault == "endless_headers":
            self._endless()
        elif self.record.stream and self.record.status:
            self._next()

    def peer_closed(self) -> None:
        """The peer went: generation stops here, unless the script bills on."""
        if self.gone or self.record.ended != ends.OPEN:
            return
        self.gone, now = True, time.time()
        self.record.peer_closed_at = now
        self._count_unsent(now)
        if self.script.ignore_close and not self._stalled:
            self._journal.touch(self.record)
            if self._paused:
                self._paused = False
                self._next()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._end(ends.PEER_CLOSED)

    def _count_unsent(self, now: float) -> None:
        """A plain answer's tokens are generated before any is sent: count those made so far."""
        script, record = self.script, self.record
        if record.stream or script.fail or not script.delay:
            return
        elapsed = now - record.started_at - script.first
        made = min(max(int(elapsed / script.delay), 0), self._plan.per_choice) * record.n
        if made > record.emitted:
            self._journal.emit(record, made - record.emitted)
