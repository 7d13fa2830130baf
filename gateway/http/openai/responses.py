"""Read a request in the shape of OpenAI's Responses into a ModelRequest: what it weighs, and what is consumed here.

The codec that will translate it reads it here already, so that what it refuses is refused before anything is reserved.
"""

from __future__ import annotations

from typing import Any

import msgspec

from engines.canonical import Image, Part, Reasoning, Refusal, Request, Text, ToolCall, ToolResult
from engines.clients import RESPONSES
from engines.errors import Unsupported
from engines.openai_responses.reading import HINTS, OWN, read_responses
from gateway.errors import BadRequest
from gateway.http.openai.fields import (
    CONSUMED,
    MAX_OUTPUT,
    bytes_of,
    consumed,
    endpoint_named,
    flag,
    number,
    text,
    unknown_fields,
    whole,
)
from gateway.http.openai.requests import PICTURE_TOKENS, check_picture_address
from gateway.pipeline.exchange import ModelRequest

_STREAM = frozenset({"model", "stream"})
_KNOWN = OWN | HINTS | CONSUMED | _STREAM
_HELD = (CONSUMED - {"metadata"}) | _STREAM
"""What never goes on; `metadata` stays for the answer, which repeats it, and goes no further."""


def read_response(body: dict[str, Any], *, model: str | None = None) -> ModelRequest:
    """A Responses request; `model` names the endpoint where the path does. Raises BadRequest."""
    if "id" in body:
        raise BadRequest(
            "The field 'id' is not accepted: the gateway names responses.",
            param="id",
            code="unsupported_field",
        )
    unknown = list(unknown_fields(body, _KNOWN))
    endpoint = endpoint_named(body, model)
    stream = flag(body, "stream")
    _stream_options(body.get("stream_options"), stream=stream)
    most = whole(body, "max_output_tokens", 1, MAX_OUTPUT)
    for name, high in (("temperature", 2), ("top_p", 1)):
        if name in body:
            number(body, name, 0, high)
    tags, end_user, client_id = consumed(body)
    text(body, "prompt_cache_key", 512)
    end_user = end_user or text(body, "safety_identifier", 256)
    sent = {name: value for name, value in body.items() if name not in _HELD}
    try:
        asked = read_responses(sent, most)
    except Unsupported as exc:
        raise BadRequest(
            f"{exc.param!r} is not accepted as it was sent: {exc}.",
            param=exc.param,
            code="unsupported_field",
        ) from exc
    for name in ("verbosity", "service_tier"):
        if name in asked.extra and name not in unknown:
            unknown.append("text.verbosity" if name == "verbosity" else name)
    pictures = _pictures(asked)
    return ModelRequest(
        model=endpoint,
        path=RESPONSES,
        body=sent,
        stream=stream,
        show_usage=True,
        show_running=False,
        max_tokens=most,
        n=1,
        text_bytes=_weight(asked),
        messages=len(asked.messages) + len(asked.system),
        # Of fixed cost, whatever their bytes: what the providers count for a large one.
        token_ids=PICTURE_TOKENS * len(pictures),
        pictures=len(pictures),
        far_pictures=any(picture.url for picture in pictures),
        unknown=tuple(unknown),
        tags=tags,
        end_user=end_user,
        client_request_id=client_id,
    )


def _stream_options(options: Any, *, stream: bool) -> None:
    if options is None:
        return
    if type(options) is not dict:
        raise BadRequest("'stream_options' must be an object.", param="stream_options")
    if not stream:
        raise BadRequest("'stream_options' needs 'stream': true.", param="stream_options")
    extra = options.keys() - {"include_obfuscation"}
    if extra:
        name = min(extra)
        raise BadRequest(
            f"The field 'stream_options.{name}' is not accepted.",
            param=f"stream_options.{name}",
            code="unsupported_field",
        )
    flag(options, "include_obfuscation", "stream_options.")


def _weight(asked: Request) -> int:
    """Bytes of text that the model reads."""
    size = sum(bytes_of(each) for each in asked.system)
    size += sum(_of_part(part) for message in asked.messages for part in message.parts)
    for tool in asked.tools:
        size += len(msgspec.json.encode(tool))
    if asked.format is not None:
        size += len(msgspec.json.encode(asked.format))
    return size


def _of_part(part: Part) -> int:
    match part:
        case Text(text=said) | Refusal(text=said):
            return bytes_of(said)
        case Reasoning():
            return bytes_of(part.text) + len(part.redacted)
        case ToolCall():
            return bytes_of(part.name) + bytes_of(part.arguments)
        case ToolResult():
            return sum(_of_part(each) for each in part.content)
        case Image():
            return 0


def _pictures(asked: Request) -> list[Image]:
    """Its pictures; raises BadRequest for one at an address that only somebody inside could call."""
    found: list[Image] = []
    for message in asked.messages:
        for part in message.parts:
            inside = part.content if isinstance(part, ToolResult) else (part,)
            found += [each for each in inside if isinstance(each, Image)]
    for picture in found:
        if picture.url:
            check_picture_address(picture.url, "input.image_url")
    return found
