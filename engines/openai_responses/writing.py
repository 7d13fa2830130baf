"""An answer in the one form as OpenAI's Responses, plain and streamed.

Frames are numbered from 0 and follow OpenAI's order. The one that ends the stream (completed, incomplete or failed) tells
the response whole, and waits for the settlement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from engines.canonical import Answer, Event, Request
from engines.openai_responses.assembly import Assembly, Told
from engines.openai_responses.reading import read_responses
from engines.pieces import written_texts
from engines.whole_answers import told

_encode = msgspec.json.Encoder().encode


class ResponsesClient:
    """The port `ClientDialect` for /v1/responses."""

    def read_request(self, body: Mapping[str, Any], max_tokens: int | None) -> Request:
        return read_responses(body, max_tokens)

    def write_answer(self, answer: Answer, asked: Mapping[str, Any], *, model: str, now: int) -> bytes:
        assembly = Assembly(asked, model=model, now=now)
        for event in told(answer):
            assembly.take(event)
        assembly.end()
        return _encode(assembly.whole())

    def writer(self, asked: Mapping[str, Any], *, show_usage: bool, model: str, now: int) -> ResponsesWriter:
        del show_usage  # The last frame always has it.
        return ResponsesWriter(Assembly(asked, model=model, now=now))


class ResponsesWriter:
    """The port `EventWriter`: one stream of numbered frames."""

    __slots__ = ("_assembly", "_extra", "_number")

    def __init__(self, assembly: Assembly) -> None:
        self._assembly = assembly
        self._number = 0
        self._extra: dict[str, object] = {}

    def write(self, events: Sequence[Event]) -> bytes:
        return b"".join([self._frame(each) for event in events for each in self._assembly.take(event)])

    def more(self, texts: list[bytes]) -> bytes:
        if not texts:
            return b""
        number = self._number
        self._number += len(texts)
        # What each frame has around its words and its number is taken from one that is written like any other.
        frame = _written(self._assembly.more(written_texts(texts)), 0)
        begin, end = (each.replace(b"%", b"%%") for each in frame.split(b'"delta":""'))
        end = end[: end.rindex(b"0")] + b"%d" + end[end.rindex(b"0") + 1 :]
        framed = begin + b'"delta":"%b"' + end
        return b"".join([framed % (each, at) for at, each in enumerate(texts, number)])

    def finish(self) -> bytes:
        return b"".join([self._frame(each) for each in self._assembly.end()])

    def cut(self, extra: Mapping[str, object]) -> bytes:
        self._extra = dict(extra)
        return b"".join([self._frame(each) for each in self._assembly.end(cut=True)])

    def terminal(self) -> bytes:
        ended = self._assembly.ended
        return self._frame(ended | {"response": ended["response"] | self._extra})

    def failed(self, code: str, message: str) -> bytes:
        """The frame that ends a stream whose answer cannot go on."""
        error = {"code": "server_error", "message": message, "type": code}
        out = [] if self._assembly.began else self._assembly.begin()
        failed = self._assembly.response("failed") | {"error": error}
        out.append({"type": "response.failed", "response": failed})
        return b"".join([self._frame(each) for each in out])

    def _frame(self, event: Told) -> bytes:
        self._number += 1
        return _written(event, self._number - 1)


def _written(event: Told, number: int) -> bytes:
    event["sequence_number"] = number
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _encode(event))
