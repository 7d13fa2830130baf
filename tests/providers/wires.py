"""Providers' own wire formats, made from answers in the one form: what the scriptable providers of the tests send.

Shapes are those of the providers' published types, which test_codecs.py holds every body and event against:
anthropic.types (Message, RawMessageStreamEvent), google.genai.types (GenerateContentResponse), botocore's service model
`bedrock-runtime` (ConverseResponse, ConverseStreamOutput), cohere (V2ChatResponse, V2ChatStreamResponse) and openai.types
(ChatCompletion, ChatCompletionChunk). The order of a stream's events follows each provider's streaming page.
"""

from __future__ import annotations

import json
import struct
from binascii import crc32
from collections.abc import Iterator
from typing import Any

from engines.canonical import Answer, Reasoning, Refusal, Stop, Text, ToolCall, Usage
from tests.providers.cases import MODEL


def pieces(text: str, size: int = 5) -> Iterator[str]:
    """A text in short pieces."""
    for at in range(0, len(text), size):
        yield text[at : at + size]


def sse(*events: tuple[str, Any]) -> bytes:
    """Server-sent events; those with a name have it on a line of its own."""
    return b"".join(
        (f"event: {name}\n" if name else "").encode() + b"data: " + dumped(data) + b"\n\n"
        for name, data in events
    )


def dumped(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


# -- OpenAI ---------------------------------------------------------------------------------------

_OPENAI_STOP = {Stop.LENGTH: "length", Stop.TOOLS: "tool_calls", Stop.FILTER: "content_filter"}


def openai_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
        "prompt_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning},
    }


def openai_plain(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    calls = []
    for part in answer.parts:
        match part:
            case Text(text=text):
                message["content"] = (message["content"] or "") + text
            case Reasoning(text=text):
                message["reasoning_content"] = text
            case Refusal(text=text):
                message["refusal"] = text
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments}
                calls.append({"id": part.id, "type": "function", "function": function})
    if calls:
        message["tool_calls"] = calls
    finish = _OPENAI_STOP.get(answer.stop, "stop")
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
        "usage": openai_usage(answer.usage or Usage()),
    }


def openai_events(answer: Answer) -> list[dict[str, Any]]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": MODEL}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}

    out = [chunk({"role": "assistant", "content": ""})]
    index = 0
    for part in answer.parts:
        match part:
            case Text(text=text):
                out += [chunk({"content": piece}) for piece in pieces(text)]
            case Reasoning(text=text):
                out += [chunk({"reasoning_content": piece}) for piece in pieces(text)]
            case Refusal(text=text):
                out += [chunk({"refusal": piece}) for piece in pieces(text)]
            case ToolCall():
                begun = {
                    "index": index,
                    "id": part.id,
                    "type": "function",
                    "function": {"name": part.name, "arguments": ""},
                }
                out.append(chunk({"tool_calls": [begun]}))
                out += [
                    chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
                    for piece in pieces(part.arguments)
                ]
                index += 1
    out.append(chunk({}, _OPENAI_STOP.get(answer.stop, "stop")))
    out.append({**head, "choices": [], "usage": openai_usage(answer.usage or Usage())})
    return out


def openai_stream(answer: Answer) -> bytes:
    return sse(*(("", each) for each in openai_events(answer))) + b"data: [DONE]\n\n"


# -- Anthropic: docs "Streaming messages" ------------------------------------------------------------

_ANTHROPIC_STOP = {
    Stop.END: "end_turn",
    Stop.LENGTH: "max_tokens",
    Stop.SEQUENCE: "stop_sequence",
    Stop.TOOLS: "tool_use",
    Stop.REFUSAL: "refusal",
    Stop.FILTER: "refusal",
}


def anthropic_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.fresh,
        "cache_read_input_tokens": usage.cache_read,
        "cache_creation_input_tokens": usage.cache_write,
        "output_tokens": usage.completion,
        "output_tokens_details": {"thinking_tokens": usage.reasoning},
    }


