"""Databricks' model calls: /serving-endpoints/{name}/invocations, and the OpenAI paths below /serving-endpoints."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from gateway.errors import BadRequest
from gateway.http.errors import Dialect
from gateway.http.openai.conversation import responses_api
from gateway.http.openai.embeddings import read_embedding
from gateway.http.openai.requests import read_chat, read_completion
from gateway.http.plane import Api
from gateway.pipeline.exchange import ModelRequest


def read_invocation(body: dict[str, Any], endpoint: str | None) -> ModelRequest:
    """Chat, text completion and embeddings are told apart by `messages`, `prompt` and `input`; raises BadRequest."""
    if "messages" in body:
        return read_chat(body, model=endpoint)
    if "prompt" in body:
        return read_completion(body, model=endpoint)
    if "input" in body:
        return read_embedding(body, model=endpoint)
    raise BadRequest(
        "The body must have 'messages' (chat), 'prompt' (completion) or 'input' (embeddings).",
        param="messages",
    )


INVOCATIONS = Api("databricks.invocations", Dialect.DATABRICKS, read_invocation)
CHAT = Api("databricks.chat", Dialect.DATABRICKS, lambda body, endpoint: read_chat(body, model=endpoint))
COMPLETIONS = Api(
    "databricks.completions", Dialect.DATABRICKS, lambda body, endpoint: read_completion(body, model=endpoint)
)
RESPONSES = responses_api("databricks.responses", Dialect.DATABRICKS)
EMBEDDINGS = Api(
    "databricks.embeddings", Dialect.DATABRICKS, lambda body, endpoint: read_embedding(body, model=endpoint)
)
CALLS = {
    "/serving-endpoints/chat/completions": CHAT,
    "/serving-endpoints/completions": COMPLETIONS,
    "/serving-endpoints/responses": RESPONSES,
    "/serving-endpoints/embeddings": EMBEDDINGS,
}
"""By path."""
BELOW = ("/serving-endpoints/", "/endpoints/")
"""Where `{name}/invocations` is."""


def invoked(raw_path: bytes) -> str | None:
    """The endpoint in `/.../{name}/invocations`, with or without a closing slash; None for any other path."""
    parts = raw_path.removesuffix(b"/").split(b"/")
    if len(parts) != 4 or parts[3] != b"invocations":
        return None
    return unquote(parts[2].decode("ascii", "replace")) or None
