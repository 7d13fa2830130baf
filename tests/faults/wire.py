"""A small HTTP/1.1 client that counts what arrives and can leave in the middle, politely or not.

It parses an event stream line by line, whatever its pieces, and never raises for what a server does: how a call
ended is its answer.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Final, cast

import httptools
import msgspec

from tests.faults.http11 import send_reset
from tests.faults.transcript import How, Transcript

NEVER: Final = "never"
BEFORE_FIRST: Final = "before_first"  # seconds after sending, whatever has arrived
MID_STREAM: Final = "mid_stream"  # after so many content frames
AFTER_DONE: Final = "after_done"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the gateway listens: a port or a unix socket."""

    host: str = "127.0.0.1"
    port: int = 8080
    uds: str | None = None
    path: str = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Spec:
    """One call to make, complete: the same spec sends the same bytes."""

    call: int
    body: bytes
    stream: bool
    key: str = ""
    leave: str = NEVER
    leave_at: float = 0.0
    abrupt: bool = False  # leave with RST instead of FIN
    headers: tuple[tuple[str, str], ...] = ()


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    code: str | int | None = None
    type: str | None = None


class _Answer(msgspec.Struct):
    """A plain answer, an event of a stream, or an error: what the client reads of any of them."""

    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | str | None = None


_decode = msgspec.json.Decoder(_Answer).decode


class _Connection(asyncio.Protocol):
    """One keep-alive connection; one call at a time."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.closed = False
        self.reusable = False
        self._call: _Reading | None = None
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def send(self, payload: bytes, reading: _Reading) -> None:
        self._call = reading
        self.reusable = False
        self._parser = httptools.HttpResponseParser(self)
        self.transport.write(payload)

    def data_received(self, data: bytes) -> None:
        if self._call is None:
            self.transport.abort()
            return
        self._call.saw(len(data))
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._finish("cut")

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._call is not None:
            self._finish("cut" if self._call.transcript.acknowledged else "unreachable")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._call is not None and name.lower() == b"x-request-id":
            self._call.transcript.request_id = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._call is not None:
            self._call.transcript.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        if self._call is not None:
            self._call.feed(body)

    def on_message_complete(self) -> None:
        if self._call is not None:
            self.reusable = self._parser.should_keep_alive()
            self._finish(self._call.at_end())

    def _finish(self, how: How) -> None:
        reading, self._call = self._call, None
        if reading is not None:
            reading.finish(how)

    def drop(self, *, abrupt: bool) -> None:
        self._call = None
        if abrupt:
            send_reset(self.transport)
        else:
            self.transport.close()


class _Reading:
    """What has arrived of one answer."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.transcript = Transcript(
            call=spec.call,
            kind="stream" if spec.stream else "plain",
            leave=spec.leave,
            started_at=time.time(),
        )
        self.done = asyncio.get_running_loop().create_future()
        self._began = time.perf_counter()
        self._rest = b""
        self._body: list[bytes] = []
        self._saw_done = self._saw_error = False

    def saw(self, size: int) -> None:
        seen = self.transcript
        if not seen.acknowledged:
            seen.acknowledged = True
            seen.first_byte_ms = (time.perf_counter() - self._began) * 1000
        seen.bytes += size

    def feed(self, body: bytes) -> None:
        if not self.spec.stream or self.transcript.status != 200:
            self._body.append(body)
            return
        *lines, self._rest = (self._rest + body).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._event(line[5:].strip())

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self._saw_done = True
            return
        try:
            answer = _decode(data)
        except msgspec.DecodeError:
            self._saw_error = True
            return
        seen = self.transcript
        self._note(answer)
        for choice in answer.choices:
            if choice.text or (choice.delta and (choice.delta.content or choice.delta.tool_calls)):
                seen.frames += 1
        if self.spec.leave == MID_STREAM and seen.frames >= self.spec.leave_at:
            self.finish("left")

    def _note(self, answer: _Answer) -> None:
        seen = self.transcript
        if answer.usage is not None:
            seen.usage_prompt = answer.usage.prompt_tokens
            seen.usage_completion = answer.usage.completion_tokens
        for choice in answer.choices:
            seen.finish_reason = choice.finish_reason or seen.finish_reason
        if answer.error is not None:
            self._saw_error = True
            if isinstance(answer.error, _Error):
                seen.error_code = str(answer.error.code or answer.error.type)

    def at_end(self) -> How:
        """How a well-formed end of the body is to be read."""
        seen = self.transcript
        if seen.status != 200 or not self.spec.stream:
            try:
                self._note(_decode(b"".join(self._body)))
            except msgspec.DecodeError:
                return "refused" if seen.status != 200 else "cut"
            return "refused" if seen.status != 200 else "complete"
        if self._saw_error:
            return "error"
        return "complete" if self._saw_done else "cut"

    def finish(self, how: How) -> None:
        if self.done.done():
            return
        seen = self.transcript
        seen.how = how
        seen.total_ms = (time.perf_counter() - self._began) * 1000
        whole = how == "complete" and seen.usage_completion is not None
        seen.delivered = seen.usage_completion or 0 if whole else seen.frames
        self.done.set_result(None)


class Client:
    """Makes calls, each on an idle connection or a new one."""

    def __init__(self, target: Target, *, timeout: float = 60.0) -> None:
        self.target = target
        self.timeout = timeout
        self._idle: list[_Connection] = []

    async def call(self, spec: Spec) -> Transcript:
        """Make one call and say what was seen of it."""
        reading = _Reading(spec)
        try:
            connection = await self._connect()
        except OSError:
            reading.finish("unreachable")
            return reading.transcript
        connection.send(self._payload(spec), reading)
        leaving = spec.leave == BEFORE_FIRST
        try:
            await asyncio.wait((reading.done,), timeout=spec.leave_at if leaving else self.timeout)
            reading.finish("left" if leaving else "timeout")  # unless it has finished
        finally:
            # A caller that is cancelled leaves, too.
            self._release(connection, spec, reading.transcript)
        return reading.transcript

    def _release(self, connection: _Connection, spec: Spec, seen: Transcript) -> None:
        if connection.reusable and not connection.closed and spec.leave != AFTER_DONE and seen.how != "left":
            self._idle.append(connection)
        else:
            connection.drop(abrupt=spec.abrupt)

    async def _connect(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        loop, target = asyncio.get_running_loop(), self.target
        if target.uds is not None:
            _, connection = await loop.create_unix_connection(_Connection, target.uds)
        else:
            _, connection = await loop.create_connection(_Connection, target.host, target.port)
        return connection

    def _payload(self, spec: Spec) -> bytes:
        extra = "".join(f"{name}: {value}\r\n" for name, value in spec.headers)
        if spec.key:
            extra += f"authorization: Bearer {spec.key}\r\n"
        head = (
            f"POST {self.target.path} HTTP/1.1\r\nhost: {self.target.host}:{self.target.port}\r\n{extra}"
            f"content-type: application/json\r\ncontent-length: {len(spec.body)}\r\n\r\n"
        )
        return head.encode() + spec.body

    def close(self) -> None:
        """Close what is idle."""
        for connection in self._idle:
            connection.drop(abrupt=False)
        self._idle.clear()
