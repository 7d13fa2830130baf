"""Short-lived tokens in place of a key, for a browser that should not keep one.

A token ends with its key, and after 15 minutes at the latest; only a key makes one, so none prolongs itself.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from litestar import Response, delete, post
from litestar.di import NamedDependency
from msgspec import Meta, Struct

from gateway.errors import Forbidden
from gateway.http.admin.access import Admin
from gateway.store.principals import update_principal
from gateway.store.tables.identity import principals
from policies.administration import Permission

SIGN_IN = {"permission": Permission.SELF_SIGN_IN}


class SessionView(Struct, frozen=True, kw_only=True):
    """A new token."""

    token: Annotated[str, Meta(description="Send it as `Authorization: Bearer`, as you would send the key.")]
    token_type: str = "Bearer"  # noqa: S105 - what the scheme is called
    expires_at: datetime

    def __repr__(self) -> str:
        return f"SessionView(expires_at={self.expires_at!r})"


@post("/sessions", opt=SIGN_IN, tags=["Identity"], summary="Exchange your key for a token of 15 minutes")
async def sign_in(admin: NamedDependency[Admin]) -> Response[SessionView]:
    """The token can do what the key can, and ends with it."""
    caller = admin.caller
    if caller.key_id is None or caller.issued_at is not None:
        raise Forbidden("Only an API key can be exchanged for a token; send the key itself.")
    text, ends = admin.sessions.issue(caller.key_id, caller.principal.id, at_most=caller.expires_at)
    async with admin.change() as change:
        until = datetime.fromtimestamp(ends, UTC).isoformat()
        told = {"key_id": caller.key_id, "until": until}
        await change.record("session", caller.principal.id, "sign_in", told)
    shown = SessionView(token=text, expires_at=datetime.fromtimestamp(ends, UTC))
    return Response(shown, status_code=201, headers={"cache-control": "no-store"})


@delete("/sessions", opt=SIGN_IN, tags=["Identity"], summary="End all your tokens")
async def sign_out(admin: NamedDependency[Admin]) -> None:
    """Every token that was issued for you so far is refused within a second; your keys stay."""
    async with admin.change() as change:
        before = await change.current(principals, admin.caller.principal.id, "principal")
        await update_principal(change, before, {"tokens_not_before": change.at})
