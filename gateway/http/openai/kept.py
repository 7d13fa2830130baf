"""Kept responses, read and deleted below every path that makes them: for the principal whose they are and for nobody else.

What a response was made from is the whole conversation, in the shape in which OpenAI lists it.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from litestar import Router, delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath, QueryParameter

from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.http.admin.access import Admin
from gateway.http.openai.listed import listed, page_of
from gateway.pipeline.turns import Owner, Turn, Turns
from policies.administration import Permission
from policies.catalog import Endpoint
from policies.decision import Deny
from policies.permissions import Level, may

OWN = {"permission": Permission.RESPONSES_OWN}
BASES = (
    "/v1", "", "/serving-endpoints", "/openai/v1", "/openai", "/ai-gateway/mlflow/v1", "/ai-gateway/openai/v1",
)  # fmt: skip
"""Below each of which `/responses` makes them."""
_ONE = [f"{base}/responses/{{response_id:str}}" for base in BASES]
_HOUR_MS = 3_600_000

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="How many items at most.")]
Order = Annotated[
    Literal["asc", "desc"],
    QueryParameter(description="`asc` in order of the conversation, `desc` backwards."),
]
After = Annotated[
    str | None, QueryParameter(max_length=128, description="The item after which the page begins.")
]


def response_routes(router: Router, turns: Turns | None) -> Router:
    """The routes, on a router that brings guard and dependencies."""

    async def found(admin: Admin, response_id: str) -> tuple[Turn, Endpoint]:
        """The turn and its endpoint; raises NotFound, Forbidden or Unavailable."""
        if turns is None:
            raise _unknown(response_id)
        turn = await turns.turn(admin.caller.principal.id, response_id)
        for endpoint in admin.snapshot.endpoints.values():
            if endpoint.id == turn.endpoint_id:
                break
        else:
            raise _unknown(response_id)
        if turn.at_ms <= time.time() * 1000 - endpoint.rules.keep_responses_hours * _HOUR_MS:
            raise _unknown(response_id)
        match may(admin.snapshot, admin.caller, Level.CAN_QUERY, endpoint):
            case Deny(code=code, reason=reason):
                raise Forbidden(reason, code=code)
            case _:
                return turn, endpoint

    @get(_ONE, opt=OWN, tags=["Models"], summary="Read a kept response of yours")
    async def read_response(admin: NamedDependency[Admin], response_id: FromPath[str]) -> dict[str, Any]:
        """As it was answered; 404 for any other's, for one that was deleted, and for one that is kept no longer."""
        turn, _ = await found(admin, response_id)
        return turn.response

    @get(
        [f"{path}/input_items" for path in _ONE],
        opt=OWN,
        tags=["Models"],
        summary="List what a kept response of yours was made from",
    )
    async def list_input_items(
        admin: NamedDependency[Admin],
        response_id: FromPath[str],
        limit: Limit = 20,
        order: Order = "desc",
        after: After = None,
    ) -> dict[str, Any]:
        """The whole conversation up to it, its own input last; 404 where the conversation's beginning is kept no longer.

        Items are listed whole: `include` asks for nothing more.
        """
        turn, endpoint = await found(admin, response_id)
        assert turns is not None
        since_ms = int(time.time() * 1000) - endpoint.rules.keep_responses_hours * _HOUR_MS
        owner = Owner(turn.principal_id, turn.endpoint_id, since_ms)
        items = listed(await turns.conversation(owner, response_id))
        page = page_of(items if order == "asc" else items[::-1], after=after, limit=limit)
        if page is None:
            raise BadRequest("'after' names no item of this response.", param="after")
        return page

    @delete(_ONE, opt=OWN, status_code=200, tags=["Models"], summary="Delete a kept response of yours")
    async def delete_response(admin: NamedDependency[Admin], response_id: FromPath[str]) -> dict[str, Any]:
        """With what was asked; responses that follow it can be read, and followed no more."""
        if turns is None:
            raise _unknown(response_id)
        await turns.forget(admin.caller.principal.id, response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    for handler in (read_response, list_input_items, delete_response):
        router.register(handler)
    return router


def _unknown(response_id: str) -> NotFound:
    return NotFound(f"There is no response {response_id[:64]!r} of yours.")
