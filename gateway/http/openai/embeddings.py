"""Read an embeddings request in OpenAI's shape into a ModelRequest: it weighs what is to be embedded, and answers nothing.

A text, a list of texts, the ids of one text's tokens, or a list of those. The encoding of the vectors passes through.
"""

from __future__ import annotations

from typing import Any

from engines.clients import EMBEDDINGS
from gateway.errors import BadRequest
from gateway.http.openai.fields import CONSUMED, bytes_of, consumed, endpoint_named, unknown_fields, whole
from gateway.pipeline.exchange import ModelRequest

MAX_INPUTS = 2_048
MAX_DIMENSIONS = 65_536
MAX_TOKEN = 1 << 31
_KNOWN = CONSUMED | {"model", "input", "encoding_format", "dimensions"}
_HELD = CONSUMED | {"model"}


def read_embedding(body: dict[str, Any], *, model: str | None = None) -> ModelRequest:
    """An embeddings request; `model` names the endpoint where the path does. Raises BadRequest."""
    unknown = unknown_fields(body, _KNOWN)
    if body.get("stream"):
        raise BadRequest("Embeddings are not streamed; remove 'stream'.", param="stream")
    endpoint = endpoint_named(body, model)
    texts, ids, inputs = _input(body.get("input"))
    if body.get("encoding_format") not in (None, "float", "base64"):
        raise BadRequest("'encoding_format' must be float or base64.", param="encoding_format")
    whole(body, "dimensions", 1, MAX_DIMENSIONS)
    tags, end_user, client_id = consumed(body)
    return ModelRequest(
        model=endpoint,
        path=EMBEDDINGS,
        body={name: value for name, value in body.items() if name not in _HELD},
        stream=False,
        show_usage=False,
        show_running=False,
        max_tokens=0,
        n=1,
        text_bytes=sum(bytes_of(each) for each in texts),
        messages=inputs,
        token_ids=ids,
        unknown=unknown,
        tags=tags,
        end_user=end_user,
        client_request_id=client_id,
    )


def _input(given: Any) -> tuple[list[str], int, int]:
    """(texts, ids of tokens, how many inputs they are); raises BadRequest."""
    if type(given) is str:
        texts, ids, inputs = [given], 0, 1
    elif type(given) is not list or not given:
        raise _wrong()
    elif all(type(each) is str for each in given):
        texts, ids, inputs = given, 0, len(given)
    elif _are_ids(given):
        texts, ids, inputs = [], len(given), 1
    elif all(type(each) is list and each and _are_ids(each) for each in given):
        texts, ids, inputs = [], sum(map(len, given)), len(given)
    else:
        raise _wrong()
    if not all(texts):
        raise BadRequest("'input' must not have empty texts.", param="input")
    if inputs > MAX_INPUTS:
        raise BadRequest(
            f"'input' may have {MAX_INPUTS:,} inputs at most; send several requests.", param="input"
        )
    return texts, ids, inputs


def _are_ids(given: list[Any]) -> bool:
    return all(type(each) is int and 0 <= each < MAX_TOKEN for each in given)


def _wrong() -> BadRequest:
    return BadRequest(
        "'input' must be a text, a list of texts, or token ids (one list, or a list of lists).", param="input"
    )
