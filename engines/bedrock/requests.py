"""A request in the one form as Bedrock's Converse takes it."""

from __future__ import annotations

from typing import Any

import msgspec

from engines.anthropic.thinking import thinking_fields
from engines.canonical import (
    EmbeddingRequest,
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

_DEFAULT_MAX_TOKENS = 8_192
_EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "xhigh",
    "max": "max",
}
_encode = msgspec.json.Encoder().encode


def write_converse(request: Request, *, model: str) -> bytes:
    """The body of a call; raises Unsupported."""
    more = dict(other_fields(request, "presence_penalty", "frequency_penalty", "seed"))
    claude = "anthropic" in model or "claude" in model
    if request.top_k is not None:
        if not claude:
            raise Unsupported("top_k")
        more["top_k"] = request.top_k
    body: dict[str, Any] = {"messages": [_message(each) for each in request.messages]}
    if request.system:
        body["system"] = [{"text": text} for text in request.system]
    config: dict[str, Any] = {
        name: value
        for name, value in (
            ("maxTokens", request.max_tokens),
            ("temperature", request.temperature),
            ("topP", request.top_p),
        )
        if value is not None
    }
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if config:
        body["inferenceConfig"] = config
    tools = _tools(request)
    if tools:
        body["toolConfig"] = tools
    output = _output(request)
    if claude:
        thinking = thinking_fields(request, model, request.max_tokens or _DEFAULT_MAX_TOKENS)
        output |= thinking.pop("output_config", {})
        more |= thinking
    elif request.thinking is not None:
        effort = _EFFORTS.get(request.thinking.effort or "medium")
        if effort is None:
            raise Unsupported("reasoning_effort")
        output["effort"] = effort
    if output:
        body["outputConfig"] = output
    if more:
        body["additionalModelRequestFields"] = more
    return _encode(body)


def write_embeddings(request: EmbeddingRequest, *, model: str) -> bytes:
    """The body of an InvokeModel call to a model that embeds: Cohere's take many texts, Titan's one."""
    if "cohere" in model:
        body: dict[str, Any] = {
            "input_type": "search_document",
            **request.extra,
            "texts": list(request.texts),
        }
        if request.dimensions is not None:
            body["output_dimension"] = request.dimensions
        return _encode(body)
    if len(request.texts) != 1:
        raise Unsupported("input", "this model embeds one text a call")
    body = {**request.extra, "inputText": request.texts[0]}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    return _encode(body)


def _tools(request: Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    choice = request.tool_choice
    if choice is not None and choice.mode == "none":
        if any(isinstance(part, ToolCall) for message in request.messages for part in message.parts):
            raise Unsupported("tool_choice", "this provider cannot forbid tools that were called before")
        return {}
    config: dict[str, Any] = {"tools": [{"toolSpec": _tool(each)} for each in request.tools]}
    if choice is not None:
        match choice.mode:
            case "named":
                config["toolChoice"] = {"tool": {"name": choice.name}}
            case "required":
                config["toolChoice"] = {"any": {}}
            case _:
                config["toolChoice"] = {"auto": {}}
    return config


def _tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name, "inputSchema": {"json": tool.parameters}}
    if tool.description:
        written["description"] = tool.description
    if tool.strict:
        written["strict"] = True
    return written


def _output(request: Request) -> dict[str, Any]:
    if request.format is None:
        return {}
    if request.format.schema is None:
        raise Unsupported("response_format", "this provider takes a JSON schema, not json_object")
    schema = {"schema": _encode(request.format.schema).decode(), "name": request.format.name}
    if request.format.description:
        schema["description"] = request.format.description
    return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": schema}}}


def _message(message: Message) -> dict[str, Any]:
    parts = sorted(message.parts, key=lambda part: not isinstance(part, ToolResult))
    return {"role": message.role, "content": [block for part in parts for block in _blocks(part)]}


def _blocks(part: Part) -> list[dict[str, Any]]:
    match part:
        case Text(text=text) | Refusal(text=text):
            return [{"text": text}] if text else []
        case Image():
            return [{"image": _image(part)}]
        case Reasoning(redacted=redacted) if redacted:
            return [{"reasoningContent": {"redactedContent": redacted}}]
        case Reasoning(text=text, signature=signature):
            if not signature:
                return []
            return [{"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}]
        case ToolCall():
            called = msgspec.json.decode(part.arguments or "{}")
            return [{"toolUse": {"toolUseId": part.id, "name": part.name, "input": called}}]
        case ToolResult():
            content = [block for each in part.content for block in _blocks(each)]
            result: dict[str, Any] = {"toolUseId": part.call_id, "content": content}
            if part.is_error:
                result["status"] = "error"
            return [{"toolResult": result}]


def _image(image: Image) -> dict[str, Any]:
    if image.url:
        raise Unsupported("messages", "this provider takes pictures inline (data:image/png;base64,...)")
    return {"format": image.media_type.partition("/")[2], "source": {"bytes": image.data}}
