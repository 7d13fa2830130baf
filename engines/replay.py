"""An answer given once, given again: a stream that has ended as the plain answer it comes to, and that as a stream.

Only a plain answer need ever be stored. Text, thoughts, calls of tools, ends and counts are the same either way; what
only one of the two forms can say (several choices, log probabilities) is not changed into the other, as `either` tells.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import msgspec

from engines.answer_json import decoded
from engines.canonical import Answer, Usage
from engines.chat_stream import DONE
from engines.clients import CHAT, MESSAGES, RESPONSES, client_of
from engines.errors import Garbled
from engines.messages import Count
from engines.openai_chat.provider import ChatReader, read_chat_answer
from engines.openai_responses.answers import read_response
from engines.sse import Events
from engines.whole_answers import assembled, told

COMPLETIONS = "/v1/completions"
_ONE_FORM = {
    CHAT: ("logprobs", "top_logprobs", "modalities", "audio", "web_search_options"),
    COMPLETIONS: ("logprobs", "echo", "suffix"),
    RESPONSES: ("top_logprobs", "include"),
    MESSAGES: (),
}
"""What of a request makes an answer that is not the same in both forms."""


class _Choice(msgspec.Struct, gc=False):
    text: str = ""
    finish_reason: str | None = None
    index: int = 0


_NOTHING = msgspec.Raw()
"""The very object that stands for what is absent, so that it is left out."""


class _Text(msgspec.Struct, gc=False, omit_defaults=True):
    id: str | None = None
    object: str | None = None
    created: int | None = None
    model: str | None = None
    choices: list[_Choice] = []
    usage: msgspec.Raw = _NOTHING


class _End(msgspec.Struct, gc=False):
    response: msgspec.Raw


_encode = msgspec.json.Encoder().encode
_text = msgspec.json.Decoder(_Text).decode
_end = msgspec.json.Decoder(_End).decode


def either(path: str, asked: Mapping[str, Any]) -> bool:
    """Whether the answer to this request can be given in both forms."""
    alone = _ONE_FORM.get(path)
    return alone is not None and not any(asked.get(name) for name in alone)


def plain_of(
    path: str, frames: bytes, asked: Mapping[str, Any], *, count: Count | None, model: str, now: int
) -> bytes:
    """The plain answer of a stream that was whole; `count` stands in where the client was told none. Raises Garbled."""
    if path == COMPLETIONS:
        return _text_of(frames, count)
    if path == RESPONSES:
        events = Events().feed(frames) or [("", b"")]
        return bytes(decoded(_end, events[-1][1]).response)
    reader = ChatReader() if path == CHAT else _messages().MessagesReader()
    try:
        answer = assembled([*reader.read(frames), *reader.ended()])
    except ValueError as exc:
        raise Garbled("the stream's parts do not fit together") from exc
    if count is not None:
        answer = msgspec.structs.replace(answer, usage=_usage(count))
    return client_of(path).write_answer(answer, asked, model=model, now=now)


def stream_of(
    path: str, body: bytes, asked: Mapping[str, Any], *, show_usage: bool, model: str, now: int
) -> bytes:
    """All frames of a plain answer, the terminal one included; raises Garbled."""
    if path == COMPLETIONS:
        return _text_frames(body, show_usage=show_usage)
    writer = client_of(path).writer(asked, show_usage=show_usage, model=model, now=now)
    return writer.write(told(_answer(path, body))) + writer.finish() + writer.terminal()


def _answer(path: str, body: bytes) -> Answer:
    if path == CHAT:
        return read_chat_answer(body)
    return _messages().Messages().read_answer(body) if path == MESSAGES else read_response(body)


def _messages() -> ModuleType:
    """What reads Anthropic's answers: loaded with the first of them that is stored, since few workers need it."""
    return importlib.import_module("engines.anthropic.answers")


def _text_of(frames: bytes, count: Count | None) -> bytes:
    whole: _Text | None = None
    said: list[str] = []
    end: str | None = None
    for _, payload in Events().feed(frames):
        if payload == b"[DONE]":
            break
        chunk = decoded(_text, payload)
        if whole is None and chunk.choices:
            whole = chunk
        for choice in chunk.choices if whole is not None else ():
            said.append(choice.text)
            end = choice.finish_reason or end
    if whole is None:
        raise Garbled("the stream has no text")
    whole.choices[0].finish_reason = end
    whole.choices[0].text = "".join(said)
    whole.usage = msgspec.Raw(_encode(_wire(count or Count())))
    return _encode(whole)


def _text_frames(body: bytes, *, show_usage: bool) -> bytes:
    whole = decoded(_text, body)
    counted = bytes(whole.usage) or _encode(_wire(Count()))
    whole.usage = _NOTHING
    out = b"data: %b\n\n" % _encode(whole)
    if show_usage:
        head = {name: getattr(whole, name) for name in ("id", "object", "created", "model")}
        out += b"data: %b\n\n" % _encode({**head, "choices": [], "usage": msgspec.Raw(counted)})
    return out + DONE


def _wire(count: Count) -> dict[str, int]:
    return {
        "prompt_tokens": count.prompt,
        "completion_tokens": count.completion,
        "total_tokens": count.prompt + count.completion,
    }


def _usage(count: Count) -> Usage:
    return Usage(
        fresh=count.prompt - count.cached - count.cache_write,
        cache_read=count.cached,
        cache_write=count.cache_write,
        output=count.completion - count.reasoning,
        reasoning=count.reasoning,
    )
