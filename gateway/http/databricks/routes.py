"""The control plane under /api/2.0, as Databricks' and MLflow's clients call it."""

from __future__ import annotations

from functools import partial

from litestar import Router
from litestar.di import Provide

from gateway.http.admin.access import ControlPlane, Guard, provide_admin, request_ids, strict_body
from gateway.http.databricks.ai_gateway import set_ai_gateway
from gateway.http.databricks.endpoints import (
    Ready,
    get_gateway_endpoint,
    get_serving_endpoint,
    list_gateway_endpoints,
    list_serving_endpoints,
    scim_me,
)
from gateway.http.databricks.permissions import PERMISSION_ROUTES
from gateway.http.databricks.rate_limits import RATE_LIMIT_ROUTES
from gateway.http.databricks.serving_changes import CHANGE_ROUTES

_CATCH_UP_SECONDS = 0.5
"""With PostgreSQL away, what this worker knows is shown after as long."""


def databricks_routes(control: ControlPlane, ready: Ready = lambda _: True) -> list[Router]:
    """The control-plane routes under /api/2.0; `ready` says whether an endpoint could answer now."""
    catch_up = partial(control.catalog.refresh, seconds=_CATCH_UP_SECONDS)
    return [
        Router(
            "/api/2.0",
            guards=[Guard(control)],
            before_request=strict_body,
            after_request=request_ids(control),
            dependencies={
                "admin": Provide(provide_admin(control)),
                "ready": Provide(lambda: ready, sync_to_thread=False),
                "catch_up": Provide(lambda: catch_up, sync_to_thread=False),
            },
            route_handlers=[
                list_serving_endpoints,
                get_serving_endpoint,
                list_gateway_endpoints,
                get_gateway_endpoint,
                scim_me,
                *CHANGE_ROUTES,
                set_ai_gateway,
                *PERMISSION_ROUTES,
                *RATE_LIMIT_ROUTES,
            ],
        )
    ]
