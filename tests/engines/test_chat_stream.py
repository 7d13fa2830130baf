"""The stream reader: cut anywhere, written with any line ends, with or without usage, the client gets the same."""

from __future__ import annotations

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
