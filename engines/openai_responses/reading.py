"""A client's Responses request as the one form, whole or refused by the field's name.

`input` is the whole conversation: what is kept of it is put before it by whoever keeps it. What refers to a stored item or
to a tool that runs at the provider raises Unsupported; so does what is malformed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from engines.canonical import (
    Format,
    Image,
    Message,
    Part,
    Reasoning,
    Refusal,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from engines.errors import Unsupported
from engines.openai_chat.reading import read_image
from engines.openai_responses import custom_tools
from engines.openai_responses.sealed import opened

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
SEALED = "reasoning.encrypted_content"
OWN = frozenset(
    {
        "input", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "temperature",
        "top_p", "max_output_tokens", "include", "truncation", "background", "top_logprobs", "service_tier", "id",
        "store", "previous_response_id", "conversation", "prompt", "context_management", "max_tool_calls",
        "stream_options",
    }
)  # fmt: skip
HINTS = frozenset(
    {
        "metadata", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier",
        "client_metadata",
    }
)  # fmt: skip
"""Told to the gateway alone: no answer depends on them."""
_STATELESS = {
    "conversation": "no conversation is kept here; send the whole of it as 'input'",
    "prompt": "no prompt is kept here; send its text as 'instructions'",
    "context_management": "the conversation goes to the model as it was sent",
    "max_tool_calls": "it bounds tools that run at the provider, and there are none",
}
_NOTHING: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "truncation": ("disabled",),
    "top_logprobs": (0,),
}
"""Values that ask for nothing that would not happen anyway."""
_TIERS = ("auto", "default")
_PICTURE = frozenset({"type", "image_url", "detail", "file_id"})


def read_responses(body: Mapping[str, Any], max_tokens: int | None) -> Request:
    """The request; raises Unsupported."""
    for name, why in _STATELESS.items():
        if body.get(name) is not None:
            raise Unsupported(name, why)
    for name, values in _NOTHING.items():
        given = body.get(name)
        if given is not None and not any(given is value or given == value for value in values):
            raise Unsupported(name)
    _include(body.get("include"))
    turns, system = _input(body.get("input"))
    instructions = body.get("instructions")
    if instructions is not None and type(instructions) is not str:
        raise Unsupported("instructions", "it is a text")
    text = _object(body, "text")
    if extra := text.keys() - {"format", "verbosity"}:
        raise Unsupported(f"text.{min(extra)}")
    return Request(
        messages=turns,
        system=tuple(each for each in (instructions, *system) if each),
        tools=_tools(body.get("tools")),
        tool_choice=_choice(body.get("tool_choice")),
        parallel_tools=_flag(body, "parallel_tool_calls"),
        format=_format(text.get("format")),
        thinking=_thinking(_object(body, "reasoning")),
        max_tokens=max_tokens,
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        extra=_extra(body, text),
    )


def _extra(body: Mapping[str, Any], text: Mapping[str, Any]) -> dict[str, Any]:
    extra = {
        name: value
        for name, value in body.items()
        if name not in OWN and name not in HINTS and value is not None
    }
    if (tier := body.get("service_tier")) is not None and tier not in _TIERS:
        extra["service_tier"] = tier
    if (verbosity := text.get("verbosity")) not in (None, "medium"):
        extra["verbosity"] = verbosity
    return extra


def _include(given: Any) -> None:
    if given is None:
        return
    if type(given) is not list:
        raise Unsupported("include", "it is a list")
    for each in cast("list[Any]", given):
        if each != SEALED:
            raise Unsupported("include", f"only {SEALED} can be included")


def _input(given: Any) -> tuple[tuple[Message, ...], list[str]]:
    """Turns in order, and what system and developer said: it stands with the instructions, wherever it came."""
    if type(given) is str:
        return (Message("user", (Text(given),)),), []
    if type(given) is not list or not given:
        raise Unsupported("input", "it is a text or a list of items, at least one")
    turns: list[Message] = []
    system: list[str] = []
    for at, item in enumerate(cast("list[Any]", given)):
        where = f"input[{at}]"
        if type(item) is not dict:
            raise Unsupported(where, "an item is an object")
        told = cast("dict[str, Any]", item)
        if told.get("type", "message") == "message" and told.get("role") in ("system", "developer"):
            parts = _content(told.get("content"), f"{where}.content")
            if not all(isinstance(part, Text) for part in parts):
                raise Unsupported(f"{where}.content", "instructions are texts")
            system.append("".join(part.text for part in parts if isinstance(part, Text)))
            continue
        _add(turns, read_item(told, where), spoken=told.get("type", "message") == "message")
    if not turns:
        raise Unsupported("input", "it has no turn of the user")
    return tuple(turns), system


def _add(turns: list[Message], turn: Message, *, spoken: bool) -> None:
    """Turns of one role that follow each other are one; two messages stay apart by an empty line."""
    if not turns or turns[-1].role != turn.role:
        turns.append(turn)
        return
    before, parts = turns[-1].parts, turn.parts
    if spoken and parts and before and isinstance(parts[0], Text) and isinstance(before[-1], Text):
        parts = (Text("\n\n" + parts[0].text), *parts[1:])
    turns[-1] = Message(turn.role, before + parts)


def read_item(item: Mapping[str, Any], where: str) -> Message:
    """One item as a turn, or as a part of one; raises Unsupported."""
    match item.get("type", "message"):
        case "message":
            role = item.get("role")
            if role not in ("user", "assistant"):
                raise Unsupported(f"{where}.role", "it is user, assistant, system or developer")
            return Message(role, _content(item.get("content"), f"{where}.content"))
        case "function_call":
            return Message("assistant", (_call(item, where),))
        case "custom_tool_call":
            given = item.get("input")
            if type(given) is not str:
                raise Unsupported(f"{where}.input", "it is a text")
            call = ToolCall(
                _named(item, "call_id", where),
                _named(item, "name", where),
                custom_tools.arguments_of(given),
            )
            return Message("assistant", (call,))
        case "function_call_output" | "custom_tool_call_output":
            call_id = _named(item, "call_id", where)
            content = _content(item.get("output"), f"{where}.output")
            if not all(isinstance(part, (Text, Image)) for part in content):
                raise Unsupported(f"{where}.output", "it is a text, or a list of texts and pictures")
            return Message(
                "user",
                (ToolResult(call_id, tuple(part for part in content if isinstance(part, (Text, Image)))),),
            )
        case "reasoning":
            return Message("assistant", _reasoning(item, where))
        case "item_reference":
            raise Unsupported(where, "no item is kept here; send the item itself")
        case kind:
            raise Unsupported(where, f"items of type {str(kind)[:64]!r} are of tools that are not offered")


def _content(content: Any, where: str) -> tuple[Text | Image | Refusal, ...]:
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
    try:
        read = msgspec.json.decode(arguments) if type(arguments) is str else None
    except msgspec.MsgspecError:
        read = None
    if type(read) is not dict:
        raise Unsupported(f"{where}.arguments", "arguments are the text of a JSON object")
    return ToolCall(_named(item, "call_id", where), _named(item, "name", where), arguments)


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


def _tools(given: Any) -> tuple[Tool, ...]:
    if given is None:
        return ()
    if type(given) is not list:
        raise Unsupported("tools", "it is a list")
    return tuple(_tool(each, f"tools[{at}]") for at, each in enumerate(cast("list[Any]", given)))


def _tool(given: Any, where: str) -> Tool:
    tool = cast("dict[str, Any]", given if type(given) is dict else {})
    kind = tool.get("type")
    for name in ("defer_loading", "async"):
        if tool.get(name):
            raise Unsupported(f"{where}.{name}", "every tool is offered at once and waited for")
    callers = tool.get("allowed_callers")
    if callers is not None and (type(callers) is not list or "direct" not in callers):
        raise Unsupported(f"{where}.allowed_callers", "tools are called by the model itself")
    if kind == "custom":
        described = custom_tools.described(tool, where)
        return Tool(_named(tool, "name", where), described, custom_tools.PARAMETERS)
    if kind != "function":
        raise Unsupported(
            where, f"only function and custom tools are offered, and {str(kind)[:64]!r} is neither"
        )
    parameters = tool.get("parameters")
    if parameters is not None and type(parameters) is not dict:
        raise Unsupported(f"{where}.parameters", "it is a JSON schema")
    description = tool.get("description")
    if description is not None and type(description) is not str:
        raise Unsupported(f"{where}.description", "it is a text")
    return Tool(
        _named(tool, "name", where),
        description or "",
        parameters or {"type": "object", "properties": {}},
        _flag(tool, "strict"),
    )


def _choice(given: Any) -> ToolChoice | None:
    if given is None:
        return None
    if given in ("auto", "none", "required"):
        return ToolChoice(given)
    named = cast("dict[str, Any]", given if type(given) is dict else {})
    if named.get("type") in ("function", "custom") and type(named.get("name")) is str:
        return ToolChoice("named", named["name"])
    raise Unsupported("tool_choice", "it is auto, none, required, or names one tool")


def _format(given: Any) -> Format | None:
    if given is None:
        return None
    wanted = cast("dict[str, Any]", given if type(given) is dict else {})
    match wanted.get("type"):
        case "text":
            return None
        case "json_object":
            return Format(None)
        case "json_schema" if type(wanted.get("schema")) is dict:
            return Format(
                wanted["schema"],
                str(wanted.get("name") or "answer"),
                _flag(wanted, "strict"),
                str(wanted.get("description") or ""),
            )
        case _:
            raise Unsupported("text.format", "it is text, json_object, or json_schema with a schema")


def _thinking(given: Mapping[str, Any]) -> Thinking | None:
    """How much to think; a summary is not made, the thoughts are shown as the model's provider gives them."""
    if extra := given.keys() - {"effort", "summary", "generate_summary"}:
        raise Unsupported(f"reasoning.{min(extra)}")
    effort = given.get("effort")
    if effort is None:
        return None
    if effort not in EFFORTS:
        raise Unsupported("reasoning.effort", f"it is one of {', '.join(EFFORTS)}")
    return Thinking(effort=effort)


def _object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    given = body.get(name)
    if given is None:
        return {}
    if type(given) is not dict:
        raise Unsupported(name, "it is an object")
    return cast("dict[str, Any]", given)


def _named(item: Mapping[str, Any], name: str, where: str) -> str:
    given = item.get(name)
    if type(given) is not str or not given:
        raise Unsupported(f"{where}.{name}", "it is a text")
    return given


def _flag(body: Mapping[str, Any], name: str) -> bool | None:
    given = body.get(name)
    if given is not None and type(given) is not bool:
        raise Unsupported(name, "it is true or false")
    return given
