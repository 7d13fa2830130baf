"""A request in the one form as Anthropic's Messages take it."""

from __future__ import annotations

from typing import Any

import msgspec

from engines.anthropic.thinking import thinking_fields
from engines.canonical import (
    Image,
    Message,
    Part,
    Reasoning,
    Refusal,
    Request,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from engines.dialects import other_fields
from engines.errors import Unsupported

DEFAULT_MAX_TOKENS = 8_192
"""What is sent where the client named no bound: this API takes no request without one."""
_CHOICE = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}
_encode = msgspec.json.Encoder().encode


def write_messages(request: Request, *, model: str, stream: bool) -> bytes:
    """The body of a call; raises Unsupported."""
    extra = other_fields(request, "presence_penalty", "frequency_penalty", "seed")
    if request.temperature is not None and request.temperature > 1:
        raise Unsupported("temperature", "this provider takes at most 1")
    most = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    body: dict[str, Any] = {
        **extra,
        "model": model,
        "max_tokens": most,
        "messages": [_message(each) for each in request.messages],
        **thinking_fields(request, model, most),
    }
    if request.system:
        body["system"] = "\n\n".join(request.system)
    # Its newest models sample as they see fit and refuse these; a value that changes nothing is not worth a refusal.
    body |= {
        name: value
        for name, value in (
            ("temperature", request.temperature),
            ("top_p", request.top_p),
            ("top_k", request.top_k),
        )
        if value is not None and value != 1
    }
    if request.stop:
        body["stop_sequences"] = list(request.stop)
    if request.tools:
        body["tools"] = [_tool(each) for each in request.tools]
        choice = _choice(request)
        if choice is not None:
            body["tool_choice"] = choice
    if request.format is not None:
        if request.format.schema is None:
            raise Unsupported("response_format", "this provider takes a JSON schema, not json_object")
        config = {"format": {"type": "json_schema", "schema": request.format.schema}}
        body["output_config"] = {**body.get("output_config", {}), **config}
    if stream:
        body["stream"] = True
    return _encode(body)


def _choice(request: Request) -> dict[str, Any] | None:
    wanted = request.tool_choice
    if wanted is None and request.parallel_tools is None:
        return None
    choice: dict[str, Any] = {"type": _CHOICE[wanted.mode] if wanted is not None else "auto"}
    if wanted is not None and wanted.mode == "named":
        choice["name"] = wanted.name
    if request.parallel_tools is not None and choice["type"] != "none":
        choice["disable_parallel_tool_use"] = not request.parallel_tools
    return choice


def _message(message: Message) -> dict[str, Any]:
    # Results of tools come before anything else that the user says.
    parts = sorted(message.parts, key=lambda part: not isinstance(part, ToolResult))
    return {"role": message.role, "content": [block for part in parts for block in _blocks(part)]}


def _blocks(part: Part) -> list[dict[str, Any]]:
    match part:
        case Text(text=text) | Refusal(text=text):
            return [{"type": "text", "text": text}] if text else []
        case Image():
            return [_image(part)]
        case Reasoning(redacted=redacted) if redacted:
            return [{"type": "redacted_thinking", "data": redacted}]
        case Reasoning(text=text, signature=signature):
            # Without its proof a thought is refused: it was another provider's, or the client could not keep it.
            return [{"type": "thinking", "thinking": text, "signature": signature}] if signature else []
        case ToolCall():
            called = msgspec.json.decode(part.arguments or "{}")
            return [{"type": "tool_use", "id": part.id, "name": part.name, "input": called}]
        case ToolResult():
            result: dict[str, Any] = {
                "type": "tool_result",
                "tool_use_id": part.call_id,
                "content": [block for each in part.content for block in _blocks(each)],
            }
            if part.is_error:
                result["is_error"] = True
            return [result]


def _image(image: Image) -> dict[str, Any]:
    if image.url:
        return {"type": "image", "source": {"type": "url", "url": image.url}}
    source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    return {"type": "image", "source": source}


def _tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name, "input_schema": {"type": "object", **tool.parameters}}
    if tool.description:
        written["description"] = tool.description
    if tool.strict:
        written["strict"] = True
    return written
