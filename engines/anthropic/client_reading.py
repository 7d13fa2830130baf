"""Anthropic's Messages as clients send them, read into the one form for providers of other dialects.

What the one form has no place for raises Unsupported and is named. Marks for a prompt cache are read past: they ask for
nothing that changes an answer, and what was read from a cache is counted wherever a provider has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from engines.canonical import (
    Format,
    Image,
    Message,
    Part,
    Reasoning,
    Request,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from engines.errors import Unsupported

_READ = frozenset(
    {
        "messages", "system", "tools", "tool_choice", "thinking", "output_config", "stop_sequences", "temperature",
        "top_p", "top_k", "cache_control",
    }
)  # fmt: skip
_NOTHING: dict[str, tuple[Any, ...]] = {"service_tier": ("auto", "standard_only")}
"""Values that ask for nothing that would not happen anyway."""
_CHOICE = {"auto": "auto", "any": "required", "none": "none", "tool": "named"}
_TOOL_FIELDS = frozenset(
    {"type", "name", "description", "input_schema", "strict", "cache_control", "eager_input_streaming"}
)
_RESULT_FIELDS = frozenset({"type", "tool_use_id", "content", "is_error", "cache_control"})
_encode = msgspec.json.Encoder().encode


def read_messages(body: Mapping[str, Any], max_tokens: int | None) -> Request:
    """The request of a body that was validated when it came; raises Unsupported."""
    for name, value in body.items():
        if name not in _READ and value is not None and value not in _NOTHING.get(name, ()):
            raise Unsupported(name, "only Anthropic's own API has it")
    system = [_words(body.get("system"), "system")]
    turns: list[Message] = []
    for index, message in enumerate(body["messages"]):
        where = f"messages[{index}]"
        if message["role"] == "system":
            # Other dialects have one place for instructions; agents send more of them as they go.
            system.append(_words(message.get("content"), f"{where}.content"))
            continue
        parts = _parts(message["content"], f"{where}.content")
        if not parts and message["role"] == "assistant":
            # An answer of nothing is none to go on from, and other dialects take none.
            continue
        if turns and turns[-1].role == message["role"]:
            turns[-1] = Message(turns[-1].role, turns[-1].parts + parts)
        else:
            turns.append(Message(message["role"], parts))
    if not turns:
        raise Unsupported("messages", "it has no turn of the user")
    if turns[-1].role == "assistant":
        raise Unsupported(f"messages[{len(body['messages']) - 1}]", "the beginning of an answer given ahead")
    choice, parallel = _choice(body.get("tool_choice"))
    config = body.get("output_config") or {}
    return Request(
        messages=tuple(turns),
        system=tuple(each for each in system if each),
        tools=tuple(_tool(each, f"tools[{at}]") for at, each in enumerate(body.get("tools") or ())),
        tool_choice=choice,
        parallel_tools=parallel,
        format=_format(config),
        thinking=_thinking(body.get("thinking"), config),
        max_tokens=max_tokens,
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
        stop=tuple(body.get("stop_sequences") or ()),
    )


def _words(content: Any, where: str) -> str:
    """A text, or blocks of text, as one."""
    if content is None or type(content) is str:
        return content or ""
    for at, block in enumerate(content):
        if block["type"] != "text":
            raise Unsupported(f"{where}[{at}]", "only text is system's to say")
    return "\n\n".join(block["text"] for block in content)


def _parts(content: Any, where: str) -> tuple[Part, ...]:
    if type(content) is str:
        return (Text(content),) if content else ()
    return tuple(_part(block, f"{where}[{at}]") for at, block in enumerate(content))


def _part(block: Mapping[str, Any], where: str) -> Part:
    match block["type"]:
        case "text":
            if block.get("citations"):
                raise Unsupported(f"{where}.citations")
            return Text(block["text"])
        case "image":
            return _image(block, where)
        case "thinking":
            return Reasoning(block.get("thinking") or "", block.get("signature") or "")
        case "redacted_thinking":
            return Reasoning(redacted=block.get("data") or "")
        case "tool_use":
            return ToolCall(block["id"], block["name"], _encode(block["input"]).decode())
        case "tool_result":
            return _result(block, where)
        case kind:
            raise Unsupported(where, f"only Anthropic's own API takes a block of type {str(kind)[:64]}")


def _result(block: Mapping[str, Any], where: str) -> ToolResult:
    for name in block.keys() - _RESULT_FIELDS:
        raise Unsupported(f"{where}.{name}")
    content = block.get("content")
    if content is None or type(content) is str:
        shown: tuple[Text | Image, ...] = (Text(content),) if content else ()
    else:
        shown = tuple(_shown(each, f"{where}.content[{at}]") for at, each in enumerate(content))
    return ToolResult(block["tool_use_id"], shown, bool(block.get("is_error")))


def _shown(block: Mapping[str, Any], where: str) -> Text | Image:
    part = _part(block, where)
    if not isinstance(part, (Text, Image)):
        raise Unsupported(where, "a tool's result is text and pictures")
    return part


def _image(block: Mapping[str, Any], where: str) -> Image:
    if block.get("transformations"):
        raise Unsupported(f"{where}.transformations")
    source = block["source"]
    if source["type"] == "base64":
        return Image(media_type=source["media_type"], data=source["data"])
    if source["type"] == "url":
        return Image(url=source["url"])
    raise Unsupported(f"{where}.source", "a picture is base64, or at an https address")


def _tool(tool: Mapping[str, Any], where: str) -> Tool:
    if tool.get("type") not in (None, "custom"):
        raise Unsupported(where, "only Anthropic's own API has this tool")
    for name in tool.keys() - _TOOL_FIELDS:
        if tool[name] not in (None, False, [], ["direct"]):
            raise Unsupported(f"{where}.{name}")
    return Tool(tool["name"], tool.get("description") or "", tool["input_schema"], tool.get("strict"))


def _choice(given: Any) -> tuple[ToolChoice | None, bool | None]:
    if given is None:
        return None, None
    single = given.get("disable_parallel_tool_use")
    mode: Any = _CHOICE.get(given["type"])
    if mode is None:
        raise Unsupported("tool_choice", "it is auto, any, none, or names one tool")
    return ToolChoice(mode, given.get("name") or ""), None if single is None else not single


def _format(config: Mapping[str, Any]) -> Format | None:
    for name in config.keys() - {"format", "effort"}:
        if config[name] is not None:
            raise Unsupported(f"output_config.{name}")
    wanted = config.get("format")
    if wanted is None:
        return None
    if (
        type(wanted) is not dict
        or wanted.get("type") != "json_schema"
        or type(wanted.get("schema")) is not dict
    ):
        raise Unsupported("output_config.format", "it is a json_schema")
    return Format(wanted["schema"], strict=True)


def _thinking(given: Any, config: Mapping[str, Any]) -> Thinking | None:
    effort = config.get("effort")
    if effort is not None and type(effort) is not str:
        raise Unsupported("output_config.effort", "it is a text")
    if given is None:
        return None if effort is None else Thinking(effort=effort)
    match given.get("type"):
        case "disabled":
            # An effort without thoughts is how much to write, which no other dialect can be asked.
            return Thinking(effort="none") if effort is None else Thinking(effort=effort)
        case "enabled":
            if type(given.get("budget_tokens")) not in (int, type(None)):
                raise Unsupported("thinking.budget_tokens", "it is a whole number")
            shown = given.get("display") != "omitted"
            return Thinking(effort=effort, budget=given.get("budget_tokens"), shown=shown)
        case "adaptive":
            return Thinking(effort=effort, shown=given.get("display") != "omitted")
        case _:
            raise Unsupported("thinking.type", "it is enabled, adaptive or disabled")