def anthropic_blocks(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for part in answer.parts:
        match part:
            case Text(text=text):
                blocks.append({"type": "text", "text": text, "citations": None})
            case Reasoning(text=text, signature=signature):
                blocks.append({"type": "thinking", "thinking": text, "signature": signature})
            case ToolCall():
                called = json.loads(part.arguments)
                blocks.append({"type": "tool_use", "id": part.id, "name": part.name, "input": called})
            case Refusal():
                continue
    return blocks


def _declined(answer: Answer) -> dict[str, Any] | None:
    words = [part.text for part in answer.parts if isinstance(part, Refusal)]
    return {"type": "refusal", "category": None, "explanation": words[0]} if words else None


def anthropic_plain(answer: Answer) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": anthropic_blocks(answer),
        "stop_reason": _ANTHROPIC_STOP[answer.stop],
        "stop_sequence": answer.sequence,
        "stop_details": _declined(answer),
        "usage": anthropic_usage(answer.usage or Usage()),
    }


def anthropic_events(answer: Answer) -> list[dict[str, Any]]:
    usage = answer.usage or Usage()
    begun = {**anthropic_plain(answer), "content": [], "stop_reason": None, "stop_sequence": None}
    begun |= {"stop_details": None, "usage": {**anthropic_usage(usage), "output_tokens": 1}}
    begun["usage"].pop("output_tokens_details")
    out: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(anthropic_blocks(answer)):
        deltas: list[dict[str, Any]]
        if block["type"] == "text":
            empty = {**block, "text": ""}
            deltas = [{"type": "text_delta", "text": piece} for piece in pieces(block["text"])]
        elif block["type"] == "thinking":
            empty = {**block, "thinking": "", "signature": ""}
            deltas = [{"type": "thinking_delta", "thinking": piece} for piece in pieces(block["thinking"])]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        else:
            empty = {**block, "input": {}}
            written = dumped(block["input"]).decode() if block["input"] else ""
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(written)]
        out.append({"type": "content_block_start", "index": index, "content_block": empty})
        if not index:
            out.append({"type": "ping"})
        out += [{"type": "content_block_delta", "index": index, "delta": each} for each in deltas]
        out.append({"type": "content_block_stop", "index": index})
    delta = {
        "stop_reason": _ANTHROPIC_STOP[answer.stop],
        "stop_sequence": answer.sequence,
        "stop_details": _declined(answer),
    }
    out.append({"type": "message_delta", "delta": delta, "usage": anthropic_usage(usage)})
    out.append({"type": "message_stop"})
    return out


def anthropic_stream(answer: Answer) -> bytes:
    return sse(*((each["type"], each) for each in anthropic_events(answer)))


# -- Gemini: docs "Generating content", streamGenerateContent?alt=sse ------------------------------------

_GEMINI_STOP = {Stop.LENGTH: "MAX_TOKENS", Stop.FILTER: "SAFETY", Stop.REFUSAL: "SAFETY"}


def gemini_usage(usage: Usage) -> dict[str, Any]:
    told = {
        "promptTokenCount": usage.fresh + usage.cache_read + usage.cache_write,
        "candidatesTokenCount": usage.output,
        "totalTokenCount": usage.prompt + usage.completion,
    }
    if usage.cache_read:
        told["cachedContentTokenCount"] = usage.cache_read
    if usage.reasoning:
        told["thoughtsTokenCount"] = usage.reasoning
    return told


def gemini_parts(answer: Answer) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = []
    for part in answer.parts:
        match part:
            case Text(text=text):
                parts.append({"text": text})
            case Reasoning(text=text, signature=signature):
                parts.append({"text": text, "thought": True, "thoughtSignature": signature})
            case ToolCall():
                called = {"id": part.id, "name": part.name, "args": json.loads(part.arguments)}
                parts.append({"functionCall": called})
            case Refusal():
                continue
    return parts


def _gemini(parts: list[dict[str, Any]], finish: str | None, usage: Usage) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish is not None:
        candidate["finishReason"] = finish
    return {
        "candidates": [candidate],
        "usageMetadata": gemini_usage(usage),
        "modelVersion": MODEL,
        "responseId": "r1",
    }


