"""An upstream's embeddings as they pass: one vector an input, or no answer at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.embeddings import check_vectors
from engines.errors import Garbled


def answer(*vectors: Any) -> bytes:
    return json.dumps({"object": "list", "data": [{"embedding": each} for each in vectors]}).encode()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("a", answer([0.1])),
        (["a", "b"], answer([0.1], [0.2])),
        ([1, 2, 3], answer("AAAA")),
        ([[1], [2, 3]], answer("AAAA", "AAAA")),
    ],
)
def test_a_vector_for_every_input_is_an_answer(given: Any, told: bytes) -> None:
    check_vectors(told, {"input": given})


@pytest.mark.parametrize(
    "told",
    [
        b"{}",
        b'{"data": {}}',
        b'{"data": [{}, {}]}',
        b'{"data": [\xff]}',
        answer([0.1]),
        answer([0.1], [0.2], [0.3]),
        answer([0.1], None),
        answer([0.1], {"a": 1}),
    ],
)
def test_anything_else_is_none(told: bytes) -> None:
    with pytest.raises(Garbled):
        check_vectors(told, {"input": ["a", "b"]})
