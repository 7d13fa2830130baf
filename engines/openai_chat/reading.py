"""A client's chat completion request as the one form; what other dialects cannot say is left to them by name.

The body was validated when it was read: roles, types and ranges hold. What may still be wrong (a tool's arguments, a
picture's address) raises Unsupported with the field's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from engines.arguments import as_object
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

_DATA_URL = re.compile(r"data:(image/(?:png|jpeg|gif|webp));base64,([A-Za-z0-9+/]+={0,2})", re.ASCII)
_OWN = frozenset(
    {
        "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "reasoning_effort",
        "temperature", "top_p", "top_k", "presence_penalty", "frequency_penalty", "seed", "stop",
    }
)  # fmt: skip
_HINTS = frozenset({"prompt_cache_key", "prompt_cache_retention", "safety_identifier"})
"""Told to OpenAI's family alone: no answer depends on them."""
_NOTHING: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "logit_bias": ({},),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "service_tier": ("auto", "default"),
}
"""Values that ask for nothing that would not happen anyway."""


def read_chat(body: Mapping[str, Any], max_tokens: int | None) -> Request:
    """The request; raises Unsupported for what no other dialect has a word for."""
    system: list[str] = []
    turns: list[Message] = []
    for index, message in enumerate(body["messages"]):
        where = f"messages[{index}]"
        role = message["role"]
        if role in ("system", "developer"):
            system.append(_instructions(_content(message, where), where))
            continue
        turn = _turn(message, role, where)
        if turn.parts or role != "assistant":
            # An answer of nothing is none to go on from, and other dialects take none.
            turns.append(turn)
    stop = body.get("stop")
    effort = body.get("reasoning_effort")
    if effort is not None and type(effort) is not str:
        raise Unsupported("reasoning_effort", "it is a text")
    return Request(
        messages=_joined(turns),
        system=tuple(each for each in system if each),
        tools=tuple(_tool(each) for each in body.get("tools") or ()),
        tool_choice=_choice(body.get("tool_choice")),
        parallel_tools=body.get("parallel_tool_calls"),
        format=_format(body.get("response_format")),
        thinking=None if effort is None else Thinking(effort=effort),
        max_tokens=max_tokens,
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        top_k=body.get("top_k"),
        presence_penalty=body.get("presence_penalty"),
        frequency_penalty=body.get("frequency_penalty"),
        seed=body.get("seed"),
        stop=() if stop is None else (stop,) if type(stop) is str else tuple(stop),
        extra={
            name: value
            for name, value in body.items()
            if name not in _OWN
            and name not in _HINTS
            and value is not None
            and value not in _NOTHING.get(name, ())
        },
    )


def read_image(url: Any, where: str) -> Image:
    """A picture by its address: inline, or https; raises Unsupported."""
    if type(url) is not str:
        raise Unsupported(where, "a picture's address must be a text")
    inline = _DATA_URL.fullmatch(url)
    if inline is not None:
        return Image(media_type=inline[1], data=inline[2])
    if url.startswith("https://"):
        return Image(url=url)
    raise Unsupported(where, "a picture is inline (data:image/png;base64,...) or at an https address")


def _instructions(parts: tuple[Text | Image | Refusal, ...], where: str) -> str:
    if not all(isinstance(part, Text) for part in parts):
        raise Unsupported(f"{where}.content", "instructions are texts")
    return "".join(part.text for part in parts if isinstance(part, Text))


def _joined(turns: list[Message]) -> tuple[Message, ...]:
    """Turns of one role that follow each other as one: results of tools come one a message, other dialects want one."""
    joined: list[Message] = []
    for turn in turns:
        if joined and joined[-1].role == turn.role:
            joined[-1] = Message(turn.role, joined[-1].parts + turn.parts)
        else:
            joined.append(turn)
    return tuple(joined)


def _turn(message: Mapping[str, Any], role: str, where: str) -> Message:
    content = _content(message, where)
    if role == "user":
        return Message("user", content)
    if role in ("tool", "function"):
        call_id = message.get("tool_call_id")
        if role == "function" or type(call_id) is not str:
            raise Unsupported(f"{where}.tool_call_id", "a tool's result names its call by 'tool_call_id'")
        shown = tuple(part for part in content if isinstance(part, (Text, Image)))
        return Message("user", (ToolResult(call_id, shown),))
    parts: list[Part] = []
    thought = message.get("reasoning_content") or message.get("reasoning")
    if type(thought) is str and thought:
        parts.append(Reasoning(thought))
    parts += content
    if type(message.get("refusal")) is str and message["refusal"]:
        parts.append(Refusal(message["refusal"]))
    if message.get("function_call") is not None:
        raise Unsupported(f"{where}.function_call", "calls of tools are 'tool_calls'")
    parts += [
        _call(call, f"{where}.tool_calls[{at}]") for at, call in enumerate(message.get("tool_calls") or ())
    ]
    return Message("assistant", tuple(parts))


def _content(message: Mapping[str, Any], where: str) -> tuple[Text | Image | Refusal, ...]:
    content = message.get("content")
    if content is None:
        return ()
    if type(content) is str:
        return (Text(content),) if content else ()
    parts: list[Text | Image | Refusal] = []
    for at, part in enumerate(content):
        match part.get("type"):
            case "text":
                parts.append(Text(part["text"]))
            case "refusal":
                parts.append(Refusal(part["refusal"]))
            case "thinking" | "reasoning" if message["role"] == "assistant":
                # Another provider takes no thought without its own proof.
                continue
            case "image_url":
                parts.append(read_image(part["image_url"]["url"], f"{where}.content[{at}]"))
            case _:
                raise Unsupported(f"{where}.content[{at}]")
    return tuple(parts)


def _call(call: Any, where: str) -> ToolCall:
    function = call.get("function") if type(call) is dict else None
    if type(function) is not dict or type(call.get("id")) is not str or type(function.get("name")) is not str:
        raise Unsupported(where, "a call of a tool has an 'id' and a 'function' with its 'name'")
    arguments = function.get("arguments") or "{}"
    if type(arguments) is not str:
        raise Unsupported(f"{where}.function.arguments", "arguments are a text")
    extra = call.get("extra_content")
    google = extra.get("google") if type(extra) is dict else None
    signature = google.get("thought_signature") if type(google) is dict else None
    return ToolCall(
        call["id"], function["name"], as_object(arguments), signature if type(signature) is str else ""
    )


def _tool(tool: Mapping[str, Any]) -> Tool:
    function = tool["function"]
    return Tool(
        function["name"],
        function.get("description") or "",
        function.get("parameters") or {"type": "object", "properties": {}},
        function.get("strict"),
    )


def _choice(given: Any) -> ToolChoice | None:
    if given is None:
        return None
    if given in ("auto", "none", "required"):
        return ToolChoice(given)
    function = given.get("function") if type(given) is dict else None
    if type(function) is dict and type(function.get("name")) is str:
        return ToolChoice("named", function["name"])
    raise Unsupported("tool_choice", "it is auto, none, required, or names one function")


def _format(given: Any) -> Format | None:
    if given is None or given.get("type") == "text":
        return None
    if given.get("type") == "json_object":
        return Format(None)
    schema = given.get("json_schema")
    if given.get("type") == "json_schema" and type(schema) is dict and type(schema.get("schema")) is dict:
        return Format(
            schema["schema"],
            str(schema.get("name") or "answer"),
            schema.get("strict"),
            str(schema.get("description") or ""),
        )
    raise Unsupported("response_format", "it is text, json_object, or json_schema with a schema")
