"""A translated answer that comes whole becomes the same frames, counts and pieces as one that is read event by event."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.anthropic.client_writing import MessagesWriter
from engines.dialects import EventWriter
from engines.errors import EngineError
from engines.forms import Forms
from engines.openai_chat.provider import ChatReader
from engines.openai_chat.whole import TranslatedChat
from engines.openai_chat.writing import ChatWriter
from engines.openai_responses.writing import ResponsesClient
from engines.translated_stream import TranslatedStream
from tests.engines.test_forms import COUNTS, EVENTS, KINDS, WORDS, answer

WRITERS: dict[str, Callable[[], EventWriter]] = {
    "messages": lambda: MessagesWriter(model="of a%s"),
    "responses": lambda: ResponsesClient().writer({"model": "m"}, show_usage=True, model="m", now=7),
    "chat": lambda: ChatWriter(show_usage=True, model="m", now=7),
}


def _fives(size: int) -> str:
    return "5" * (2 * size)


@pytest.fixture(autouse=True, scope="module")
def the_same_ids() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets, "token_hex", _fives)
        yield


def outcome(
    pieces: list[bytes], name: str, forms: Forms | None, *, running: bool, limit: int, most: int | None
) -> Any:
    """All that a stream makes of the pieces, its grant raised by ten where it is used up."""
    source, writer = ChatReader(running=running), WRITERS[name]()
    stream = made(source, writer, forms, limit=limit, most=most)
    shown, fault = b"", None
    try:
        for piece in pieces:
            shown += stream.feed(piece)
            while stream.exhausted and stream.limit < 50:
                stream.limit += 10
                shown += stream.feed(b"")
        if stream.done:
            shown += stream.terminal()
    except EngineError as error:
        fault = type(error)
    return (
        shown, fault, stream.done, stream.running, stream.counted, stream.count, stream.finish_reason, stream.model,
        stream.exhausted, stream.distrusted, stream.said, stream.steady, stream.pieces(), stream.usage(),
    )  # fmt: skip


def made(
    source: ChatReader, writer: EventWriter, forms: Forms | None, *, limit: int, most: int | None
) -> TranslatedStream:
    if forms is None:
        return TranslatedStream(source, writer, limit=limit, most=most, show_usage=True)
    return TranslatedChat(source, writer, limit=limit, most=most, show_usage=True, forms=forms)


def learnt() -> Forms:
    """What is known after an answer of each kind was translated."""
    known = Forms()
    for counted, bare in KINDS:
        one = answer(["a", " b", " c"], counted=counted, bare=bare)
        outcome([one], "messages", known, running=counted, limit=100, most=None)
    return known


KNOWN = learnt()


def same(
    pieces: list[bytes], name: str, *, running: bool, limit: int = 1_000, most: int | None = None
) -> bool:
    known = Forms()
    known.adopt(KNOWN)
    by_form = outcome(pieces, name, known, running=running, limit=limit, most=most)
    return by_form == outcome(pieces, name, None, running=running, limit=limit, most=most)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize(("counted", "bare"), KINDS)
def test_an_answer_that_comes_whole_is_translated_at_once_and_the_same(
    counted: bool, bare: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["Ein", " \\n", " 100%d", "\u00fc", "\\\\", *[f" w{at}" for at in range(40)], " \u4e16"]
    data = answer(words, counted=counted, bare=bare, id="x" * 30, created=1_764_000_000, prompt=12)
    for limit, most in ((1_000, None), (1_000, 20), (30, None), (10, 9)):
        assert same([data], name, running=counted, limit=limit, most=most)
    # Nothing that reads event by event is needed for it.
    monkeypatch.delattr(TranslatedStream, "feed")
    known = Forms()
    known.adopt(KNOWN)
    made(ChatReader(running=counted), WRITERS[name](), known, limit=1_000, most=None).feed(data)


@pytest.mark.parametrize("name", ["messages", "responses"])
@pytest.mark.parametrize(("counted", "bare"), KINDS)
def test_an_answer_with_any_byte_changed_or_cut_there_is_translated_the_same(
    counted: bool, bare: bool, name: str
) -> None:
    data = answer(["a", " b", " c"], counted=counted, bare=bare)
    odd = b'"\\\n7}{ ,\xc3\r'
    for at in range(0, len(data), 1 if name == "messages" else 5):
        put = odd[at % len(odd) : at % len(odd) + 1]
        assert same([data[:at] + put + data[at + 1 :]], name, running=counted), (at, put)
        assert same([data[:at], data[at:]], name, running=counted), at


@given(st.sampled_from(KINDS), st.sampled_from(sorted(WRITERS)), st.booleans(), st.data())
def test_whatever_comes_is_translated_as_if_each_event_were_decoded(
    kind: tuple[bool, bool], name: str, running: bool, data: st.DataObject
) -> None:
    told = [data.draw(COUNTS) for _ in range(3)]
    usage = data.draw(
        st.sampled_from(
            [
                None, None, "null", "{}",
                f'{{"prompt_tokens":{told[0]},"total_tokens":{told[1]},"completion_tokens":{told[2]}}}',
                f'{{"prompt_tokens":{told[0]},"completion_tokens":{told[2]},"completion_tokens_details":{{"reasoning_tokens":{told[1]}}}}}',
            ]
        )
    )  # fmt: skip
    whole = answer(
        data.draw(WORDS),
        counted=kind[0],
        bare=kind[1],
        id=data.draw(st.sampled_from(["chatcmpl-1", "msg_x", "", "\u00e9"])),
        prompt=data.draw(st.sampled_from([0, 3, 9_999_998])),
        usage=usage,
        reason=data.draw(st.sampled_from(["stop", "stop", "length"])),
    )
    events = [each + b"\n\n" for each in whole.split(b"\n\n")[:-1]]
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(events)))
        events[at : at + data.draw(st.integers(0, 1))] = data.draw(st.lists(EVENTS, max_size=1))
    limit, most = (
        data.draw(st.sampled_from([0, 1, 3, 4, 1_000])),
        data.draw(st.sampled_from([None, 0, 2, 100])),
    )
    assert same([b"".join(events)], name, running=running, limit=limit, most=most)


def test_the_stop_sequence_that_ended_an_answer_is_told() -> None:
    stopped = answer(["a", " b", " c"], counted=False, bare=False).replace(
        b'"finish_reason":"stop"', b'"finish_reason":"stop","stop_reason":"END"'
    )
    known = Forms()
    first, second = (
        outcome([stopped], "messages", known, running=False, limit=100, most=None) for _ in range(2)
    )
    assert first == second
    assert b'"stop_sequence":"END"' in second[0]


def test_an_upstream_whose_answers_are_never_alike_is_not_studied_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[bytes] = []
    monkeypatch.setattr("engines.forms.form_of", tried.append)
    known = Forms()
    data = answer(["a", " b", " c"], counted=False, bare=False)
    for _ in range(100):
        outcome([data], "messages", known, running=False, limit=100, most=None)
    assert len(tried) == 8


@pytest.mark.parametrize(
    "said", ['"refusal":"no"', '"reasoning":"hm"', '"tool_calls":[{"function":{"name":"f"}}]']
)
@pytest.mark.parametrize("after", ['"role":"assistant",', '"delta":{'])
def test_what_is_said_beside_the_words_of_every_answer_is_not_lost(said: str, after: str) -> None:
    data = answer(["a", " b", " c"], counted=False, bare=False)
    data = data.replace(after.encode(), f"{after}{said},".encode())
    known = Forms()
    first, second, decoded = (
        outcome([data], "messages", each, running=False, limit=100, most=None)
        for each in (known, known, None)
    )
    assert first == second == decoded
