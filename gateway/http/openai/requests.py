"""Read a chat or text completion request in OpenAI's shape into a ModelRequest.

Every field that the gateway acts on is checked here, with the field named in the refusal; nothing is dropped in
silence. What would reach into an engine or another host is refused whatever the upstream is.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.errors import BadRequest
from gateway.http.openai.fields import (
    CONSUMED,
    MAX_OUTPUT,
    bytes_of,
    consumed,
    endpoint_named,
    flag,
    number,
    typed,
    unknown_fields,
    whole,
)
from gateway.pipeline.exchange import ModelRequest
from gateway.security.addresses import AddressRefused, read_address

MAX_CHOICES = 128
PICTURE_TOKENS = 1_600
"""What a picture reserves; the provider's own count is charged."""
_THOUGHTS = ("thinking", "reasoning")
"""Parts of an answer's content, as Mistral and Databricks write them, that clients hand back."""
_INLINE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,", re.ASCII)
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_COMMON = {"role", "content"}
_SPEAKERS = ("user", "assistant", "system")
_MESSAGE_FIELDS = frozenset(
    {
        "role", "content", "name", "tool_calls", "tool_call_id", "refusal", "function_call", "reasoning_content",
        "reasoning", "reasoning_details",
    }
)  # fmt: skip
_NOTES = ("annotations", "parsed")
"""On an answer, for its readers: no model reads them."""
_ECHOED = (*_NOTES, "audio", "function_call", "reasoning", "reasoning_details", "refusal", "tool_calls")
"""What an answer's message has that clients hand back with it: nothing is asked by what is empty of it."""

_SAMPLING = frozenset(
    {
        "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty", "stop",
        "seed", "n", "logprobs", "logit_bias", "min_tokens", "ignore_eos", "stop_token_ids", "skip_special_tokens",
        "stream", "stream_options", "max_tokens", "model",
    }
)  # fmt: skip
_CHAT = (
    _SAMPLING
    | CONSUMED
    | {
        "messages",
        "max_completion_tokens",
        "top_logprobs",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "response_format",
        "reasoning_effort",
    }
)
_TEXT = _SAMPLING | CONSUMED | {"prompt", "echo", "suffix", "response_format"}


def read_chat(body: dict[str, Any], model: str | None = None) -> ModelRequest:
    """A chat completion request; `model` names the endpoint where the path does. Raises BadRequest."""
    messages = body.get("messages")
    if type(messages) is not list or not messages:
        raise BadRequest("'messages' must be a list with at least one message.", param="messages")
    text_bytes = 0
    pictures: list[str] = []
    for index, message in enumerate(messages):
        content = message.get("content") if type(message) is dict else None
        if (
            type(content) is str
            and content.isascii()
            and message.keys() == _COMMON
            and message["role"] in _SPEAKERS
        ):
            # Nearly all there are, without a call for each.
            text_bytes += len(content)
            continue
        text_bytes += _message_bytes(message, index)
        if type(content) is list:
            pictures += _pictures(message)
    if "tools" in body:
        text_bytes += _tools_bytes(body["tools"])
    if body.get("response_format") is not None:
        text_bytes += len(msgspec.json.encode(typed(body, "response_format", dict, "an object")))
    request = _request(body, "/v1/chat/completions", _CHAT, model, text_bytes, len(messages))
    if pictures:
        request.pictures = len(pictures)
        request.far_pictures = any(not url.startswith("data:") for url in pictures)
        # Of fixed cost, whatever their bytes: what the providers count for a large one.
        request.token_ids = PICTURE_TOKENS * len(pictures)
    return request


