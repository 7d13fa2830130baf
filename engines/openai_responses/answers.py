"""A response that was written here, read back into the one form: its items are read as they are when a client hands them back.

What a provider would have told beyond that was never in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engines.answer_json import decoded
from engines.canonical import Answer, Part, Reasoning, Refusal, Stop, Text, ToolCall, Usage
from engines.errors import Garbled, Unsupported
from engines.messages import Count
from engines.openai_responses.items import read_item
from engines.told import count_of

_STOP = {"max_output_tokens": Stop.LENGTH, "content_filter": Stop.FILTER}


class _Cached(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None


class _Thought(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None


class WireCounts(msgspec.Struct, gc=False):
    """The counts of a response: inclusive, with the parts told beside."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    input_tokens_details: _Cached | None = None
    output_tokens_details: _Thought | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str


class _Response(msgspec.Struct, gc=False):
    status: str
    output: list[dict[str, Any]]
    model: str | None = None
    usage: WireCounts | None = None
    incomplete_details: _Incomplete | None = None


_decode = msgspec.json.Decoder(_Response).decode
_decode_counts = msgspec.json.Decoder(WireCounts).decode


def read_response(body: bytes) -> Answer:
    """The answer; raises Garbled for what no response of ours is."""
    response = decoded(_decode, body)
    parts: list[Part] = []
    try:
        for at, item in enumerate(response.output):
            parts += read_item(item, f"output[{at}]").parts
    except Unsupported as exc:
        raise Garbled("an item of the response is none of ours") from exc
    why = response.incomplete_details
    stop = stop_of(None if why is None else why.reason, [str(item.get("type")) for item in response.output])
    said = tuple(part for part in parts if isinstance(part, (Text, Reasoning, ToolCall, Refusal)))
    return Answer(said, stop, usage_of(response.usage), None, response.model)


def stop_of(incomplete: str | None, kinds: Sequence[str]) -> Stop:
    """Why a response ended, from why it is incomplete, if it is, and from the kinds of its items."""
    if incomplete is not None:
        return _STOP.get(incomplete, Stop.LENGTH)
    return Stop.TOOLS if any(kind.endswith("_call") for kind in kinds) else Stop.END


def responses_count(usage: bytes) -> Count | None:
    """The count of a usage that says both what went in and what came out."""
    wire = _decode_counts(usage)
    return None if wire.output_tokens is None else count_of(usage_of(wire))


def usage_of(wire: WireCounts | None) -> Usage | None:
    """The counts in disjoint classes, whether or not they can be believed; None where there are none."""
    if wire is None or wire.input_tokens is None or wire.output_tokens is None:
        return None
    cached, thinking = wire.input_tokens_details or _Cached(), wire.output_tokens_details or _Thought()
    read, written = cached.cached_tokens or 0, cached.cache_write_tokens or 0
    thought = thinking.reasoning_tokens or 0
    return Usage(wire.input_tokens - read - written, read, written, wire.output_tokens - thought, thought)
