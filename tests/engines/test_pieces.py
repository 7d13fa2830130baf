"""What is read of an answer once its count is doubted: its words, and only where it has nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engines.canonical import ReasoningDelta, TextDelta, ToolCallBegan
from engines.chat_stream import ChatStream
from engines.pieces import KEPT, digits, first_text, texts_of, whole_pieces
from engines.tally import Tally

encode = msgspec.json.encode


def event(delta: dict[str, Any], completion: int | None) -> bytes:
    value: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m"}
    value["choices"] = [{"index": 0, "delta": delta, "finish_reason": None}]
    if completion is not None:
        value["usage"] = {
            "prompt_tokens": 90,
            "total_tokens": 90 + completion,
            "completion_tokens": completion,
        }
    return b"data: %b\n\n" % encode(value)


def stream(words: list[str], *, counted: bool) -> list[bytes]:
    events = [event({"role": "assistant", "content": ""}, 0 if counted else None)]
    events += [event({"content": each}, at if counted else None) for at, each in enumerate(words, 1)]
    return [*events, event({}, len(words)), b"data: [DONE]\n\n"]


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("size", [0, 1, 777, 40_000])
@pytest.mark.parametrize("number", [30, 1500])
def test_the_words_of_a_stream_are_had_again_or_their_beginning_and_how_much_of_all_it_is(
    number: int, size: int, counted: bool
) -> None:
    words = [f' w{at} "\n' if at % 7 == 0 else " é," if at % 5 == 0 else " some" for at in range(number)]
    reader = ChatStream(show_usage=False, show_running=False, limit=10_000)
    events = stream(words, counted=counted)
    data = b"".join(events)
    for piece in [data[at : at + size] for at in range(0, len(data), size)] if size else events:
        reader.feed(piece)
    found = reader.pieces()
    assert reader.done and found is not None
    assert list(found.texts) == words[: len(found.texts)]
    if len(data) <= KEPT:
        assert (len(found.texts), found.share) == (number, 1.0)
    else:
        # Most of the words are in it, and of those that are not the share tells within a tenth.
        assert len(b"".join(events[: len(found.texts)])) > KEPT - 500
        assert found.share == pytest.approx(len(found.texts) / number, rel=0.1)


@pytest.mark.parametrize(
    "beside",
    [
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
        {"reasoning_content": "Well"},
        {"reasoning": "Well"},
        {"refusal": "No"},
        {"function_call": {"name": "f"}},
    ],
)
def test_what_has_more_than_words_has_no_pieces(beside: dict[str, Any]) -> None:
    reader = ChatStream(show_usage=False, show_running=False, limit=1000)
    reader.feed(event(beside, None) + b"".join(stream(["a", " b"], counted=False)))
    assert reader.done and reader.pieces() is None
    nothing = dict.fromkeys(beside) | {"annotations": [], "audio": None, "content": "a b"}
    assert texts_of(encode({"choices": [{"message": nothing}], "usage": {"reasoning_tokens": 9}})) == ["a b"]
    assert texts_of(encode({"choices": [{"message": nothing | beside}]})) is None


@pytest.mark.parametrize("kind", ["tool_use", "server_tool_use", "thinking", "web_search_call", "reasoning"])
def test_so_it_is_of_answers_in_blocks(kind: str) -> None:
    text = {"type": "text", "text": 'It is "so".\nYes 😀'}
    found = whole_pieces(encode({"type": "message", "content": [text, {**text, "text": ""}]}))
    assert found is not None and list(found.texts) == ['It is "so".\nYes 😀']
    assert whole_pieces(encode({"content": [{"type": kind}, text]})) is None
    spaced = b'{"content": [{"type": "text", "text": "\\ud83d\\ude00 \\u00e9"}]}'
    assert texts_of(spaced) == ["😀 é"]


@pytest.mark.parametrize("message", [{"content": "so it is"}, {"content": "so it is", "refusal": None}])
def test_the_first_text_is_found_wherever_it_stands_in_its_message(message: dict[str, Any]) -> None:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
    assert first_text(encode({"choices": [choice], "model": "m"})) == b"so it is"
    assert first_text(b'{"choices": []}') == first_text(b'{"content":"cut') == b""


def test_of_a_long_plain_answer_beginning_and_end_are_looked_at() -> None:
    found = whole_pieces(encode({"choices": [{"message": {"content": "a" * KEPT + "b" * KEPT}}]}))
    assert found is not None
    assert ["".join(sorted(set(each))) for each in found.texts] == ["a", "b"]
    assert (sum(map(len, found.texts)), found.share) == (KEPT, 0.5)
    assert whole_pieces(b"{}") is None and texts_of(b'"text":"\xff"') is None


def test_a_translated_stream_keeps_its_words_and_says_how_much_of_all_they_are() -> None:
    tally = Tally(limit=100_000, most=None)
    for _ in range(5):
        tally.fits(TextDelta(" word"))
    found = tally.pieces()
    assert found is not None and (list(found.texts), found.share) == ([" word"] * 5, 1.0)
    tally.fits(TextDelta("é" * KEPT))
    tally.fits(TextDelta("z" * (2 * KEPT)))
    found = tally.pieces()
    assert found is not None and found.share == pytest.approx(25 / tally.said, rel=0.01)
    tally.limit = 0
    assert not tally.fits(TextDelta("more"))
    again = tally.pieces()
    assert again == found
    for event in (ToolCallBegan(0, "call", "look"), ReasoningDelta("Well")):
        beside = Tally(limit=100, most=None)
        beside.fits(TextDelta("word"))
        beside.fits(event)
        assert beside.pieces() is None


def test_digits_are_counted() -> None:
    for last in (0, 1, 9, 10, 11, 99, 100, 1234):
        assert digits(last) == sum(len(str(each)) for each in range(1, last + 1))