def read_completion(body: dict[str, Any], *, model: str | None = None) -> ModelRequest:
    """A text completion request. Raises BadRequest."""
    prompt = body.get("prompt")
    texts: list[str] = []
    ids, prompts = 0, 1
    if type(prompt) is str:
        texts = [prompt]
    elif type(prompt) is list and prompt and all(type(item) is str for item in prompt):
        texts, prompts = prompt, len(prompt)
    elif type(prompt) is list and prompt and all(type(item) is int for item in prompt):
        ids = len(prompt)
    elif type(prompt) is list and prompt and all(_is_ids(item) for item in prompt):
        ids, prompts = sum(map(len, prompt)), len(prompt)
    else:
        raise BadRequest("'prompt' must be a string, a list of strings, or token ids.", param="prompt")
    text_bytes = sum(bytes_of(text) for text in texts)
    request = _request(body, "/v1/completions", _TEXT, model, text_bytes, prompts)
    request.n *= prompts
    request.token_ids = ids
    return request


def _request(
    body: dict[str, Any], path: str, known: frozenset[str], model: str | None, text_bytes: int, messages: int
) -> ModelRequest:
    unknown = () if body.keys() <= known else unknown_fields(body, known)
    model = endpoint_named(body, model)
    stream = "stream" in body and flag(body, "stream")
    show_usage = show_running = False
    if "stream_options" in body:
        show_usage, show_running = _stream_options(body, stream=stream)
    n = 1 if "n" not in body else whole(body, "n", 1, MAX_CHOICES) or 1
    most = None
    for name in ("max_tokens", "max_completion_tokens"):
        # Both are checked, and the newer word is the one that counts.
        if name in body:
            given = whole(body, name, 1, MAX_OUTPUT)
            most = most if given is None else given
    for name, low, high in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("presence_penalty", -2, 2),
        ("frequency_penalty", -2, 2),
    ):
        if name in body and not (type(value := body[name]) in _NUMBERS and low <= value <= high):
            number(body, name, low, high)
    if body.get("stop") is not None:
        _stop(body["stop"])
    tags, end_user, client_id = ({}, None, None) if body.keys().isdisjoint(CONSUMED) else consumed(body)
    sent = {name: value for name, value in body.items() if name not in _HELD}
    return ModelRequest(
        model=model,
        path=path,
        body=sent,
        stream=stream,
        show_usage=show_usage,
        show_running=show_running,
        max_tokens=most,
        n=n,
        text_bytes=text_bytes,
        messages=messages,
        unknown=unknown,
        tags=tags,
        end_user=end_user,
        client_request_id=client_id,
    )


