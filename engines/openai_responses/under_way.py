"""How far a response that passes through is at its client's, so that the gateway can end it as its provider would have.

Kept are the items that are over, whole, and of the one that is open what was added to it since its beginning: no more than the
answer itself. Nothing of it is written unless the stream has to end before its provider ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engines.answer_json import decoded
from engines.canonical import Usage
from engines.errors import Garbled

NOTHING = msgspec.Raw()
"""What stands for a field that is not there: the very object."""
_PARTS = {
    "response.content_part.added": "content",
    "response.content_part.done": "content",
    "response.reasoning_summary_part.added": "summary",
    "response.reasoning_summary_part.done": "summary",
}
_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class Happened(msgspec.Struct, gc=False):
    """What is read of an event; whatever else it has passes on unread."""

    type: str
    sequence_number: int = -1
    output_index: int = 0
    delta: Any = None
    item: msgspec.Raw = NOTHING
    part: msgspec.Raw = NOTHING
    response: msgspec.Raw = NOTHING

    def is_sound(self) -> bool:
        """Whether what it tells of an item or of a part of one is an object, which may have to be told again."""
        if self.item is NOTHING and self.type.startswith("response.output_item."):
            return False
        return all(each is NOTHING or bytes(each)[:1] == b"{" for each in (self.item, self.part))


class _Open:
    """An item under way: its beginning, its parts by where they stand, and what was said of the last one."""

    __slots__ = ("growing", "item", "parts", "said")

    def __init__(self, item: msgspec.Raw) -> None:
        self.item = item
        self.parts: list[tuple[str, msgspec.Raw]] = []
        self.growing = False
        self.said: list[str] = []


class UnderWay:
    """One response."""

    __slots__ = ("_begun", "_number", "_open", "_over", "_told")

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._told = told
        self._begun = NOTHING
        self._number = -1
        self._open: dict[int, _Open] = {}
        self._over: dict[int, msgspec.Raw] = {}

    def note(self, event: Happened) -> None:
        """Take over an event that goes to the client."""
        self._number = max(self._number, event.sequence_number)
        kind = event.type
        if type(event.delta) is str:
            if (open_ := self._open.get(event.output_index)) is not None:
                open_.said.append(event.delta)
        elif event.part is not NOTHING and (where := _PARTS.get(kind)) is not None:
            self._part(event, where, over=kind.endswith(".done"))
        elif kind == "response.output_item.added":
            self._open[event.output_index] = _Open(event.item)
        elif kind == "response.output_item.done":
            self._open.pop(event.output_index, None)
            self._over[event.output_index] = event.item
        elif event.response is not NOTHING:
            self._begun = event.response

    def cut(self, usage: Usage, extra: Mapping[str, object]) -> tuple[bytes, bytes]:
        """The frames that end what is open, and the one that ends the response for its length; `extra` says why."""
        closing = b"".join(self._closed(at, self._open[at]) for at in sorted(self._open))
        ended = self._response("incomplete") | {
            "incomplete_details": {"reason": "max_output_tokens"},
            "usage": wire_usage(usage),
            **extra,
        }
        return closing, self._frame({"type": "response.incomplete", "response": ended})

    def failed(self, code: str, message: str) -> bytes:
        """The frame that ends a response that cannot go on; b"" where nothing was told of it."""
        if self._begun is NOTHING:
            return b""
        error = {"code": "server_error", "message": message, "type": code}
        return self._frame(
            {"type": "response.failed", "response": self._response("failed") | {"error": error}}
        )

    def _part(self, event: Happened, where: str, *, over: bool) -> None:
        open_ = self._open.get(event.output_index)
        if open_ is None:
            return
        if over and open_.parts:
            open_.parts[-1] = (where, event.part)
        else:
            open_.parts.append((where, event.part))
        open_.growing = not over
        open_.said.clear()

    def _response(self, status: str) -> dict[str, Any]:
        output = [decoded(_decode_object, bytes(self._over[at])) for at in sorted(self._over)]
        begun = {} if self._begun is NOTHING else decoded(_decode_object, bytes(self._begun))
        return {**begun, **self._told, "status": status, "output": output}

    def _closed(self, at: int, open_: _Open) -> bytes:
        """The frames that an item's provider would have ended it with, had it ended here."""
        item = decoded(_decode_object, bytes(open_.item))
        said = "".join(open_.said)
        where = {"item_id": item.get("id"), "output_index": at}
        out: list[bytes] = []
        for at_part, (named, raw) in enumerate(open_.parts):
            part = decoded(_decode_object, bytes(raw))
            if open_.growing and at_part == len(open_.parts) - 1:
                out += self._part_closed(named, part, said, where | _index(named, at_part))
            if not isinstance(held := item.setdefault(named, []), list):
                raise Garbled("an item's parts are no list")
            held.append(part)
        if item.get("type") == "function_call":
            item["arguments"] = said or "{}"
            told = {"name": item.get("name"), "arguments": item["arguments"]}
            out.append(self._frame({"type": "response.function_call_arguments.done", **where, **told}))
        elif item.get("type") == "custom_tool_call":
            item["input"] = said
            out.append(self._frame({"type": "response.custom_tool_call_input.done", **where, "input": said}))
        item["status"] = "incomplete"
        out.append(self._frame({"type": "response.output_item.done", "output_index": at, "item": item}))
        self._over[at] = msgspec.Raw(_encode(item))
        return b"".join(out)

    def _part_closed(self, named: str, part: dict[str, Any], said: str, where: dict[str, Any]) -> list[bytes]:
        kind = part.get("type")
        field = "refusal" if kind == "refusal" else "text"
        part[field] = said
        told: dict[str, Any] = {field: said, "logprobs": []} if kind == "output_text" else {field: said}
        if named == "summary":
            kinds = ("response.reasoning_summary_text.done", "response.reasoning_summary_part.done")
        else:
            kinds = (f"response.{kind}.done", "response.content_part.done")
        return [
            self._frame({"type": kinds[0], **where, **told}),
            self._frame({"type": kinds[1], **where, "part": part}),
        ]

    def _frame(self, event: dict[str, Any]) -> bytes:
        self._number += 1
        kind = event["type"]
        numbered = {"type": kind, "sequence_number": self._number, **event}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), _encode(numbered))


def _index(named: str, at: int) -> dict[str, int]:
    return {"summary_index" if named == "summary" else "content_index": at}


def wire_usage(usage: Usage) -> dict[str, Any]:
    """The counts in OpenAI's way: inclusive, with the parts told beside."""
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read,
            "cache_write_tokens": usage.cache_write,
        },
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
