"""The clients' dialects as the matrix asks and reads them: one request a situation, one form for what came back.

Plain answers and streams are read here from nothing but their own words, so that a stream's pieces can be added up and held
against the plain answer; frames that end a stream are counted on the way.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anthropic.types import Message, RawMessageStreamEvent
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from gateway.http.anthropic.messages import MESSAGES
from gateway.http.databricks.invocations import INVOCATIONS
from gateway.http.openai.chat import CHAT, COMPLETIONS, RESPONSES
from gateway.http.plane import Api

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = ("weather", "clock")
CUSTOM = "custom tool call"
"""The situation that only Responses have a word for."""


@dataclass
class Seen:
    """An answer as its client would read it."""

    text: str = ""
    refusal: str = ""
    calls: list[tuple[str, str, Any]] = field(default_factory=list[tuple[str, str, Any]])
    """Id, name, arguments."""
    end: str | None = None
    prompt: int = 0
    completion: int = 0


@dataclass(frozen=True)
class Dialect:
    """One client dialect."""

    api: Api
    ask: Callable[[str], dict[str, Any]]
    """The body that brings about a situation."""
    plain: Callable[[bytes], Seen]
    stream: Callable[[bytes], Seen]
    """Adds a whole stream up; fails unless exactly one terminal frame ends it."""
    failed: Callable[[bytes], str]
    """What a stream that failed says at its end, which no other frame may follow."""
    end: Callable[[str], str]
    """The word for how an answer ended, from OpenAI's finish_reason."""


def frames(data: bytes) -> list[tuple[str, Any]]:
    """A stream's events, each with its name where it has one; nothing may be left over."""
    *whole, rest = data.decode().split("\n\n")
    assert rest == ""
    found: list[tuple[str, Any]] = []
    for each in whole:
        lines = each.split("\n")
        named = lines.pop(0).removeprefix("event: ") if lines[0].startswith("event: ") else ""
        (line,) = lines
        assert line.startswith("data: ")
        told = line.removeprefix("data: ")
        found.append((named, told if told == "[DONE]" else json.loads(told)))
    return found


# -- OpenAI's chat; Databricks' invocations are the same in other error shapes -----------------------


