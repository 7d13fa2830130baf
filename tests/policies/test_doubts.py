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
        ({"completion": 300, "answer_bytes": 300}, None),
        ({"completion": 301, "answer_bytes": 300}, Doubt.OUTPUT),
        ({"completion": 900, "reasoning": 600, "answer_bytes": 300}, None),
        ({"completion": 301, "answer_bytes": 0}, None),
        ({"completion": 7, "pieces": 16}, None),
        ({"completion": 80, "pieces": 100}, None),
        ({"completion": 79, "pieces": 100}, Doubt.FEW),
        ({"completion": 300, "pieces": 100}, None),
        ({"completion": 50, "pieces": 100, "estimated": True}, None),
        ({"completion": 49, "pieces": 100, "estimated": True}, Doubt.FEW),
        # Thoughts that were shown are among the pieces.
        ({"completion": 100, "reasoning": 90, "pieces": 100}, None),
        ({"completion": 0, "pieces": 400}, Doubt.FEW),
    ],
)
def test_a_count_is_doubted_from_where_it_cannot_be(told: dict[str, int], wanted: Doubt | None) -> None:
    usual = {"prompt": 30, "completion": 10, "reasoning": 0, "sent_bytes": 100, "messages": 1, "pieces": 0}
    assert doubt(**({"estimated": False, "answer_bytes": 0} | usual | told)) is wanted


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
            completion=output,
            reasoning=output // 4,
            sent_bytes=size,
            messages=messages,
            pieces=pieces,
            estimated=False,
            answer_bytes=answer,
        )
        assert found is None


def test_every_doubt_is_said_in_words() -> None:
    assert len({each.said for each in Doubt}) == len(Doubt)
