"""An item of a Responses conversation as a turn, or as a part of one: messages, calls of tools, what these gave, thoughts.

What refers to a stored item or belongs to a tool that runs at the provider raises Unsupported; so does what is malformed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from engines.arguments import as_object
from engines.canonical import Image, Message, Part, Reasoning, Refusal, Text, ToolCall, ToolResult
from engines.errors import Unsupported
from engines.openai_chat.reading import read_image
from engines.openai_responses import custom_tools
from engines.openai_responses.sealed import opened

_PICTURE = frozenset({"type", "image_url", "detail", "file_id"})


def read_item(item: Mapping[str, Any], where: str) -> Message:
    """One item as a turn, or as a part of one; raises Unsupported."""
    match item.get("type", "message"):
        case "message":
            role = item.get("role")
            if role not in ("user", "assistant"):
                raise Unsupported(f"{where}.role", "it is user, assistant, system or developer")
            return Message(role, read_content(item.get("content"), f"{where}.content"))
        case "function_call":
            return Message("assistant", (_call(item, where),))
        case "custom_tool_call":
            given = item.get("input")
            if type(given) is not str:
                raise Unsupported(f"{where}.input", "it is a text")
            call = ToolCall(
                named(item, "call_id", where),
                named(item, "name", where),
                custom_tools.arguments_of(given),
            )
            return Message("assistant", (call,))
        case "function_call_output" | "custom_tool_call_output":
            call_id = named(item, "call_id", where)
            content = read_content(item.get("output"), f"{where}.output")
            if not all(isinstance(part, (Text, Image)) for part in content):
                raise Unsupported(f"{where}.output", "it is a text, or a list of texts and pictures")
            return Message(
                "user",
                (ToolResult(call_id, tuple(part for part in content if isinstance(part, (Text, Image)))),),
            )
        case "reasoning":
            return Message("assistant", _reasoning(item, where))
        case "item_reference":
            raise Unsupported(
                where, "no item is kept here; send the item itself, as clients do that are told not to store"
            )
        case kind:
            raise Unsupported(where, f"items of type {str(kind)[:64]!r} are of tools that are not offered")


def read_content(content: Any, where: str) -> tuple[Text | Image | Refusal, ...]:
    """A message's or an output's parts; raises Unsupported."""
    if type(content) is str:
        return (Text(content),) if content else ()
    if type(content) is not list:
        raise Unsupported(where, "it is a text or a list of parts")
    return tuple(_part(part, f"{where}[{at}]") for at, part in enumerate(cast("list[Any]", content)))


def _part(part: Any, where: str) -> Text | Image | Refusal:
    told = cast("dict[str, Any]", part if type(part) is dict else {})
    match told.get("type"):
        case "input_text" | "output_text" | "text" if type(told.get("text")) is str:
            return Text(told["text"])
        case "refusal" if type(told.get("refusal")) is str:
            return Refusal(told["refusal"])
        case "input_image" if not told.keys() - _PICTURE and told.get("file_id") is None:
            return read_image(told.get("image_url"), f"{where}.image_url")
        case _:
            raise Unsupported(where, "a part is an input_text, an output_text, a refusal or an input_image")


def _call(item: Mapping[str, Any], where: str) -> ToolCall:
    arguments = item.get("arguments") or "{}"
    if type(arguments) is not str:
        raise Unsupported(f"{where}.arguments", "arguments are a text")
    return ToolCall(named(item, "call_id", where), named(item, "name", where), as_object(arguments))


def _reasoning(item: Mapping[str, Any], where: str) -> tuple[Part, ...]:
    """A thought as it was handed out; a summary is no thought, but all that some clients keep of one."""
    words: list[str] = []
    for name in ("content", "summary"):
        given = item.get(name)
        if given is None:
            continue
        if type(given) is not list:
            raise Unsupported(f"{where}.{name}", "it is a list")
        for at, part in enumerate(cast("list[Any]", given)):
            text = cast("dict[str, Any]", part).get("text") if type(part) is dict else None
            if type(text) is not str:
                raise Unsupported(f"{where}.{name}[{at}]", "it is a text")
            words.append(text)
        if words:
            break
    sealed = item.get("encrypted_content")
    if sealed is not None and type(sealed) is not str:
        raise Unsupported(f"{where}.encrypted_content", "it is a text")
    signature, redacted = opened(sealed or "")
    thought = Reasoning("" if redacted else "\n".join(words), signature, redacted)
    return (thought,) if thought != Reasoning() else ()


def named(item: Mapping[str, Any], name: str, where: str) -> str:
    """A text that must be there; raises Unsupported."""
    given = item.get(name)
    if type(given) is not str or not given:
        raise Unsupported(f"{where}.{name}", "it is a text")
    return given