def _ask_chat(situation: str) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}
    if "tool" in situation:
        body["tools"] = [
            {"type": "function", "function": {"name": name, "parameters": PARAMETERS}} for name in TOOLS
        ]
        body["tool_choice"] = "required"
    if situation == "structured output":
        named = {"name": "person", "schema": SCHEMA, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return body


def _chat_plain(body: bytes) -> Seen:
    read = ChatCompletion.model_validate_json(body)
    message = read.choices[0].message
    calls = [
        (call.id, call.function.name, json.loads(call.function.arguments))
        for call in message.tool_calls or ()
        if call.type == "function"
    ]
    usage = read.usage
    assert usage is not None
    return Seen(
        message.content or "",
        message.refusal or "",
        calls,
        read.choices[0].finish_reason,
        usage.prompt_tokens,
        usage.completion_tokens,
    )


def _chat_stream(data: bytes) -> Seen:
    *told, last = frames(data)
    assert last == ("", "[DONE]")
    seen = Seen()
    calls: dict[int, list[str]] = {}
    for name, chunk in told:
        assert name == ""
        read = ChatCompletionChunk.model_validate(chunk)
        if read.usage is not None:
            seen.prompt, seen.completion = read.usage.prompt_tokens, read.usage.completion_tokens
        for choice in read.choices:
            delta = choice.delta
            seen.text += delta.content or ""
            seen.refusal += delta.refusal or ""
            for call in delta.tool_calls or ():
                held = calls.setdefault(call.index, ["", "", ""])
                assert call.function is not None
                for at, word in enumerate((call.id, call.function.name, call.function.arguments)):
                    held[at] += word or ""
            if choice.finish_reason is not None:
                assert seen.end is None
                seen.end = choice.finish_reason
    seen.calls = [(held[0], held[1], json.loads(held[2])) for _, held in sorted(calls.items())]
    return seen


def _chat_failed(data: bytes) -> str:
    *told, (_, last) = frames(data)
    assert told
    assert all("error" not in each and each != "[DONE]" for _, each in told)
    return f"`error` {last['error']['code']}"


def _invocation_failed(data: bytes) -> str:
    told = _chat_failed(data)
    return told + f", {frames(data)[-1][1]['error_code']}"


# -- OpenAI's text completions -------------------------------------------------------------------


def _completion_plain(body: bytes) -> Seen:
    read = Completion.model_validate_json(body)
    assert read.usage is not None
    choice = read.choices[0]
    return Seen(
        choice.text,
        end=choice.finish_reason,
        prompt=read.usage.prompt_tokens,
        completion=read.usage.completion_tokens,
    )


def _completion_stream(data: bytes) -> Seen:
    *told, last = frames(data)
    assert last == ("", "[DONE]")
    seen = Seen()
    for _, chunk in told:
        if usage := chunk.get("usage"):
            seen.prompt, seen.completion = usage["prompt_tokens"], usage["completion_tokens"]
        for choice in chunk["choices"]:
            seen.text += choice["text"]
            if choice["finish_reason"] is not None:
                assert seen.end is None
                seen.end = choice["finish_reason"]
    return seen


# -- OpenAI's Responses --------------------------------------------------------------------------

_RESPONSE_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
_LAST = ("response.completed", "response.incomplete", "response.failed")


def _ask_response(situation: str) -> dict[str, Any]:
    body: dict[str, Any] = {"input": "Hello", "max_output_tokens": 100}
    if "tool" in situation:
        body["tools"] = [
            {"type": "function", "name": name, "parameters": PARAMETERS, "strict": False} for name in TOOLS
        ]
        body["tool_choice"] = "required"
    if situation == CUSTOM:
        grammar = {"type": "grammar", "syntax": "lark", "definition": 'start: "*** Begin Patch" /.*/'}
        body["tools"].append({"type": "custom", "name": "patch", "description": "Edits.", "format": grammar})
    if situation == "structured output":
        named = {"type": "json_schema", "name": "person", "schema": SCHEMA, "strict": True}
        body["text"] = {"format": named}
    return body


def _of_response(told: dict[str, Any]) -> Seen:
    read = Response.model_validate(told)
    seen = Seen(end=read.status)
    if read.incomplete_details is not None:
        seen.end = read.incomplete_details.reason
    for item in told["output"]:
        if item["type"] == "function_call":
            seen.calls.append((item["call_id"], item["name"], json.loads(item["arguments"])))
        elif item["type"] == "custom_tool_call":
            seen.calls.append((item["call_id"], item["name"], {"input": item["input"]}))
        elif item["type"] == "message":
            for part in item["content"]:
                seen.text += part.get("text", "")
                seen.refusal += part.get("refusal", "")
    assert read.usage is not None
    seen.prompt, seen.completion = read.usage.input_tokens, read.usage.output_tokens
    return seen


def _response_stream(data: bytes) -> Seen:
    told = frames(data)
    for name, event in told:
        assert name == event["type"]
        _RESPONSE_EVENT.validate_python(event)
    assert [event["sequence_number"] for _, event in told] == list(range(len(told)))
    assert [name in _LAST for name, _ in told] == [False] * (len(told) - 1) + [True]
    # From the pieces alone; and what the last event tells whole is the same.
    seen = Seen()
    calls: dict[str, list[str]] = {}
    for name, event in told:
        if name == "response.output_text.delta":
            seen.text += event["delta"]
        elif name == "response.refusal.delta":
            seen.refusal += event["delta"]
        elif name == "response.output_item.added" and event["item"]["type"].endswith("_call"):
            item = event["item"]
            calls[item["id"]] = [item["call_id"], item["name"], "", item["type"]]
        elif name in ("response.function_call_arguments.delta", "response.custom_tool_call_input.delta"):
            calls[event["item_id"]][2] += event["delta"]
    for call_id, called, written, kind in calls.values():
        said = {"input": written} if kind == "custom_tool_call" else json.loads(written or "{}")
        seen.calls.append((call_id, called, said))
    whole = _of_response(told[-1][1]["response"])
    seen.end, seen.prompt, seen.completion = whole.end, whole.prompt, whole.completion
    assert seen == whole
    return seen


def _response_failed(data: bytes) -> str:
    told = frames(data)
    assert [name in _LAST for name, _ in told] == [False] * (len(told) - 1) + [True]
    name, last = told[-1]
    return f"`{name}` {last['response']['error']['code']}"


# -- Anthropic's Messages ------------------------------------------------------------------------

_MESSAGE_EVENT: TypeAdapter[Any] = TypeAdapter(RawMessageStreamEvent)


def _ask_message(situation: str) -> dict[str, Any]:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 100}
    if "tool" in situation:
        body["tools"] = [{"name": name, "input_schema": PARAMETERS} for name in TOOLS]
        body["tool_choice"] = {"type": "any"}
    if situation == "structured output":
        body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
    return body


