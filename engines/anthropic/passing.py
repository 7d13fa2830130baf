"""Anthropic's Messages where client and provider both speak them: bodies and frames pass through as they are.

Every frame is read before it goes on, so that output stops before the frame that would pass the limit and an answer is
whole only when its provider said so; `message_stop` waits for the settlement.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engines.answer_json import decoded
from engines.anthropic.answers import MessagesReader
from engines.anthropic.client_writing import STOPPED, wire_usage
from engines.canonical import Event
from engines.clients import MESSAGES
from engines.errors import Garbled
from engines.messages import ABSURD
from engines.sse import Events
from engines.tally import Tally

_encode = msgspec.json.Encoder().encode


class _Count(msgspec.Struct, gc=False):
    input_tokens: int


_decode_count = msgspec.json.Decoder(_Count).decode


class SharedMessages:
    """The port `SharedDialect`."""

    spoken = MESSAGES
    count_path = "/messages/count_tokens"

    def shared_body(
        self, body: Mapping[str, Any], *, model: str, max_tokens: int | None, stream: bool
    ) -> bytes:
        sent = {**body, "model": model, "max_tokens": max_tokens}
        if stream:
            sent["stream"] = True
        return _encode(sent)

    def count_body(self, body: Mapping[str, Any], *, model: str) -> bytes:
        return _encode({**body, "model": model})

    def read_count(self, body: bytes) -> int:
        tokens = decoded(_decode_count, body).input_tokens
        if not 0 <= tokens <= ABSURD:
            raise Garbled("a count that cannot be")
        return tokens

    def shared_stream(self, *, limit: int, most: int | None) -> MessagesStream:
        return MessagesStream(limit=limit, most=most)


class MessagesStream(Tally):
    """The port `StreamReader`."""

    __slots__ = ("_begun", "_events", "_held", "_last", "_open", "_reader", "done", "exhausted")

    def __init__(self, *, limit: int, most: int | None) -> None:
        super().__init__(limit=limit, most=most)
        self._events = Events()
        self._reader = MessagesReader()
        self._held: list[tuple[bytes, str, int, list[Event]]] = []
        """Frames that were read and wait for the limit to be raised."""
        self._begun = False
        self._open: int | None = None
        """The block that is open at the client's."""
        self._last = STOPPED
        self.done = False
        self.exhausted = False

    def feed(self, data: bytes) -> bytes:
        """Take what arrived, give what the client gets. After `exhausted`, raise `limit` and feed b"" to go on."""
        if data:
            self._read(self._events.feed(data))
        self.exhausted = False
        out: list[bytes] = []
        passed = 0
        for frame, kind, index, events in self._held:
            if not all(self.fits(event) for event in events):
                self.exhausted = True
                break
            passed += 1
            if kind == "message_stop":
                self._last = frame
                self.done = True
                break
            if kind == "content_block_start":
                self._open = index
            elif kind == "content_block_stop":
                self._open = None
            out.append(frame)
        del self._held[:passed]
        return b"".join(out)

    def ended(self) -> None:
        """The upstream closed; raises Garbled unless the answer was whole. What is left comes with the next feed."""
        self._read(self._events.rest())
        if not self._reader.done:
            raise Garbled("the stream ended before its message did")

    def closing_events(self, *, extra: dict[str, object]) -> bytes:
        """The client's last events when the gateway ends the stream: it ended for its length."""
        out = b""
        if self._open is not None:
            out = (
                b'event: content_block_stop\ndata: {"type":"content_block_stop","index":%d}\n\n' % self._open
            )
        last = {
            "type": "message_delta",
            "delta": {"stop_reason": "max_tokens", "stop_sequence": None},
            "usage": wire_usage(self.usage()),
            **extra,
        }
        return out + b"event: message_delta\ndata: %b\n\n" % _encode(last)

    def terminal(self) -> bytes:
        """`message_stop`, the provider's own where it came to that."""
        return self._last

    def failed(self, code: str, message: str) -> bytes:
        """An `error` event, as any other error is told."""
        del code, message
        return b""

    def _read(self, frames: list[tuple[str, bytes]]) -> None:
        for _, payload in frames:
            if self._reader.done:
                return
            events: list[Event] = []
            kind, index = self._reader.take(payload, events)
            if kind == "message_start":
                self._begun = True
            elif events and not self._begun:
                raise Garbled("an answer's content came before its message began")
            if not kind.isidentifier():
                raise Garbled("an event's name is none")
            # Line ends of its own are between the values: within one they would not be JSON.
            payload = payload.replace(b"\n", b" ")
            frame = b"event: %b\ndata: %b\n\n" % (kind.encode(), payload)
            self._held.append((frame, kind, index, events))
