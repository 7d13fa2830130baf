"""OpenAI's Responses as OpenAI sends them: the wire format, plain and streamed, of answers in the one form.

Shapes are those of openai.types.responses (Response, ResponseStreamEvent), which test_passing_responses.py holds every body and
event against; the order of events follows OpenAI's page "Streaming API responses", its thoughts come as summaries.
"""

from __future__ import annotations

import json
from typing import Any

from engines.canonical import Answer, Reasoning, Refusal, Stop, Text, ToolCall, Usage
from tests.providers.cases import MODEL
from tests.providers.wires import dumped, pieces

ID = "resp_68a1b2c3d4e5f60718293a4b5c6d7e8f"
SEALED = "gAAAAABsealedByTheProvider"
_WHY = {Stop.LENGTH: "max_output_tokens", Stop.FILTER: "content_filter"}


def responses_usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cache_read, "cache_write_tokens": usage.cache_write},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }


def _response(status: str, **more: Any) -> dict[str, Any]:
    return {
        "id": ID, "object": "response", "created_at": 1, "status": status, "background": False, "error": None,
        "incomplete_details": None, "instructions": None, "max_output_tokens": 100, "max_tool_calls": None,
        "model": MODEL, "output": [], "parallel_tool_calls": True, "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None}, "service_tier": "default", "store": False, "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "tool_choice": "auto", "tools": [],
        "top_logprobs": 0, "top_p": 1.0, "truncation": "disabled", "usage": None, "user": None, "metadata": {}, **more,
    }  # fmt: skip


def _items(answer: Answer) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for part in answer.parts:
        at = len(items)
        match part:
            case Text(text=text):
                content = {"type": "output_text", "annotations": [], "logprobs": [], "text": text}
                items.append(_message(at, content))
            case Refusal(text=text):
                items.append(_message(at, {"type": "refusal", "refusal": text}))
            case Reasoning(text=text):
                summary = [{"type": "summary_text", "text": text}]
                items.append(
                    {"id": f"rs_{at}", "type": "reasoning", "summary": summary, "encrypted_content": SEALED}
                )
            case ToolCall(name="patch"):
                items.append(
                    {"id": f"ctc_{at}", "type": "custom_tool_call", "status": "completed", "call_id": part.id,
                     "name": part.name, "input": json.loads(part.arguments)["input"]}
                )  # fmt: skip
            case ToolCall():
                items.append(
                    {"id": f"fc_{at}", "type": "function_call", "status": "completed", "arguments": part.arguments,
                     "call_id": part.id, "name": part.name}
                )  # fmt: skip
    return items


def _message(at: int, content: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"msg_{at}",
        "type": "message",
        "status": "completed",
        "content": [content],
        "role": "assistant",
    }


def responses_plain(answer: Answer) -> dict[str, Any]:
    why = _WHY.get(answer.stop)
    return _response(
        "completed" if why is None else "incomplete",
        output=_items(answer),
        incomplete_details=None if why is None else {"reason": why},
        usage=responses_usage(answer.usage or Usage()),
    )


def responses_events(answer: Answer) -> list[dict[str, Any]]:
    begun = _response("in_progress")
    out: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for at, item in enumerate(_items(answer)):
        where = {"item_id": item["id"], "output_index": at}
        added = {"type": "response.output_item.added", "output_index": at}
        if item["type"] == "function_call":
            out.append({**added, "item": {**item, "status": "in_progress", "arguments": ""}})
            for piece in pieces(item["arguments"]):
                out.append({"type": "response.function_call_arguments.delta", **where, "delta": piece})
            done = {"name": item["name"], "arguments": item["arguments"]}
            out.append({"type": "response.function_call_arguments.done", **where, **done})
        elif item["type"] == "custom_tool_call":
            out.append({**added, "item": {**item, "status": "in_progress", "input": ""}})
            for piece in pieces(item["input"]):
                out.append({"type": "response.custom_tool_call_input.delta", **where, "delta": piece})
            out.append({"type": "response.custom_tool_call_input.done", **where, "input": item["input"]})
        elif item["type"] == "reasoning":
            out.append({**added, "item": {**item, "summary": []}})
            out += _of_part(item["summary"][0], {**where, "summary_index": 0}, "reasoning_summary_")
        else:
            out.append({**added, "item": {**item, "status": "in_progress", "content": []}})
            out += _of_part(item["content"][0], {**where, "content_index": 0}, "content_")
        out.append({"type": "response.output_item.done", "output_index": at, "item": item})
    whole = responses_plain(answer)
    out.append({"type": f"response.{whole['status']}", "response": whole})
    return [{"type": each["type"], "sequence_number": at, **each} for at, each in enumerate(out)]


def _of_part(part: dict[str, Any], where: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    field = "refusal" if part["type"] == "refusal" else "text"
    told = {"output_text": "output_text", "refusal": "refusal", "summary_text": "reasoning_summary_text"}
    of = f"response.{told[part['type']]}"
    marked: dict[str, Any] = {"logprobs": []} if part["type"] == "output_text" else {}
    return [
        {"type": f"response.{kind}part.added", **where, "part": {**part, field: ""}},
        *(
            {"type": f"{of}.delta", **where, "delta": piece, **marked, "obfuscation": "x" * 7}
            for piece in pieces(part[field])
        ),
        {"type": f"{of}.done", **where, field: part[field], **marked},
        {"type": f"response.{kind}part.done", **where, "part": part},
    ]


def responses_stream(answer: Answer) -> bytes:
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (each["type"].encode(), dumped(each))
        for each in responses_events(answer)
    )
