"""An upstream's embeddings as they pass: one vector an input, or no answer at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engines.embeddings import in_order
from engines.errors import Garbled
from gateway.errors import BadRequest
from gateway.http.openai.embeddings import MAX_INPUTS, MAX_TOKEN, read_embedding


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
    assert in_order(told, {"input": given}) == told


def numbered(*numbers: int) -> bytes:
    data = [{"index": each, "embedding": [each]} for each in numbers]
    return json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": 2}}).encode()


def test_vectors_stand_in_the_order_of_their_inputs() -> None:
    asked = {"input": ["a", "b", "c"]}
    assert in_order(numbered(0, 1, 2), asked) == numbered(0, 1, 2)
    assert json.loads(in_order(numbered(2, 0, 1), asked)) == json.loads(numbered(0, 1, 2))
    for numbers in ((0, 0, 1), (1, 2, 3), (-1, 0, 1)):
        with pytest.raises(Garbled):
            in_order(numbered(*numbers), asked)


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
        in_order(told, {"input": ["a", "b"]})


@pytest.mark.parametrize(
    ("given", "weighs"),
    [
        ("a text", (6, 0, 1)),
        (["é", "b"], (3, 0, 2)),
        ([1, 2, 3], (0, 3, 1)),
        ([[1], [2, 3]], (0, 3, 2)),
    ],
)
def test_what_is_to_be_embedded_weighs_its_bytes_or_its_tokens(
    given: Any, weighs: tuple[int, int, int]
) -> None:
    asked = read_embedding({"model": "m", "input": given})
    assert (asked.text_bytes, asked.token_ids, asked.messages) == weighs
    assert asked.max_tokens == 0 and asked.body == {"input": given}


@pytest.mark.parametrize(
    "given",
    [
        None, "", [], [""], ["a", ""], [[]], [1, "a"], [[1], "a"], [True], [-1], [MAX_TOKEN], [1.0], {"a": 1},
        ["a"] * (MAX_INPUTS + 1),
    ],
)  # fmt: skip
def test_what_cannot_be_embedded_is_refused_by_name(given: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        read_embedding({"model": "m", "input": given})
    assert caught.value.param == "input"
