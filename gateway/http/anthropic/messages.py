"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's dialect of calls to a model.

A count walks the same line as a call, so that nobody learns of a model who may not use it, and limits hold for it too.
"""

from __future__ import annotations

from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from gateway.http.anthropic.requests import read_count, read_message
from gateway.http.errors import Dialect
from gateway.http.plane import Api, DataPlane
from gateway.pipeline.counting import count_input
from gateway.pipeline.exchange import Exchange
from gateway.pipeline.line import Line


async def _count(line: Line, exchange: Exchange) -> bytes:
    return b'{"input_tokens":%d}' % await count_input(line, exchange)


MESSAGES = Api(
    "anthropic.messages", Dialect.ANTHROPIC, lambda body, endpoint: read_message(body, model=endpoint)
)
COUNT = Api(
    "anthropic.count_tokens",
    Dialect.ANTHROPIC,
    lambda body, endpoint: read_count(body, model=endpoint),
    _count,
)


def anthropic_routes(plane: DataPlane) -> list[ASGIRouteHandler]:
    """The two routes."""

    @asgi("/v1/messages", copy_scope=False)
    async def messages(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, MESSAGES)

    @asgi("/v1/messages/count_tokens", copy_scope=False)
    async def count_tokens(scope: Scope, receive: Receive, send: Send) -> None:
        await plane.handle(scope, receive, send, COUNT)

    return [messages, count_tokens]
