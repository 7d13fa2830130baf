"""Why a call is admitted or refused: now, at a moment that has passed, or for a request that was made.

The functions that decide calls answer here, on the configuration as it was then. Everybody may ask for themselves;
somebody else's request is as unknown as one that never was.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from litestar import get
from litestar.di import NamedDependency
from litestar.params import QueryParameter
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gateway.counters.plans import group_named
from gateway.errors import BadRequest, Forbidden, NotFound
from gateway.http.admin.access import Admin
from gateway.http.admin.explained import Explained, happened, happened_lines, shown
from gateway.store.api_keys import with_key
from gateway.store.history import rows_of
from gateway.store.tables.identity import api_keys
from gateway.store.tables.ledger import attempts, requests
from policies.administration import Permission, may_administer
from policies.catalog import Endpoint, Snapshot
from policies.decision import Deny
from policies.draws import Indexes, draws_of
from policies.explanation import explain
from policies.explanation_words import lines
from policies.principal import Caller, Principal

Named = Annotated[str | None, QueryParameter(max_length=256, pattern=r"^[^\x00]*$")]


@get(
    "/explain",
    opt={"permission": Permission.SELF_READ},
    tags=["Limits"],
    summary="Why a call is admitted or refused",
)
async def explain_call(
    admin: NamedDependency[Admin],
    principal: Named = None,
    endpoint: Named = None,
    at: Annotated[
        datetime | None, QueryParameter(description="A moment that has passed; without a zone it is UTC.")
    ] = None,
    key: Annotated[
        UUID | None, QueryParameter(description="Id of the API key that the call comes with.")
    ] = None,
    group: Named = None,
    request_id: Annotated[UUID | None, QueryParameter(description="A request that was made.")] = None,
) -> Explained:
    """Names or ids; `principal` is left out for oneself, and asking for others takes the permission to read limits.

    `group` is what `x-weighbridge-group` would say. With `request_id` nothing else is given: the configuration that
    decided it is the one that explains it.
    """
    if request_id is not None:
        if any(each is not None for each in (principal, endpoint, at, key, group)):
            raise BadRequest("request_id says all of it; give nothing else.", param="request_id")
        return await _request(admin, str(request_id))
    if endpoint is None:
        raise BadRequest("Name an endpoint, or a request_id.", param="endpoint")
    own = admin.caller.principal
    if principal is not None and principal not in (own.id, own.name):
        match may_administer(admin.caller, Permission.LIMITS_READ):
            case Deny(code=code, reason=reason):
                raise Forbidden(reason, code=code)
            case _:
                pass
    wanted = principal or own.id
    moment = at if at is None or at.tzinfo is not None else at.replace(tzinfo=UTC)
    async with admin.reading() as connection:
        snapshot = admin.snapshot if moment is None else await admin.history.at(connection, moment)
        caller = Caller(_principal(snapshot, wanted))
        refused = None
        if key is not None:
            caller, refused = await _with_key(connection, snapshot, caller, str(key), moment)
    found_endpoint = _endpoint(snapshot, endpoint)
    first = None if group is None else group_named(snapshot, caller, group)
    if group is not None and first is None:
        raise BadRequest(f"{caller.principal.name!r} is in no group {group!r}.", param="group")
    draws = draws_of(Indexes.of(snapshot), caller, found_endpoint, first)
    levels = None if moment is not None or admin.levels is None else await admin.levels.read(draws)
    used = None if levels is None else [each.used for each in levels]
    found = explain(snapshot, caller, found_endpoint, draws, used, credential=refused)
    return shown(found, moment, None, lines(found))


async def _request(admin: Admin, request_id: str) -> Explained:
    unknown = NotFound(
        f"There is no request {request_id!r} in the ledger: it is admitted requests that have a row, some moments"
        " after they end; a refusal says its reason in its answer."
    )
    async with admin.reading() as connection:
        row = (
            (await connection.execute(select(requests).where(requests.c.request_id == request_id)))
            .mappings()
            .one_or_none()
        )
        own = admin.caller.principal.id
        if row is None or (
            row["principal_id"] != own and not may_administer(admin.caller, Permission.LIMITS_READ)
        ):
            raise unknown
        tried = (
            (
                await connection.execute(
                    select(attempts).where(attempts.c.request_id == request_id).order_by(attempts.c.attempt)
                )
            )
            .mappings()
            .all()
        )
        moment: datetime = row["admitted_at"]
        snapshot = await admin.history.of(connection, row["snapshot_version"], moment)
        caller = Caller(_principal(snapshot, row["principal_id"]))
        if row["key_id"] is not None:
            caller, _ = await _with_key(connection, snapshot, caller, row["key_id"], None)
    endpoint = _endpoint(snapshot, row["endpoint_id"])
    draws = draws_of(Indexes.of(snapshot), caller, endpoint, row["group_id"])
    found = explain(snapshot, caller, endpoint, draws)
    then = happened(found, dict(row), [dict(each) for each in tried])
    text = [*lines(found), *happened_lines(then)]
    return shown(found, moment, then, text)


def _principal(snapshot: Snapshot, named: str) -> Principal:
    people = snapshot.principals
    found = people.get(named) or next((each for each in people.values() if each.name == named), None)
    if found is None:
        raise NotFound(f"There is no principal {named!r} in configuration {snapshot.version}.")
    return found


def _endpoint(snapshot: Snapshot, named: str) -> Endpoint:
    endpoints = snapshot.endpoints
    found = endpoints.get(named) or next((each for each in endpoints.values() if each.id == named), None)
    if found is None:
        raise NotFound(f"There is no endpoint {named!r} in configuration {snapshot.version}.")
    return found


async def _with_key(
    connection: AsyncConnection, snapshot: Snapshot, caller: Caller, key: str, moment: datetime | None
) -> tuple[Caller, Deny | None]:
    """The caller with this key as it was, and why the key is not taken, where it is not."""
    who = caller.principal
    # Keys are no part of the snapshot that a worker follows: a change may be newer than it.
    number = snapshot.version if moment is not None else 2**62
    found = await rows_of(
        connection, api_keys, number, api_keys.c.id == key, api_keys.c.principal_id == who.id
    )
    if not found:
        raise NotFound(f"{who.name!r} has no API key {key!r} in configuration {snapshot.version}.")
    row = found[0]
    keyed = with_key(caller, row)
    now = moment or datetime.now(UTC)
    if row["revoked_at"] is not None and row["revoked_at"] <= now:
        return keyed, Deny("invalid_api_key", f"API key {key} is revoked.", "revoked API key")
    if row["expires_at"] is not None and row["expires_at"] <= now:
        return keyed, Deny("invalid_api_key", f"API key {key} has expired.", "expired API key")
    return keyed, None