def _message_plain(body: bytes) -> Seen:
    read = Message.model_validate_json(body)
    seen = Seen(end=read.stop_reason)
    for block in read.content:
        if block.type == "text":
            seen.text += block.text
        elif block.type == "tool_use":
            seen.calls.append((block.id, block.name, block.input))
    seen.refusal = (read.stop_details.explanation or "") if read.stop_details is not None else ""
    usage = read.usage
    seen.prompt = (
        usage.input_tokens + (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    )
    seen.completion = usage.output_tokens
    return seen


def _message_stream(data: bytes) -> Seen:
    told = [event for name, event in frames(data) if name == event["type"]]
    assert len(told) == len(frames(data))
    kinds = [event["type"] for event in told]
    assert kinds.count("message_stop") == kinds.count("message_start") == kinds.count("message_delta") == 1
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    content: list[dict[str, Any]] = []
    for event in told:
        if event["type"] != "ping":
            _MESSAGE_EVENT.validate_python(event)
        if event["type"] == "content_block_start":
            assert event["index"] == len(content)
            content.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            for name, there in (
                ("text", "text"), ("thinking", "thinking"), ("signature", "signature"), ("partial_json", "json")
            ):  # fmt: skip
                if name in delta:
                    content[event["index"]][there] += delta[name]
    for block in content:
        written = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(written or "{}")
    delta = told[-2]
    whole = {**told[0]["message"], **delta["delta"], "content": content}
    whole["usage"] = {**whole["usage"], **{k: v for k, v in delta["usage"].items() if v is not None}}
    return _message_plain(json.dumps(whole).encode())


def _message_failed(data: bytes) -> str:
    *told, (name, last) = frames(data)
    assert name == last["type"] == "error"
    assert all(each not in ("error", "message_delta", "message_stop") for each, _ in told)
    return f"`error` {last['error']['type']}"


_MESSAGE_ENDS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_RESPONSE_ENDS = {
    "stop": "completed",
    "length": "max_output_tokens",
    "tool_calls": "completed",
    "content_filter": "content_filter",
}

DIALECTS = {
    "OpenAI chat": Dialect(CHAT, _ask_chat, _chat_plain, _chat_stream, _chat_failed, str),
    "OpenAI Responses": Dialect(
        RESPONSES,
        _ask_response,
        lambda body: _of_response(json.loads(body)),
        _response_stream,
        _response_failed,
        _RESPONSE_ENDS.__getitem__,
    ),
    "Anthropic Messages": Dialect(
        MESSAGES, _ask_message, _message_plain, _message_stream, _message_failed, _MESSAGE_ENDS.__getitem__
    ),
    "Databricks invocations": Dialect(
        INVOCATIONS, _ask_chat, _chat_plain, _chat_stream, _invocation_failed, str
    ),
    "OpenAI completions": Dialect(
        COMPLETIONS,
        lambda _: {"prompt": "Hello", "max_tokens": 100},
        _completion_plain,
        _completion_stream,
        _chat_failed,
        str,
    ),
}
