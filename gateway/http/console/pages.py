"""Serve the playground: a fixed map of files that ship with the package, read once when the routes are built.

Nothing in a request ever becomes part of a file name, and every answer carries a policy that lets the page
run only its own scripts and talk only to its own origin.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from typing import Any

from litestar import HttpMethod, Request, Response, route
from litestar.handlers import HTTPRouteHandler

PLAYGROUND = {
    "/": ("playground.html", "text/html"),
    "/console/playground.css": ("playground.css", "text/css"),
    "/console/mark.svg": ("mark.svg", "image/svg+xml"),
    **{
        f"/console/{name}.js": (f"{name}.js", "text/javascript")
        for name in (
            "playground",
            "advice",
            "answer",
            "keys",
            "markdown",
            "readiness",
            "room",
            "session",
            "snippets",
            "stream",
        )
    },
}
"""Path -> (file, content type). What is not listed here is not served."""

SECURITY_HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            # The page's forms are handled by its script; should that fail, a pasted key must not go anywhere.
            "form-action 'none'",
            # No string may become markup or code, whatever a later change of the page tries.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
    # An upgraded gateway must not be driven by last week's script: the browser asks each time and mostly gets a 304.
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One file as it is sent."""

    body: bytes
    media_type: str
    etag: str


def read_page(file_name: str, media_type: str) -> Page:
    """Read one file of the package."""
    body = files("gateway.http.console").joinpath("static", file_name).read_bytes()
    return Page(body=body, media_type=media_type, etag=f'"{sha256(body).hexdigest()[:32]}"')


def console_routes() -> list[HTTPRouteHandler]:
    """Build one GET and HEAD handler for every path of the playground."""
    return [_serving(path, read_page(*source)) for path, source in PLAYGROUND.items()]


def _serving(path: str, page: Page) -> HTTPRouteHandler:
    headers = {**SECURITY_HEADERS, "etag": page.etag}

    @route(
        path,
        http_method=[HttpMethod.GET, HttpMethod.HEAD],
        name=f"console:{path}",
        include_in_schema=False,
        opt={"public": True},
        sync_to_thread=False,
    )
    def serve(request: Request[Any, Any, Any]) -> Response[bytes]:
        if request.headers.get("if-none-match") == page.etag:
            return Response(content=b"", status_code=304, headers=headers, media_type=page.media_type)
        return Response(content=page.body, headers=headers, media_type=page.media_type)

    return serve
