"""For operators: /healthz (the process answers), /readyz (what is missing), /metrics, and Databricks' discovery page.

None needs a credential or tells anything of a caller, a prompt or a secret; they are asked every few seconds, of
workers that do nothing else too, so that no framework is needed for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from litestar.types import Scope, Send

_encode = msgspec.json.Encoder().encode
_JSON = b"application/json"
_TEXT = b"text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the deployment: whether calls can be served without it, and what is wrong with it."""

    name: str
    fault: str | None
    required: bool


class Operations:
    """The pages, by their paths."""

    def __init__(self, parts: Callable[[], list[Part]], metrics: Callable[[], bytes]) -> None:
        self._parts = parts
        self._metrics = metrics

    async def answer(self, scope: Scope, send: Send, id_text: str) -> bool:
        """Answer a request for one of them; False where it is for something else."""
        if scope.get("method") not in ("GET", "HEAD"):
            return False
        status, kind = 200, _JSON
        match scope["path"]:
            case "/healthz":
                body = b'{"status":"ok"}'
            case "/readyz":
                status, body = self._readiness()
            case "/metrics":
                kind, body = _TEXT, await asyncio.to_thread(self._metrics)
            case "/.well-known/databricks-config":
                body = _encode(
                    {"oidc_endpoint": f"{_base(scope)}/oidc", "account_id": None, "workspace_id": None}
                )
            case _:
                return False
        headers = [
            (b"content-type", kind),
            (b"content-length", b"%d" % len(body)),
            (b"x-request-id", id_text.encode()),
        ]
        if status == 503:
            headers.append((b"retry-after", b"2"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return True

    def _readiness(self) -> tuple[int, bytes]:
        found = self._parts()
        missing = [part for part in found if part.fault is not None]
        ready = not any(part.required for part in missing)
        status = "ready" if not missing else "degraded" if ready else "not ready"
        told: dict[str, Any] = {"status": status, "parts": {part.name: part.fault or "ok" for part in found}}
        return (200 if ready else 503), _encode(told)


def _base(scope: Scope) -> str:
    """The address that the client asked."""
    for name, value in scope["headers"]:
        if name == b"host":
            return f"{scope['scheme']}://{value.decode('latin-1')}"
    host, port = scope["server"] or ("localhost", None)
    return f"{scope['scheme']}://{host}" + ("" if port is None else f":{port}")
