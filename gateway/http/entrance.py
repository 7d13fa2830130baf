"""What a request is for, by its path: a model, an operator's page, or anything else, which is the control plane's.

Calls of models meet no framework: Litestar's routing and its wrapper around every `send` took 7 % of a plain call. It and
all that it serves are made by the first request for it, in a thread: a worker that only serves calls has 60 MB less.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from gateway.errors import GatewayError
from gateway.http.anthropic import messages
from gateway.http.databricks import invocations, unified
from gateway.http.errors import dialect_of, rendered
from gateway.http.openai import azure, chat
from gateway.http.operations import Operations
from gateway.http.plane import Api, DataPlane

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

CALLS: dict[str, Api] = {**chat.CALLS, **messages.CALLS, **invocations.CALLS, **unified.CALLS}
"""What reaches a model at a path without a name in it."""
_SLASHES = re.compile("//+")
_UNMADE = "The gateway failed; the request id finds the cause in its log."
log = logging.getLogger(__name__)


class Entrance:
    """The ASGI application of one listener; without `data` no model is reached by it."""

    def __init__(
        self, plane: DataPlane, operations: Operations, rest: Callable[[], ASGIApp], *, data: bool = True
    ) -> None:
        self._plane = plane
        self._operations = operations
        self._make = rest
        self._making: asyncio.Future[ASGIApp] | None = None
        self._rest: ASGIApp | None = None
        self._calls = CALLS if data else {}
        self._data = data
        self.hot = {path.encode(): partial(plane.handle, api=api) for path, api in self._calls.items()}
        """By the path as it is sent: what takes a call that its connection finds here by itself (connection.py)."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        api, endpoint = self._calls.get(scope["path"]), None
        if api is None and self._data:
            api, endpoint = called(scope)
        if api is not None:
            await self._plane.handle(scope, receive, send, api, endpoint)
        elif not await self._operations.answer(scope, send, self._plane.new_id()[1]):
            rest = self._rest or await self._made(scope, send)
            if rest is not None:
                await rest(scope, receive, send)

    async def _made(self, scope: Scope, send: Send) -> ASGIApp | None:
        """Make what serves the rest, once for all who wait for it; None where that failed, and the client knows."""
        if self._making is None:
            self._making = asyncio.ensure_future(asyncio.to_thread(self._make))
        making = self._making
        try:
            made = await asyncio.shield(making)
        except Exception:
            if self._making is making:
                self._making = None
            id_text = self._plane.new_id()[1]
            log.exception("%s: what serves it could not be made", id_text)
            status, headers, body = rendered(GatewayError(_UNMADE), dialect_of(scope["path"]), id_text)
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body, "more_body": False})
            return None
        if self._rest is None:
            self._rest = made
            # It lives as long as the process: the collector need not look at it again.
            gc.freeze()
        return made


def called(scope: Scope) -> tuple[Api | None, str | None]:
    """(what is called, the endpoint where the path names one) of a path that is not in CALLS as it stands."""
    path = scope["path"]
    if path.startswith("/openai/"):
        return azure.called(scope["raw_path"])
    if path.startswith(invocations.BELOW):
        name = invocations.invoked(scope["raw_path"])
        if name is not None:
            return invocations.INVOCATIONS, name
    if path.endswith("/") or "//" in path:
        return CALLS.get(_SLASHES.sub("/", path).rstrip("/")), None
    return None, None