def gemini_plain(answer: Answer) -> dict[str, Any]:
    finish = _GEMINI_STOP.get(answer.stop, "STOP")
    return _gemini(gemini_parts(answer), finish, answer.usage or Usage())


def gemini_events(answer: Answer) -> list[dict[str, Any]]:
    usage = answer.usage or Usage()
    out: list[dict[str, Any]] = []
    for part in gemini_parts(answer):
        if "text" not in part:
            out.append(_gemini([part], None, usage))
            continue
        *before, last = pieces(part["text"])
        thought = {"thought": True} if part.get("thought") else {}
        out += [_gemini([{"text": piece, **thought}], None, usage) for piece in before]
        out.append(_gemini([{**part, "text": last}], None, usage))
    out.append(_gemini([], _GEMINI_STOP.get(answer.stop, "STOP"), usage))
    return out


def gemini_stream(answer: Answer) -> bytes:
    # Google ends its lines with CRLF.
    return sse(*(("", each) for each in gemini_events(answer))).replace(b"\n", b"\r\n")


# -- Bedrock: API reference, ConverseStream, and "Amazon event stream encoding" ---------------------------

_BEDROCK_STOP = {
    Stop.END: "end_turn",
    Stop.LENGTH: "max_tokens",
    Stop.SEQUENCE: "stop_sequence",
    Stop.TOOLS: "tool_use",
    Stop.FILTER: "content_filtered",
    Stop.REFUSAL: "guardrail_intervened",
}


def bedrock_usage(usage: Usage) -> dict[str, Any]:
    return {
        "inputTokens": usage.fresh,
        "outputTokens": usage.completion,
        "totalTokens": usage.prompt + usage.completion,
        "cacheReadInputTokens": usage.cache_read,
        "cacheWriteInputTokens": usage.cache_write,
    }


