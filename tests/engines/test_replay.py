"""An answer given again: a stream comes to the plain answer that it is, that to a stream, and nothing of it changes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.canonical import Answer, Reasoning, Stop, Text, ToolCall, Usage
from engines.chat_stream import ChatStream
from engines.clients import CHAT, EMBEDDINGS, MESSAGES, RESPONSES, client_of
from engines.errors import Garbled
from engines.messages import Count
from engines.replay import COMPLETIONS, either, plain_of, stream_of

WORDS = st.text(min_size=1, max_size=30)
ARGUMENTS = st.dictionaries(WORDS, st.integers() | WORDS, max_size=3).map(
    lambda each: msgspec.json.encode(each).decode()
)
COUNTS = st.integers(0, 5_000)
ASKED = {"messages": [], "input": "x"}


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """A thought or none, words or none, calls or none; what every dialect says alike."""
    thought = [Reasoning(draw(WORDS))] if draw(st.booleans()) else []
    words = [Text(draw(WORDS))] if draw(st.booleans()) else []
    calls = [
        ToolCall(f"call_{n}", draw(st.sampled_from(["look", "tell"])), draw(ARGUMENTS))
        for n in range(draw(st.integers(0 if words else 1, 3)))
    ]
    stop = Stop.TOOLS if calls else draw(st.sampled_from([Stop.END, Stop.LENGTH]))
    fresh, read, output, reasoning = (draw(COUNTS) for _ in range(4))
    usage = Usage(fresh=fresh, cache_read=read, output=output, reasoning=reasoning)
    return Answer((*thought, *words, *calls), stop, usage, "id-1", "model-1")


@pytest.mark.parametrize("path", [CHAT, MESSAGES, RESPONSES])
@given(answer=answers())
def test_plain_to_stream_to_plain_is_the_same_answer(path: str, answer: Answer) -> None:
    body = client_of(path).write_answer(answer, ASKED, model="m", now=7)
    frames = stream_of(path, body, ASKED, show_usage=True, model="m", now=7)
    again = plain_of(path, frames, ASKED, count=None, model="m", now=7)
    assert _known(path, again) == _known(path, body)


@given(answer=answers())
def test_a_count_that_the_client_was_not_told_is_in_the_plain_answer(answer: Answer) -> None:
    body = client_of(CHAT).write_answer(answer, ASKED, model="m", now=7)
    frames = stream_of(CHAT, body, ASKED, show_usage=False, model="m", now=7)
    assert b'"usage"' not in frames
    usage = answer.usage
    assert usage is not None
    count = Count(usage.prompt, usage.completion, usage.cache_read, usage.reasoning)
    assert plain_of(CHAT, frames, ASKED, count=count, model="m", now=7) == body


@given(answer=answers(), show_usage=st.booleans())
def test_a_stream_given_again_is_one_that_the_gateways_own_reader_takes_for_whole(
    answer: Answer, show_usage: bool
) -> None:
    body = client_of(CHAT).write_answer(answer, ASKED, model="m", now=7)
    reader = ChatStream(show_usage=show_usage, show_running=False, limit=100_000)
    reader.feed(stream_of(CHAT, body, ASKED, show_usage=show_usage, model="m", now=7))
    reader.ended()
    assert reader.finish_reason == answer.stop.finish_reason


def test_calls_at_once_are_numbered_one_by_one_where_they_are_streamed_again() -> None:
    calls = tuple(ToolCall(f"call_{n}", "look", f"[{n}]") for n in range(3))
    body = client_of(CHAT).write_answer(Answer(calls, Stop.TOOLS), ASKED, model="m", now=7)
    frames = stream_of(CHAT, body, ASKED, show_usage=False, model="m", now=7)
    told = [msgspec.json.decode(each[6:]) for each in frames.split(b"\n\n")[:-2]]
    deltas = [call for each in told for call in each["choices"][0]["delta"].get("tool_calls", ())]
    assert [(each["index"], each.get("id"), each["function"]["arguments"]) for each in deltas] == [
        told for n in range(3) for told in ((n, f"call_{n}", ""), (n, None, f"[{n}]"))
    ]


def test_text_completions_are_joined_and_told_again() -> None:
    frames = b"".join(
        b'data: {"id":"c","object":"text_completion","created":5,"model":"m","choices":[{"index":0,"text":%b,"logprobs":null,"finish_reason":%b}]}\n\n'
        % (text, end)
        for text, end in ((b'"one"', b"null"), (b'" two"', b"null"), (b'""', b'"length"'))
    )
    body = plain_of(COMPLETIONS, frames + b"data: [DONE]\n\n", {}, count=Count(4, 2), model="m", now=7)
    read = msgspec.json.decode(body)
    assert read["choices"] == [{"index": 0, "text": "one two", "finish_reason": "length"}]
    assert (read["id"], read["created"], read["model"]) == ("c", 5, "m")
    assert read["usage"] == {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}
    told = stream_of(COMPLETIONS, body, {}, show_usage=True, model="m", now=9)
    first, usage, done = told.removesuffix(b"\n\n").split(b"\n\n")
    assert msgspec.json.decode(first[6:])["choices"] == read["choices"]
    assert "usage" not in msgspec.json.decode(first[6:])
    assert msgspec.json.decode(usage[6:])["usage"] == read["usage"]
    assert done == b"data: [DONE]"
    assert b'"usage"' not in stream_of(COMPLETIONS, body, {}, show_usage=False, model="m", now=9)


@pytest.mark.parametrize(
    ("path", "asked", "can"),
    [
        (CHAT, {}, True),
        (CHAT, {"logprobs": False}, True),
        (CHAT, {"logprobs": True}, False),
        (COMPLETIONS, {"logprobs": 2}, False),
        (COMPLETIONS, {"echo": True}, False),
        (RESPONSES, {"top_logprobs": 3}, False),
        (MESSAGES, {}, True),
        (EMBEDDINGS, {}, False),
    ],
)
def test_what_only_one_form_can_say_is_not_changed_into_the_other(path: str, asked: dict, can: bool) -> None:
    assert either(path, asked) is can


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, MESSAGES, RESPONSES])
def test_a_stream_that_is_not_whole_is_none(path: str) -> None:
    with pytest.raises(Garbled):
        plain_of(path, b'data: {"id":"x","choices":[]}\n\n', ASKED, count=None, model="m", now=7)


def _known(path: str, body: bytes) -> object:
    """The body without the ids that are made anew."""
    read = msgspec.json.decode(body)
    if path == RESPONSES:
        read.pop("id")
        for item in read["output"]:
            item.pop("id")
    return read
