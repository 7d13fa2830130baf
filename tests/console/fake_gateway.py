"""A gateway with scripted answers, for driving the playground: its own pages, a fake API behind them.

Each chat request takes the next scripted reply and is remembered, so that a test can say what was sent.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from litestar import Litestar, Request, Response, asgi, get, post
from litestar.types import Receive, Scope, Send

from gateway.http.console.pages import console_routes

MODEL = "databricks-mixtral-8x7b-instruct"
REQUEST_ID = "0199a0c8-7a10-7cc2-9d0a-3a2f5d8e6b11"


@dataclass(slots=True)
class Reply:
    """What one chat request gets: a refusal's body, or frames of a stream; an Event among them holds it back."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: bytes = b""
    frames: list[bytes | asyncio.Event] = field(default_factory=list["bytes | asyncio.Event"])


def data(value: object) -> bytes:
    """One frame of an event stream."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunk(delta: dict[str, Any], *, finish: str | None = None, **extra: object) -> bytes:
    """One frame as the chat API streams it."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return data(
        {"id": "c1", "object": "chat.completion.chunk", "model": "mixtral-demo", "choices": [choice], **extra}
    )


def answer(*words: str, prompt: int = 24, completion: int = 87, **headers: str) -> Reply:
    """A whole streamed answer of these pieces, with usage and the headers of an admitted request."""
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return Reply(
        headers={
            "x-weighbridge-reserved": "input=24, output=256, nano_usd=268000",
            "x-ratelimit-limit-requests": "60",
            "x-ratelimit-remaining-requests": "57",
            "x-ratelimit-reset-requests": "31s",
            "x-ratelimit-limit-tokens": "10000",
            "x-ratelimit-remaining-tokens": "9720",
            "x-ratelimit-reset-tokens": "42s",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
        frames=[
            chunk({"role": "assistant", "content": ""}),
            *(chunk({"content": word}) for word in words),
            chunk({}, finish="stop"),
            data(
                {
                    "id": "c1",
                    "object": "chat.completion.chunk",
                    "model": "mixtral-demo",
                    "choices": [],
                    "usage": usage,
                }
            ),
            b"data: [DONE]\n\n",
        ],
    )


def refusal(
    status: int, message: str, code: str, headers: dict[str, str] | None = None, **detail: object
) -> Reply:
    """A refusal in the OpenAI dialect."""
    error = {
        "message": message,
        "type": "error",
        "param": None,
        "code": code,
        "request_id": REQUEST_ID,
        **detail,
    }
    return Reply(status=status, headers=headers or {}, body=json.dumps({"error": error}).encode())


class FakeGateway:
    """The scripted gateway; `url` is where it listens once started."""

    def __init__(self) -> None:
        self.replies: deque[Reply] = deque()
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str] = []
        self.client_left = asyncio.Event()
        self.endpoints: dict[str, list[str]] = {}
        self.unready: deque[dict[str, str]] = deque()
        """What /readyz says is missing, one answer after the other; then it is ready."""
        self.roles: dict[str, list[str]] = {}
        """Roles of who is behind a key; where there are none the admin API is elsewhere."""
        self.session = ("", "")
        """The token that is given for a key, and when it ends."""
        self.url = ""
        self._server: uvicorn.Server | None = None
        self._serving: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """Forget what was scripted and seen."""
        self.replies.clear()
        self.unready.clear()
        self.requests.clear()
        self.roles.clear()
        self.authorizations.clear()
        self.client_left = asyncio.Event()
        self.endpoints = {"wbk_demo_key": [MODEL], "wbk_other_key": [MODEL, "embedder"]}

    async def start(self) -> None:
        """Listen on a free port of the loopback."""
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=0, log_level="warning", lifespan="off")
        self._server = uvicorn.Server(config)
        self._serving = asyncio.create_task(self._server.serve())
        while not self._server.started:
            await asyncio.sleep(0.01)  # uvicorn offers no event for it
        self.url = f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close the listener."""
        assert self._server is not None and self._serving is not None
        self._server.should_exit = self._server.force_exit = True
        await self._serving

    def _app(self) -> Litestar:
        @get("/v1/models", sync_to_thread=False)
        def models(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
            key = request.headers.get("authorization", "").removeprefix("Bearer ")
            if key not in self.endpoints:
                error = {
                    "message": "Incorrect API key provided, or none.",
                    "code": "invalid_api_key",
                    "param": None,
                }
                return Response({"error": {**error, "type": "authentication_error"}}, status_code=401)
            listed = [
                {"id": name, "object": "model", "created": 0, "owned_by": "weighbridge"}
                for name in self.endpoints[key]
            ]
            return Response({"object": "list", "data": listed})

        @get("/readyz", sync_to_thread=False)
        def readyz() -> Response[dict[str, Any]]:
            if not self.unready:
                return Response({"status": "ready", "parts": {}})
            parts = self.unready.popleft()
            return Response(
                {"status": "not ready", "parts": parts}, status_code=503, headers={"retry-after": "1"}
            )

        def bearer(request: Request[Any, Any, Any]) -> str:
            return request.headers.get("authorization", "").removeprefix("Bearer ")

        @get("/admin/v1/me", sync_to_thread=False)
        def me(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
            roles = self.roles.get(bearer(request))
            return Response({"roles": roles}, status_code=404 if roles is None else 200)

        @post("/admin/v1/sessions", sync_to_thread=False)
        def sessions(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
            token, ends = self.session
            return Response({"token": token, "token_type": "Bearer", "expires_at": ends}, status_code=201)

        @asgi("/v1/chat/completions", copy_scope=True)
        async def chat(scope: Scope, receive: Receive, send: Send) -> None:
            await self._answer(scope, receive, send)

        return Litestar([*console_routes(), models, readyz, me, sessions, chat], openapi_config=None)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message: Any = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.requests.append(json.loads(body))
        self.authorizations.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        reply = self.replies.popleft()
        media_type = "text/event-stream" if reply.frames else "application/json"
        headers = {"content-type": media_type, "x-request-id": REQUEST_ID, **reply.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        start: Any = {"type": "http.response.start", "status": reply.status, "headers": raw}
        await send(start)
        leaving = asyncio.create_task(self._watch(receive))
        try:
            for frame in reply.frames:
                if isinstance(frame, asyncio.Event):
                    held = asyncio.create_task(frame.wait())
                    await asyncio.wait({held, leaving}, return_when=asyncio.FIRST_COMPLETED)
                    held.cancel()
                    if leaving.done():
                        return
                else:
                    await send({"type": "http.response.body", "body": frame, "more_body": True})
            await send({"type": "http.response.body", "body": reply.body, "more_body": False})
        finally:
            leaving.cancel()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.client_left.set()
