"""One answer out of a stream's frames, as the same call would have had it whole: chat, text, Messages, Responses.

A stream that was cut gives what had come by then. What is in no shape that is known here is kept event by event.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

_ENDS = ("response.completed", "response.incomplete", "response.failed")
_decode = msgspec.json.Decoder().decode
Event = dict[str, Any]


def assembled(frames: bytes) -> bytes:
    """The answer as JSON; empty where nothing had come."""
    events = list(_events(frames))
    if not events:
        return b""
    kinds = {str(each.get("object") or each.get("type")) for each in events}
    if kinds & {"chat.completion.chunk", "text_completion"}:
        return msgspec.json.encode(_completion(events))
    if "message_start" in kinds:
        return msgspec.json.encode(_message(events))
    for each in reversed(events):
        if each.get("type") in _ENDS:
            return msgspec.json.encode(each.get("response"))
    return msgspec.json.encode({"events": events})


def _events(frames: bytes) -> Iterator[Event]:
    for line in frames.split(b"\n"):
        if line.startswith(b"data:"):
            try:
                event = _decode(line[5:])
            except msgspec.DecodeError:
                # `[DONE]`, or a frame that was cut off in its middle.
                continue
            if isinstance(event, dict):
                yield event


def _completion(events: list[Event]) -> Event:
    """OpenAI's chat and text completions."""
    whole: Event = {}
    choices: dict[int, Event] = {}
    for event in events:
        whole |= {name: value for name, value in event.items() if name != "choices" and value is not None}
        for each in event.get("choices") or ():
            choice = choices.setdefault(each.get("index", 0), {"index": each.get("index", 0)})
            if "delta" in each:
                _add(choice.setdefault("message", {}), each["delta"] or {})
            elif "text" in each:
                choice["text"] = choice.get("text", "") + (each["text"] or "")
            choice["finish_reason"] = each.get("finish_reason") or choice.get("finish_reason")
    if whole.get("object") == "chat.completion.chunk":
        whole["object"] = "chat.completion"
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _add(message: Event, delta: Event) -> None:
    for name, value in delta.items():
        if name == "tool_calls":
            _add_calls(message.setdefault("tool_calls", []), value or ())
        elif name != "role" and isinstance(value, str):
            message[name] = (message.get(name) or "") + value
        elif value is not None:
            message[name] = value


def _add_calls(calls: list[Event], pieces: Any) -> None:
    for piece in pieces:
        at = piece.get("index", len(calls))
        while len(calls) <= at:
            calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
        call = calls[at]
        call |= {name: value for name, value in piece.items() if name in ("id", "type") and value}
        for name, value in (piece.get("function") or {}).items():
            call["function"][name] = call["function"].get(name, "") + (value or "")


def _message(events: list[Event]) -> Event:
    """Anthropic's Messages."""
    whole: Event = {}
    blocks: dict[int, Event] = {}
    inputs: dict[int, str] = {}
    for event in events:
        match event.get("type"):
            case "message_start":
                whole = dict(event["message"])
            case "content_block_start":
                blocks[event["index"]] = dict(event["content_block"])
            case "content_block_delta":
                delta, block = event["delta"], blocks.setdefault(event["index"], {"type": "text"})
                if "partial_json" in delta:
                    inputs[event["index"]] = inputs.get(event["index"], "") + delta["partial_json"]
                for name in ("text", "thinking", "signature"):
                    if name in delta:
                        block[name] = block.get(name, "") + delta[name]
            case "message_delta":
                whole |= event["delta"]
                whole["usage"] = {**_object(whole.get("usage")), **_object(event.get("usage"))}
            case "error":
                whole["error"] = event.get("error")
            case _:
                pass
    for index, text in inputs.items():
        try:
            blocks[index]["input"] = _decode(text.encode())
        except msgspec.DecodeError:
            blocks[index]["input"] = text
    whole["content"] = [blocks[index] for index in sorted(blocks)]
    return whole


def _object(value: Any) -> Event:
    """An object as it is; what else an upstream may have put in its place says nothing."""
    return value if isinstance(value, dict) else {}
