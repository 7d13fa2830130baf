"""Read a request in the shape of Anthropic's Messages into a ModelRequest, to be answered or to be counted.

Every field that the gateway acts on is checked here, with the field named in the refusal; nothing is dropped in silence.
What would reach another host, another account's files or another price than the endpoint's is refused whatever the upstream is.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway.errors import BadRequest
from gateway.http.openai.fields import (
    MAX_OUTPUT,
    bytes_of,
    consumed,
    endpoint_named,
    flag,
    number,
    unknown_fields,
    whole,
)
from gateway.http.openai.requests import PICTURE_TOKENS
from gateway.pipeline.exchange import ModelRequest
from gateway.security.addresses import AddressRefused, read_address

_PATH = "/v1/messages"
_CONSUMED = frozenset({"metadata", "usage_context", "client_request_id"})
_COUNTED = _CONSUMED | {
    "model", "messages", "system", "tools", "tool_choice", "thinking", "output_config", "cache_control",
}  # fmt: skip
_KNOWN = _COUNTED | {
    "max_tokens",
    "stream",
    "stop_sequences",
    "temperature",
    "top_p",
    "top_k",
    "service_tier",
}
_HELD = _CONSUMED | {"model", "max_tokens", "stream"}
"""Fields that the gateway consumes or writes itself when it calls upstream."""
_REFUSED = {
    "mcp_servers": "the gateway lets no client choose a host that others connect to",
    "container": "containers are priced apart, which no budget would see",
    "speed": "it is priced apart, which no budget would see",
    "inference_geo": "it is priced apart, which no budget would see",
    "billing_policy": "the account is the gateway's",
    "fallback_credit_token": "the account is the gateway's",
    "fallbacks": "the endpoint's own fallbacks answer, which an administrator sets",
    "workspace_id": "the account is the gateway's",
    "user_profile_id": "the account is the gateway's",
}
_ROLES = ("assistant", "system", "user")
_OWN_TOOLS = re.compile(r"(?:bash|text_editor|computer|memory)_20\d{6}", re.ASCII)
"""Tools of Anthropic's that the client runs; those that Anthropic runs reach other hosts, or are priced apart."""
_MEDIA = ("image/png", "image/jpeg", "image/gif", "image/webp")
_encode = msgspec.json.encode


def read_message(body: dict[str, Any], *, model: str | None = None) -> ModelRequest:
    """A request to answer; raises BadRequest."""
    most = whole(body, "max_tokens", 1, MAX_OUTPUT)
    if most is None:
        raise BadRequest("'max_tokens' is required: how long the answer may be.", param="max_tokens")
    for name, low, high in (("temperature", 0, 1), ("top_p", 0, 1)):
        if name in body:
            number(body, name, low, high)
    whole(body, "top_k", 0, MAX_OUTPUT)
    _stop(body.get("stop_sequences"))
    return _request(body, _KNOWN, model, most)


def read_count(body: dict[str, Any], *, model: str | None = None) -> ModelRequest:
    """A request whose input is to be counted, with nothing to answer; raises BadRequest."""
    return _request(body, _COUNTED, model, 0)


def _request(body: dict[str, Any], known: frozenset[str], model: str | None, most: int) -> ModelRequest:
    for name in sorted(body.keys() & _REFUSED.keys()):
        if body[name] is not None:
            raise BadRequest(
                f"The field {name!r} is not accepted ({_REFUSED[name]}); remove it.",
                param=name,
                code="unsupported_field",
            )
    unknown = () if body.keys() <= known else unknown_fields(body, known)
    endpoint = endpoint_named(body, model)
    messages = body.get("messages")
    if type(messages) is not list or not messages:
        raise BadRequest("'messages' must be a list with at least one message.", param="messages")
    seen = _Seen()
    for index, message in enumerate(messages):
        _message(message, f"messages[{index}]", seen)
    if body.get("system") is not None:
        _content(body["system"], "system", seen)
    if body.get("tools") is not None:
        _tools(body["tools"], seen)
    _choice(body.get("tool_choice"))
    _object(body, "thinking")
    if (config := _object(body, "output_config")) is not None:
        seen.text_bytes += len(_encode(config))
    tags, _, client_id = consumed(body) if not body.keys().isdisjoint(_CONSUMED) else ({}, None, None)
    end_user = tags.pop("user_id", None)
    if end_user is not None and len(end_user) > 256:
        raise BadRequest("'metadata.user_id' takes at most 256 characters.", param="metadata.user_id")
    request = ModelRequest(
        model=endpoint,
        path=_PATH,
        body={name: value for name, value in body.items() if name not in _HELD},
        stream=flag(body, "stream"),
        show_usage=True,
        show_running=False,
        max_tokens=most,
        n=1,
        text_bytes=seen.text_bytes,
        messages=len(messages),
        unknown=unknown,
        tags=tags,
        end_user=end_user,
        client_request_id=client_id,
    )
    if seen.pictures:
        request.pictures = seen.pictures
        request.far_pictures = seen.far
        request.token_ids = PICTURE_TOKENS * seen.pictures
    return request


class _Seen:
    """What a request's content comes to."""

    __slots__ = ("far", "pictures", "text_bytes")

    def __init__(self) -> None:
        self.text_bytes = 0
        self.pictures = 0
        self.far = False


