"""Change how much may be used: rate limits.

A limit is read back as policies read it before it is written, so that none is stored that nobody can decide with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.errors import BadRequest
from gateway.store.api_keys import line_of
from gateway.store.changes import Change
from gateway.store.reading import Row
from gateway.store.rule_values import limit_of
from gateway.store.tables.catalog import endpoints
from gateway.store.tables.identity import api_keys, groups, principals
from gateway.store.tables.rules import limits

_SUBJECTS = {
    "endpoint": (endpoints, None),
    "user": (principals, "user"),
    "service_principal": (principals, "service_principal"),
    "group": (groups, None),
    "key": (api_keys, None),
}


async def create_limit(change: Change, values: Mapping[str, Any]) -> Row:
    """Add a rate limit."""
    await _check(change, {"id": change.new_id(), **values})
    return await change.add(limits, "limit", await of_line(change, values))


async def update_limit(change: Change, before: Row, values: Mapping[str, Any]) -> Row:
    """Change a limit's amount, mode, name, or whether it is in force; whose it is stays."""
    await _check(change, {**before, **values})
    return await change.revise(limits, "limit", before, **values)


async def delete_limit(change: Change, before: Row) -> None:
    """Delete a limit; what it had counted is forgotten with it."""
    await change.remove(limits, "limit", before)


async def _check(change: Change, row: Row) -> None:
    try:
        limit_of(
            {"mode": "share", "name": "", "subject_id": None, "endpoint_id": None, "window_ms": None, **row}
        )
    except (ValueError, TypeError) as error:
        raise BadRequest(f"The limit cannot be decided with: {error}.") from error
    await check_span(change, row, "limit")


async def of_line(change: Change, values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The rule's values; one that names a key names the first of its line, whose count all of them share."""
    if values["scope"] != "key" or values.get("subject_id") is None:
        return values
    key = await change.current(api_keys, values["subject_id"], "api_key")
    return {**values, "subject_id": line_of(key)}


async def check_span(change: Change, row: Row, what: str) -> None:
    """Raise BadRequest unless whom and what the rule counts is there, and is what its scope says."""
    subject, scope = row.get("subject_id"), row["scope"]
    if subject is None and scope in ("user", "group", "service_principal"):
        raise BadRequest(f"A {what} of scope {scope} needs a subject_id.", param="subject_id")
    if subject is not None:
        if scope not in _SUBJECTS:
            raise BadRequest(f"A {what} of scope {scope} takes no subject.", param="subject_id")
        table, kind = _SUBJECTS[scope]
        found = await change.rows(table, table.c.id == subject)
        if not found or (kind is not None and found[0]["kind"] != kind):
            raise BadRequest(
                f"There is no {scope.replace('_', ' ')} with id {subject!r}.", param="subject_id"
            )
    endpoint = row.get("endpoint_id")
    if endpoint is not None and not await change.rows(endpoints, endpoints.c.id == endpoint):
        raise BadRequest(f"There is no endpoint with id {endpoint!r}.", param="endpoint_id")
