"""A client's Responses request as the one form, whole or refused by the field's name.

`input` is the whole conversation: what is kept of it is put before it by whoever keeps it. What refers to a stored item or
to a tool that runs at the provider raises Unsupported; so does what is malformed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from engines.canonical import Format, Message, Request, Text, Thinking, Tool, ToolChoice
from engines.errors import Unsupported
from engines.openai_responses import custom_tools
from engines.openai_responses.items import named, read_content, read_item

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
            parts = read_content(told.get("content"), f"{where}.content")
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
        return Tool(named(tool, "name", where), described, custom_tools.PARAMETERS)
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
        named(tool, "name", where),
        description or "",
        parameters or {"type": "object", "properties": {}},
        _flag(tool, "strict"),
    )


def _choice(given: Any) -> ToolChoice | None:
    if given is None:
        return None
    if given in ("auto", "none", "required"):
        return ToolChoice(given)
    wanted = cast("dict[str, Any]", given if type(given) is dict else {})
    if wanted.get("type") in ("function", "custom") and type(wanted.get("name")) is str:
        return ToolChoice("named", wanted["name"])
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


def _flag(body: Mapping[str, Any], name: str) -> bool | None:
    given = body.get(name)
    if given is not None and type(given) is not bool:
        raise Unsupported(name, "it is true or false")
    return given
