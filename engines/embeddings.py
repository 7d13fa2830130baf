"""OpenAI's embeddings: an answer checked as it passes; a client's request read and its answer written for other dialects."""

from __future__ import annotations

import base64
import sys
from array import array
from collections.abc import Mapping
from typing import Any

import msgspec

from engines.canonical import EmbeddingRequest, Embeddings
from engines.errors import Garbled, Unsupported

_encode = msgspec.json.Encoder().encode


class _Item(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int | None = None


class _Vectors(msgspec.Struct, gc=False):
    data: list[_Item]


_decode = msgspec.json.Decoder(_Vectors).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode
_OWN = frozenset({"input", "dimensions", "encoding_format"})


def read_embedding(body: Mapping[str, Any]) -> EmbeddingRequest:
    """The texts of a request; raises Unsupported for token ids, which are another tokenizer's."""
    given = body.get("input")
    texts = [given] if type(given) is str else given
    if type(texts) is not list or not texts or not all(type(each) is str for each in texts):
        raise Unsupported("input", "this provider takes a text or a list of texts")
    return EmbeddingRequest(
        tuple(texts),
        body.get("dimensions"),
        {name: value for name, value in body.items() if name not in _OWN and value is not None},
    )


def in_order(answer: bytes, body: Mapping[str, Any]) -> bytes:
    """The answer of a provider of this dialect, a vector for every input in the order of these; raises Garbled."""
    try:
        data = _decode(answer).data
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise Garbled("the answer has no vectors") from exc
    given = body.get("input")
    inputs = len(given) if type(given) is list and type(given[0]) is not int else 1
    if len(data) != inputs:
        raise Garbled("there are not as many vectors as inputs")
    if any(bytes(each.embedding)[:1] not in (b"[", b'"') for each in data):
        raise Garbled("the answer has something else for a vector")
    numbers = [at if each.index is None else each.index for at, each in enumerate(data)]
    if numbers == list(range(inputs)):
        return answer
    if sorted(numbers) != list(range(inputs)):
        raise Garbled("the vectors are not those of the inputs")
    # Clients go by the order, and few look at the numbers.
    whole = _decode_object(answer)
    whole["data"] = [
        each for _, each in sorted(zip(numbers, whole["data"], strict=True), key=lambda pair: pair[0])
    ]
    return _encode(whole)


def write_embeddings(found: Embeddings, body: Mapping[str, Any], *, model: str, tokens: int) -> bytes:
    """The answer, as floats or as base64 of 32-bit ones, as the client asked; raises Garbled."""
    given = body.get("input")
    if len(found.vectors) != (1 if type(given) is str else len(given or ())):
        raise Garbled("there are not as many vectors as texts")
    packed = body.get("encoding_format") == "base64"
    data = [
        {"object": "embedding", "index": at, "embedding": _packed(each) if packed else each}
        for at, each in enumerate(found.vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _encode({"object": "list", "data": data, "model": found.model or model, "usage": usage})


def _packed(vector: list[float]) -> str:
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()