def _message(message: Any, where: str, seen: _Seen) -> None:
    if type(message) is not dict:
        raise BadRequest(f"'{where}' must be an object with 'role' and 'content'.", param=where)
    if message.get("role") not in _ROLES:
        raise BadRequest(f"'{where}.role' must be one of {', '.join(_ROLES)}.", param=f"{where}.role")
    for name in sorted(message.keys() - {"role", "content"}):
        raise BadRequest(
            f"The field '{where}.{name}' is not accepted; remove it.",
            param=f"{where}.{name}",
            code="unsupported_field",
        )
    _content(message.get("content"), f"{where}.content", seen)


def _content(content: Any, where: str, seen: _Seen) -> None:
    """A text, or blocks."""
    if type(content) is str:
        seen.text_bytes += bytes_of(content)
        return
    if type(content) is not list:
        raise BadRequest(f"'{where}' must be a text or a list of blocks.", param=where)
    for index, block in enumerate(content):
        _block(block, f"{where}[{index}]", seen)


def _block(block: Any, where: str, seen: _Seen) -> None:
    kind = block.get("type") if type(block) is dict else None
    if type(kind) is not str:
        raise BadRequest(f"'{where}' must be an object with a 'type'.", param=where)
    if kind == "text":
        seen.text_bytes += bytes_of(_named(block, "text", where))
    elif kind == "image":
        _source(block.get("source"), f"{where}.source", seen)
    elif kind == "tool_use":
        _named(block, "id", where)
        _named(block, "name", where)
        if type(block.get("input")) is not dict:
            raise BadRequest(f"'{where}.input' must be an object.", param=f"{where}.input")
        seen.text_bytes += len(_encode(block["input"])) + len(block["name"])
    elif kind == "tool_result":
        _named(block, "tool_use_id", where)
        if block.get("content") is not None:
            _content(block["content"], f"{where}.content", seen)
    elif kind == "container_upload":
        raise BadRequest(
            f"'{where}' is not accepted: files belong to the gateway's account, which others share.",
            param=where,
            code="unsupported_content",
        )
    else:
        # What only Anthropic's own API knows; whoever else is asked refuses it by name.
        if type(block.get("source")) is dict:
            _refuse_far(block["source"], f"{where}.source", seen)
        seen.text_bytes += len(_encode(block))


def _source(source: Any, where: str, seen: _Seen) -> None:
    """A picture: inline or at a public address."""
    kind = source.get("type") if type(source) is dict else None
    seen.pictures += 1
    if kind == "base64":
        if source.get("media_type") in _MEDIA and type(source.get("data")) is str:
            return
    elif kind in ("url", "file"):
        _refuse_far(source, where, seen)
        return
    raise BadRequest(
        f"'{where}' must be a base64 png, jpeg, gif or webp, or the address of one.",
        param=where,
        code="unsupported_content",
    )


def _refuse_far(source: dict[str, Any], where: str, seen: _Seen) -> None:
    """Let public addresses pass; raises BadRequest for others, and for files of the account that all share."""
    if source.get("type") == "file":
        raise BadRequest(
            f"'{where}' is not accepted: files belong to the gateway's account, which others share.",
            param=where,
            code="unsupported_content",
        )
    if source.get("type") != "url":
        return
    seen.far = True
    try:
        read_address(_named(source, "url", where), ())
    except AddressRefused as exc:
        raise BadRequest(
            f"'{where}.url' must be a public https address.", param=f"{where}.url", code="unsupported_content"
        ) from exc


def _tools(tools: Any, seen: _Seen) -> None:
    if type(tools) is not list:
        raise BadRequest("'tools' must be a list.", param="tools")
    for index, tool in enumerate(tools):
        where = f"tools[{index}]"
        if type(tool) is not dict or type(tool.get("name")) is not str:
            raise BadRequest(f"'{where}' must be an object with a 'name'.", param=where)
        kind = tool.get("type")
        if kind in (None, "custom"):
            if type(tool.get("input_schema")) is not dict:
                raise BadRequest(
                    f"'{where}.input_schema' must be a JSON schema object.", param=f"{where}.input_schema"
                )
        elif type(kind) is not str or _OWN_TOOLS.fullmatch(kind) is None:
            raise BadRequest(
                f"'{where}' is not accepted: tools are the client's own to run; those of the provider's reach other"
                " hosts or are priced apart.",
                param=f"{where}.type",
                code="unsupported_field",
            )
    seen.text_bytes += len(_encode(tools))


def _choice(given: Any) -> None:
    if given is None:
        return
    kind = given.get("type") if type(given) is dict else None
    if kind not in ("auto", "any", "none", "tool") or (kind == "tool" and type(given.get("name")) is not str):
        raise BadRequest(
            "'tool_choice' must be an object of type auto, any, none, or tool with a 'name'.",
            param="tool_choice",
        )


def _object(body: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = body.get(name)
    if value is not None and type(value) is not dict:
        raise BadRequest(f"{name!r} must be an object.", param=name)
    return value


def _named(block: dict[str, Any], name: str, where: str) -> str:
    value = block.get(name)
    if type(value) is not str:
        raise BadRequest(f"'{where}.{name}' must be a text.", param=f"{where}.{name}")
    return value


def _stop(value: Any) -> None:
    if value is None:
        return
    if type(value) is not list or len(value) > 16 or not all(type(each) is str and each for each in value):
        raise BadRequest("'stop_sequences' must be a list of at most 16 texts.", param="stop_sequences")