def bedrock_blocks(answer: Answer) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = []
    for part in answer.parts:
        match part:
            case Text(text=text):
                blocks.append({"text": text})
            case Reasoning(text=text, signature=signature):
                blocks.append({"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}})
            case ToolCall():
                used = {"toolUseId": part.id, "name": part.name, "input": json.loads(part.arguments)}
                blocks.append({"toolUse": used})
            case Refusal():
                continue
    return blocks


def bedrock_plain(answer: Answer) -> dict[str, Any]:
    return {
        "output": {"message": {"role": "assistant", "content": bedrock_blocks(answer)}},
        "stopReason": _BEDROCK_STOP[answer.stop],
        "usage": bedrock_usage(answer.usage or Usage()),
        "metrics": {"latencyMs": 12},
    }


def bedrock_events(answer: Answer) -> list[tuple[str, dict[str, Any]]]:
    out: list[tuple[str, dict[str, Any]]] = [("messageStart", {"role": "assistant"})]
    for index, block in enumerate(bedrock_blocks(answer)):
        deltas: list[dict[str, Any]]
        if "text" in block:
            deltas = [{"text": piece} for piece in pieces(block["text"])]
        elif "toolUse" in block:
            used = block["toolUse"]
            start = {"toolUse": {"toolUseId": used["toolUseId"], "name": used["name"]}}
            out.append(("contentBlockStart", {"start": start, "contentBlockIndex": index}))
            written = dumped(used["input"]).decode() if used["input"] else ""
            deltas = [{"toolUse": {"input": piece}} for piece in pieces(written)]
        else:
            thought = block["reasoningContent"]["reasoningText"]
            deltas = [{"reasoningContent": {"text": piece}} for piece in pieces(thought["text"])]
            deltas.append({"reasoningContent": {"signature": thought["signature"]}})
        out += [("contentBlockDelta", {"delta": each, "contentBlockIndex": index}) for each in deltas]
        out.append(("contentBlockStop", {"contentBlockIndex": index}))
    out.append(("messageStop", {"stopReason": _BEDROCK_STOP[answer.stop]}))
    metadata = {"usage": bedrock_usage(answer.usage or Usage()), "metrics": {"latencyMs": 12}}
    out.append(("metadata", metadata))
    return out


def frame(name: str, payload: bytes, kind: str = "event") -> bytes:
    """One event of AWS's encoding: prelude, headers, payload, and the checksums over them."""
    label = b":event-type" if kind == "event" else b":exception-type"
    headers = b"".join(
        struct.pack("!B", len(key)) + key + b"\x07" + struct.pack("!H", len(value)) + value
        for key, value in (
            (label, name.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", kind.encode()),
        )
    )
    prelude = struct.pack("!II", 16 + len(headers) + len(payload), len(headers))
    prelude += struct.pack("!I", crc32(prelude))
    whole = prelude + headers + payload
    return whole + struct.pack("!I", crc32(whole))


def bedrock_stream(answer: Answer) -> bytes:
    return b"".join(frame(name, dumped(payload)) for name, payload in bedrock_events(answer))


# -- Cohere: docs "Streaming", API v2 --------------------------------------------------------------------

_COHERE_STOP = {
    Stop.END: "COMPLETE",
    Stop.LENGTH: "MAX_TOKENS",
    Stop.SEQUENCE: "STOP_SEQUENCE",
    Stop.TOOLS: "TOOL_CALL",
}


def cohere_usage(usage: Usage) -> dict[str, Any]:
    units = {"input_tokens": usage.prompt, "output_tokens": usage.completion}
    template = {"input_tokens": usage.prompt + 60, "output_tokens": usage.completion}
    return {"billed_units": units, "tokens": template, "cached_tokens": usage.cache_read}


def cohere_plain(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant"}
    content: list[dict[str, Any]] = []
    calls: list[dict[str, Any]] = []
    for part in answer.parts:
        match part:
            case Text(text=text):
                content.append({"type": "text", "text": text})
            case Reasoning(text=text):
                content.append({"type": "thinking", "thinking": text})
            case ToolCall():
                function = {"name": part.name, "arguments": part.arguments}
                calls.append({"id": part.id, "type": "function", "function": function})
            case Refusal():
                continue
    if content:
        message["content"] = content
    if calls:
        message["tool_calls"] = calls
    return {
        "id": "c1",
        "finish_reason": _COHERE_STOP[answer.stop],
        "message": message,
        "usage": cohere_usage(answer.usage or Usage()),
    }


def cohere_events(answer: Answer) -> list[dict[str, Any]]:
    plain = cohere_plain(answer)
    start = {
        "message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    }
    out: list[dict[str, Any]] = [{"type": "message-start", "id": "c1", "delta": start}]

    def content(kind: str, index: int, held: dict[str, Any]) -> dict[str, Any]:
        return {"type": kind, "index": index, "delta": {"message": {"content": held}}}

    for index, each in enumerate(plain["message"].get("content", [])):
        word = "text" if each["type"] == "text" else "thinking"
        out.append(content("content-start", index, {"type": each["type"], word: ""}))
        out += [content("content-delta", index, {word: piece}) for piece in pieces(each[word])]
        out.append({"type": "content-end", "index": index})
    for index, call in enumerate(plain["message"].get("tool_calls", [])):
        begun = {**call, "function": {"name": call["function"]["name"], "arguments": ""}}
        out.append({"type": "tool-call-start", "index": index, "delta": {"message": {"tool_calls": begun}}})
        out += [
            {
                "type": "tool-call-delta",
                "index": index,
                "delta": {"message": {"tool_calls": {"function": {"arguments": piece}}}},
            }
            # A call without arguments streams none.
            for piece in pieces(call["function"]["arguments"].removeprefix("{}"))
        ]
        out.append({"type": "tool-call-end", "index": index})
    end = {"finish_reason": plain["finish_reason"], "usage": plain["usage"]}
    out.append({"type": "message-end", "id": "c1", "delta": end})
    return out


def cohere_stream(answer: Answer) -> bytes:
    return sse(*((each["type"], each) for each in cohere_events(answer)))
