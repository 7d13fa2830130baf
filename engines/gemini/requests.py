"""A request in the one form as Gemini's generateContent takes it.

A thought's proof travels with the call that it led to, and is handed back from there; for a call that comes without one
(another provider made it) the models that insist are told not to look, in the way that Google documents.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

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

_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "named": "ANY"}
_BUDGETS = {
    "none": 0, "minimal": 512, "low": 1_024, "medium": 8_192, "high": 24_576, "xhigh": 32_768, "max": 32_768,
}  # fmt: skip
_INSISTS = re.compile(r"gemini-(?:[3-9]|\d\d)")
_UNPROVEN = "skip_thought_signature_validator"
_encode = msgspec.json.Encoder().encode


def write_contents(request: Request, *, model: str) -> bytes:
    """The body of a call; raises Unsupported."""
    extra = other_fields(request)
    names = {
        part.id: part.name
        for message in request.messages
        for part in message.parts
        if isinstance(part, ToolCall)
    }
    insists = _INSISTS.search(model) is not None
    body: dict[str, Any] = {
        **extra,
        "contents": [
            {
                "role": "user" if message.role == "user" else "model",
                "parts": _parts(message, names, insists=insists),
            }
            for message in request.messages
        ],
    }
    if request.system:
        body["systemInstruction"] = {"parts": [{"text": text} for text in request.system]}
    if request.tools:
        body["tools"] = [{"functionDeclarations": [_tool(each) for each in request.tools]}]
        if request.tool_choice is not None:
            calling: dict[str, Any] = {"mode": _MODES[request.tool_choice.mode]}
            if request.tool_choice.mode == "named":
                calling["allowedFunctionNames"] = [request.tool_choice.name]
            body["toolConfig"] = {"functionCallingConfig": calling}
    config = _config(request)
    if config:
        body["generationConfig"] = {**body.get("generationConfig", {}), **config}
    return _encode(body)


def write_embeddings(request: EmbeddingRequest, *, model: str) -> bytes:
    """The body of batchEmbedContents."""
    named = model if "/" in model else f"models/{model}"
    more: dict[str, Any] = dict(request.extra)
    if request.dimensions is not None:
        more["outputDimensionality"] = request.dimensions
    return _encode(
        {
            "requests": [
                {"model": named, "content": {"parts": [{"text": text}]}, **more} for text in request.texts
            ]
        }
    )


def _config(request: Request) -> dict[str, Any]:
    config: dict[str, Any] = {
        name: value
        for name, value in (
            ("maxOutputTokens", request.max_tokens),
            ("temperature", request.temperature),
            ("topP", request.top_p),
            ("topK", request.top_k),
            ("presencePenalty", request.presence_penalty),
            ("frequencyPenalty", request.frequency_penalty),
            ("seed", request.seed),
        )
        if value is not None
    }
    if request.stop:
        config["stopSequences"] = list(request.stop)
    if request.format is not None:
        config["responseMimeType"] = "application/json"
        if request.format.schema is not None:
            config["responseJsonSchema"] = request.format.schema
    wanted = request.thinking
    if wanted is not None:
        budget = wanted.budget
        if budget is None:
            budget = _BUDGETS.get(wanted.effort or "medium")
        if budget is None:
            raise Unsupported("reasoning_effort")
        config["thinkingConfig"] = {
            "thinkingBudget": budget,
            "includeThoughts": wanted.shown and budget > 0,
        }
    return config


def _parts(message: Message, names: dict[str, str], *, insists: bool) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    called = False
    for part in message.parts:
        if isinstance(part, ToolCall):
            written: dict[str, Any] = {
                "functionCall": {
                    "id": part.id,
                    "name": part.name,
                    "args": msgspec.json.decode(part.arguments or "{}"),
                }
            }
            # Of several calls at once the first carries the proof.
            if part.signature or (insists and not called):
                written["thoughtSignature"] = part.signature or _UNPROVEN
            called = True
            out.append(written)
        elif (other := _part(part, names)) is not None:
            out.append(other)
    return out or [{"text": ""}]


def _part(part: Part, names: dict[str, str]) -> dict[str, Any] | None:
    match part:
        case Text(text=text) | Refusal(text=text):
            return {"text": text} if text else None
        case Image():
            return {"inlineData": _inline(part)}
        case Reasoning(text=text, signature=signature):
            return {"text": text, "thought": True, "thoughtSignature": signature} if signature else None
        case ToolResult():
            return {"functionResponse": _result(part, names)}
        case _:
            return None


def _result(part: ToolResult, names: dict[str, str]) -> dict[str, Any]:
    name = names.get(part.call_id)
    if name is None:
        raise Unsupported(
            "messages", f"there is no call {part.call_id[:64]!r} that a tool's result could be of"
        )
    text = part.words
    given: Any = None
    if not part.is_error:
        try:
            given = msgspec.json.decode(text)
        except msgspec.MsgspecError:
            given = None
    response = given if type(given) is dict else {"error" if part.is_error else "output": text}
    result: dict[str, Any] = {"id": part.call_id, "name": name, "response": response}
    shown = [{"inlineData": _inline(each)} for each in part.content if isinstance(each, Image)]
    if shown:
        result["parts"] = shown
    return result


def _inline(image: Image) -> dict[str, Any]:
    if image.url:
        raise Unsupported("messages", "this provider takes pictures inline (data:image/png;base64,...)")
    return {"mimeType": image.media_type, "data": image.data}


def _tool(tool: Tool) -> dict[str, Any]:
    written: dict[str, Any] = {"name": tool.name, "parametersJsonSchema": tool.parameters}
    if tool.description:
        written["description"] = tool.description
    return written
