"""The stream reader: cut anywhere, written with any line ends, with or without usage, the client gets the same."""

from __future__ import annotations

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.chat_stream import ChatStream, ErrorEvent
from engines.errors import EngineError, Garbled
from tests.pipeline.fakes import frames

WHOLE = b"".join(frames(20))
ROLE_FIRST = (
    b'data: {"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":""}}],'
    b'"usage":{"prompt_tokens":3,"total_tokens":3,"completion_tokens":0},"prompt_text":null}\n\n'
)


def read(pieces: list[bytes], *, usage: bool = False, running: bool = False, limit: int = 1000) -> bytes:
    stream = ChatStream(show_usage=usage, show_running=running, limit=limit)
    out = b"".join(stream.feed(piece) for piece in pieces)
    stream.ended()
    return out


EXPECTED = read([WHOLE])


def test_usage_is_cut_out_and_everything_else_passes_untouched() -> None:
    assert b"usage" not in EXPECTED
    assert EXPECTED.count(b"data: ") == 21
    assert read([WHOLE], usage=True).count(b'"usage"') == 1
    assert read([WHOLE], usage=True, running=True) == WHOLE.removesuffix(b"data: [DONE]\n\n")
    assert b'"prompt_text":null' in read([ROLE_FIRST, b"data: [DONE]\n\n"])
    assert b"usage" not in read([ROLE_FIRST, b"data: [DONE]\n\n"])


def test_an_event_cut_at_every_byte_reads_the_same() -> None:
    for cut in range(len(WHOLE)):
        assert read([WHOLE[:cut], WHOLE[cut:]]) == EXPECTED


@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 10_000])
def test_every_line_end_reads_the_same_in_pieces_of_any_size(ending: bytes, size: int) -> None:
    data = WHOLE.replace(b"\n", ending)
    assert read([data[at : at + size] for at in range(0, len(data), size)]) == EXPECTED


@given(st.lists(st.integers(1, 400), max_size=40))
def test_random_pieces_read_the_same(sizes: list[int]) -> None:
    pieces: list[bytes] = []
    at = 0
    for size in sizes:
        pieces.append(WHOLE[at : at + size])
        at += size
    assert read([*pieces, WHOLE[at:]]) == EXPECTED


def test_comments_and_other_fields_are_passed_over() -> None:
    event = frames(1, done=False)[1].removesuffix(b"\n\n").removeprefix(b"data: ")
    dressed = (
        b": keep-alive\n\nevent: chunk\nid: 7\nretry: 10\ndata:" + event + b"\n\n: more\n\ndata: [DONE]\n\n"
    )
    assert read([dressed]).count(b"data: ") == 1


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"data: {nonsense}\n\n", Garbled),
        (b'data: {"choices": 7}\n\n', Garbled),
        (b'data: {"choices": [], "x": "\xff"}\n\n', Garbled),
        (b"data: " + b"[" * 100_000 + b"\n\n", Garbled),
        (b'data: {"error": {"message": "secret"}}\n\n', ErrorEvent),
        (b"x" * (9 << 20), Garbled),
        (frames(1, done=False)[1], Garbled),
        (b"", Garbled),
    ],
    ids=["not json", "wrong shape", "not utf-8", "too deep", "error event", "too long", "no end", "empty"],
)
def test_what_is_no_event_stream_is_an_engine_error(data: bytes, error: type[EngineError]) -> None:
    with pytest.raises(error) as caught:
        read([data])
    assert "secret" not in str(caught.value)


def test_a_last_event_without_its_blank_line_still_ends_the_stream() -> None:
    assert read([WHOLE.removesuffix(b"\n\n")]) == EXPECTED


def test_output_stops_before_the_event_over_the_limit_and_goes_on_when_it_is_raised() -> None:
    stream = ChatStream(show_usage=False, show_running=False, limit=5)
    first = stream.feed(WHOLE)
    assert stream.exhausted
    assert b" w5" in first
    assert b" w6" not in first
    stream.limit = 12
    second = stream.feed(b"")
    assert stream.exhausted
    stream.limit = 100
    third = stream.feed(b"")
    assert first + second + third == EXPECTED
    assert stream.done


WORDS = st.sampled_from(
    [" w", "a\\\\b", '\\"', "\\n", "\u00e9", "\\u00e9", "", "}]", '"content":"', '"},"x":{"content":"y', "\t"]
)
MEMBERS = st.sampled_from(["", ',"logprobs":null', ',"finish_reason":null', ',"finish_reason":"stop"'])
ENDS = st.sampled_from(
    [
        "}}", "}}", "}}", ',"completion_tokens_details":null}}', ',"prompt_tokens_details":{"cached_tokens":1}}}',
        ',"completion_tokens_details":{"reasoning_tokens":1}}}', "},\"a\":{}}", '},"system_fingerprint":"x"}', "}}}", "} }", "}}\n",
        '},"usage":{"prompt_tokens":1,"total_tokens":1,"completion_tokens":9}}',
    ]
)  # fmt: skip
COUNTS = st.sampled_from(["0", "1", "7", "07", "-1", "1.0", "9999999", "99999999", "999999999999", "null"])


