"""A call from SQL as a request on the line: what ai_query() was given becomes what a client would have sent.

Parameters go through the same checks as a client's body; what SQL says in other arguments they may not say again.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway.errors import BadRequest, TooLarge
from gateway.http.openai.embeddings import read_embedding
from gateway.http.openai.requests import read_chat, read_completion
from gateway.http.strict_json import decode_object
from gateway.pipeline.exchange import ModelRequest
from gateway.store.sql_calls import SqlCall
from policies.catalog import Snapshot

LONGEST = 4 << 20
APIS = {"query": "sql.ai_query", "embed": "sql.ai_embed"}
_OTHERWISE = frozenset(
    {"messages", "prompt", "input", "model", "stream", "stream_options", "response_format"}
)


def read_call(call: SqlCall, snapshot: Snapshot) -> ModelRequest:
    """The request; raises BadRequest."""
    if len(call.body) > LONGEST:
        raise TooLarge(f"The request is over {LONGEST >> 20} MiB; send less.")
    given = decode_object(call.body.encode())
    endpoint = snapshot.endpoints.get(call.endpoint)
    task = "llm/v1/chat" if endpoint is None else endpoint.task
    text = str(given.get("request", ""))
    if call.kind == "embed":
        request = read_embedding({"input": text}, model=call.endpoint)
        request.end_user = call.caller
        return request
    if task == "llm/v1/embeddings":
        raise BadRequest(
            f"Endpoint {call.endpoint[:128]!r} serves {task}: ask it with ai_embed().",
            param="endpoint",
            code="unsupported_task",
        )
    body = _parameters(given)
    if task == "llm/v1/completions":
        request = read_completion({**body, "prompt": text}, model=call.endpoint)
    else:
        request = read_chat({**body, "messages": [{"role": "user", "content": text}]}, model=call.endpoint)
    if request.n != 1:
        raise BadRequest("From SQL 'n' can only be 1: a call has one answer.", param="n")
    request.end_user = request.end_user or call.caller
    return request


def _parameters(given: dict[str, Any]) -> dict[str, Any]:
    body = given.get("modelparameters") or {}
    if type(body) is not dict:
        raise BadRequest("modelparameters must be a JSON object.", param="modelparameters")
    otherwise = body.keys() & _OTHERWISE
    if otherwise:
        name = min(otherwise)
        raise BadRequest(f"modelparameters may not have {name!r}.", param=f"modelparameters.{name}")
    if given.get("responseformat") is None:
        return body
    try:
        wanted = msgspec.json.decode(str(given["responseformat"]))
    except msgspec.DecodeError:
        wanted = None
    if type(wanted) is not dict:
        raise BadRequest(
            'responseformat must be a JSON object, such as {"type": "json_object"} or {"type": "json_schema", ...}.',
            param="responseformat",
        )
    return {**body, "response_format": wanted}
