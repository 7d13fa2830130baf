"""The words of an answer in the pieces that they came in, for whoever doubts its count; read of its bytes only then.

Where anything else came that tokens are spent on (a call of a tool, a thought, a refusal, sound), there are no pieces: its text
would say too little.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

KEPT = 32 << 10
"""So many bytes of a stream are kept, and the read that goes beyond."""
_CONTENT = b'"content":"'
_texts = re.compile(rb'(?s)"(?:content|text)":\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"').findall
_aside = re.compile(
    rb'"(?:tool_calls|function_call|refusal|reasoning|reasoning_content|reasoning_details|thinking|audio)":\s*'
    rb'(?:"[^"]|\[\s*\{|\{\s*"(?:id|name|data)")'
    rb'|"type":\s*"(?:\w*tool\w*|\w+_call|reasoning|\w*thinking|refusal)"'
).search
_decode = msgspec.json.Decoder(list[str]).decode


class Pieces(NamedTuple):
    """What came of an answer's words."""

    texts: Sequence[str]
    """In order, none of them empty."""
    share: float = 1.0
    """How much these are of all of its words."""


def texts_of(answer: bytes) -> list[str] | None:
    """All texts in bytes of JSON, whole or cut off; None where there is anything beside them."""
    if _aside(answer) is not None:
        return None
    try:
        found = written_texts(_texts(answer))
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return [each for each in found if each]


def written_texts(texts: list[bytes]) -> list[str]:
    """Texts that JSON writes so."""
    return _decode(b'["%b"]' % b'","'.join(texts)) if texts else []


def first_text(answer: bytes) -> bytes:
    """A text of a plain answer as JSON writes it, or the beginning of one: enough to see that there is enough of it."""
    at = answer.find(_CONTENT) + len(_CONTENT)
    if at < len(_CONTENT):
        return b""
    # Whatever the text has, it goes no further than where its message does, or what follows it there begins.
    end, closed = answer.find(b'",', at), answer.find(b'"}', at)
    if end < 0 or 0 <= closed < end:
        end = closed
    return answer[at:end] if end >= 0 else b""


def whole_pieces(answer: bytes) -> Pieces | None:
    """Those of a plain answer, which came as one; of a long one its beginning and its end."""
    texts = texts_of(answer)
    if not texts:
        return None
    text = "\n".join(texts)
    if len(text) <= KEPT:
        return Pieces(texts)
    return Pieces([text[: KEPT // 2], text[-KEPT // 2 :]], KEPT / len(text))


def digits(last: int) -> int:
    """Those of all numbers from 1 to `last`."""
    width = len(str(last))
    return width * (last + 1) - (10**width - 1) // 9