@st.composite
def events(draw: st.DrawFn) -> bytes:
    """One event, mostly of one kind, sometimes of any."""
    head = draw(st.sampled_from(['data: {"id":"x"', 'data: {"id":"x"', 'data:{"id":"x"', 'data: {"id":"y"']))
    words, member, end = draw(WORDS), draw(MEMBERS), draw(ENDS)
    index = draw(st.sampled_from(["0", "0", "0", "1"]))
    choice = f'{{"index":{index},"delta":{{"content":"{words}"}}{member}}}'
    usage = f',"usage":{{"prompt_tokens":{draw(COUNTS)},"total_tokens":{draw(COUNTS)},"completion_tokens":{draw(COUNTS)}'
    tail = draw(st.sampled_from([usage + end, usage + end, usage + end, ',"usage":null}', "}"]))
    return f'{head},"choices":[{choice}]{tail}\n\n'.encode()


@given(st.lists(events(), max_size=12), st.data())
def test_an_event_that_is_like_the_last_one_is_read_as_if_it_were_decoded(
    found: list[bytes], data: st.DataObject
) -> None:
    usual = data.draw(st.integers(0, len(found)))
    alike = frames(data.draw(st.integers(0, 6)), done=False)
    if data.draw(st.booleans()):
        ending = data.draw(ENDS).encode()
        alike = [each.replace(b"}}\n\n", ending + b"\n\n") for each in alike]
    found[usual:usual] = alike
    whole = b"".join(found)
    if whole and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole = whole[:at] + data.draw(st.binary(max_size=2)) + whole[at + data.draw(st.integers(0, 2)) :]
    pieces = found if data.draw(st.booleans()) and b"".join(found) == whole else [whole]
    running, limit = data.draw(st.booleans()), data.draw(st.sampled_from([0, 1, 3, 10**9]))
    learning, decoding = (outcome(pieces, running=running, limit=limit, lessons=each) for each in (8, 0))
    assert learning == decoding


def outcome(pieces: list[bytes], *, running: bool, limit: int, lessons: int) -> object:
    """All that a stream makes of the pieces, its grant raised by ten where it is used up."""
    stream = ChatStream(show_usage=running, show_running=running, limit=limit)
    stream._lessons = lessons
    shown: list[bytes] = []
    fault = None
    try:
        for piece in pieces:
            shown.append(stream.feed(piece))
            while stream.exhausted and stream.limit < 50:
                stream.limit += 10
                shown.append(stream.feed(b""))
    except EngineError as error:
        fault = type(error)
    return (
        b"".join(shown),
        fault,
        stream.running,
        stream.counted,
        stream.count,
        stream.finish_reason,
        stream.exhausted,
        stream.distrusted,
        stream._buffer,
    )


HEAD = '{"id":"x","choices":[{"index":0,"delta":{"content":"'
REST = '"},"logprobs":null}]'
ODD_WORDS = st.sampled_from(
    [
        "", "a b", "\u00e9", "\\n", '\\"', '\\"},', "\\u00e9", "\\ud83d\\ude00", "\\ud83d", "\\x", "\\u", "\\u12", '"', "\t", "\\",
        f"a{REST}}}\n\ndata: {HEAD}b", 'a","role":"b', "\x7f", "a\n", '"},"logprobs":null}],"a":["',
    ]
)  # fmt: skip
ODD_COUNTS = st.sampled_from(
    ["0", "7", "07", "-1", "1.0", "9999999", "99999999", '5,"completion_tokens":5', "null", "2,3", "4;5", ""]
)
ODD_ENDS = st.sampled_from(
    ["\n: a comment\n", "\r\n\r\n", "\n", "\n\n\n", " \n\n", "\nevent: x\n\n", "}\n\n"]
)


def one_frame(words: str, total: str, completion: str, end: str, *, counted: bool) -> bytes:
    """An event as an engine writes it, or nearly."""
    usage = f',"usage":{{"prompt_tokens":3,"total_tokens":{total},"completion_tokens":{completion}}}'
    return f"data: {HEAD}{words}{REST}{usage if counted else ''}}}{end}".encode()