_NUMBERS = (int, float)
_HELD = CONSUMED | {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens"}
"""Fields that the gateway consumes or writes itself when it calls upstream."""


def _message_bytes(message: Any, index: int) -> int:
    if type(message) is not dict:
        where = f"messages[{index}]"
        raise BadRequest(f"'{where}' must be an object with 'role' and 'content'.", param=where)
    role = message.get("role")
    content = message.get("content")
    if type(content) is str and type(role) is str and role in _ROLES and message.keys() <= _MESSAGE_FIELDS:
        # Nearly all there are.
        size = bytes_of(content)
    else:
        size = _uncommon_bytes(message, role, content, f"messages[{index}]")
    calls = message.get("tool_calls")
    return size if calls is None else size + len(msgspec.json.encode(calls))


def _uncommon_bytes(message: dict[str, Any], role: Any, content: Any, where: str) -> int:
    if type(role) is not str or role not in _ROLES:
        raise BadRequest(f"'{where}.role' must be one of {', '.join(sorted(_ROLES))}.", param=f"{where}.role")
    if role == "assistant":
        _unburden(message)
    extra = message.keys() - _MESSAGE_FIELDS
    if extra:
        name = min(extra)
        raise BadRequest(
            f"The field '{where}.{name}' is not accepted; remove it.",
            param=f"{where}.{name}",
            code="unsupported_field",
        )
    if content is None:
        if role not in ("assistant", "tool", "function"):
            raise BadRequest(
                f"'{where}.content' must be a string or a list of parts.", param=f"{where}.content"
            )
        return 0
    if type(content) is str:
        return bytes_of(content)
    return _parts_bytes(content, f"{where}.content", answered=role == "assistant")


def _unburden(message: dict[str, Any]) -> None:
    """Take off an answer that is handed back what it says nothing by, and the notes on it."""
    for name in _ECHOED:
        if name in message and (name in _NOTES or message[name] in (None, [], "")):
            del message[name]


def _parts_bytes(parts: Any, where: str, *, answered: bool) -> int:
    if type(parts) is not list:
        raise BadRequest(f"'{where}' must be a string or a list of parts.", param=where)
    size = 0
    for index, part in enumerate(parts):
        if type(part) is not dict:
            raise BadRequest(
                f"'{where}[{index}]' must be an object with a 'type'.", param=f"{where}[{index}]"
            )
        kind = part.get("type")
        if kind == "image_url":
            _check_picture(part.get("image_url"), f"{where}[{index}].image_url")
            continue
        if answered and kind in _THOUGHTS:
            size += len(msgspec.json.encode(part))
            continue
        text = part.get(kind) if kind in ("text", "refusal") else None
        if type(text) is not str:
            raise BadRequest(
                f"'{where}[{index}]' must be a text or an image_url.",
                param=f"{where}[{index}]",
                code="unsupported_content",
            )
        size += bytes_of(text)
    return size


def _check_picture(picture: Any, where: str) -> None:
    url = picture.get("url") if type(picture) is dict else None
    if type(url) is not str or picture.keys() - {"url", "detail"}:
        raise BadRequest(f"'{where}' must be an object with a 'url'.", param=where)
    check_picture_address(url, f"{where}.url")


def check_picture_address(url: str, where: str) -> None:
    """A picture is inline, or at an address that anybody may call; raises BadRequest."""
    if _INLINE.match(url):
        return
    try:
        read_address(url, ())
    except AddressRefused as exc:
        raise BadRequest(
            f"'{where}' must be a picture inline (data:image/png;base64,...) or at a public https address.",
            param=where,
            code="unsupported_content",
        ) from exc


def _pictures(message: dict[str, Any]) -> list[str]:
    """The addresses of a checked message's pictures."""
    return [part["image_url"]["url"] for part in message["content"] if part["type"] == "image_url"]


def _tools_bytes(tools: Any) -> int:
    if tools is None:
        return 0
    if type(tools) is not list:
        raise BadRequest("'tools' must be a list.", param="tools")
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        function = tool.get("function") if type(tool) is dict and tool.get("type") == "function" else None
        if type(function) is not dict or type(function.get("name")) is not str:
            raise BadRequest(f"'{where}' must be a function tool with a name.", param=where)
        if not isinstance(function.get("parameters", {}), dict):
            raise BadRequest(
                f"'{where}.function.parameters' must be a JSON schema object.",
                param=f"{where}.function.parameters",
            )
    return len(msgspec.json.encode(tools))


def _stream_options(body: dict[str, Any], *, stream: bool) -> tuple[bool, bool]:
    options = body.get("stream_options")
    if options is None:
        return False, False
    if type(options) is not dict:
        raise BadRequest("'stream_options' must be an object.", param="stream_options")
    if not stream:
        raise BadRequest("'stream_options' needs 'stream': true.", param="stream_options")
    extra = options.keys() - {"include_usage", "continuous_usage_stats", "include_obfuscation"}
    if extra:
        name = min(extra)
        raise BadRequest(
            f"The field 'stream_options.{name}' is not accepted.",
            param=f"stream_options.{name}",
            code="unsupported_field",
        )
    usage = flag(options, "include_usage", "stream_options.")
    return usage, usage and flag(options, "continuous_usage_stats", "stream_options.")


def _is_ids(value: Any) -> bool:
    return type(value) is list and bool(value) and all(type(item) is int for item in value)


def _stop(value: Any) -> None:
    if type(value) is str:
        return
    if type(value) is not list or len(value) > 16 or not all(type(item) is str for item in value):
        raise BadRequest("'stop' must be a text or a list of at most 16 texts.", param="stop")
