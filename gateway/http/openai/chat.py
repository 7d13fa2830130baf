"""OpenAI's calls to a model: chat and text completions, Responses and embeddings."""

from __future__ import annotations

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from gateway.http.errors import Dialect
from gateway.http.openai.conversation import responses_api
from gateway.http.openai.embeddings import read_embedding
from gateway.http.openai.requests import read_chat, read_completion
from gateway.http.plane import Api, DataPlane

CHAT = Api("openai.chat", Dialect.OPENAI, lambda body, endpoint: read_chat(body, model=endpoint))
COMPLETIONS = Api(
    "openai.completions", Dialect.OPENAI, lambda body, endpoint: read_completion(body, model=endpoint)
)
RESPONSES = responses_api("openai.responses", Dialect.OPENAI)
EMBEDDINGS = Api(
    "openai.embeddings", Dialect.OPENAI, lambda body, endpoint: read_embedding(body, model=endpoint)
)


def openai_routes(plane: DataPlane) -> list[ASGIRouteHandler]:
    """The model calls under /v1, and the unprefixed aliases that some clients use."""

    @asgi(["/v1/chat/completions", "/chat/completions"], copy_scope=False)
    async def chat(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, CHAT)

    @asgi(["/v1/completions", "/completions"], copy_scope=False)
    async def completions(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, COMPLETIONS)

    @asgi(["/v1/responses", "/responses"], copy_scope=False)
    async def responses(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, RESPONSES)

    @asgi(["/v1/embeddings", "/embeddings"], copy_scope=False)
    async def embeddings(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, EMBEDDINGS)

    return [chat, completions, responses, embeddings]
