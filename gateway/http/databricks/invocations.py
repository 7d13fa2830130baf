"""Databricks' model calls: /serving-endpoints/{name}/invocations, and the OpenAI paths below /serving-endpoints."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from gateway.errors import BadRequest
from gateway.http.errors import Dialect
from gateway.http.openai.conversation import responses_api
from gateway.http.openai.embeddings import read_embedding
from gateway.http.openai.requests import read_chat, read_completion
from gateway.http.plane import Api, DataPlane
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


def invocation_routes(plane: DataPlane) -> list[ASGIRouteHandler]:
    """The model calls of Databricks' and MLflow's clients."""

    async def invocations(scope: Scope, receive: Receive, send: Send) -> None:
        name = _invoked(scope["raw_path"])
        if name is None:
            await plane.nothing_here(scope, send, Dialect.DATABRICKS)
        else:
            await plane.handle(scope, receive, send, INVOCATIONS, name)

    # Mounted, and the rest of the path read here: Litestar 2.25 answers 500 on an ASGI route with a path parameter. A
    # mount reaches no path that begins like another route's: endpoints of such names are named.
    mounted = asgi(["/serving-endpoints", "/endpoints"], is_mount=True, copy_scope=False)(invocations)
    named = asgi(
        [f"/serving-endpoints/{name}/invocations" for name in ("chat", "responses")], copy_scope=False
    )(invocations)

    @asgi("/serving-endpoints/chat/completions", copy_scope=False)
    async def chat(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, CHAT)

    @asgi("/serving-endpoints/completions", copy_scope=False)
    async def completions(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, COMPLETIONS)

    @asgi("/serving-endpoints/responses", copy_scope=False)
    async def responses(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, RESPONSES)

    @asgi("/serving-endpoints/embeddings", copy_scope=False)
    async def embeddings(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, EMBEDDINGS)

    return [mounted, named, chat, completions, responses, embeddings]


def _invoked(raw_path: bytes) -> str | None:
    """The endpoint in `/.../{name}/invocations`, with or without a closing slash; None for any other path."""
    parts = raw_path.removesuffix(b"/").split(b"/")
    if len(parts) != 4 or parts[3] != b"invocations":
        return None
    return unquote(parts[2].decode("ascii", "replace")) or None
