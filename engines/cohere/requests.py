"""A request in the one form as Cohere's chat takes it."""

from __future__ import annotations

from typing import Any

import msgspec

from engines.canonical import (
    EmbeddingRequest,
    Image,
    Message,
    Refusal,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from engines.dialects import other_fields
from engines.errors import Unsupported

_BUDGETS = {"minimal": 512, "low": 1_024, "medium": 4_096, "high": 16_384, "xhigh": 32_768, "max": 32_768}
_encode = msgspec.json.Encoder().encode


def write_chat(request: Request, *, model: str, stream: bool) -> bytes:
    """The body of a call; raises Unsupported."""
    extra = other_fields(request)
    messages: list[dict[str, Any]] = [{"role": "system", "content": text} for text in request.system]
    for message in request.messages:
        messages += _user(message) if message.role == "user" else [_assistant(message)]
    body: dict[str, Any] = {**extra, "model": model, "messages": messages, "stream": stream}
    body |= {
        name: value
        for name, value in (
            ("max_tokens", request.max_tokens),
            ("temperature", request.temperature),
            ("p", request.top_p),
            ("k", request.top_k),
            ("presence_penalty", request.presence_penalty),
            ("frequency_penalty", request.frequency_penalty),
            ("seed", request.seed),
        )
        if value is not None
    }
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    _tools(request, body)
    if request.format is not None:
        if request.tools:
            raise Unsupported("response_format", "this provider takes tools or a format, not both")
        wanted_format: dict[str, Any] = {"type": "json_object"}
        if request.format.schema is not None:
            wanted_format["json_schema"] = request.format.schema
        body["response_format"] = wanted_format
    wanted = request.thinking
    if wanted is not None:
        if wanted.effort == "none":
            body["thinking"] = {"type": "disabled"}
        else:
            budget = wanted.budget or _BUDGETS.get(wanted.effort or "medium")
            if budget is None:
                raise Unsupported("reasoning_effort")
            body["thinking"] = {"type": "enabled", "token_budget": budget}
    return _encode(body)


def write_embeddings(request: EmbeddingRequest, *, model: str) -> bytes:
    """The body of an embedding call; documents, unless the client says what the texts are for."""
    body: dict[str, Any] = {
        "input_type": "search_document",
        **request.extra,
        "model": model,
        "texts": list(request.texts),
        "embedding_types": ["float"],
    }
    if request.dimensions is not None:
        body["output_dimension"] = request.dimensions
    return _encode(body)


def _tools(request: Request, body: dict[str, Any]) -> None:
    if not request.tools:
        return
    offered, choice = request.tools, request.tool_choice
    if choice is not None and choice.mode == "named":
        # It knows no name to choose: with one tool on offer, having to call one is the same.
        offered = tuple(each for each in offered if each.name == choice.name)
        if not offered:
            raise Unsupported("tool_choice", "it names a tool that is not on offer")
    body["tools"] = [_tool(each) for each in offered]
    if any(each.strict for each in offered):
        body["strict_tools"] = True
    if choice is not None and choice.mode != "auto":
        body["tool_choice"] = "NONE" if choice.mode == "none" else "REQUIRED"


def _user(message: Message) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    said: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case ToolResult():
                if any(isinstance(each, Image) for each in part.content):
                    raise Unsupported("messages", "this provider takes no pictures from tools")
                out.append({"role": "tool", "tool_call_id": part.call_id, "content": part.words_alone})
            case Text():
                said.append({"type": "text", "text": part.text})
            case Image():
                url = part.url or f"data:{part.media_type};base64,{part.data}"
                said.append({"type": "image_url", "image_url": {"url": url}})
            case _:
                continue
    if said:
        out.append({"role": "user", "content": said})
    return out


def _assistant(message: Message) -> dict[str, Any]:
    # Its own thoughts are not asked back for.
    text = "".join(part.text for part in message.parts if isinstance(part, (Text, Refusal)))
    calls = [
        {"id": part.id, "type": "function", "function": {"name": part.name, "arguments": part.arguments}}
        for part in message.parts
        if isinstance(part, ToolCall)
    ]
    written: dict[str, Any] = {"role": "assistant"}
    if text or not calls:
        written["content"] = text
    if calls:
        written["tool_calls"] = calls
    return written


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters}
    if tool.description:
        function["description"] = tool.description
    return {"type": "function", "function": function}