@pytest.mark.parametrize("counted", [True, False])
@given(st.data())
def test_events_that_come_together_are_read_as_if_each_were_decoded(
    counted: bool, data: st.DataObject
) -> None:
    number = data.draw(st.integers(4, 14))
    parts = [[f" w{at}", str(3 + at), str(at), "\n\n"] for at in range(1, number + 1)]
    for odd in data.draw(st.lists(st.sampled_from(["words", "total", "completion", "end"]), max_size=2)):
        at = data.draw(st.integers(0, number - 1))
        kinds = {
            "words": (0, ODD_WORDS),
            "total": (1, ODD_COUNTS),
            "completion": (2, ODD_COUNTS),
            "end": (3, ODD_ENDS),
        }
        which, values = kinds[odd]
        parts[at][which] = data.draw(values)
    found = [one_frame(*each, counted=counted) for each in parts]
    whole = b"".join(found) + data.draw(st.sampled_from([b"data: [DONE]\n\n", b"", b"data: {"]))
    if data.draw(st.booleans()):
        whole = whole.replace("\u00e9".encode(), b"\xe9")
    at = data.draw(st.sampled_from([0, len(found[0]), len(whole) - 1]))
    limit = data.draw(st.sampled_from([0, 3, 8, number - 1, number, 10**9]))
    running = data.draw(st.booleans())
    learning, decoding = (
        outcome([whole[:at], whole[at:]], running=running, limit=limit, lessons=each) for each in (8, 0)
    )
    assert learning == decoding


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("words", ["\\u", "a\\u12", "\\n\\ud8", "\\u00e9\\u1", "\\"])
def test_an_escape_that_is_not_finished_is_no_word(words: str, counted: bool) -> None:
    """Python before 3.11.5 let a possessive group of the expression that reads words keep it."""
    alike = [one_frame(" w", str(3 + at), str(at), "\n\n", counted=counted) for at in range(1, 9)]
    odd = one_frame(words, "12", "9", "\n\n", counted=counted)
    for pieces in ([*alike, odd], [b"".join([*alike, odd, *alike])]):
        learning, decoding = (outcome(pieces, running=False, limit=50, lessons=each) for each in (8, 0))
        assert learning == decoding


@pytest.mark.parametrize(
    ("usual", "odd"),
    [
        (b'"completion_tokens":5', b'"completion_tokens":100'),
        (b',"completion_tokens":5', b",5"),
    ],
    ids=["a count that goes up and down again", "a count without its name"],
)
def test_an_odd_count_among_events_that_come_together_is_seen(usual: bytes, odd: bytes) -> None:
    found = [one_frame(" w", str(3 + at), str(at), "\n\n", counted=True) for at in range(1, 10)]
    whole = b"".join(found).replace(usual, odd)
    assert whole != b"".join(found)
    learning, decoding = (outcome([whole], running=False, limit=50, lessons=each) for each in (8, 0))
    assert learning == decoding


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("odd", [b'\\"', b'"content":"', b"x"])
def test_long_words_among_odd_events_are_looked_through_once(counted: bool, odd: bytes) -> None:
    """What is looked for again from each byte of a long word would hold up all other streams."""
    found = [one_frame(f" w{at}", str(3 + at), str(at), "\n\n", counted=counted) for at in range(1, 9)]
    found[6] = (
        found[6].replace(b" w7", odd * 200_000).replace(b'"completion_tokens":7', b'"completion_tokens":-')
    )
    began = time.process_time()
    outcome([b"".join(found)], running=False, limit=50, lessons=8)
    assert time.process_time() - began < 5.0


def test_without_running_usage_events_with_content_are_counted() -> None:
    stream = ChatStream(show_usage=False, show_running=False, limit=5)
    stream.feed(b"".join(frames(20, running=False)))
    assert stream.exhausted
    assert stream.counted == stream.running == 5
    assert stream.count is None


def test_the_closing_events_look_like_the_streams_own() -> None:
    stream = ChatStream(show_usage=True, show_running=False, limit=5)
    stream.feed(WHOLE)
    last, usage, _ = stream.closing_events(extra={"weighbridge": {"stopped_by": "limit"}}).split(b"\n\n")
    value = msgspec.json.decode(last.removeprefix(b"data: "))
    assert (value["id"], value["model"], value["choices"][0]["finish_reason"]) == ("x", "m", "length")
    assert msgspec.json.decode(usage.removeprefix(b"data: "))["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
    }


@pytest.mark.parametrize("ending", [b"\r\n", b"\r", b"\n"])
@pytest.mark.parametrize("last", [b"data: [DONE]", b": end\ndata:[DONE]\nretry: 100"])
def test_the_last_event_is_read_whatever_stands_beside_it(ending: bytes, last: bytes) -> None:
    """And a count that came with other things is told before it, though only the upstream's end made sure of it."""
    words = (
        b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}],'
        b'"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    )
    for blank in (b"", b"\n", b"\n\n"):
        stream = ChatStream(show_usage=True, show_running=False, limit=9)
        shown = stream.feed((words + last + blank).replace(b"\n", ending))
        stream.ended()
        shown += stream.feed(b"") + stream.terminal()
        assert shown.count(b'"usage":{"prompt_tokens":3') == shown.count(b"[DONE]") == 1
        assert shown.endswith(b"data: [DONE]\n\n")
