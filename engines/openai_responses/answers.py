"""A response that was written here, read back into the one form: its items are read as they are when a client hands them back.

What a provider would have told beyond that was never in it.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engines.answer_json import decoded
from engines.canonical import Answer, Part, Reasoning, Refusal, Stop, Text, ToolCall, Usage
from engines.errors import Garbled, Unsupported
from engines.openai_responses.reading import read_item

_STOP = {"max_output_tokens": Stop.LENGTH, "content_filter": Stop.FILTER}


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: int = 0
    cache_write_tokens: int = 0


class _Thought(msgspec.Struct, gc=False):
    reasoning_tokens: int = 0


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int
    output_tokens: int
    input_tokens_details: _Cached = msgspec.field(default_factory=_Cached)
    output_tokens_details: _Thought = msgspec.field(default_factory=_Thought)


class _Incomplete(msgspec.Struct, gc=False):
    reason: str


class _Response(msgspec.Struct, gc=False):
    status: str
    output: list[dict[str, Any]]
    model: str | None = None
    usage: _Usage | None = None
    incomplete_details: _Incomplete | None = None


_decode = msgspec.json.Decoder(_Response).decode


def read_response(body: bytes) -> Answer:
    """The answer; raises Garbled for what no response of ours is."""
    response = decoded(_decode, body)
    parts: list[Part] = []
    try:
        for at, item in enumerate(response.output):
            parts += read_item(item, f"output[{at}]").parts
    except Unsupported as exc:
        raise Garbled("an item of the response is none of ours") from exc
    if response.incomplete_details is not None:
        stop = _STOP.get(response.incomplete_details.reason, Stop.LENGTH)
    else:
        stop = Stop.TOOLS if any(isinstance(part, ToolCall) for part in parts) else Stop.END
    said = tuple(part for part in parts if isinstance(part, (Text, Reasoning, ToolCall, Refusal)))
    return Answer(said, stop, _usage(response.usage), None, response.model)


def _usage(wire: _Usage | None) -> Usage | None:
    if wire is None:
        return None
    read, written = wire.input_tokens_details.cached_tokens, wire.input_tokens_details.cache_write_tokens
    thought = wire.output_tokens_details.reasoning_tokens
    return Usage(wire.input_tokens - read - written, read, written, wire.output_tokens - thought, thought)
