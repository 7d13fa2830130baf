"""GET and DELETE /v1/responses/{id}: a kept response, for the principal whose it is and for nobody else."""

from __future__ import annotations

import time
from typing import Any

from litestar import Router, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.errors import Forbidden, NotFound
from gateway.http.admin.access import Admin
from gateway.pipeline.turns import Turns
from policies.administration import Permission
from policies.decision import Deny
from policies.permissions import Level, may

OWN = {"permission": Permission.RESPONSES_OWN}


def response_routes(router: Router, turns: Turns | None) -> Router:
    """The two routes, on a router that brings guard and dependencies."""

    def kept(response_id: str) -> Turns:
        if turns is None:
            raise _unknown(response_id)
        return turns

    @get("/responses/{response_id:str}", opt=OWN, tags=["Models"], summary="Read a kept response of yours")
    async def read_response(admin: NamedDependency[Admin], response_id: FromPath[str]) -> dict[str, Any]:
        """As it was answered; 404 for any other's, for one that was deleted, and for one that is kept no longer."""
        turn = await kept(response_id).turn(admin.caller.principal.id, response_id)
        for endpoint in admin.snapshot.endpoints.values():
            if endpoint.id == turn.endpoint_id:
                break
        else:
            raise _unknown(response_id)
        if turn.at_ms <= time.time() * 1000 - endpoint.rules.keep_responses_hours * 3_600_000:
            raise _unknown(response_id)
        match may(admin.snapshot, admin.caller, Level.CAN_QUERY, endpoint):
            case Deny(code=code, reason=reason):
                raise Forbidden(reason, code=code)
            case _:
                return turn.response

    @delete(
        "/responses/{response_id:str}",
        opt=OWN,
        status_code=200,
        tags=["Models"],
        summary="Delete a kept response of yours",
    )
    async def delete_response(admin: NamedDependency[Admin], response_id: FromPath[str]) -> dict[str, Any]:
        """With what was asked; responses that follow it can be read, and followed no more."""
        await kept(response_id).forget(admin.caller.principal.id, response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    router.register(read_response)
    router.register(delete_response)
    return router


def _unknown(response_id: str) -> NotFound:
    return NotFound(f"There is no response {response_id[:64]!r} of yours.")
