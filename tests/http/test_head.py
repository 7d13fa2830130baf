"""What the headers of a call say, and which are refused before its body is read."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import BadRequest, GatewayError, TooLarge, UnsupportedMedia
from gateway.http.plane import MAX_BODY, _head

KEY = (b"authorization", b"Bearer key")
JSON = (b"content-type", b"application/json")
WORDS = (b"x-weighbridge-sticky", b"who")
"""One that is seldom sent, so that each field is looked at."""


def said(*headers: tuple[bytes, bytes]) -> Any:
    return _head({"headers": list(headers)})  # type: ignore[arg-type]


@pytest.mark.parametrize("seldom", [(), (WORDS,)])
def test_a_plain_call_is_read_the_same_whichever_way_its_head_is_read(
    seldom: tuple[tuple[bytes, bytes], ...],
) -> None:
    head = said(KEY, JSON, (b"content-length", b"12"), *seldom)
    assert (head.credential, head.batch, head.timeout_ms) == ("key", False, 0)
    assert (head.group, head.idempotency, head.anthropic) == (None, None, {})
    assert head.sticky == ("who" if seldom else None)


@pytest.mark.parametrize(
    ("header", "field", "value"),
    [
        ((b"x-weighbridge-timeout", b"2.5"), "timeout_ms", 2_500),
        ((b"x-weighbridge-timeout", b"30"), "timeout_ms", 30_000),
        ((b"x-weighbridge-group", b"g"), "group", "g"),
        ((b"idempotency-key", b"i"), "idempotency", "i"),
        ((b"x-weighbridge-priority", b"batch"), "batch", True),
        ((b"content-encoding", b"identity"), "credential", "key"),
        ((b"api-key", b"key"), "credential", "key"),
        ((b"x-api-key", b"key"), "credential", "key"),
        ((b"anthropic-beta", b"a,b"), "anthropic", {"anthropic-beta": "a,b"}),
    ],
)
def test_what_a_header_says_is_heard(header: tuple[bytes, bytes], field: str, value: object) -> None:
    assert getattr(said(KEY, JSON, header), field) == value


@pytest.mark.parametrize(
    ("headers", "error"),
    [
        (((b"api-key", b"other"),), BadRequest),
        (((b"x-api-key", b"other"),), BadRequest),
        (((b"content-encoding", b"gzip"),), UnsupportedMedia),
        (((b"content-length", b"%d" % (MAX_BODY + 1)),), TooLarge),
        (((b"content-length", b"-1"),), TooLarge),
        (((b"x-weighbridge-timeout", b"0"),), BadRequest),
        (((b"x-weighbridge-timeout", b"86401"),), BadRequest),
        (((b"x-weighbridge-timeout", b"1e3"),), BadRequest),
        (((b"idempotency-key", b""),), BadRequest),
        (((b"anthropic-beta", b"a b"),), BadRequest),
    ],
)
def test_what_makes_no_sense_is_refused_and_not_passed_by(
    headers: tuple[tuple[bytes, bytes], ...], error: type[GatewayError]
) -> None:
    with pytest.raises(error):
        said(KEY, JSON, *headers)
