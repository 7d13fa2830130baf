"""For operators: /healthz (the process answers), /readyz (what is missing), /metrics, and Databricks' discovery page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from litestar import Response, get
from litestar.connection import Request
from litestar.handlers import HTTPRouteHandler


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the deployment: whether calls can be served without it, and what is wrong with it."""

    name: str
    fault: str | None
    required: bool


def operation_routes(parts: Callable[[], list[Part]], metrics: Callable[[], bytes]) -> list[HTTPRouteHandler]:
    """Routes that need no credential: none tells anything of a caller, a prompt or a secret."""

    @get("/healthz", include_in_schema=False, opt={"public": True}, sync_to_thread=False)
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @get("/readyz", include_in_schema=False, opt={"public": True}, sync_to_thread=False)
    def readyz() -> Response[dict[str, Any]]:
        found = parts()
        missing = [part for part in found if part.fault is not None]
        ready = not any(part.required for part in missing)
        status = "ready" if not missing else "degraded" if ready else "not ready"
        return Response(
            {"status": status, "parts": {part.name: part.fault or "ok" for part in found}},
            status_code=200 if ready else 503,
            headers={} if ready else {"retry-after": "2"},
        )

    @get("/metrics", include_in_schema=False, opt={"public": True}, sync_to_thread=True)
    def scrape() -> Response[bytes]:
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @get(
        "/.well-known/databricks-config", include_in_schema=False, opt={"public": True}, sync_to_thread=False
    )
    def discovery(request: Request[Any, Any, Any]) -> dict[str, Any]:
        base = str(request.base_url).rstrip("/")
        return {"oidc_endpoint": f"{base}/oidc", "account_id": None, "workspace_id": None}

    return [healthz, readyz, scrape, discovery]
