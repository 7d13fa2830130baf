"""create_app: the only place where the control plane's front is put together from parts that were built elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from litestar import Litestar, Request, Response, Router
from litestar.di import Provide
from litestar.exceptions import HTTPException, ValidationException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import ScalarRenderPlugin
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin

from gateway import __version__
from gateway.errors import BadRequest, GatewayError, MethodNotAllowed, NotFound, TooLarge, UnsupportedMedia
from gateway.http.admin.access import ControlPlane, Guard, noting_refusals, provide_admin, request_ids
from gateway.http.admin.once import replay
from gateway.http.admin.routes import admin_routes
from gateway.http.console.pages import console_routes
from gateway.http.databricks.endpoints import Ready
from gateway.http.databricks.routes import databricks_routes
from gateway.http.errors import dialect_of, rendered
from gateway.http.openai.kept import response_routes
from gateway.http.openai.models import model_routes
from gateway.http.plane import MAX_BODY, DataPlane
from gateway.http.schema import describe_calls, describe_changes
from gateway.pipeline.turns import Turns
from gateway.store.once import Replayed

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Front:
    """What the application serves."""

    plane: DataPlane
    control: ControlPlane
    ready: Ready
    turns: Turns | None = None
    """Where responses are kept; None: none is."""


class _App(Litestar):
    """Litestar without what it loads for libraries that only happen to be installed: 10 MB a process for none used."""

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def create_app(front: Front, *, data: bool = True, admin: bool = True) -> Litestar:
    """What a listener serves beside calls of models and operators' pages: the playground and what goes with the data
    plane, the admin API, or both."""
    routes: list[Any] = []
    if data:

        def guarded(path: str) -> Router:
            return Router(
                path,
                route_handlers=[],
                guards=[Guard(front.control)],
                dependencies={"admin": Provide(provide_admin(front.control))},
                after_request=request_ids(front.control),
            )

        routes += [
            model_routes(guarded("/")),
            response_routes(guarded("/"), front.turns),
            *databricks_routes(front.control, front.ready),
            *console_routes(),
        ]
    if admin:
        routes += admin_routes(front.control)
    app = _App(
        routes,
        exception_handlers=_handlers(front.plane.new_id),
        after_exception=[noting_refusals(front.control)],
        openapi_config=OpenAPIConfig(
            title="Weighbridge",
            version=__version__,
            description="A governance gateway for language-model endpoints.",
            path="/openapi",
            render_plugins=[ScalarRenderPlugin(js_url="/openapi/none.js")],
        ),
        request_max_body_size=MAX_BODY,
        logging_config=None,
        debug=False,
    )
    if (paths := app.openapi_schema.paths) is not None:
        if data:
            describe_calls(paths)
        if admin:
            describe_changes(paths)
    return app


def _handlers(
    new_id: Callable[[], tuple[bytes, str]],
) -> dict[int | type[Exception], Callable[[Request[Any, Any, Any], Any], Response[bytes]]]:
    def answer(request: Request[Any, Any, Any], error: GatewayError) -> Response[bytes]:
        status, headers, body = rendered(error, dialect_of(request.url.path), new_id()[1])
        shown = {
            name.decode(): value.decode()
            for name, value in headers
            if name not in (b"content-type", b"content-length")
        }
        return Response(body, status_code=status, headers=shown, media_type="application/json")

    def framework(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
        return answer(request, _translated(error, request))

    def unexpected(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        if isinstance(error, GatewayError):
            return answer(request, error)
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return answer(request, GatewayError("The gateway failed; the request id finds the cause in its log."))

    def again(request: Request[Any, Any, Any], replayed: Replayed) -> Response[bytes]:
        response = replay(replayed)
        response.headers["x-request-id"] = new_id()[1]
        return response

    return {GatewayError: answer, HTTPException: framework, Replayed: again, Exception: unexpected}


def _translated(error: HTTPException, request: Request[Any, Any, Any]) -> GatewayError:
    """The framework's own refusals in our words."""
    match error.status_code:
        case 404:
            return NotFound(
                f"There is nothing at {request.url.path[:200]}; the API's description is at /openapi."
            )
        case 405:
            return MethodNotAllowed(f"{request.method} is not what {request.url.path[:200]} takes.")
        case 413:
            return TooLarge(f"The body is over {MAX_BODY >> 20} MiB; send less.")
        case 415:
            return UnsupportedMedia("The body must be JSON.")
        case status if status < 500:
            return BadRequest(_wording(error))
        case _:
            return GatewayError("The gateway failed; the request id finds the cause in its log.")


def _wording(error: HTTPException) -> str:
    text = str(error.detail)
    if isinstance(error, ValidationException) and isinstance(error.extra, Sequence):
        faults = [
            f"{each.get('key', '?')}: {each.get('message', '')}"
            for each in error.extra
            if isinstance(each, dict)
        ]
        if faults:
            return "The request is not valid: " + "; ".join(faults)[:500]
    return text[:500]


__all__ = ["Front", "create_app"]
