"""Counts that cannot be are doubted, and no true count is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.doubts import Doubt, doubt


@pytest.mark.parametrize(
    ("told", "wanted"),
    [
        ({}, None),
        ({"prompt": 100 + 64 + 1024}, None),
        ({"prompt": 100 + 64 + 1025}, Doubt.INPUT),
        ({"prompt": 100 + 128 + 1024, "messages": 2}, None),
        ({"shown": 300, "answer_bytes": 300}, None),
        ({"shown": 301, "answer_bytes": 300}, Doubt.OUTPUT),
        ({"shown": 301, "answer_bytes": 0}, None),
        ({"shown": 7, "pieces": 16}, None),
        ({"shown": 8, "pieces": 17}, Doubt.FEW),
        ({"shown": 9, "pieces": 17}, None),
        ({"shown": 0, "pieces": 400}, Doubt.FEW),
    ],
)
def test_a_count_is_doubted_from_where_it_cannot_be(told: dict[str, int], wanted: Doubt | None) -> None:
    usual = {"prompt": 30, "shown": 10, "sent_bytes": 100, "messages": 1, "pieces": 0, "answer_bytes": 0}
    assert doubt(**(usual | told)) is wanted


@given(
    text=st.text(max_size=400),
    messages=st.integers(1, 20),
    around=st.integers(0, 500),
    output=st.integers(0, 2000),
)
def test_no_count_of_a_token_for_each_byte_or_less_is_doubted(
    text: str, messages: int, around: int, output: int
) -> None:
    size = len(text.encode())
    for pieces, answer in ((output, 0), (0, output), (output // 3, 0)):
        found = doubt(
            prompt=size + around,
            shown=output,
            sent_bytes=size,
            messages=messages,
            pieces=pieces,
            answer_bytes=answer,
        )
        assert found is None


def test_every_doubt_is_said_in_words() -> None:
    assert len({each.said for each in Doubt}) == len(Doubt)
