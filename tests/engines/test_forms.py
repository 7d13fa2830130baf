"""Answers that come whole are read by their form as if each event were decoded, or not by it at all."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import forms
from engines.chat_stream import ChatStream
from engines.errors import EngineError
from engines.forms import Forms

DONE = b"data: [DONE]\n\n"
KINDS = [(counted, bare) for counted in (False, True) for bare in (False, True)]


def answer(
    words: list[str],
    *,
    counted: bool,
    bare: bool,
    id: str = "chatcmpl-1",
    created: int = 1,
    prompt: int = 3,
    usage: str | None = None,
    reason: str = "stop",
) -> bytes:
    """A whole answer as an engine sends it; `words` are written as they are."""
    base = f'data: {{"id":"{id}","object":"chat.completion.chunk","created":{created},"model":"m"'

    def counts(number: int) -> str:
        told = f'"prompt_tokens":{prompt},"total_tokens":{prompt + number},"completion_tokens":{number}'
        return f',"usage":{{{told},"completion_tokens_details":null}}' if counted else ""

    last = len(words) + (1 if bare else 0)
    opening = f'{{"index":0,"delta":{{"role":"assistant","content":""}},"finish_reason":null}}]{counts(0)},"prompt_text":null'
    events = [opening]
    for number, each in enumerate(words, 1):
        end = f'"{reason}"' if number == last else "null"
        events.append(f'{{"index":0,"delta":{{"content":"{each}"}},"finish_reason":{end}}}]{counts(number)}')
    if bare:
        events.append(f'{{"index":0,"delta":{{}},"finish_reason":"{reason}"}}]{counts(last)}')
    if usage is None:
        usage = f'{{"prompt_tokens":{prompt},"total_tokens":{prompt + last},"completion_tokens":{last}}}'
    events.append(f'],"usage":{usage},"system_fingerprint":"v1"')
    return "".join(f'{base},"choices":[{each}}}\n\n' for each in events).encode() + DONE


USUAL = [answer(["a", " b", " c"], counted=counted, bare=bare) for counted, bare in KINDS]


def learnt(*answers: bytes) -> Forms:
    known = Forms()
    for each in answers:
        stream = ChatStream(show_usage=True, show_running=False, limit=100, forms=known)
        stream.feed(each)
    return known


KNOWN = learnt(*USUAL)


def outcome(pieces: list[bytes], known: Forms | None, *, shows: tuple[bool, bool], limit: int) -> Any:
    """All that a stream makes of the pieces, its grant raised by ten where it is used up."""
    stream = ChatStream(show_usage=shows[0], show_running=shows[1], limit=limit, forms=known)
    shown, fault = b"", None
    try:
        for piece in pieces:
            shown += stream.feed(piece)
            while stream.exhausted and stream.limit < 50:
                stream.limit += 10
                shown += stream.feed(b"")
    except EngineError as error:
        fault = type(error)
    if stream.done:
        shown += stream.terminal()
    return (
        shown, fault, stream.done, stream.running, stream.counted, stream.count, stream.finish_reason, stream.model,
        stream.exhausted, stream.distrusted, stream.said, stream.steady, stream._buffer,
    )  # fmt: skip


def same(pieces: list[bytes], *, shows: tuple[bool, bool] = (True, False), limit: int = 100) -> bool:
    known = Forms()
    known._known = [*KNOWN._known]
    by_form = outcome(pieces, known, shows=shows, limit=limit)
    return by_form == outcome(pieces, None, shows=shows, limit=limit)


SHOWS = [(usage, running) for usage in (False, True) for running in (False, True)]


@pytest.mark.parametrize("shows", SHOWS, ids=["neither", "running", "usage", "both"])
@pytest.mark.parametrize(("counted", "bare"), KINDS)
def test_an_answer_of_another_id_time_length_and_usage_is_read_by_the_form(
    counted: bool, bare: bool, shows: tuple[bool, bool]
) -> None:
    words = ["Ein", " \\n", "\u00fc", ' \\"q\\"', *[f" w{at}" for at in range(40)], " \u4e16"]
    usage = '{"prompt_tokens":1234,"completion_tokens":60,"prompt_tokens_details":{"cached_tokens":5}}'
    other = answer(
        words, counted=counted, bare=bare, id="0" * 40, created=1_764_000_000, prompt=1234, usage=usage
    )
    if counted:
        end = b'"total_tokens":%d,"completion_tokens":%d' % ((1234 + len(words) + bare, len(words) + bare))
        other = other.replace(end, b'"total_tokens":1294,"completion_tokens":60')
    plain = other.replace(b'\\"q\\"', b"q")
    assert KNOWN.read(plain, 100, *shows) is not None
    assert KNOWN.read(plain, 10, *shows) is None
    for each in (plain, other):
        for limit in (100, 59, 10):
            assert same([each], shows=shows, limit=limit)


@pytest.mark.parametrize("data", USUAL, ids=["plain", "plain, bare", "counted", "counted, bare"])
def test_an_answer_with_any_byte_changed_left_out_or_put_in_reads_as_if_it_were_decoded(data: bytes) -> None:
    odd = b'"\\\n7}{ ,\xc3\r'
    for at in range(len(data)):
        put = odd[at % len(odd) : at % len(odd) + 1]
        assert same([data[:at] + put + data[at + 1 :]]), (at, put)
        assert same([data[:at] + data[at + 1 :]]), at
        assert same([data[:at] + put + data[at:]]), (at, put)


@pytest.mark.parametrize("data", USUAL, ids=["plain", "plain, bare", "counted", "counted, bare"])
def test_an_answer_cut_at_any_byte_reads_the_same(data: bytes) -> None:
    for at in range(len(data) + 1):
        assert same([data[:at], data[at:]]), at
    for size in (1, 7, 100):
        assert same([data[at : at + size] for at in range(0, len(data), size)])
    assert same([data.replace(b"\n", b"\r\n")])
    assert same([data + data])


WORDS = st.lists(
    st.sampled_from(
        [" w", "a", "", "\u00e9", "\\n", '\\"', "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\\x", '"', "\t", "\\", "\x7f",
         'a"},"b":{"c":"d', 'a","role":"b', "x" * 300]
    ),
    max_size=8,
)  # fmt: skip
COUNTS = st.sampled_from(
    ["0", "1", "2", "3", "4", "5", "7", "-1", "1.0", "9999999", "99999999", "null", "07"]
)
EVENTS = st.sampled_from(
    [
        b": a comment\n\n", b"\n\n", b"data: \n\n", b"event: x\n", b'data: {"error":{"message":"x"}}\n\n', b"data: {\n\n",
        b'data: {"id":"x","choices":[{"index":0,"delta":{"tool_calls":[{"index":0}]}}]}\n\n',
        b'data: {"id":"x","choices":[{"index":1,"delta":{"content":"y"}}]}\n\n',
        b'data: {"id":"x","choices":[{"index":0,"delta":{"reasoning_content":"y"}}]}\n\n',
        b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"y"},"finish_reason":"length"}]}\n\n',
        b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":-4}}\n\n', DONE, b"data: [DONE]\n",
    ]
)  # fmt: skip


@given(st.sampled_from(KINDS), st.data())
def test_whatever_comes_is_read_as_if_each_event_were_decoded(
    kind: tuple[bool, bool], data: st.DataObject
) -> None:
    told = [data.draw(COUNTS) for _ in range(4)]
    usage = data.draw(
        st.sampled_from(
            [
                None, None, "null", "{}", "{ }", "7",
                f'{{"prompt_tokens":{told[0]},"total_tokens":{told[1]},"completion_tokens":{told[2]}}}',
                f'{{"prompt_tokens":{told[0]},"completion_tokens":{told[2]},"prompt_tokens_details":{{"cached_tokens":{told[3]}}}}}',
                f'{{"prompt_tokens":{told[0]},"completion_tokens":{told[2]},"completion_tokens_details":{{"reasoning_tokens":{told[3]}}}}}',
            ]
        )
    )  # fmt: skip
    whole = answer(
        data.draw(WORDS),
        counted=kind[0],
        bare=kind[1],
        id=data.draw(st.sampled_from(["chatcmpl-1", "x", "", "\u00e9", '\\"'])),
        created=data.draw(st.sampled_from([1, 10**14, 10**15, 10**30, 0])),
        prompt=data.draw(st.sampled_from([0, 3, 4_100, 9_999_998, 60_000_000])),
        usage=usage,
        reason=data.draw(st.sampled_from(["stop", "stop", "length"])),
    )
    events = [each + b"\n\n" for each in whole.split(b"\n\n")[:-1]]
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(events)))
        events[at : at + data.draw(st.integers(0, 1))] = data.draw(st.lists(EVENTS, max_size=1))
    shows = data.draw(st.sampled_from(SHOWS))
    assert same([b"".join(events)], shows=shows, limit=data.draw(st.sampled_from([0, 1, 3, 4, 100])))


@pytest.mark.parametrize(
    "told",
    ['{"cached_tokens":2}', '{"cached_tokens":-1}', '{"cached_tokens":0}'],
)
def test_what_is_said_beside_a_running_count_is_not_taken_for_true_of_another_answer(told: str) -> None:
    def detailed(prompt: int) -> bytes:
        found = answer(["a", " b", " c"], counted=True, bare=False, prompt=prompt)
        return found.replace(b'"completion_tokens_details":null', b'"prompt_tokens_details":' + told.encode())

    known = learnt(detailed(3))
    by_form, decoded = (
        outcome([detailed(1)], each, shows=(True, False), limit=100) for each in (known, None)
    )
    assert by_form == decoded


def test_a_second_form_does_not_replace_the_first_and_few_are_kept() -> None:
    answers = [answer(["a", "b"], counted=False, bare=False, reason=f"r{at}") for at in range(6)]
    known = learnt(*answers)
    assert [known.read(each, 100, True, False) is not None for each in answers] == [False] * 2 + [True] * 4


def test_an_upstream_whose_answers_are_never_alike_does_not_pay_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[bytes] = []
    monkeypatch.setattr(forms, "form_of", tried.append)
    known = Forms()
    for _ in range(1_200):
        outcome([USUAL[0]], known, shows=(True, False), limit=100)
    assert len(tried) == 9


def test_a_form_keeps_no_words() -> None:
    """It is compared with other callers' answers and never shown; words are not in it all the same."""
    for counted, bare in KINDS:
        form: Any = learnt(answer(["secret", " secret", " secret"], counted=counted, bare=bare))._known[0]
        kept = [getattr(form, name) for name in form.__slots__] + list(
            msgspec.structs.asdict(form._ends).values()
        )
        assert b"secret" not in repr(kept).encode()
