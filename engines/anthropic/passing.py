"""Anthropic's Messages where client and provider both speak them: bodies and frames pass through as they are.

Every frame is read before it goes on, as engines/shared_stream.py says; `message_stop` is the one that ends an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engines.answer_json import decoded
from engines.anthropic.answers import MessagesReader, messages_count
from engines.anthropic.client_writing import STOPPED, wire_usage
from engines.canonical import Event
from engines.clients import MESSAGES
from engines.errors import Garbled
from engines.messages import ABSURD
from engines.shared_stream import SharedStream, named

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


class MessagesStream(SharedStream):
    """The port `StreamReader`."""

    __slots__ = ("_begun", "_open", "_reader")
    read_usage = staticmethod(messages_count)

    def __init__(self, *, limit: int, most: int | None) -> None:
        super().__init__(limit=limit, most=most)
        self._reader = MessagesReader()
        self._begun = False
        self._open: int | None = None
        """The block that is open at the client's."""
        self._last = STOPPED

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

    def failed(self, code: str, message: str) -> bytes:
        """An `error` event, as any other error is told."""
        del code, message
        return b""

    def _taken(self, payload: bytes, events: list[Event]) -> tuple[bytes, tuple[str, int]]:
        kind, index = self._reader.take(payload, events)
        if kind == "message_start":
            self._begun = True
        elif events and not self._begun:
            raise Garbled("an answer's content came before its message began")
        return named(kind, payload), (kind, index)

    def _passed(self, frame: bytes, about: tuple[str, int]) -> bytes:
        kind, index = about
        if kind == "content_block_start":
            self._open = index
        elif kind == "content_block_stop":
            self._open = None
        return frame

    def _is_last(self, about: tuple[str, int]) -> bool:
        return about[0] == "message_stop"

    def _is_whole(self) -> bool:
        return self._reader.done
