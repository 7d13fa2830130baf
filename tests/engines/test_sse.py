"""Events of a stream are the same however its bytes are cut, and one is never longer than it may be."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import Garbled
from engines.sse import MAX_EVENT, Events

LINES = st.sampled_from(
    [b"data: a", b"data:b", b"event: x", b": comment", b"retry: 1", b"data: \xc3\xbc", b""]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n"])


def read(*pieces: bytes) -> list[tuple[str, bytes]]:
    events = Events()
    return [each for piece in pieces for each in events.feed(piece)] + events.rest()


@given(st.lists(st.tuples(LINES, ENDS), max_size=12), st.lists(st.integers(0, 200), max_size=6))
@settings(max_examples=300, deadline=None)
def test_events_are_the_same_however_the_stream_is_cut(
    lines: list[tuple[bytes, bytes]], at: list[int]
) -> None:
    data = b"".join(line + end for line, end in lines)
    cuts = sorted(min(each, len(data)) for each in at)
    pieces = [data[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    unified = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert read(*pieces) == read(data) == read(unified)
    assert read(*(data[n : n + 1] for n in range(len(data)))) == read(data)


def test_an_event_over_its_cap_is_garbled_whole_or_in_pieces() -> None:
    largest = b"data: " + b"x" * (MAX_EVENT - 6)
    assert read(largest + b"\n\n") == read(largest[:99], largest[99:] + b"\n\n") == [("", largest[6:])]
    with pytest.raises(Garbled):
        read(largest + b"x\n\n")
    events = Events()
    with pytest.raises(Garbled):
        for _ in range(9):
            events.feed(b"x" * (1 << 20))
