"""Counts that are no whole numbers: read where they are one in another dress, not told where they say nothing, and no answer lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from engines.answer_json import decoded
from engines.anthropic.answers import Messages
from engines.anthropic.passing import MessagesStream
from engines.bedrock.answers import Converse
from engines.canonical import Answer, Stop, Text, Usage
from engines.chat_stream import ChatStream
from engines.cohere.answers import Cohere
from engines.dialects import EventReader
from engines.errors import Garbled
from engines.gemini.answers import Gemini
from engines.messages import ABSURD, believed, decode_answer
from engines.openai_chat.provider import ChatReader, read_chat_answer
from engines.openai_responses.passing import ResponsesStream, read_passed
from engines.whole_answers import assembled
from gateway.payloads.assembling import assembled as kept
from tests.providers import wires, wires_responses

TRUE = Answer((Text("Hello there"),), Stop.END, Usage(fresh=12, output=7))
_counts = re.compile(rb'("\w*(?:tokens|Tokens|TokenCount)": ?)(\d+)').sub
Worn = Callable[[bytes], bytes]


def dressed(dress: str) -> Worn:
    """What puts every count of a body into another dress; `%` is its number."""
    return lambda body: _counts(lambda found: found[1] + dress.encode().replace(b"%", found[2]), body)


def _read(reader: EventReader, data: bytes) -> Answer:
    events = reader.read(data)
    return assembled([*events, *([] if reader.done else reader.ended())])


def bedrock(worn: Worn) -> bytes:
    """A stream of Bedrock's, whose frames have sums."""
    return b"".join(
        wires.frame(name, worn(wires.dumped(payload))) for name, payload in wires.bedrock_events(TRUE)
    )


READ: dict[str, Callable[[Worn], Answer]] = {
    "openai": lambda worn: read_chat_answer(worn(wires.dumped(wires.openai_plain(TRUE)))),
    "openai stream": lambda worn: _read(ChatReader(), worn(wires.openai_stream(TRUE))),
    "anthropic": lambda worn: Messages().read_answer(worn(wires.dumped(wires.anthropic_plain(TRUE)))),
    "anthropic stream": lambda worn: _read(Messages().reader(), worn(wires.anthropic_stream(TRUE))),
    "gemini": lambda worn: Gemini().read_answer(worn(wires.dumped(wires.gemini_plain(TRUE)))),
    "gemini stream": lambda worn: _read(Gemini().reader(), worn(wires.gemini_stream(TRUE))),
    "bedrock": lambda worn: Converse().read_answer(worn(wires.dumped(wires.bedrock_plain(TRUE)))),
    "bedrock stream": lambda worn: _read(Converse().reader(), bedrock(worn)),
    "cohere": lambda worn: Cohere().read_answer(worn(wires.dumped(wires.cohere_plain(TRUE)))),
    "cohere stream": lambda worn: _read(Cohere().reader(), worn(wires.cohere_stream(TRUE))),
}
NOTHING = ["true", "1.5", '"many"', '"1.5"', "[%]", '{"of": %}', "false", '""']


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("dress", ["%.0", '"%"', '"%.0"', "%e0"])
def test_a_whole_number_in_another_dress_is_read(name: str, dress: str) -> None:
    told = READ[name](dressed(dress))
    assert (told.parts, told.stop, told.usage) == (TRUE.parts, TRUE.stop, TRUE.usage)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("dress", [*NOTHING, "null"])
def test_a_count_that_says_nothing_is_one_that_was_not_told(name: str, dress: str) -> None:
    told = READ[name](dressed(dress))
    assert (told.parts, told.stop, told.usage) == (TRUE.parts, TRUE.stop, None)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("value", ["12", '"x"', "[]", "true", "1e999"])
def test_a_usage_that_is_no_object_is_one_that_was_not_told(name: str, value: str) -> None:
    in_place = re.compile(rb'("usage(?:Metadata)?": ?)\{(?:[^{}]|\{[^{}]*\})*\}').sub
    told = READ[name](lambda body: in_place(lambda found: found[1] + value.encode(), body))
    assert (told.parts, told.stop, told.usage) == (TRUE.parts, TRUE.stop, None)


