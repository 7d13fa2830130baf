"""An answer's events as the items of a Responses object, one after the other, and what a stream tells of each.

The object that a plain call gets and the one that ends a stream are made here alike, so they cannot differ. An item is
over when another begins; its text, its call or its thought is told whole once more at that moment.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from engines.canonical import (
    Began,
    Counted,
    Ended,
    Event,
    ReasoningDelta,
    RefusalDelta,
    Stop,
    TextDelta,
    ToolCallBegan,
    ToolCallDelta,
    Usage,
)
from engines.errors import Garbled
from engines.openai_responses.custom_tools import InputReader, names
from engines.openai_responses.response import response_of
from engines.openai_responses.sealed import closed

Told = dict[str, Any]
"""One event of the stream, without its number."""

_INCOMPLETE = {
    Stop.LENGTH: "max_output_tokens",
    Stop.FILTER: "content_filter",
    Stop.REFUSAL: "content_filter",
}
_CALLS = {"function_call": "arguments", "custom_tool_call": "input"}
"""Items that are calls of tools, and where what the model wrote of one stands."""


class Assembly:
    """One answer under way."""

    __slots__ = (
        "_asked", "_call", "_custom", "_id", "_input", "_item", "_model", "_now", "_output", "_part", "_said", "_stop",
        "_usage", "began",
    )  # fmt: skip

    def __init__(self, asked: Mapping[str, Any], *, model: str, now: int) -> None:
        self._asked = asked
        self._model = model
        self._now = now
        self._id: str = asked.get("id") or f"resp_{secrets.token_hex(24)}"
        self._output: list[Told] = []
        self._item: Told | None = None
        """The last of the output, while it grows."""
        self._part: Told | None = None
        """The last of its parts, while that grows."""
        self._said: list[str] = []
        """What was said of the part, or of the item that has none, and is not in it yet."""
        self._call = -1
        self._custom = names(asked.get("tools"))
        """Tools whose calls are told as a text, not as arguments."""
        self._input: InputReader | None = None
        """What reads that text out of the arguments of the call that is open."""
        self._stop = Stop.END
        self._usage: Usage | None = None
        self.began = False

    def take(self, event: Event) -> list[Told]:
        """What the client is told of an event; raises Garbled where it does not follow from those before."""
        out: list[Told] = []
        if not self.began:
            if isinstance(event, Began):
                self._model = event.model or self._model
            out += self.begin()
        # Nearly all there is of a stream, and twice as fast as a case of the match.
        if type(event) is TextDelta:
            self._say(out, "output_text", event.text)
            return out
        match event:
            case Counted(usage=usage):
                self._usage = usage
            case RefusalDelta(text=text):
                self._say(out, "refusal", text)
            case ReasoningDelta():
                self._think(out, event)
            case ToolCallBegan():
                self._called(out, event)
            case ToolCallDelta():
                self._argue(out, event)
            case Ended(stop=stop):
                self._stop = stop
            case _:
                pass
        return out

    def more(self, texts: list[str]) -> Told:
        """What the client is told of each of more words, right behind some, but for the words."""
        out: list[Told] = []
        self._say(out, "output_text", "")
        self._said[-1:] = texts
        return out[0]

    def begin(self) -> list[Told]:
        """What comes before all else."""
        self.began = True
        begun = self.response("in_progress")
        return [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
        ]

    def end(self, *, cut: bool = False) -> list[Told]:
        """The last item is over; `cut`: the gateway ended it for its length."""
        if cut:
            self._stop = Stop.LENGTH
        out = [] if self.began else self.begin()
        self._over(out, "incomplete" if self._stop in _INCOMPLETE else "completed")
        return out

    @property
    def ended(self) -> Told:
        """The event after which nothing comes."""
        status = "incomplete" if self._stop in _INCOMPLETE else "completed"
        return {"type": f"response.{status}", "response": self.whole()}

    def whole(self) -> Told:
        """The response that has ended."""
        reason = _INCOMPLETE.get(self._stop)
        if reason is None:
            return self.response("completed")
        return self.response("incomplete") | {"incomplete_details": {"reason": reason}}

    def response(self, status: str) -> Told:
        """The response as it stands."""
        self._put_together()
        return response_of(
            self._asked,
            id=self._id,
            model=self._model,
            now=self._now,
            status=status,
            output=list(self._output),
            usage=self._usage,
        )

    # -- items -------------------------------------------------------------------------------

    def _say(self, out: list[Told], kind: str, text: str) -> None:
        item = self._item
        if item is None or item["type"] != "message":
            self._over(out)
            item = self._added(out, {"type": "message", "role": "assistant", "content": []}, "msg")
        part = self._part
        if part is None or part["type"] != kind:
            self._part_over(out)
            part = _blank(kind)
            self._part_added(out, item, part)
        self._said.append(text)
        told = {
            "type": f"response.{kind}.delta",
            "item_id": item["id"],
            "output_index": len(self._output) - 1,
            "content_index": len(item["content"]) - 1,
            "delta": text,
        }
        if kind == "output_text":
            told["logprobs"] = []
        out.append(told)

    def _think(self, out: list[Told], event: ReasoningDelta) -> None:
        item = self._item
        if event.redacted or item is None or item["type"] != "reasoning" or item["encrypted_content"]:
            self._over(out)
            item = self._added(
                out, {"type": "reasoning", "summary": [], "content": [], "encrypted_content": None}, "rs"
            )
        if event.text:
            part = self._part
            if part is None:
                part = {"type": "reasoning_text", "text": ""}
                self._part_added(out, item, part)
            self._said.append(event.text)
            out.append(self._of_part("response.reasoning_text.delta") | {"delta": event.text})
        item["encrypted_content"] = closed(event.signature, event.redacted)

    def _called(self, out: list[Told], event: ToolCallBegan) -> None:
        self._over(out)
        self._call = event.index
        if event.name in self._custom:
            self._input = InputReader()
            call = {"type": "custom_tool_call", "call_id": event.id, "name": event.name, "input": ""}
            self._added(out, call, "ctc")
            return
        call = {"type": "function_call", "call_id": event.id, "name": event.name, "arguments": ""}
        self._added(out, call, "fc")

    def _argue(self, out: list[Told], event: ToolCallDelta) -> None:
        item = self._item
        if item is None or item["type"] not in _CALLS or event.index != self._call:
            raise Garbled("arguments of a call that is over")
        if self._input is not None:
            self._input_told(out, self._input.feed(event.arguments))
        elif event.arguments:
            self._said.append(event.arguments)
            out.append(self._of_item("response.function_call_arguments.delta") | {"delta": event.arguments})

    def _input_told(self, out: list[Told], more: str) -> None:
        if more:
            self._said.append(more)
            out.append(self._of_item("response.custom_tool_call_input.delta") | {"delta": more})

    def _added(self, out: list[Told], item: Told, prefix: str) -> Told:
        item = {"id": f"{prefix}_{secrets.token_hex(24)}", "status": "in_progress", **item}
        self._item, self._part = item, None
        self._output.append(item)
        # Told as it is at its beginning: what it grows into must not show.
        shown = {name: list(value) if type(value) is list else value for name, value in item.items()}
        out.append(
            {"type": "response.output_item.added", "output_index": len(self._output) - 1, "item": shown}
        )
        return item

    def _part_added(self, out: list[Told], item: Told, part: Told) -> None:
        self._part = part
        item["content"].append(part)
        out.append(self._of_part("response.content_part.added") | {"part": dict(part)})

    def _put_together(self) -> None:
        """Write what was said since into whatever it was said of: piece by piece it would be copied over and over."""
        if not self._said:
            return
        said = "".join(self._said)
        self._said.clear()
        if self._part is not None:
            self._part["refusal" if self._part["type"] == "refusal" else "text"] += said
        elif self._item is not None:
            self._item[_CALLS[self._item["type"]]] += said

    def _part_over(self, out: list[Told]) -> None:
        part = self._part
        if part is None:
            return
        self._put_together()
        kind = part["type"]
        told = self._of_part(f"response.{kind}.done")
        if kind == "refusal":
            out.append(told | {"refusal": part["refusal"]})
        elif kind == "output_text":
            out.append(told | {"text": part["text"], "logprobs": []})
        else:
            out.append(told | {"text": part["text"]})
        out.append(self._of_part("response.content_part.done") | {"part": part})
        self._part = None

    def _over(self, out: list[Told], status: str = "completed") -> None:
        item = self._item
        if item is None:
            return
        self._part_over(out)
        if self._input is not None:
            self._input_told(out, self._input.end())
            self._input = None
        self._put_together()
        item["status"] = status
        if item["type"] == "function_call":
            item["arguments"] = item["arguments"] or "{}"
            out.append(
                self._of_item("response.function_call_arguments.done")
                | {"name": item["name"], "arguments": item["arguments"]}
            )
        elif item["type"] == "custom_tool_call":
            out.append(self._of_item("response.custom_tool_call_input.done") | {"input": item["input"]})
        out.append({"type": "response.output_item.done", "output_index": len(self._output) - 1, "item": item})
        self._item = None

    def _of_item(self, kind: str) -> Told:
        assert self._item is not None
        return {"type": kind, "item_id": self._item["id"], "output_index": len(self._output) - 1}

    def _of_part(self, kind: str) -> Told:
        assert self._item is not None
        return self._of_item(kind) | {"content_index": len(self._item["content"]) - 1}


def _blank(kind: str) -> Told:
    if kind == "refusal":
        return {"type": kind, "refusal": ""}
    return {"type": kind, "text": "", "annotations": [], "logprobs": []}
