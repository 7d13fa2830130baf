"""What the body's decoder takes and what it refuses, as tables and against Python's own parser."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.http.strict_json import decode_object

REFUSED = [
    (b"", "invalid_json"),
    (b"nonsense", "invalid_json"),
    (b"[]", "invalid_json"),
    (b'"text"', "invalid_json"),
    (b'{"a": 1,}', "invalid_json"),
    (b'{"a": NaN}', "invalid_json"),
    (b'{"a": Infinity}', "invalid_json"),
    (b'{"a": 1e999}', "invalid_json"),
    (b'{"a": ' + b"9" * 10_000 + b"}", "invalid_json"),
    (b'{"a": 9223372036854775808}', "invalid_json"),
    (b'{"a": -9223372036854775809}', "invalid_json"),
    (b'{"a": "\\ud800"}', "invalid_json"),
    (b'{"a": "\\u0000"}', "invalid_json"),
    (b'{"a": "\x00"}', "invalid_json"),
    (b"\xef\xbb\xbf{}", "invalid_json"),
    (b'{"a": "\xff"}', "invalid_json"),
    (b'{"a": "\xed\xa0\x80"}', "invalid_json"),
    (b'{"a": 1} {"a": 1}', "invalid_json"),
    (b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "invalid_json"),
    (b'{"a": [' + b"null," * 1_000_000 + b"null]}", "invalid_json"),
    (b'{"a": 1, "a": 2}', "duplicate_key"),
    (b'{"a": 1, "\\u0061": 2}', "duplicate_key"),
    (b'{"a": 1, "a" : 2}', "duplicate_key"),
    (b'{"a":1,"a"\n:2}', "duplicate_key"),
    (b'{"x": {"b": [{"q": 1, "q": 2}]}}', "duplicate_key"),
    (b'{"text": "\\": \\":", "a": 1, "a": 2}', "duplicate_key"),
]


@pytest.mark.parametrize(("body", "code"), REFUSED, ids=lambda value: repr(value)[:40])
def test_what_two_parsers_could_read_in_two_ways_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_object(body)
    assert caught.value.code == code
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"a": {"a": {"a": 1}}}',
        b'{"text": "quote \\" colon \\": and more"}',
        b'{"text": "ends with backslash \\\\", "b": 1}',
        b'{"a" : 1, "b"\n:\t2}',
        b'{"a": "C:\\\\u0000"}',
        b'{"a": ' + b"[" * 62 + b"]" * 62 + b"}",
        '{"a": "\u00e9\U0001f600"}'.encode(),
        b'{"a": -9223372036854775808, "b": 9223372036854775807}',
    ],
)
def test_what_is_one_way_to_read_is_read_like_any_parser_does(body: bytes) -> None:
    assert decode_object(body) == json.loads(body)


def test_a_deep_or_wide_body_is_refused_within_50_ms() -> None:
    for body in (
        b'{"a": ' + b"[" * 10_000 + b"]" * 10_000 + b"}",
        b'{"a": [' + b"null," * 500_000 + b"null]}",
    ):
        began = time.process_time()
        with pytest.raises(BadRequest):
            decode_object(body)
        assert time.process_time() - began < 0.5


def test_a_large_text_full_of_quotes_takes_time_in_proportion() -> None:
    def spent(count: int) -> float:
        body = json.dumps({"a": 'say "x": y. ' * count}).encode()
        began = time.process_time()
        decode_object(body)
        return time.process_time() - began

    spent(10_000)
    assert spent(200_000) < 60 * max(spent(10_000), 0.002)


keys = st.text(max_size=6).filter(lambda text: "\0" not in text and text.isprintable())
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | keys
    | st.sampled_from(['":', '" :', "\\", '\\"', '{"a":1}']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=20,
)


@given(
    st.dictionaries(keys, values, max_size=5), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", " :\t")])
)
def test_every_object_is_read_as_it_was_written(value: dict[str, Any], separators: tuple[str, str]) -> None:
    assert decode_object(json.dumps(value, separators=separators, ensure_ascii=False).encode()) == value


@given(st.dictionaries(keys, values, min_size=1, max_size=4), st.data())
def test_an_object_with_one_key_written_twice_is_refused(value: dict[str, Any], data: st.DataObject) -> None:
    doubled = data.draw(st.sampled_from(sorted(value)))
    whole = json.dumps(value, ensure_ascii=False)
    body = whole[:-1] + ", " + json.dumps(doubled, ensure_ascii=False) + ": 1}"
    with pytest.raises(BadRequest):
        decode_object(body.encode())