@pytest.mark.parametrize("dress", ["-%", '"-%"', "1e30", "1e999", '"' + "9" * 5000 + '"', "9" * 5000])
def test_a_count_that_cannot_be_stays_one_and_is_not_believed(dress: str) -> None:
    answer = decoded(decode_answer, dressed(dress)(wires.dumped(wires.openai_plain(TRUE))))
    usage = answer.usage
    assert usage is not None
    assert usage.is_told
    assert usage.prompt_tokens is not None
    assert not 0 <= usage.prompt_tokens <= ABSURD
    assert believed(usage) is None
    stream = ChatStream(show_usage=True, show_running=False, limit=10**6)
    stream.feed(dressed(dress)(wires.openai_stream(TRUE)))
    assert (stream.done, stream.count, stream.distrusted, stream.running > 0) == (True, None, True, True)


@pytest.mark.parametrize("dress", ["%.0", *NOTHING, "null"])
@pytest.mark.parametrize("show_usage", [False, True])
def test_a_stream_that_passes_through_is_whole_whatever_its_counts_are(dress: str, show_usage: bool) -> None:
    worn = dressed(dress)
    stream = ChatStream(show_usage=show_usage, show_running=False, limit=10**6)
    shown = stream.feed(worn(wires.openai_stream(TRUE))) + stream.terminal()
    assert (stream.done, stream.distrusted) == (True, False)
    assert (stream.count is None) == (dress != "%.0")
    assert (b'"choices":[]' in shown.replace(b" ", b"")) == show_usage
    others: list[tuple[Any, bytes]] = [
        (MessagesStream(limit=10**6, most=None), wires.anthropic_stream(TRUE)),
        (ResponsesStream({}, limit=10**6, most=None), wires_responses.responses_stream(TRUE)),
    ]
    for reader, data in others:
        reader.feed(worn(data))
        assert (reader.done, reader.distrusted) == (True, False)
        exact = reader.count is not None and reader.count.exact
        assert exact == (dress == "%.0")
        assert reader.running > 0
    passed = read_passed(worn(wires.dumped(wires_responses.responses_plain(TRUE))))
    assert (believed(passed.usage) is None) == (dress != "%.0")


def test_half_of_a_usage_is_none() -> None:
    body = wires.openai_plain(TRUE)
    body["usage"] = {"prompt_tokens": 12}
    assert read_chat_answer(json.dumps(body).encode()).usage is None
    answer = decode_answer(json.dumps(body).encode())
    assert answer.usage is not None
    assert believed(answer.usage) is None
    assert not answer.usage.is_told


def test_counts_of_an_embedding_are_read_as_well() -> None:
    worn = dressed('"%"')
    vectors = worn(b'{"embeddings":{"float":[[0.5]]},"meta":{"billed_units":{"input_tokens":3}}}')
    assert Cohere().read_embeddings(vectors, {}).tokens == 3
    assert Converse().read_embeddings(worn(b'{"embedding":[0.5],"inputTextTokenCount":3}'), {}).tokens == 3
    nothing = dressed("true")(b'{"embedding":[0.5],"inputTextTokenCount":3}')
    assert Converse().read_embeddings(nothing, {}).tokens is None
    told = worn(b'{"embeddings":[{"values":[0.5]}],"usageMetadata":{"promptTokenCount":3}}')
    assert Gemini().read_embeddings(told, {}).tokens == 3


def test_an_answer_that_is_garbled_elsewhere_stays_so() -> None:
    for body in (b'{"choices":3,"usage":{"prompt_tokens":"1"}}', b"[]", b'{"choices":[]', b'"12"', b"12.0"):
        with pytest.raises(Garbled):
            decoded(decode_answer, body)


@pytest.mark.parametrize("usage", ["12", "null", '"x"', "[1]"])
def test_what_is_kept_of_a_stream_bears_any_usage(usage: str) -> None:
    frames = re.sub(rb'"usage": ?\{[^{}]*\}', b'"usage":' + usage.encode(), wires.anthropic_stream(TRUE))
    (block,) = json.loads(kept(frames))["content"]
    assert block["text"] == "Hello there"


def test_what_stands_beside_the_counts_spoils_none() -> None:
    body = wires.openai_plain(TRUE)
    body["usage"] |= {"cost": 0.5, "queue_time": 1e-9, "prompt_tokens": "12", "is_byok": False}
    told = read_chat_answer(json.dumps(body).encode())
    assert told.usage == TRUE.usage
